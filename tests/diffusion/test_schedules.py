"""The schedules against diffusers' own arithmetic."""

import itertools

import diffusers
import pytest
import torch

from sparring.diffusion import solver_steps
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.noising import add_noise
from sparring.diffusion.parametrization import KINDS, Prediction
from sparring.diffusion.schedules import (
    EDMSchedule,
    FlowSchedule,
    VPSchedule,
    kind_from_config,
    schedule_from_config,
)

BETAS = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 250},
    {"beta_schedule": "linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]


def _batch(n=40):
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, n, 1, 4, 4, generator=g)


@pytest.mark.parametrize("betas", BETAS, ids=str)
def test_add_noise_and_velocity_agree_with_diffusers(betas):
    scheduler = diffusers.DDPMScheduler(**betas)
    schedule = schedule_from_config(scheduler.config)
    x0, eps, _ = _batch()
    t = torch.linspace(0, schedule.n_train_timesteps - 1, len(x0)).long()
    alpha, sigma = schedule.at(t, like=x0)
    x_t = add_noise(x0, eps, alpha, sigma)
    torch.testing.assert_close(x_t, scheduler.add_noise(x0, eps, t), rtol=0, atol=1e-6)
    a, b = KINDS["v"](alpha, sigma)
    expected = scheduler.get_velocity(x0, eps, t)
    torch.testing.assert_close(a * x0 + b * eps, expected, rtol=0, atol=1e-6)


def test_scale_noise_agrees_with_diffusers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = schedule_from_config(scheduler.config)
    x0, eps, _ = _batch()
    t = scheduler.timesteps[:: len(scheduler.timesteps) // len(x0)][: len(x0)]
    alpha, sigma = schedule.at(t, like=x0)
    expected = scheduler.scale_noise(x0, t, eps)
    torch.testing.assert_close(add_noise(x0, eps, alpha, sigma), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("word", ["epsilon", "sample", "v_prediction"])
def test_own_step_is_ddim(word):
    scheduler = diffusers.DDIMScheduler(
        prediction_type=word, clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(20)
    schedule = schedule_from_config(scheduler.config)
    grid = solver_steps.time_grid(schedule, 20)
    assert torch.equal(grid, scheduler.timesteps)
    x_t, output, _ = _batch()
    pair = KINDS[kind_from_config(scheduler.config)]
    for i, t in enumerate(grid):
        alpha, sigma = schedule.at(t.expand(len(x_t)), like=x_t)
        if i + 1 < len(grid):
            alpha_s, sigma_s = schedule.at(grid[i + 1].expand(len(x_t)), like=x_t)
        else:  # diffusers' set_alpha_to_one: the last step lands on clean data
            alpha_s, sigma_s = torch.ones_like(alpha), torch.zeros_like(sigma)
        prediction = Prediction(x_t, output, alpha, sigma, *pair(alpha, sigma))
        expected = scheduler.step(output, t, x_t).prev_sample
        tolerance = 1e-6 * float(expected.abs().max())
        ours = solver_steps.step(prediction, alpha_s, sigma_s)
        torch.testing.assert_close(ours, expected, rtol=0, atol=4 * tolerance)
        big_a, big_b = solver_steps.step_coefficients(
            pair(alpha, sigma), alpha, sigma, alpha_s, sigma_s
        )
        torch.testing.assert_close(big_a * x_t + big_b * output, ours, rtol=0, atol=4 * tolerance)


@pytest.mark.parametrize("n_steps", [1, 7, 50])
def test_grids_are_those_of_ddim(n_steps):
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(n_steps)
    grid = solver_steps.time_grid(schedule_from_config(scheduler.config), n_steps)
    assert torch.equal(grid, scheduler.timesteps)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_own_step_is_flow_euler(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    schedule = schedule_from_config(scheduler.config)
    grid = solver_steps.time_grid(schedule, 12)
    torch.testing.assert_close(grid.float(), scheduler.timesteps, rtol=1e-6, atol=1e-4)
    x, output, _ = _batch()
    times = torch.cat([scheduler.timesteps, torch.zeros(1)])
    for t, s in itertools.pairwise(times):
        alpha, sigma = schedule.at(t.expand(len(x)), like=x)
        alpha_s, sigma_s = schedule.at(s.expand(len(x)), like=x)
        prediction = Prediction(x, output, alpha, sigma, *KINDS["flow"](alpha, sigma))
        expected = scheduler.step(output, t, x).prev_sample
        torch.testing.assert_close(
            solver_steps.step(prediction, alpha_s, sigma_s), expected, rtol=0, atol=2e-6
        )


def test_edm_grid_and_preconditioning_agree_with_diffusers():
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(15)
    schedule = schedule_from_config(scheduler.config)
    grid = solver_steps.time_grid(schedule, 15)
    torch.testing.assert_close(grid.float(), scheduler.timesteps.float(), rtol=1e-5, atol=1e-5)
    x, output, _ = _batch()
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        denoiser = Denoiser(_Constant(output), schedule, kind_from_config(scheduler.config))
        expected = scheduler.precondition_outputs(x, output, sigma)
        got = denoiser(x, (t.double()).expand(len(x))).x0
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            x * schedule.input_scale(sigma.double()).float(),
            scheduler.precondition_inputs(x, sigma),
        )


@pytest.mark.parametrize("schedule", ["vp", "flow", "edm"])
def test_time_of_ratio_inverts_the_ratio(schedule):
    made = {
        "vp": schedule_from_config({"_class_name": "DDIMScheduler"}),
        "flow": FlowSchedule(),
        "edm": EDMSchedule(),
    }[schedule]
    ratio = torch.tensor([0.05, 0.3, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(made.ratio(made.time_of_ratio(ratio)), ratio, rtol=1e-9, atol=0)


def test_fractional_times_lie_between_their_neighbours():
    vp = schedule_from_config({"_class_name": "DDPMScheduler"})
    t = torch.tensor([10.0, 10.5, 11.0])
    ratio = vp.ratio(t)
    torch.testing.assert_close(ratio[1] ** 2, ratio[0] * ratio[2])  # linear in the logarithm
    torch.testing.assert_close(vp.ratio(torch.tensor([10, 11])), ratio[[0, 2]], rtol=1e-9, atol=0)


def test_training_times_cover_the_schedule():
    vp = schedule_from_config({"_class_name": "DDPMScheduler"})
    u = (torch.arange(1000) + 0.5) / 1000
    assert torch.equal(vp.times(u), torch.arange(1000))
    flow = FlowSchedule(shift=3.0).times(torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(flow, torch.tensor([1000.0, 750.0], dtype=torch.float64))
    edm = EDMSchedule()
    ends = edm.sigma(edm.times(torch.tensor([0.0, 1.0])))
    torch.testing.assert_close(ends, torch.tensor([0.002, 80.0], dtype=torch.float64))


def test_every_known_scheduler_gives_its_family():
    expected = {
        "DDPMScheduler": VPSchedule,
        "DDIMScheduler": VPSchedule,
        "PNDMScheduler": VPSchedule,
        "EulerDiscreteScheduler": VPSchedule,
        "HeunDiscreteScheduler": VPSchedule,
        "DPMSolverMultistepScheduler": VPSchedule,
        "UniPCMultistepScheduler": VPSchedule,
        "DEISMultistepScheduler": VPSchedule,
        "LCMScheduler": VPSchedule,
        "FlowMatchEulerDiscreteScheduler": FlowSchedule,
        "FlowMatchHeunDiscreteScheduler": FlowSchedule,
        "EDMEulerScheduler": EDMSchedule,
        "EDMDPMSolverMultistepScheduler": EDMSchedule,
    }
    for name, family in expected.items():
        scheduler = getattr(diffusers, name)()
        schedule = schedule_from_config(scheduler.config)
        assert type(schedule) is family, name
        if family is VPSchedule:
            own = scheduler.alphas_cumprod.double()
            torch.testing.assert_close(schedule.alphas_cumprod, own, rtol=1e-6, atol=0, msg=name)


def test_zero_terminal_snr_needs_another_prediction():
    config = {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}
    with pytest.raises(ValueError, match="zero terminal SNR"):
        schedule_from_config(config | {"prediction_type": "epsilon"})
    schedule = schedule_from_config(config | {"prediction_type": "v_prediction"})
    with pytest.raises(ValueError, match="zero terminal SNR"):
        Denoiser(torch.nn.Identity(), schedule, "eps")
    last = torch.tensor([999])
    assert float(schedule.alpha(last)) == 0.0


def test_an_unknown_config_is_refused():
    with pytest.raises(ValueError, match="neither betas"):
        schedule_from_config({"num_train_timesteps": 10})
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        kind_from_config({"prediction_type": "noise"})
    with pytest.raises(ValueError, match="t must lie in"):
        schedule_from_config({"_class_name": "DDPMScheduler"}).alpha(torch.tensor([1000]))


class _Constant(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, t):
        return self.output


def test_betas_that_are_no_schedule_are_refused():
    ddpm = {"_class_name": "DDPMScheduler"}
    for words in (
        {"num_train_timesteps": 1},
        {"beta_end": 1.5},
        {"beta_start": -0.1},
        {"trained_betas": [0.1, 0.0, 0.2]},
        {"trained_betas": [0.1, float("nan"), 0.2]},
    ):
        with pytest.raises(ValueError, match=r"num_train_timesteps must|betas must lie"):
            schedule_from_config(ddpm | words)
    with pytest.raises(ValueError, match="trained_betas are 3 numbers"):
        schedule_from_config(ddpm | {"trained_betas": [0.1, 0.2, 0.9], "num_train_timesteps": 1000})
    assert schedule_from_config(ddpm | {"trained_betas": [0.1, 0.9]}).n_train_timesteps == 2


@pytest.mark.parametrize(
    "word", ["shift_terminal", "invert_sigmas", "stochastic_sampling", "use_karras_sigmas"]
)
def test_what_would_change_how_a_flow_is_sampled_is_refused(word):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert schedule_from_config({**config, word: False}).shift == 3.0
    with pytest.raises(ValueError, match=f"{word} changes how a flow is sampled"):
        schedule_from_config({**config, word: 0.1})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"num_train_timesteps": "1000"}, "num_train_timesteps must be a whole number, got '1000'"),
        ({"num_train_timesteps": 1000.0}, "num_train_timesteps must be a whole number, got 1000"),
        ({"beta_start": "1e-4"}, "beta_start must be a number, got '1e-4'"),
        ({"beta_end": True}, "beta_end must be a number, got True"),
    ],
)
def test_a_text_is_no_number(words, said):
    with pytest.raises(ValueError, match=said):
        schedule_from_config({"_class_name": "DDPMScheduler", **words})
