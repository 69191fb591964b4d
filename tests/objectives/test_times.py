import pytest
import torch

from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import EDMSchedule, FlowSchedule, schedule_from_config
from sparring.objectives.times import TIMES, LossSecondMoment, traded

N = 200_000


def test_uniform_times(vp):
    t, weight = TIMES["uniform"](vp).draw(StepRandom(0, 0, N))
    counts = torch.bincount(t, minlength=1000).float()
    assert (counts - N / 1000).abs().max() < 6 * (N / 1000) ** 0.5
    assert (weight == 1).all()


def test_logit_normal_times_are_sd3s():
    t, _ = TIMES["logit_normal"](FlowSchedule(), mean=0.5, std=0.8).draw(StepRandom(0, 0, N))
    logit = torch.logit(1 - t / 1000)
    assert abs(float(logit.mean()) - 0.5) < 0.01
    assert abs(float(logit.std()) - 0.8) < 0.01


def test_lognormal_times_are_edms():
    schedule = EDMSchedule()
    t, _ = TIMES["lognormal"](schedule).draw(StepRandom(0, 0, N))
    log_sigma = schedule.sigma(t).log()
    assert abs(float(log_sigma.mean()) + 1.2) < 0.01
    assert abs(float(log_sigma.std()) - 1.2) < 0.01


def test_loss_second_moment_is_that_of_improved_ddpm():
    schedule = schedule_from_config({"_class_name": "DDPMScheduler", "num_train_timesteps": 4})
    times = LossSecondMoment(schedule, history=2, uniform_prob=0.1)
    for t, losses in (([0, 1, 2, 3], [9.0, 2.0, 0.5, 1.0]), ([0, 1, 2, 3], [3.0, 2.0, 1.5, 1.0])):
        assert torch.allclose(times.probabilities(), torch.full((4,), 0.25).double())
        times.update(torch.tensor(t), torch.tensor(losses))
    times.update(torch.tensor([0]), torch.tensor([1.0]))  # pushes out the 9
    times.update(torch.tensor([1]), torch.tensor([float("nan")]))  # is not remembered
    root = torch.tensor([(9 + 1) / 2, 4, (0.25 + 2.25) / 2, 1.0]).double().sqrt()
    expected = 0.9 * root / root.sum() + 0.1 / 4
    torch.testing.assert_close(times.probabilities(), expected)

    t, weight = times.draw(StepRandom(0, 0, N))
    torch.testing.assert_close(torch.bincount(t).double() / N, expected, rtol=0.02, atol=0)
    torch.testing.assert_close(weight, (1 / (4 * expected[t])).float())
    # the weights undo the choice: the mean of any function of t is the uniform one
    f = torch.tensor([1.0, -2.0, 5.0, 0.5])
    assert float((weight * f[t]).mean()) == pytest.approx(float(f.mean()), abs=0.03)

    again = LossSecondMoment(schedule, history=2, uniform_prob=0.1)
    again.load_state_dict(times.state_dict())
    assert torch.equal(again.probabilities(), times.probabilities())


def test_loss_second_moment_needs_integer_times():
    with pytest.raises(ValueError, match="integer times"):
        LossSecondMoment(FlowSchedule())


def n_teaching(ratio, level):
    return int((ratio > level).sum())


def test_rows_trade_noise_that_they_cannot_use():
    ratio = torch.tensor([0.1, 5.0, 0.3, 2.0, 0.2, 9.0])
    level = torch.tensor([0.4, 0.0, 0.0, 0.4, 1.0, 0.4])
    order = traded(ratio, level)
    # row 0 trades its 0.1 for the 5 of a clean one; nobody has what row 4 needs for its 0.2
    assert order.tolist() == [1, 0, 2, 3, 4, 5]
    assert n_teaching(ratio[order], level) == n_teaching(ratio, level) + 1


def test_a_trade_loses_no_noise_level_and_no_teacher():
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        ratio = torch.randn(64, generator=rng).exp()
        level = torch.rand(64, generator=rng) * (torch.rand(64, generator=rng) < 0.7)
        level[:4] = torch.inf
        traded_ratio = ratio[traded(ratio, level)]
        torch.testing.assert_close(traded_ratio.sort().values, ratio.sort().values)
        assert n_teaching(traded_ratio, level) > n_teaching(ratio, level)
        able = ratio > level
        assert (traded_ratio > level)[able & (level < torch.inf)].all()  # who could teach still can


def test_of_several_the_dirtiest_that_can_takes_it():
    ratio, level = torch.tensor([0.5, 3.0, 4.0, 5.0]), torch.tensor([1.0, 0.0, 0.4, 0.6])
    assert traded(ratio, level).tolist() == [2, 1, 0, 3]


def test_what_never_teaches_gives_its_noise_away_first():
    ratio, level = torch.tensor([0.5, 3.0, 4.0]), torch.tensor([1.0, 0.0, torch.inf])
    assert traded(ratio, level).tolist() == [2, 1, 0]


def test_rows_of_others_and_clean_rows_keep_their_noise():
    ratio = torch.tensor([0.5, 3.0, 4.0, 0.1])
    assert traded(ratio, torch.tensor([1.0, -1.0, -1.0, -1.0])).tolist() == [0, 1, 2, 3]
    assert traded(ratio, torch.zeros(4)).tolist() == [0, 1, 2, 3]
