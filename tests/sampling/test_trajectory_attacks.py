"""Attacks on the path against closed forms, the scheduler's own autograd, and their promises."""

import pytest
import torch

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.noising import mse
from sparring.diffusion.randomness import generator
from sparring.diffusion.schedules import (
    EDMSchedule,
    FlowSchedule,
    config_from_schedule,
    schedule_from_config,
)
from sparring.models.pretrained import Model
from sparring.perturbations import BALLS, L2Ball
from sparring.sampling.sample import sample
from sparring.sampling.schedulers import make_scheduler
from sparring.sampling.settings import Sampling
from sparring.sampling.trajectory_attacks import (
    CORRUPTIONS,
    Attack,
    CorruptedStart,
    Replay,
    TrajectoryAttack,
    calls_of,
)
from support import GaussianNetwork, LinearEps, tiny_unet, watched

DIM, N_STEPS = 6, 5
IMAGES = {"num_inference_steps": N_STEPS}


@pytest.fixture(scope="module")
def unet():
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    return Model.around(Denoiser(tiny_unet().eval(), schedule, "eps"), (1, 8, 8))


def attacked(model, n, attack, seen=None, **words):
    """Samples, and the attack that made them."""
    move = TrajectoryAttack(attack)
    return sample(model, n, move=move if seen is None else watched(seen, move), **words), move


# --- Closed forms ----------------------------------------------------------------------------


def gain_of(norm, n_attack_steps=10, kind="pgd"):
    """A denoiser with x0_hat = u v^T x_t / alpha at the attacked call, attacked there."""
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    scheduler = make_scheduler(Sampling("ddim"), config_from_schedule(schedule, "eps"), "eps")
    scheduler.set_timesteps(N_STEPS)
    alpha, sigma = (float(one(scheduler.timesteps[2])) for one in (schedule.alpha, schedule.sigma))
    torch.manual_seed(0)
    u, v = torch.randn(2, DIM)
    weight = (torch.eye(DIM) - torch.outer(u, v)) / sigma
    attack = Attack(0.3, kind, norm, where=(2,), n_attack_steps=n_attack_steps)
    model = Model.around(Denoiser(LinearEps(weight), schedule, "eps"), (DIM,))
    _, move = attacked(model, 8, attack, num_inference_steps=N_STEPS, scheduler="ddim")
    per_unit = float(u.square().mean()) * (sigma / alpha) ** 2  # gain / (v w)^2
    return move.perturbations[2], move.gains[2][1], v, per_unit


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_on_a_linear_denoiser_the_attack_reaches_the_corner(kind):
    w, gains, v, per_unit = gain_of("linf", kind=kind)
    side = (w @ v).sign()
    torch.testing.assert_close(w, 0.3 * side[:, None] * v.sign())
    best = per_unit * (0.3 * v.abs().sum()) ** 2
    torch.testing.assert_close(gains, best.expand(8), rtol=1e-4, atol=0)


def test_on_a_linear_denoiser_the_attack_finds_the_top_direction():
    w, gains, v, per_unit = gain_of("l2", n_attack_steps=20)
    side = (w @ v).sign()
    pole = 0.3 * DIM**0.5 * v / v.norm()
    torch.testing.assert_close(w, side[:, None] * pole, rtol=0, atol=1e-3)
    best = per_unit * (0.3 * DIM**0.5 * v.norm()) ** 2
    torch.testing.assert_close(gains, best.expand(8), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["random", "pgd"])
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("units", ["noise", "sample"])
def test_a_perturbation_is_as_large_as_its_radius_in_both_units(unet, units, norm, kind):
    """Of x_t in sample units, at calls of little and of much noise; never larger."""
    seen, radius = [], 0.02
    attack = Attack(radius, kind, norm, units, where="all", n_attack_steps=2)
    _, move = attacked(unet, 3, attack, seen, **IMAGES)
    for (t, _), w in zip(seen, move.perturbations.values(), strict=True):
        sigma = float(unet.denoiser.schedule.sigma(t))
        size = BALLS[norm].norm(w) * (sigma if units == "sample" else 1)
        assert (size <= radius * (1 + 1e-5)).all()
        torch.testing.assert_close(size, torch.full((3,), radius), rtol=1e-4, atol=0)


def test_a_length_over_the_image_is_its_root_times_the_size_of_an_element(unet):
    words = {"kind": "fgsm", "norm": "l2", "where": (1,)}
    samples = [
        attacked(unet, 2, Attack(radius, per=per, **words), **IMAGES)[0]
        for radius, per in ((0.1, "element"), (0.8, "image"))
    ]
    torch.testing.assert_close(*samples)


def test_denoising_is_the_shift_of_x0_hat_times_the_squared_ratio(unet):
    attack = Attack(0.2, "fgsm", aim="denoising", where=(3,))
    seen = []
    _, move = attacked(unet, 3, attack, seen, **IMAGES)
    plain = []
    sample(unet, 3, move=watched(plain), **IMAGES)
    t, x_t = seen[3]
    times = t.expand(3)
    alpha, sigma = unet.denoiser.schedule.at(times, like=x_t)
    with torch.no_grad():
        shift = mse(unet.denoiser(x_t, times).x0, unet.denoiser(plain[3][1], times).x0)
    expected = (alpha / sigma).flatten().square() * shift
    torch.testing.assert_close(move.gains[3][1], expected, rtol=1e-3, atol=1e-6)


# --- The promises ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", BALLS)
def test_the_attack_stays_in_its_ball_and_moves_x_t_by_sigma_w(unet, norm):
    seen, plain = [], []
    attack = Attack(0.25, "pgd", norm, where=(1, 3), n_attack_steps=3)
    _, move = attacked(unet, 4, attack, seen, **IMAGES)
    sample(unet, 4, move=watched(plain), **IMAGES)
    assert sorted(move.perturbations) == [1, 3]
    for w in move.perturbations.values():
        norms = BALLS[norm].norm(w)
        assert (norms <= 0.25 * (1 + 1e-5)).all()
        assert (norms > 0.2).all()
    _, sigma = unet.denoiser.schedule.at(seen[1][0].expand(4), like=plain[1][1])
    torch.testing.assert_close(seen[1][1] - plain[1][1], sigma * move.perturbations[1])


@pytest.mark.parametrize("aim", ["final", "denoising", "features"])
def test_no_sample_is_attacked_less_than_by_its_random_start_or_by_fgsm(unet, aim):
    words = {"norm": "linf", "aim": aim, "where": (2,)}
    if aim == "features":
        words["features"] = lambda x: x.flatten(1)[:, ::7].tanh()
    _, fgsm = attacked(unet, 16, Attack(0.3, "fgsm", **words), **IMAGES)
    _, pgd = attacked(unet, 16, Attack(0.3, "pgd", n_attack_steps=3, **words), **IMAGES)
    (start, one), (same, many) = fgsm.gains[2], pgd.gains[2]
    assert torch.equal(start, same)
    assert (one >= start).all()
    assert (many >= one).all()
    assert (many > one).any()
    assert (one > start).any()


def test_an_attack_to_the_end_knows_the_shift_of_the_sample(unet):
    """So PGD's sample is shifted at least as far as the control's, sample by sample."""
    clean = sample(unet, 6, **IMAGES)
    words = {"where": (1,), "n_path_steps": None}
    random, control = attacked(unet, 6, Attack(0.2, "random", where=(1,)), **IMAGES)
    pgd, move = attacked(unet, 6, Attack(0.2, "pgd", n_attack_steps=3, **words), **IMAGES)
    start, best = move.gains[1]
    torch.testing.assert_close(mse(random, clean), start)
    torch.testing.assert_close(mse(pgd, clean), best)
    assert (mse(pgd, clean) >= mse(random, clean)).all()
    assert control.gains == {}


@pytest.mark.parametrize("kind", ["random", "fgsm", "pgd"])
def test_radius_0_is_sampling_to_the_bit(unet, kind):
    clean = sample(unet, 3, **IMAGES)
    same, move = attacked(unet, 3, Attack(0.0, kind, where="all"), **IMAGES)
    assert torch.equal(clean, same)
    assert move.perturbations == {}


def test_a_sample_is_attacked_alike_in_every_batch(unet):
    attack = Attack(0.2, "random", where=(0, 2))
    _, whole = attacked(unet, 5, attack, **IMAGES)
    _, parts = attacked(unet, 5, attack, batch_size=2, **IMAGES)
    assert whole.perturbations.keys() == parts.perturbations.keys()
    for call, w in whole.perturbations.items():
        torch.testing.assert_close(w, parts.perturbations[call], rtol=0, atol=1e-6)
    pgd = Attack(0.2, "pgd", where=(2,), n_attack_steps=2)
    _, whole = attacked(unet, 5, pgd, **IMAGES)
    _, parts = attacked(unet, 5, pgd, batch_size=2, **IMAGES)
    torch.testing.assert_close(whole.gains[2][1], parts.gains[2][1], rtol=1e-3, atol=1e-5)
    _, other = attacked(unet, 5, Attack(0.2, "random", where=(0,), seed=1), **IMAGES)
    assert not torch.equal(other.perturbations[0], whole.perturbations[2])


def test_the_weights_are_frozen_during_the_attack_and_only_then(unet):
    learns = []

    def features(x):
        learns.append(any(one.requires_grad for one in unet.denoiser.parameters()))
        return x.flatten(1)

    attack = Attack(0.2, "fgsm", aim="features", where=(2,), n_path_steps=2, features=features)
    attacked(unet, 2, attack, **IMAGES)
    assert learns == [False] * 3  # the unattacked end, the start, FGSM's point
    assert all(one.grad is None and one.requires_grad for one in unet.denoiser.parameters())


# --- Through the sampler ---------------------------------------------------------------------

SAMPLERS = {
    "ddim": "vp", "euler": "vp", "heun": "vp", "dpmsolver++": "vp", "unipc": "vp", "ddpm": "vp",
    "euler_ancestral": "vp", "flow_euler": "flow", "euler_edm": "edm",
}  # fmt: skip


def gaussian(family):
    schedule, kind = {
        "vp": lambda: (schedule_from_config({"_class_name": "DDPMScheduler"}), "eps"),
        "flow": lambda: (FlowSchedule(shift=3.0), "flow"),
        "edm": lambda: (EDMSchedule(), "edm"),
    }[family]()
    return Model.around(Denoiser(GaussianNetwork(schedule, kind), schedule, kind), (3,))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_ahead_as_it_will_run(name):
    """The gain that the attack sees, noise to come included, is the shift that it causes."""
    words = {"num_inference_steps": 6, "scheduler": name, "batch_size": 3}
    model = gaussian(SAMPLERS[name])
    clean = sample(model, 5, **words)
    attack = Attack(0.5, "pgd", where=(2, 4), n_attack_steps=2, n_path_steps=None)
    moved, move = attacked(model, 5, attack, **words)
    torch.testing.assert_close(mse(moved, clean), move.gains[4][1], rtol=1e-4, atol=1e-7)
    assert (move.gains[4][1] > 1e-4).all()


def manual_fgsm(unet, name, draws, radius, call, n_calls):
    """FGSM in the L2 ball by a bare loop over diffusers' scheduler: w, from the mean gradient."""

    schedule = unet.denoiser.schedule

    def build():
        scheduler = make_scheduler(Sampling(name), unet.scheduler_config, "eps")
        scheduler.set_timesteps(N_STEPS)
        return scheduler

    def run(x, scheduler, first, last, random):
        for t in scheduler.timesteps[first:last]:
            x_in = scheduler.scale_model_input(x, t)
            output = unet.denoiser.network(x_in, t.expand(len(x)), return_dict=False)[0]
            x = scheduler.step(output, t, x, generator=random).prev_sample
        return x

    rows = range(2)
    own = [generator("cpu", 0, "sample", i) for i in rows]
    x = torch.stack([torch.randn(1, 8, 8, generator=one) for one in own])
    ends = []
    scheduler = build()
    x = x * scheduler.init_noise_sigma
    with torch.no_grad():
        x = run(x, scheduler, 0, call, own)
    t = scheduler.timesteps[call]
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    z = [torch.randn(1, 8, 8, generator=generator("cpu", 0, "w", call, i)) for i in rows]
    start = radius * L2Ball().ascent(torch.stack(z))
    w = start.clone().requires_grad_(True)
    states = [one.get_state() for one in own]

    def noise(draw):
        if draws is not None:
            return [generator("cpu", 0, "draw", call, draw, i) for i in rows]
        return [torch.Generator().set_state(state) for state in states]

    for draw in range(draws or 1):
        both = []
        for begin in (x, x + sigma * w / (alpha if name.startswith("euler") else 1)):
            scheduler = build()
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(call)
            end = run(begin, scheduler, call, call + n_calls - 1, noise(draw))
            t = scheduler.timesteps[call + n_calls - 1]
            x_in = scheduler.scale_model_input(end, t)
            both.append(unet.denoiser(x_in, t.expand(2)).x0)
        ends.append(mse(both[1], both[0].detach()))
    (gradient,) = torch.autograd.grad(torch.stack(ends).mean(0).sum(), w)
    moved = start + 2 * radius * L2Ball().ascent(gradient)
    return L2Ball().project(moved, torch.full((2,), radius))


@pytest.mark.parametrize(
    ("name", "draws"),
    [("ddim", None), ("euler", None), ("euler_ancestral", None), ("euler_ancestral", 3)],
)
def test_gradients_are_those_of_the_schedulers_own_steps(unet, name, draws):
    attack = Attack(0.3, "fgsm", "l2", where=(1,), n_path_steps=3, n_expectation=draws)
    _, move = attacked(unet, 2, attack, scheduler=name, clip_sample=False, **IMAGES)
    expected = manual_fgsm(unet, name, draws, 0.3, 1, 3)
    torch.testing.assert_close(move.perturbations[1], expected, rtol=1e-3, atol=1e-4)
    assert (move.gains[1][1] > move.gains[1][0]).all()  # the start was not kept


def test_expectation_over_the_noise_repeats_itself_and_needs_noise(unet):
    words = {"scheduler": "ddpm", **IMAGES}
    attack = Attack(0.3, "pgd", where=(1,), n_attack_steps=2, n_path_steps=2, n_expectation=2)
    first, move = attacked(unet, 2, attack, **words)
    again, same = attacked(unet, 2, attack, **words)
    assert torch.equal(first, again)
    assert torch.equal(move.gains[1][1], same.gains[1][1])
    with pytest.raises(ValueError, match="this sampler draws none"):
        attacked(unet, 2, attack, scheduler="ddim", **IMAGES)
    attacked(unet, 2, attack, scheduler="ddim", eta=1.0, **IMAGES)


# --- Transfer and the start ------------------------------------------------------------------


def test_a_model_attacked_by_its_own_perturbations_is_attacked_directly(unet):
    direct, move = attacked(unet, 5, Attack(0.3, "fgsm", where=(1, 3)), batch_size=2, **IMAGES)
    replayed = sample(unet, 5, move=Replay(move.perturbations), batch_size=2, **IMAGES)
    assert torch.equal(direct, replayed)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_of_the_start_have_the_size_they_say(unet, name):
    seen, plain = [], []
    move = CorruptedStart(name, 0.4)
    words = {**IMAGES, "num_inference_steps": 1}
    sample(unet, 3, move=watched(seen, move), batch_size=2, **words)
    sample(unet, 3, move=watched(plain), **words)
    _, sigma = unet.denoiser.schedule.at(torch.full((3,), 999), like=plain[0][1])
    w = (torch.cat([x_t for _, x_t in seen]) - plain[0][1]) / sigma
    torch.testing.assert_close(L2Ball().norm(w), torch.full((3,), 0.4), rtol=1e-4, atol=0)
    z = plain[0][1] / sigma
    if name == "shift":
        torch.testing.assert_close(w, torch.full_like(w, 0.4))
    if name == "contrast":
        torch.testing.assert_close(w / z, (w / z)[:, :, :1, :1].expand_as(w), rtol=1e-3, atol=0)
    if name == "block":
        gone = w.abs() > 1e-6
        assert gone.sum((1, 2, 3)).tolist() == [16] * 3
        assert ((w * z)[gone] < 0).all()
    if name == "impulse":
        assert (w.abs() > 1e-6).sum((1, 2, 3)).tolist() == [4] * 3
    if name == "blur":  # a step towards less contrast between neighbours
        before, after = z.diff(dim=3).square().mean(), (z + w).diff(dim=3).square().mean()
        assert after < before


def test_a_start_corrupted_by_0_is_left_alone(unet):
    clean = sample(unet, 2, **IMAGES)
    assert torch.equal(sample(unet, 2, move=CorruptedStart("blur", 0.0), **IMAGES), clean)


# --- What is refused -------------------------------------------------------------------------


def test_calls_are_counted_or_shares():
    assert calls_of((0, 3), 10) == [0, 3]
    assert calls_of((0.0, 0.5, 1.0, 0.51), 10) == [0, 5, 9]
    assert calls_of("all", 3) == [0, 1, 2]
    for where in ((10,), (-1,), (1.1,), (), "some"):
        with pytest.raises(ValueError, match="where"):
            calls_of(where, 10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "cw"}, "kind must be one of random, fgsm, pgd"),
        ({"norm": "l1"}, "norm must be one of linf, l2"),
        ({"per": "image"}, "goes with norm l2"),
        ({"aim": "fid"}, "aim must be one of"),
        ({"radius": -0.1}, "radius must be >= 0"),
        ({"radius": float("nan")}, "radius must be a finite number"),
        ({"n_attack_steps": 0}, "must be >= 1"),
        ({"aim": "denoising", "n_path_steps": 2}, "leave n_path_steps at 1"),
        ({"n_expectation": 2}, "n_expectation needs n_path_steps > 1"),
        ({"aim": "features"}, "go together"),
        ({"features": torch.tanh}, "go together"),
    ],
)
def test_wrong_attacks_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Attack(**{"radius": 0.1, **words})


def test_wrong_corruptions_are_refused():
    with pytest.raises(ValueError, match="corruption must be one of"):
        CorruptedStart("fog", 0.1)
    words = {"num_inference_steps": 2}
    with pytest.raises(ValueError, match="is of images"):
        sample(gaussian("vp"), 2, move=CorruptedStart("blur", 0.1), **words)
