"""What can be learned of data with noise of their own: exact for a linear denoiser."""

import math

import pytest
import torch
from scipy import stats

import sparring
from sparring.data.trust.trust import Trust
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.objectives import OBJECTIVES
from sparring.objectives import own_noise as own_noise_module
from sparring.objectives.own_noise import (
    OwnNoise,
    blurred_spectrum,
    own_noise,
    smooth,
    teaching_levels,
    tobit,
    uncut,
    uncut_mean,
    white,
)
from support import SCHEDULES, AtRatio, tiny_unet

SIDE = 3
D = SIDE * SIDE
KINDS = ["white", "per pixel", "per frequency"]


class Linear(torch.nn.Module):
    """eps_hat = x W^T for images."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x, t):
        return (x.flatten(1) @ self.weight.T).view_as(x)


def variance_of(kind):
    """Eigenvalues of a covariance, at most 0.09."""
    if kind == "white":
        return torch.full((1, 1, 1, 1), 0.09, dtype=torch.float64)
    if kind == "per pixel":
        return torch.linspace(0.01, 0.09, D, dtype=torch.float64).view(1, 1, SIDE, SIDE)
    spectrum = blurred_spectrum(torch.tensor([0.6], dtype=torch.float64), SIDE, SIDE)
    return 0.09 * spectrum / spectrum.max()


def matrix_of(noise, eigenvalues):
    """The matrix that `apply` multiplies by."""
    unit = torch.eye(D, dtype=torch.float64).view(D, 1, SIDE, SIDE)
    one = OwnNoise(
        noise.variance[:1], noise.largest[:1],
        None if noise.of_frequencies is None else noise.of_frequencies[:1].expand(D),
    )  # fmt: skip
    return one.apply(eigenvalues, unit).flatten(1)


def exact_moments(n, parts):
    """`parts` samples of n images, orthonormal exactly: covariance 1, no correlation."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, parts * D, generator=g, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(n)
    return [part.view(n, 1, SIDE, SIDE) for part in x.split(D, dim=1)]


def slope_at_the_clean_denoiser(kind, ratio, right=True, parametrisation="eps"):
    """Largest derivative of the loss at the denoiser of the clean data, and without correction."""
    n, vp = 64, SCHEDULES["vp"]()
    clean, unit, eps = exact_moments(n, 3)
    scales = torch.linspace(0.3, 0.8, D, dtype=torch.float64).view(1, 1, SIDE, SIDE)
    x0 = scales * clean
    rows = torch.ones(n, dtype=torch.bool)
    noise = OwnNoise(
        variance_of(kind).expand(n, -1, -1, -1),
        torch.full((n,), 0.3, dtype=torch.float64),
        rows if kind == "per frequency" else None,
        rows if kind == "per pixel" else None,
    )
    y = x0 + noise.apply(noise.variance.sqrt(), unit)
    objective = OBJECTIVES["plain"](vp, AtRatio(vp, ratio))
    s = objective.draw({"x0": y}, StepRandom(0, 0, n, dtype=torch.float64), 0)
    s.eps = eps
    s.carries(noise if right else white(torch.full((n,), 1e-6), y))
    alpha, sigma = float(s.alpha[0, 0, 0, 0]), float(s.sigma[0, 0, 0, 0])
    best = sigma / (alpha**2 * scales.flatten() ** 2 + sigma**2)
    if parametrisation == "x0":
        best = (1 - sigma * best) / alpha
    denoiser = Denoiser(Linear(torch.diag(best)), vp, parametrisation)
    loss = objective.denoising(objective.bind(denoiser, s)(s.x_t), s)["denoise"].mean()
    return torch.autograd.grad(loss, denoiser.network.weight)[0].abs().max()


@pytest.mark.parametrize("parametrisation", ["eps", "x0"])
@pytest.mark.parametrize("ratio", [0.35, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_noisy_images_teach_the_denoiser_of_the_clean_ones(kind, ratio, parametrisation):
    """The moments are exact, so the slope of the loss is zero there; uncorrected it is not."""
    right = slope_at_the_clean_denoiser(kind, ratio, True, parametrisation)
    assert right < 1e-6 * slope_at_the_clean_denoiser(kind, ratio, False, parametrisation)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_in_x_t_has_one_size_in_every_direction(kind):
    variance, s = variance_of(kind), torch.full((1, 1, 1, 1), 0.4, dtype=torch.float64)
    rows = torch.ones(1, dtype=torch.bool)
    noise = OwnNoise(
        variance, torch.tensor([0.3]).double(), rows if kind == "per frequency" else None
    )
    own, a = matrix_of(noise, variance), matrix_of(noise, noise.gain(s))
    torch.testing.assert_close(own + 0.16 * a @ a.T, 0.16 * torch.eye(D, dtype=torch.float64))


def test_noise_that_follows_the_brightness_weighs_no_image_by_its_content():
    """Half of the images are dark, half bright; the denoiser k x + c sees the clean moments."""
    n, vp = 4096, SCHEDULES["vp"]()
    g = torch.Generator().manual_seed(0)
    bright = (torch.arange(n) % 2).double().view(n, 1, 1, 1)
    x0 = (2 * bright - 1).expand(n, 1, SIDE, SIDE)
    unit, eps = torch.randn(2, n, 1, SIDE, SIDE, generator=g, dtype=torch.float64)
    # moments exact within each half, as the law has them
    for half in (slice(0, None, 2), slice(1, None, 2)):
        both = torch.stack([unit[half], eps[half]]).flatten(1)
        both = both - both.mean(1, keepdim=True)
        both = torch.linalg.inv(torch.linalg.cholesky(both @ both.T / both.shape[1])) @ both
        unit[half], eps[half] = both.view(2, n // 2, 1, SIDE, SIDE)
    variance = 0.01 + 0.04 * (x0 + 1)
    largest = torch.full((n,), 0.3, dtype=torch.float64)
    y = x0 + variance.sqrt() * unit
    objective = OBJECTIVES["plain"](vp, AtRatio(vp, 0.5))
    s = objective.draw({"x0": y}, StepRandom(0, 0, n, dtype=torch.float64), 0)
    s.eps = eps
    sizes = {}
    for name, follows in (("even", torch.ones(n, dtype=torch.bool)), ("uneven", None)):
        s.carries(OwnNoise(variance, largest, None, follows))
        alpha, sigma = float(s.alpha[0, 0, 0, 0]), float(s.sigma[0, 0, 0, 0])
        k = sigma / (alpha**2 + sigma**2)  # the clean variance is 1, the mean 0
        line = torch.tensor([k, 0.0], dtype=torch.float64, requires_grad=True)
        output = line[0] * s.x_t + line[1]
        prediction = Denoiser(Linear(torch.eye(D).double()), vp, "eps")(s.x_t, s.t)
        object.__setattr__(prediction, "output", output)
        loss = objective.denoising(prediction, s)["denoise"].mean()
        sizes[name] = torch.autograd.grad(loss, line)[0].abs().max()
    assert sizes["even"] < 1e-10
    assert sizes["uneven"] > 1e-2


def test_the_spectrum_is_that_of_the_kind_of_dirt():
    """Covariance of `correlated` noise, from its kernel: diagonal in the frequencies."""
    from sparring.data.dirt.kinds.correlated import folded_kernel

    side, correlation = 6, 0.7
    kernel = torch.zeros(side, dtype=torch.float64)
    for shift, weight in folded_kernel(correlation, side).items():
        kernel[shift] = weight
    one_axis = torch.fft.fft(kernel).abs() ** 2
    expected = one_axis[:, None] * one_axis[None, :]
    found = blurred_spectrum(torch.tensor([correlation], dtype=torch.float64), side, side)[0, 0]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert float(found.mean()) == pytest.approx(1)


def trust_of(n, **changes):
    fields = {name: torch.zeros(n) for name in ("sigma", "slope", "correlation", "level")}
    whole = {"clipped": torch.zeros(n, dtype=torch.bool), "weight": torch.ones(n)}
    return Trust(**(fields | whole | changes))


def test_what_was_cut_off_has_the_law_of_the_tobit_model():
    """Noisy pixels of known clean values, cut and drawn anew, are normal again."""
    g = torch.Generator().manual_seed(0)
    for clean in (-1.0, -0.9, 0.95):
        mean = torch.full((1, 1, 200, 200), clean, dtype=torch.float64)
        deviation = torch.full_like(mean, 0.3)
        noisy = mean + 0.3 * torch.randn(mean.shape, generator=g, dtype=torch.float64)
        normal = torch.randn(mean.shape, generator=g, dtype=torch.float64)
        drawn = tobit(noisy.clamp(-1, 1), mean, deviation, normal)
        inside = noisy.abs() < 1
        assert torch.equal(drawn[inside], noisy[inside])
        assert (drawn[~inside].abs() >= 1).all()
        law = stats.norm(clean, 0.3)
        assert stats.kstest(drawn.flatten().numpy(), law.cdf).pvalue > 0.01
        half = torch.where(drawn.abs() >= 1, drawn.sign() * (1 + normal.abs() * 0.3), drawn)
        if clean != -1.0:  # a half-normal law is the right one for a black pixel only
            assert stats.kstest(half.flatten().numpy(), law.cdf).pvalue < 1e-3


def test_the_smoothed_image_is_not_lifted_by_what_was_cut_off():
    """Black with clipped noise has the mean 0.4 sigma above black; what was cut off brings it
    back."""
    g = torch.Generator().manual_seed(0)
    noisy = (-1 + 0.4 * torch.randn(8, 1, 32, 32, generator=g)).clamp(-1, 1)
    trust = trust_of(8, sigma=torch.full((8,), 0.4), clipped=torch.ones(8, dtype=torch.bool))
    lifted = float(smooth(noisy).mean()) + 1
    assert lifted == pytest.approx(0.4 / math.sqrt(2 * math.pi), rel=0.05)
    assert abs(float(uncut_mean(trust, noisy).mean()) + 1) < 0.35 * lifted
    drawn = uncut(trust, noisy, torch.randn(noisy.shape, generator=g))
    assert abs(float(drawn.mean()) + 1) < 0.35 * lifted
    assert float(drawn.std()) == pytest.approx(0.4, rel=0.12)


def test_only_noisy_clipped_rows_are_drawn_anew():
    x0 = torch.tensor([-1.0, 0.0, 1.0, 0.5]).repeat(4, 1, 4, 1)
    trust = trust_of(
        4,
        sigma=torch.tensor([0.0, 0.2, 0.2, 0.0]),
        slope=torch.tensor([0.0, 0.0, 0.0, 0.1]),
        clipped=torch.tensor([True, True, False, True]),
    )
    drawn = uncut(trust, x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)))
    changed = (drawn != x0).flatten(1).any(1)
    assert changed.tolist() == [False, True, False, True]
    assert torch.equal(drawn[..., 1], x0[..., 1])


def test_a_step_smooths_its_images_once(monkeypatch):
    """The smoothed image says how noisy a pixel is and where what was cut off is drawn anew."""
    vp, n, smoothed = SCHEDULES["vp"](), 8, []

    def counted(trust, x0):
        smoothed.append(uncut_mean(trust, x0))
        return smoothed[-1]

    monkeypatch.setattr(own_noise_module, "uncut_mean", counted)
    sigma = torch.full((n,), 0.2)
    trust = trust_of(n, sigma=sigma, slope=sigma, clipped=torch.arange(n) % 2 == 0)
    x0 = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    rng = StepRandom(0, 0, n)
    s = OBJECTIVES["plain"](vp).draw({"x0": x0, "trust": trust}, rng, 0)
    assert len(smoothed) == 1
    normal = rng.normal("uncut", x0.shape[1:]).to(x0)
    assert torch.equal(s.x0, uncut(trust, x0, normal))
    assert torch.equal(own_noise(trust, x0).mean, smoothed[0])


def test_below_its_level_a_row_counts_for_nothing_and_hidden_elements_never_do():
    vp, n = SCHEDULES["vp"](), 64
    seen = torch.ones(n, 1, SIDE, SIDE, dtype=torch.bool)
    seen[:, :, 0, 0] = False
    weight = (torch.arange(n) % 2).float()
    trust = trust_of(n, level=torch.full((n,), 1.0), seen=seen, weight=weight)
    objective = OBJECTIVES["plain"](vp)
    x0 = torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    s = objective.draw({"x0": x0, "trust": trust}, StepRandom(0, 0, n), 0)
    prediction = Denoiser(Linear(torch.eye(D)), vp, "eps")(s.x_t, s.t)
    output = prediction.output.detach().requires_grad_()
    object.__setattr__(prediction, "output", output)
    terms = objective.denoising(prediction, s)["denoise"]
    above = (s.sigma / s.alpha).flatten() > 1
    assert torch.equal(terms > 0, above & (weight > 0))
    (gradient,) = torch.autograd.grad(terms.sum(), output)
    assert torch.equal(gradient != 0, (above & (weight > 0)).view(n, 1, 1, 1) & seen)


def test_correlated_noise_below_its_largest_eigenvalue_counts_for_nothing():
    vp, n = SCHEDULES["vp"](), 64
    trust = trust_of(n, sigma=torch.full((n,), 0.4), correlation=torch.full((n,), 0.7))
    x0 = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = own_noise(trust, x0)
    spectrum = blurred_spectrum(torch.tensor([0.7]), 8, 8)
    assert float(noise.largest[0]) == pytest.approx(0.4 * float(spectrum.max()) ** 0.5)
    s = OBJECTIVES["plain"](vp).draw({"x0": x0, "trust": trust}, StepRandom(0, 0, n), 0)
    above = (s.sigma / s.alpha).flatten() > noise.largest
    assert torch.equal(s.incomplete.factor.flatten() > 0, above)


def test_the_levels_of_a_set_are_those_of_its_rows():
    n = 6
    trust = trust_of(
        n,
        sigma=torch.tensor([0.0, 0.3, 0.2, 0.3, 0.1, 0.1]),
        slope=torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 0.0]),
        correlation=torch.tensor([0.0, 0.0, 0.0, 0.7, 0.0, 0.0]),
        level=torch.tensor([0.0, 0.0, 0.0, 0.0, 0.8, 0.0]),
        weight=torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
    )
    noise = own_noise(trust, torch.zeros(n, 1, 8, 6))
    found = teaching_levels(trust, 8, 6)
    torch.testing.assert_close(found[:4], noise.largest[:4])
    assert found[4] == pytest.approx(0.8)
    assert found[5] == math.inf
    easy = teaching_levels(trust, 8, 6, 2.0)
    assert float(easy[1]) == pytest.approx(2 * 0.3)  # white
    assert float(easy[2]) == pytest.approx(2 * (0.2**2 + 0.1) ** 0.5)  # of a grey image, v = 0
    assert float(easy[3]) == pytest.approx(max(float(found[3]), 2 * 0.3))  # correlated
    assert easy[4] == pytest.approx(0.8)  # of no noise
    s = easy.view(-1, 1, 1, 1).clamp(min=0.1)
    gain = noise.gain(s).square().flatten(1).mean(1)
    torch.testing.assert_close(gain[1:3], torch.full((2,), 0.75))
    assert gain[3] >= 0.74


def test_what_was_cut_off_a_black_background_is_half_normal():
    """A background is cut off in half of its pixels, so its law is known, whatever lies in it."""
    g = torch.Generator().manual_seed(0)
    clean = torch.full((4, 1, 64, 64), -1.0)
    clean[:, :, 20:30] = 0.8
    noisy = (clean + 0.4 * torch.randn(clean.shape, generator=g)).clamp(-1, 1)
    trust = trust_of(4, sigma=torch.full((4,), 0.4), clipped=torch.ones(4, dtype=torch.bool))
    normal = torch.randn(clean.shape, generator=g)
    drawn = uncut(trust, noisy, normal)[(clean == -1) & (noisy == -1)]
    assert stats.kstest((-1 - drawn).numpy(), stats.halfnorm(scale=0.4).cdf).pvalue > 0.01
    assert (uncut(trust, noisy, normal)[noisy == 1] >= 1).all()


@pytest.mark.parametrize("method", ["plain", "detail"])
def test_in_anybody_s_loop_the_loss_is_that_of_a_batch_with_trust(method, vp, monkeypatch):
    """A row of weight 0 has no part in it, and other processes, which have steps of their own, are
    not asked."""
    torch.manual_seed(0)
    denoiser = Denoiser(tiny_unet(), vp)
    options = {"start_step": 0, "noise": None, "window": 1.0} if method == "detail" else {}
    objective = OBJECTIVES[method](vp, **options)
    x0 = torch.rand(6, 1, 8, 8) * 2 - 1
    said = {"sigma": [0.2, 0.1, 0, 0, 0.3, 0], "weight": [1, 1, 1, 1, 1, 0], "jpeg": [0] * 6}
    images, trust = sparring.trusted(x0, said)
    batch = {"x0": images, "cond": {}, "trust": trust}
    (turn,) = objective.turns(
        {"model": denoiser}, objective.draw(batch, StepRandom(3, 7, 6), step=7)
    )
    expected = sum(turn.parts[0]().values()).mean()
    monkeypatch.setattr("sparring.objectives.detail.all_rows", lambda rows: rows.repeat(2))
    (loss,) = objective(denoiser, images, step=7, seed=3, trust=trust)
    assert torch.equal(loss, expected)
    (plain,) = objective(denoiser, images, step=7, seed=3)
    assert not torch.equal(plain, loss)

    images[5] = 1 - images[5]
    (other,) = objective(denoiser, images, step=7, seed=3, trust=trust)
    torch.testing.assert_close(other, loss)
