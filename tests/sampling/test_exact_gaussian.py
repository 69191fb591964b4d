"""Sampling an exact denoiser gives the data's mean and spread.

Data x0 ~ N(mu, s^2). The posterior mean is affine in x_t, so every sampler without clipping is an
affine map of its noises: x = c + sum_k A_k z_k. Running it on one zero and on unit impulses, one
per noise, gives the mean c and the spread sqrt(sum A_k^2) exactly, without drawing anything.
"""

import pytest
import torch
from torch import nn

import sparring.sampling.schedulers as schedulers
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.parametrization import KINDS
from sparring.diffusion.schedules import (
    EDMSchedule,
    FlowSchedule,
    config_from_schedule,
    schedule_from_config,
)
from sparring.models.pretrained import Model
from sparring.sampling.sample import sample
from sparring.sampling.samplers.ddim import GridDDIMScheduler
from sparring.sampling.schedulers import make_scheduler
from sparring.sampling.settings import Sampling
from sparring.sampling.steps import Steps, integrate

MU, S = 0.5, 0.5
VP = {"_class_name": "DDPMScheduler", "beta_start": 1e-4, "beta_end": 0.02}


class ExactGaussian(nn.Module):
    """The network that knows x0 ~ N(mu, s^2), in the words of its kind."""

    def __init__(self, schedule, kind, mu=MU, s=S):
        super().__init__()
        self.schedule, self.kind, self.mu, self.s = schedule, kind, mu, s

    def forward(self, x_in, t):
        alpha, sigma = self.schedule.at(t, like=x_in)
        x_t = x_in / self.schedule.input_scale(sigma)
        gain = alpha * self.s**2 / (alpha**2 * self.s**2 + sigma**2)
        x0 = self.mu + gain * (x_t - alpha * self.mu)
        eps = (x_t - alpha * x0) / sigma
        a, b = pair(self.schedule, self.kind, alpha, sigma)
        return a * x0 + b * eps


def pair(schedule, kind, alpha, sigma):
    if kind in KINDS:
        return KINDS[kind](alpha, sigma)
    scale = (sigma**2 + schedule.sigma_data**2).sqrt()  # EDM, Karras et al. 2022, table 1
    c_skip, c_out = schedule.sigma_data**2 / scale**2, sigma * schedule.sigma_data / scale
    return (1 - c_skip) / c_out, -c_skip * sigma / c_out


def denoiser_for(schedule, kind, **values):
    return Denoiser(ExactGaussian(schedule, kind, **values), schedule, kind)


def mean_and_spread(monkeypatch, denoiser, name, n_steps, **options):
    """Exact mean and spread of what the sampler returns, float32 arithmetic."""
    config = config_from_schedule(denoiser.schedule, denoiser.kind)
    scheduler = make_scheduler(Sampling(name, **options), config, denoiser.kind)
    scheduler.set_timesteps(n_steps)
    n_noises = len(scheduler.timesteps)
    impulses = torch.zeros(2 + n_noises, 1)
    impulses[1] = 1.0
    drawn = []

    def impulse(shape, **_):
        noise = torch.zeros(shape)
        noise[2 + len(drawn)] = 1.0
        drawn.append(1)
        return noise

    monkeypatch.setitem(type(scheduler).step.__globals__, "randn_tensor", impulse)
    steps = Steps(denoiser, scheduler, Sampling())
    x = integrate(steps, impulses * getattr(scheduler, "init_noise_sigma", 1.0))
    return x[0].item(), (x[1:] - x[0]).double().square().sum().sqrt().item(), len(drawn)


SAMPLERS = {
    "ddpm": "vp",
    "ddim": "vp",
    "euler": "vp",
    "euler_ancestral": "vp",
    "heun": "vp",
    "dpmsolver++": "vp",
    "unipc": "vp",
    "flow_euler": "flow",
    "flow_heun": "flow",
    "euler_edm": "edm",
}


def schedule_of(family):
    if family == "vp":
        return schedule_from_config(VP), "eps"
    return (FlowSchedule(), "flow") if family == "flow" else (EDMSchedule(), "edm")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_thousand_steps_give_mean_and_spread(monkeypatch, name):
    schedule, kind = schedule_of(SAMPLERS[name])
    mean, spread, n_drawn = mean_and_spread(monkeypatch, denoiser_for(schedule, kind), name, 1000)
    assert abs(mean - MU) <= 0.01 * S
    assert abs(spread - S) <= 0.01 * S
    assert n_drawn >= 999 if name in ("ddpm", "euler_ancestral") else n_drawn == 0


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun", "dpmsolver++", "unipc"])
def test_the_parametrisation_changes_nothing(monkeypatch, name, kind):
    schedule, _ = schedule_of("vp")
    as_eps = mean_and_spread(monkeypatch, denoiser_for(schedule, "eps"), name, 50)
    as_kind = mean_and_spread(monkeypatch, denoiser_for(schedule, kind), name, 50)
    # float32 at alpha_T = 0.006: x0 from eps loses about three digits
    assert as_kind == pytest.approx(as_eps, rel=2e-4)


@pytest.mark.parametrize(
    "name", ["ddpm", "ddim", "euler", "euler_ancestral", "flow_euler", "euler_edm"]
)
def test_the_error_of_first_order_samplers_halves(monkeypatch, name):
    """From 50 to 100 steps; ancestral noise adds a second-order term, 1.76 instead of 2."""
    schedule, kind = schedule_of(SAMPLERS[name])
    denoiser = denoiser_for(schedule, kind)
    error = {n: S - mean_and_spread(monkeypatch, denoiser, name, n)[1] for n in (50, 100)}
    assert error[100] > 0.005 * S  # it is an error of the step size, not rounding
    assert 1.7 <= error[50] / error[100] <= 2.2


@pytest.mark.parametrize("name", ["heun", "dpmsolver++", "unipc", "flow_heun"])
def test_second_order_samplers_are_better_than_first_order(monkeypatch, name):
    schedule, kind = schedule_of(SAMPLERS[name])
    first = "flow_euler" if SAMPLERS[name] == "flow" else "ddim"
    spreads = [
        mean_and_spread(monkeypatch, denoiser_for(schedule, kind), which, 50)[1]
        for which in (name, first)
    ]
    assert abs(spreads[0] - S) < 0.2 * abs(spreads[1] - S)


@pytest.mark.parametrize("n_steps", [30, 64, 300, 600])
def test_ddim_is_even_where_steps_do_not_divide(monkeypatch, n_steps):
    """Without clipping DDIM is Euler's step in sigma/alpha, on the same grid for any n."""
    denoiser = denoiser_for(*schedule_of("vp"))
    ddim = mean_and_spread(monkeypatch, denoiser, "ddim", n_steps)
    euler = mean_and_spread(monkeypatch, denoiser, "euler", n_steps)
    assert ddim == pytest.approx(euler, rel=2e-4)
    plain = mean_and_spread(monkeypatch, denoiser, "DDIMScheduler", n_steps)
    assert plain[1] != pytest.approx(euler[1], rel=4e-3)  # what the own class is for


def test_ddim_with_eta_one_is_ddpm(monkeypatch):
    denoiser = denoiser_for(*schedule_of("vp"))
    scheduler = make_scheduler(Sampling("ddim"), VP, "eps")
    scheduler.set_timesteps(20)
    ddpm = make_scheduler(Sampling("ddpm"), VP, "eps")
    ddpm.set_timesteps(20)
    x = torch.linspace(-2, 2, 7)[:, None]
    results = []
    for steps, eta in ((scheduler, 1.0), (ddpm, 0.0)):
        generators = [torch.Generator().manual_seed(i) for i in range(7)]
        walk = Steps(denoiser, steps, Sampling(eta=eta), generators=generators)
        results.append(integrate(walk, x))
    torch.testing.assert_close(*results, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["dpmsolver++", "unipc"])
def test_flow_models_can_use_multistep_samplers(monkeypatch, name):
    denoiser = denoiser_for(FlowSchedule(shift=2.0), "flow")
    mean, spread, _ = mean_and_spread(monkeypatch, denoiser, name, 100)
    assert abs(mean - MU) <= 0.02 * S
    assert abs(spread - S) <= 0.02 * S


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "heun", "dpmsolver++", "unipc"])
@pytest.mark.parametrize("kind", ["x0", "v"])
def test_zero_terminal_snr_is_carried_over(monkeypatch, name, kind):
    """Then the start N(0, 1) is exact and the mean has no remainder alpha_T mu."""
    config = {**VP, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    schedule = schedule_from_config(config)
    scheduler = make_scheduler(Sampling(name), config, kind)
    abar = scheduler.alphas_cumprod.double()
    if name in ("ddim", "ddpm"):
        assert abar[-1] == 0
    else:  # diffusers' own floor of the last entry, under a table that falls towards it
        assert abar[-1].item() == pytest.approx(2.0**-24, rel=0.01)
        assert (abar[1:] < abar[:-1]).all()
        torch.testing.assert_close(abar[:-8], schedule.alphas_cumprod[:-8], rtol=1e-3, atol=0)
    scheduler.set_timesteps(1000)
    assert scheduler.timesteps[0] == 999
    start = torch.tensor([[0.0], [1.0]]) * getattr(scheduler, "init_noise_sigma", 1.0)
    generators = [torch.Generator().manual_seed(0)] * 2
    denoiser = denoiser_for(schedule, kind)
    x = integrate(Steps(denoiser, scheduler, Sampling(), generators=generators), start)
    if name != "ddpm":
        assert x[0].item() == pytest.approx(MU, rel=1e-3)
        assert (x[1] - x[0]).item() == pytest.approx(S, rel=5e-3)
    assert torch.isfinite(x).all()


def test_sample_draws_from_the_same_distribution():
    """Through the public function: 4,000 draws, five standard errors."""
    for name in ("ddim", "ddpm", "dpmsolver++"):
        x = sample(
            Model.around(denoiser_for(*schedule_of("vp")), (1,)), 4000, scheduler=name,
            num_inference_steps=40, batch_size=4000,
        )  # fmt: skip
        mean, spread = x.mean().item(), x.std().item()
        wanted = {"ddim": 0.466, "ddpm": 0.434, "dpmsolver++": 0.5}[name]  # of 40 steps, exact
        assert abs(mean - MU) < 5 * S / 4000**0.5 + 0.002
        assert abs(spread - wanted) < 5 * S / 8000**0.5 + 0.002


def test_even_ddim_is_diffusers_ddim_where_steps_divide():
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    ours = make_scheduler(Sampling("ddim", clip_sample=True), VP, "eps")
    theirs = DDIMScheduler(clip_sample=True, timestep_spacing="trailing")
    assert isinstance(ours, GridDDIMScheduler)
    x, output = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for n_steps in (10, 50, 1000):
        ours.set_timesteps(n_steps)
        theirs.set_timesteps(n_steps)
        assert torch.equal(ours.timesteps, theirs.timesteps)
        for t in ours.timesteps[:: n_steps // 5]:
            for eta in (0.0, 1.0):
                own, other = (torch.Generator().manual_seed(1) for _ in range(2))
                a = ours.step(output, t, x, eta=eta, generator=own).prev_sample
                b = theirs.step(output, t, x, eta=eta, generator=other).prev_sample
                torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_spacing_of_other_choices_fails_this_file(monkeypatch):
    """Sensitivity: with diffusers' default betas or clipping the answer is wrong."""
    denoiser = denoiser_for(*schedule_of("vp"))
    right = mean_and_spread(monkeypatch, denoiser, "heun", 100)
    monkeypatch.setattr(schedulers, "betas_of", lambda config: [0.00085] * 1000)
    wrong = mean_and_spread(monkeypatch, denoiser, "heun", 100)
    assert abs(right[1] - S) < 0.01 * S < abs(wrong[1] - S)
