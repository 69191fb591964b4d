"""Seeds, guidance, epsilon scaling, learned variance, errors; the network is exact where it can be.

With x0 ~ N(mu, s^2) the estimate of x0 is linear in mu, so guidance between two classes is exactly
the model of the mean mu_null + w (mu_class - mu_null).
"""

import itertools

import diffusers
import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.parametrization import KINDS
from sparring.diffusion.schedules import EDMSchedule, FlowSchedule, schedule_from_config
from sparring.models.pretrained import Model
from sparring.sampling import samplers
from sparring.sampling.sample import describe_sampling, sample
from sparring.sampling.schedulers import families_of, make_scheduler
from sparring.sampling.settings import Sampling
from sparring.support.errors import UserError

VP = {"_class_name": "DDPMScheduler"}
CLOSE = {"rtol": 0, "atol": 2e-4}  # at alpha_T = 0.006 x0 is known to no more digits
S = 0.5


class Gaussians(nn.Module):
    """Exact for N(means[class], s^2); optionally with a constant learned-range variance."""

    def __init__(self, schedule, kind="eps", means=(0.5,), variance=None):
        super().__init__()
        self.schedule, self.kind, self.variance = schedule, kind, variance
        self.register_buffer("means", torch.tensor(means))
        self.dropout = nn.Dropout(0.5)
        self.batch_sizes = []

    def forward(self, x, t, class_labels=None, encoder_hidden_states=None):
        self.batch_sizes.append(len(x))
        mu = self.means[0] if class_labels is None else self.means[class_labels]
        if encoder_hidden_states is not None:
            mu = encoder_hidden_states.mean((1, 2))
        mu = mu.reshape(-1, *(1,) * (x.ndim - 1))
        alpha, sigma = self.schedule.at(t, like=x)
        gain = alpha * S**2 / (alpha**2 * S**2 + sigma**2)
        x0 = mu + gain * (x - alpha * mu)
        eps = (x - alpha * x0) / sigma
        a, b = KINDS[self.kind](alpha, sigma)
        output = self.dropout(torch.ones_like(x)) * (a * x0 + b * eps)
        if self.variance is not None:
            output = torch.cat([output, torch.full_like(output, self.variance)], dim=1)
        return output


def gaussian(kind="eps", config=VP, null=None, **words):
    schedule = schedule_from_config({**config, "prediction_type": "v_prediction"})
    network = Gaussians(schedule, kind, **words)
    return Denoiser(
        network, schedule, kind, learned_variance=words.get("variance") is not None,
        null_condition=None if null is None else {"class_labels": null},
    )  # fmt: skip


def draw(denoiser, n=5, **words):
    shape, config = words.pop("sample_shape", (2,)), words.pop("scheduler_config", None)
    model = Model.around(denoiser, shape, config)
    return sample(model, n, **{"num_inference_steps": 10, **words})


STOCHASTIC = ["ddpm", "euler_ancestral", "dpm2_ancestral", "dpmsolver++_sde", "LCMScheduler"]


@pytest.mark.parametrize("name", ["ddim", "heun", "pndm", *STOCHASTIC])
def test_sample_i_follows_from_seed_and_i(name):
    whole = draw(gaussian(), 7, scheduler=name)
    for batch_size in (1, 3, 7):
        part = draw(gaussian(), 7, scheduler=name, batch_size=batch_size)
        torch.testing.assert_close(part, whole, **CLOSE)
    torch.testing.assert_close(draw(gaussian(), 4, scheduler=name), whole[:4], **CLOSE)
    assert (draw(gaussian(), 7, scheduler=name, seed=1) != whole).all()
    assert len(whole.unique()) == whole.numel()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_use_their_own_noise(name):
    """A generator per sample, so the same start and other later noise give another sample."""
    first = draw(gaussian(), 1, scheduler=name, num_inference_steps=1)
    torch.manual_seed(0)
    a = draw(gaussian(), 1, scheduler=name)
    torch.manual_seed(1)
    assert torch.equal(draw(gaussian(), 1, scheduler=name), a)
    assert not torch.equal(first, a)


def test_eta_adds_noise_that_follows_from_the_seed():
    plain, noisy = draw(gaussian()), draw(gaussian(), eta=1.0)
    assert not torch.equal(plain, noisy)
    torch.testing.assert_close(draw(gaussian(), eta=1.0, batch_size=2), noisy, **CLOSE)
    with pytest.raises(ValueError, match="no eta"):
        draw(gaussian(), scheduler="euler", eta=0.5)


def test_global_state_and_modes_are_left_alone():
    denoiser = gaussian()
    denoiser.network.dropout.eval()
    denoiser.network.train(True)
    denoiser.network.dropout.eval()
    before = torch.get_rng_state()
    x = draw(denoiser)  # with dropout at work the exact answer would be lost
    assert torch.equal(torch.get_rng_state(), before)
    assert denoiser.network.training
    assert not denoiser.network.dropout.training
    denoiser.train()
    assert torch.equal(draw(denoiser), x)
    assert denoiser.network.dropout.training
    assert not x.is_inference()
    assert not x.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmsolver++"])
def test_guidance_between_gaussians_is_the_gaussian_of_the_guided_mean(kind, name):
    denoiser = gaussian(kind, means=(0.1, 0.4, -0.2), null=2)
    guided = draw(denoiser, 4, scheduler=name, class_labels=1, guidance_scale=3.0)
    mean = -0.2 + 3.0 * (0.4 - -0.2)
    expected = draw(gaussian(kind, means=(mean,)), 4, scheduler=name)
    torch.testing.assert_close(guided, expected, rtol=0, atol=2e-4)


def test_guidance_of_one_calls_the_network_once_a_step():
    denoiser = gaussian(means=(0.1, 0.4), null=1)
    draw(denoiser, 5, class_labels=0, batch_size=2)
    assert denoiser.network.batch_sizes == [2] * 20 + [1] * 10


def test_labels_go_with_their_samples():
    denoiser = gaussian(means=(-3.0, 0.0, 3.0))
    labels = torch.tensor([2, 0, 0, 1, 2])
    x = draw(denoiser, class_labels=labels, num_inference_steps=50, batch_size=2)
    torch.testing.assert_close(x.mean(1).div(3).round(), labels - 1.0)


def test_conditions_are_sliced_or_repeated():
    denoiser = gaussian()
    text = torch.randn(5, 3, 4)
    words = {"num_inference_steps": 5}
    each = draw(denoiser, condition={"encoder_hidden_states": text}, batch_size=2, **words)
    alike = draw(denoiser, condition={"encoder_hidden_states": text[3:4]}, batch_size=2, **words)
    torch.testing.assert_close(each[3], alike[3], **CLOSE)
    assert not torch.equal(each[2], alike[2])
    with pytest.raises(ValueError, match="5 rows or 1"):
        draw(denoiser, condition={"encoder_hidden_states": text[:2]})


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "heun", "dpmsolver++"])
def test_epsilon_scaling_divides_the_noise_in_every_parametrisation(name):
    """ADM-ES: eps_hat / eps_scale; for an eps-network that is its output divided."""
    divided = gaussian()
    forward = divided.network.forward
    divided.network.forward = lambda *a, **k: forward(*a, **k) / 1.02
    expected = draw(divided, scheduler=name)
    plain = draw(gaussian(), scheduler=name)
    assert (expected - plain).abs().max() > 1e-3
    for kind in KINDS:
        x = draw(gaussian(kind), scheduler=name, eps_scale=1.02)
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=3e-4)


def test_epsilon_scaling_in_edm_coordinates():
    """EDM's Euler step is x + (sigma' - sigma) eps_hat; scaled it divides eps_hat."""
    schedule = EDMSchedule(sigma_data=0.5, sigma_max=10.0)

    class Exact(nn.Module):
        def forward(self, x_in, t):
            sigma = schedule.sigma(t).float()[:, None]
            x = x_in * (sigma**2 + 0.25).sqrt()
            x0 = 0.25 / (0.25 + sigma**2) * x  # x0 ~ N(0, 0.25): c_skip alone, output 0
            return (x0 - 0.25 / (0.25 + sigma**2) * x) / (sigma * 0.5 / (sigma**2 + 0.25).sqrt())

    denoiser = Denoiser(Exact(), schedule, "edm")
    x = draw(denoiser, 3, num_inference_steps=8, eps_scale=1.1)
    scheduler = make_scheduler(
        Sampling(), {"_class_name": "EDMEulerScheduler", "sigma_max": 10.0}, "edm"
    )
    scheduler.set_timesteps(8)
    start = draw(denoiser, 3, num_inference_steps=8)
    ratio = 1.0  # the sampler is linear: every sample shrinks by the same factor
    ratio_plain = 1.0
    for a, b in zip(scheduler.sigmas[:-1].tolist(), scheduler.sigmas[1:].tolist(), strict=True):
        eps = a / (0.25 + a**2)
        ratio *= 1 + (b - a) * eps / 1.1
        ratio_plain *= 1 + (b - a) * eps
    torch.testing.assert_close(x, start * (ratio / ratio_plain), rtol=1e-4, atol=0)


@pytest.mark.parametrize("variance", [-1.0, 1.0])
def test_ddpm_uses_the_learned_range_and_others_drop_it(variance):
    """-1 is the posterior's variance (fixed_small), +1 is beta_t (fixed_large)."""
    learned = gaussian(variance=variance)
    fixed = {**VP, "variance_type": "fixed_small" if variance < 0 else "fixed_large"}
    expected = draw(gaussian(), scheduler="ddpm", scheduler_config=fixed)
    torch.testing.assert_close(draw(learned, scheduler="ddpm"), expected, rtol=0, atol=1e-5)
    for name in ("ddim", "dpmsolver++", "euler"):
        found = draw(learned, scheduler=name)
        torch.testing.assert_close(found, draw(gaussian(), scheduler=name), **CLOSE)
    guided = gaussian(variance=variance, means=(0.2, 0.5), null=0)
    plain = gaussian(means=(0.2, 0.5), null=0)
    words = {"class_labels": 1, "guidance_scale": 2.0, "scheduler": "ddpm"}
    torch.testing.assert_close(
        draw(guided, **words), draw(plain, scheduler_config=fixed, **words), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm2", "dpm2_ancestral", "pndm"])
def test_x0_models_with_samplers_that_know_no_x0(name):
    expected = draw(gaussian("v"), scheduler=name)
    torch.testing.assert_close(draw(gaussian("x0"), scheduler=name), expected, rtol=0, atol=1e-4)


def test_v_and_x0_on_a_flow_schedule():
    schedule = FlowSchedule()
    results = {
        kind: draw(Denoiser(Gaussians(schedule, kind), schedule, kind))
        for kind in ("flow", "v", "x0")
    }
    for kind in ("v", "x0"):
        torch.testing.assert_close(results[kind], results["flow"], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="eps-prediction"):
        draw(Denoiser(Gaussians(schedule), schedule, "eps"))


def test_clipping_is_for_images_and_only_where_it_can():
    image = {"sample_shape": (1, 2, 2), "num_inference_steps": 20}
    wide = gaussian(means=(3.0,))
    assert draw(wide, **image).max() <= 1.0 + 1e-5
    assert draw(wide, clip_sample=False, **image).min() > 1.0
    assert draw(wide, scheduler="euler", **image).min() > 1.0
    assert draw(wide, num_inference_steps=20).min() > 1.0  # vectors
    with pytest.raises(ValueError, match="cannot clip"):
        draw(wide, scheduler="euler", clip_sample=True)


def test_ddim_follows_the_path_of_the_clipped_x0():
    """All mass at 3, clipped to 1: each x_t is alpha 1 + sigma eps, eps from where it began."""
    visited = []

    class Point(nn.Module):
        def forward(self, x, t):
            alpha, sigma = schedule.at(t, like=x)
            visited.append(((x - alpha) / sigma)[:, 0])
            return (x - alpha * 3.0) / sigma

    schedule = schedule_from_config(VP)
    draw(Denoiser(Point(), schedule, "eps"), clip_sample=True)
    assert len(visited) == 10
    for eps in visited[1:]:
        torch.testing.assert_close(eps, visited[0], rtol=1e-4, atol=1e-4)


def test_stopped_at_a_noise_level_ddim_returns_the_estimate_of_x0():
    """N(0, S^2): the flow's spread at s is sqrt(S^2 + s^2), its x0 has S^2 / sqrt(S^2 + s^2)."""
    stop, denoiser = 0.5, gaussian(means=(0.0,))
    words = {"num_inference_steps": 200, "batch_size": 4000}
    x = draw(denoiser, 4000, stop_ratio=stop, **words)
    assert x.std().item() == pytest.approx(S**2 / (S**2 + stop**2) ** 0.5, rel=0.03)
    assert draw(denoiser, 4000, **words).std().item() == pytest.approx(S, rel=0.03)
    with pytest.raises(ValueError, match="stop_ratio must lie in"):
        draw(denoiser, stop_ratio=1e-6)
    with pytest.raises(ValueError, match="stop_ratio is a setting of ddim, not of euler"):
        draw(denoiser, scheduler="euler", stop_ratio=0.5)
    with pytest.raises(ValueError, match="do not fit between the times"):
        draw(denoiser, stop_ratio=50.0, num_inference_steps=900)


def test_the_grid_is_the_power_of_an_even_one_and_no_time_comes_twice():
    seen = []

    class Watching(Gaussians):
        def forward(self, x, t):
            seen.append(int(t[0]))
            return super().forward(x, t)

    schedule = schedule_from_config(VP)
    denoiser = Denoiser(Watching(schedule, means=(0.0,)), schedule, "eps").eval()
    stop = float(schedule.ratio(torch.tensor(99)))
    draw(denoiser, 4, grid_power=2.0, stop_ratio=stop, num_inference_steps=10)
    assert seen == [99 + round(900 * (i / 9) ** 2) for i in range(9, -1, -1)]
    seen.clear()
    draw(denoiser, 4, grid_power=2.0, num_inference_steps=100)
    assert seen[0] == 999
    assert seen[-3:] == [2, 1, 0]
    assert all(later < earlier for earlier, later in itertools.pairwise(seen))
    x = draw(denoiser, 4000, grid_power=1.5, num_inference_steps=200, batch_size=4000)
    assert x.std().item() == pytest.approx(S, rel=0.03)
    with pytest.raises(ValueError, match="grid_power is a setting of ddim, not of euler"):
        draw(denoiser, scheduler="euler", grid_power=2.0)


def test_every_name_builds_and_samples():
    for name in samplers.names():
        for family in families_of(name):
            if name == "consistency":
                continue  # for consistency models: test_consistency.py
            if family == "vp":
                x = draw(gaussian(), scheduler=name)
            elif family == "flow":
                schedule = FlowSchedule()
                x = draw(Denoiser(Gaussians(schedule, "flow"), schedule, "flow"), scheduler=name)
            else:
                continue  # the exact Gaussian's tests sample EDM models
            assert (x - 0.5).abs().max() < 6 * S


def test_scheduler_objects_are_used_as_they_are():
    theirs = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    x = draw(gaussian(), scheduler=theirs)
    own = draw(
        gaussian(),
        scheduler="ddim",
        scheduler_config=VP,
        scheduler_options={"timestep_spacing": "leading"},
    )  # without a config the betas come from abar, rounded otherwise
    torch.testing.assert_close(x, own, **CLOSE)
    assert torch.equal(x, draw(gaussian(), scheduler=theirs))
    assert theirs.num_inference_steps is None
    with pytest.raises(ValueError, match="as it is"):
        draw(gaussian(), scheduler=theirs, clip_sample=True)


def test_options_reach_the_scheduler():
    karras = draw(gaussian(), scheduler="euler", scheduler_options={"use_karras_sigmas": True})
    assert not torch.equal(karras, draw(gaussian(), scheduler="euler"))
    with pytest.raises(ValueError, match="no option use_karras"):
        draw(gaussian(), scheduler="ddim", scheduler_options={"use_karras": True})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"scheduler": "dimm"}, "unknown sampler 'dimm' - did you mean 'ddim'"),
        ({"scheduler": "NoScheduler"}, "unknown sampler"),
        ({"scheduler": "flow_euler"}, "does not go with this model's vp schedule"),
        ({"scheduler": "EDMEulerScheduler"}, "takes no betas"),
        ({"num_inference_steps": 0}, "num_inference_steps must be >= 1, got 0"),
        ({"num_inference_steps": 1001}, "at most 1000, got 1001"),
        ({"eps_scale": 0.0}, "eps_scale must be > 0, got 0.0"),
        ({"seeds": 1}, "unexpected keyword argument 'seeds'"),
        ({"guidance_scale": 2.0}, "needs a condition"),
        ({"guidance_scale": 2.0, "class_labels": 0}, "null_condition"),
        ({"class_labels": torch.tensor([0, 1])}, r"one class or \(5,\)"),
        ({"n": 0}, "n must be >= 1"),
        ({"n": range(0, 4, 2)}, "one after the other"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_wrong_arguments(words, message):
    with pytest.raises((ValueError, TypeError, UserError), match=message):
        draw(gaussian(means=(0.1, 0.2)), **words)


def test_epsilon_scaling_is_refused_where_alpha_is_zero():
    zero = gaussian("v", config={**VP, "rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match="divides by alpha"):
        draw(zero, eps_scale=1.01)


def test_the_protocol_says_what_was_done():
    model = Model(gaussian(), VP, (1, 4, 4))
    said = describe_sampling(model, Sampling("euler", 7))
    assert (said["clip_sample"], said["steps"], said["scheduler"]) == (
        False, 7, "EulerDiscreteScheduler",
    )  # fmt: skip
    said = describe_sampling(model, Sampling())
    assert (said["sampler"], said["clip_sample"], said["timestep_spacing"]) == (
        "ddim", True, "trailing",
    )  # fmt: skip
