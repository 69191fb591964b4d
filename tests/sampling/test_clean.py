"""Cleaning where the answer is known: data N(mean, std^2) and a denoiser that is exact for them."""

import math

import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.solver_steps import Jump, consistency_range, karras
from sparring.sampling.clean import clean, matching_time
from support import CASES, SCHEDULES, GaussianNetwork, tiny_unet

MEAN, STD, TAU = 0.3, 0.7, 0.4


def exact(schedule, kind):
    built = SCHEDULES[schedule]()
    return Denoiser(GaussianNetwork(built, kind, MEAN, STD), built, kind).double()


def noisy(n=64, size=6, tau=TAU, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x0 = MEAN + STD * torch.randn(n, size, generator=rng, dtype=torch.float64)
    return x0, x0 + tau * torch.randn(n, size, generator=rng, dtype=torch.float64)


def posterior_mean(y, tau):
    return MEAN + STD**2 / (STD**2 + tau**2) * (y - MEAN)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_matching_time_is_exact(name):
    schedule = SCHEDULES[name]()
    sigma = torch.tensor([0.02, 0.1, 0.4, 3.0], dtype=torch.float64)
    t = matching_time(schedule, sigma)
    torch.testing.assert_close(schedule.sigma(t) / schedule.alpha(t), sigma, rtol=1e-9, atol=0)
    if name != "flow":  # which has a time for every noise
        with pytest.raises(ValueError, match="outside what this model knows"):
            matching_time(schedule, torch.tensor([1e6]))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_one_call_gives_the_posterior_mean_in_every_parametrisation(name, kind):
    _, y = noisy()
    found = clean(exact(name, kind), y, TAU)
    torch.testing.assert_close(found, posterior_mean(y, TAU), rtol=1e-6, atol=1e-9)


def test_the_error_is_that_of_the_wiener_filter():
    """E(x0_hat - x0)^2 = std^2 tau^2 / (std^2 + tau^2)."""
    x0, y = noisy(4000, 25)
    error = (clean(exact("vp", "v"), y, TAU) - x0).square().mean()
    assert error.item() == pytest.approx(STD**2 * TAU**2 / (STD**2 + TAU**2), rel=0.02)
    assert error < 0.8 * (y - x0).square().mean()


def test_one_call_is_x0_hat_of_the_network():
    schedule = SCHEDULES["vp"]()
    denoiser = Denoiser(tiny_unet(), schedule, "eps").eval()
    y = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 0.2, 0.2, 0.5, 3.0])
    t = schedule.time_of_ratio(sigma)
    alpha, _ = schedule.at(t, like=y)
    with torch.no_grad():
        expected = denoiser(alpha * y, t).x0
    torch.testing.assert_close(clean(denoiser, y, sigma), expected)
    clipped = clean(denoiser, y, sigma, clip_sample=True)
    torch.testing.assert_close(clipped, expected.clamp(-1, 1))
    torch.testing.assert_close(clean(denoiser, y, sigma, batch_size=2), expected)


def test_each_image_has_noise_of_its_own_and_none_is_left_alone():
    denoiser = exact("vp", "v")
    least, _ = consistency_range(denoiser.schedule)
    _, y = noisy(4)
    sigma = torch.tensor([0.0, 0.9 * least, 0.2, 1.5], dtype=torch.float64)
    before = y.clone()
    found = clean(denoiser, y, sigma, n_steps=1)
    assert torch.equal(found[:2], y[:2])
    torch.testing.assert_close(
        found[2:], posterior_mean(y[2:], sigma[2:, None]), rtol=1e-6, atol=1e-9
    )
    assert torch.equal(y, before)


@pytest.mark.parametrize(("name", "kind"), [("vp", "eps"), ("flow", "flow"), ("edm", "edm")])
def test_many_calls_follow_the_probability_flow(name, kind):
    """The flow keeps quantiles: y - mean shrinks by std / sqrt(std^2 + tau^2)."""
    _, y = noisy()
    found = clean(exact(name, kind), y, TAU, n_steps=200)
    expected = MEAN + STD / math.hypot(STD, TAU) * (y - MEAN)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    assert (found - posterior_mean(y, TAU)).abs().max() > 0.05


class FarThenNear(nn.Module):
    """x0_hat = 3 in the first call, a quarter of x_t in the second."""

    def forward(self, x, t):
        return torch.where((t > 150)[:, None], 3.0, x / 4)


def test_a_clipped_step_takes_the_noise_of_the_clipped_estimate():
    """In y = x_t / alpha_t: y_s = x0 + (r_s / r) (y - x0), x0 = 1 where it was 3."""
    schedule, r = SCHEDULES["vp"](), 0.9
    least, _ = consistency_range(schedule)
    lower = karras(r, least, torch.tensor([0.5], dtype=torch.float64))
    t = matching_time(schedule, lower)
    assert t < 150
    y = torch.tensor([[1.2, -0.5]])
    expected = schedule.alpha(t) * (1 + lower / r * (y - 1)) / 4
    found = clean(Denoiser(FarThenNear(), schedule, "x0"), y, r, n_steps=2, clip_sample=True)
    torch.testing.assert_close(found, expected.float())


@pytest.mark.parametrize(("name", "kind"), [("vp", "v"), ("flow", "flow")])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_with_eta_the_answer_scatters_as_its_recursion_says(name, kind, eta):
    """x_s = alpha_s x0_hat + c eps_hat + f z with f = eta sigma_s sqrt(1 - (r_s / r)^2) and
    c^2 + f^2 = sigma_s^2: a line of numbers, that ends near the posterior's spread."""
    denoiser, n_steps = exact(name, kind), 40
    schedule = denoiser.schedule
    least, _ = consistency_range(schedule)
    u = torch.arange(n_steps, dtype=torch.float64) / n_steps
    t = schedule.time_of_ratio(karras(TAU, least, u))
    alphas, sigmas = schedule.alpha(t).tolist(), schedule.sigma(t).tolist()
    factor, variance = alphas[0], 0.0
    for k in range(n_steps):
        alpha, sigma = alphas[k], sigmas[k]
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        if k == n_steps - 1:
            factor, variance = gain * factor, gain**2 * variance
            break
        alpha_s, sigma_s = alphas[k + 1], sigmas[k + 1]
        fresh = eta * sigma_s * math.sqrt(1 - (sigma_s * alpha / (alpha_s * sigma)) ** 2)
        line = alpha_s * gain + math.sqrt(sigma_s**2 - fresh**2) * (1 - alpha * gain) / sigma
        factor, variance = line * factor, line**2 * variance + fresh**2
    y = torch.full((100, 400), 1.2, dtype=torch.float64)
    found = clean(denoiser, y, TAU, n_steps=n_steps, eta=eta)
    assert found.mean().item() == pytest.approx(MEAN + factor * 0.9, abs=0.01)
    assert found.std().item() == pytest.approx(math.sqrt(variance), rel=0.02)
    if eta == 1:  # more steps come nearer
        assert found.std().item() == pytest.approx(STD * TAU / math.hypot(STD, TAU), rel=0.1)
        assert found.mean().item() == pytest.approx(posterior_mean(1.2, TAU), abs=0.02)


def test_purification_adds_what_is_missing_to_its_level():
    """One call: the gain at the higher level, and sqrt(r^2 - tau^2) of new noise times it."""
    r = 0.9
    gain = STD**2 / (STD**2 + r**2)
    y = torch.full((50, 240), 1.2, dtype=torch.float64)
    for tau in (0.0, TAU):
        found = clean(exact("vp", "v"), y, tau, purify=r)
        assert found.mean().item() == pytest.approx(posterior_mean(1.2, r), abs=0.015)
        assert found.std().item() == pytest.approx(gain * math.sqrt(r**2 - tau**2), rel=0.03)
    torch.testing.assert_close(
        clean(exact("vp", "v"), y[:2], 1.5, purify=r), posterior_mean(y[:2], 1.5), rtol=1e-6, atol=0
    )


def test_an_images_noise_follows_from_seed_and_index():
    denoiser = exact("vp", "v")
    _, y = noisy(6)
    options = {"purify": 0.8, "n_steps": 3, "eta": 1.0}
    whole = clean(denoiser, y, TAU, **options)
    part = clean(denoiser, y[4:], TAU, index=torch.tensor([4, 5]), batch_size=1, **options)
    torch.testing.assert_close(part, whole[4:])
    assert not torch.allclose(clean(denoiser, y, TAU, seed=1, **options), whole)


def test_a_consistency_model_answers_with_its_function():
    schedule = SCHEDULES["vp"]()
    denoiser = Denoiser(
        GaussianNetwork(schedule, "v", MEAN, STD), schedule, "v", boundary="ddim"
    ).double()
    _, y = noisy()
    t = matching_time(schedule, torch.full((len(y),), TAU))
    alpha, _ = schedule.at(t, like=y)
    with torch.no_grad():
        expected = Jump(schedule)(denoiser(alpha * y, t), t)
    found = clean(denoiser, y, TAU)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert (found - posterior_mean(y, TAU)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="in one step"):
        clean(denoiser, y, TAU, n_steps=2)


class Recorded(nn.Module):
    """An exact network that remembers whether it was training and what class it was told."""

    def __init__(self, schedule):
        super().__init__()
        self.exact, self.seen = GaussianNetwork(schedule, "eps", MEAN, STD), []

    def forward(self, x, t, class_labels):
        self.seen.append((self.training, class_labels.tolist()))
        return self.exact(x, t)


def test_conditions_go_with_their_rows_and_nothing_is_in_training():
    schedule = SCHEDULES["vp"]()
    network = Recorded(schedule)
    denoiser = Denoiser(network, schedule, "eps").train()
    _, y = noisy(4)
    labels = torch.tensor([7, 8, 9, 10])
    sigma = torch.tensor([0.2, 0.0, 0.3, 0.4])
    clean(denoiser, y, sigma, condition={"class_labels": labels}, batch_size=2)
    assert network.seen == [(False, [7, 9]), (False, [10])]
    assert network.training


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"n_steps": 0}, "must be >= 1"),
        ({"batch_size": 0}, "must be >= 1"),
        ({"eta": 1.5}, "eta must be <= 1"),
        ({"purify": -0.1}, "purify must be >= 0"),
        ({"sigma": -0.1}, "finite and >= 0"),
        ({"sigma": math.nan}, "finite and >= 0"),
        ({"sigma": 1e7}, "outside what this model knows"),
    ],
)
def test_what_makes_no_sense_is_said(words, said):
    _, y = noisy(2)
    with pytest.raises(ValueError, match=said):
        clean(exact("vp", "v"), y, **{"sigma": TAU, **words})
