"""Noise of known size, brightness and grain is measured, and clean images are left alone."""

import math
from dataclasses import replace

import pytest
import torch
from photographs import dirty, eight_bits, tiles
from scipy.stats import kstest, rankdata
from sklearn.datasets import load_digits

from sparring.data.audit.detectors import _windows, noise
from sparring.data.audit.detectors._quiet_directions import (
    SMALLEST,
    WHITE,
    Directions,
    NoiseLaw,
    directions,
    unlikeness,
    whitening,
)
from sparring.data.audit.detectors._small_noise import doubt_of, levels
from sparring.data.audit.detectors._unclipping import (
    ends,
    own_quantiles,
    quantiles,
    side_of,
    sweep,
    turned,
    unclipped,
)
from sparring.data.audit.detectors.noise import Noise
from sparring.data.audit.registry import all_detectors
from sparring.data.dirt.kinds.correlated import Correlated
from sparring.data.dirt.registry import make

detector = Noise()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def sigmas(x, kind, **options):
    dirt = make(kind, options)
    return torch.tensor([dirt.of(i).describe(tuple(y.shape), rng(i))["sigma"]
                         for i, y in enumerate(x)])  # fmt: skip


def judged(x):
    seen = {f"noise.{name}": values for name, values in detector.look(x).items()}
    rule = detector.fit(seen)
    return rule, rule(seen)


def p_noisy(columns):
    return sum(columns[kind] for kind in Noise.kinds)


def auc(clean, noisy):
    ranks = rankdata(torch.cat([clean, noisy]).numpy())
    n, m = len(clean), len(noisy)
    return (ranks[n:].sum() - m * (m + 1) / 2) / (n * m)


# One image


def test_haar_sees_no_slope_and_all_of_white_noise():
    i = torch.arange(32.0)
    slope = (0.1 + 0.01 * i[:, None] + 0.02 * i[None]).expand(1, 1, 32, 32)
    white = torch.randn(1, 1, 400, 400, generator=rng())
    for lag in (1, 3):
        assert _windows.haar(slope, lag).abs().max() < 1e-5
        assert _windows.haar(white, lag).var().item() == pytest.approx(1, rel=0.02)


def test_haar_sees_one_minus_rho_of_correlated_noise():
    made = Correlated(sigma=1.0, correlation=0.9).apply(torch.zeros(1, 600, 600), rng(), None)
    for lag in (1, 2, 4):
        left = 1 - math.exp(-(lag**2) / (4 * 0.9**2))
        assert _windows.haar(made[None], lag).std().item() == pytest.approx(left, rel=0.02)


def test_differences_of_channels_keep_the_size_of_independent_noise_and_drop_what_is_grey():
    grey = torch.rand(1, 1, 200, 200, generator=rng()).expand(1, 3, 200, 200)
    white = torch.randn(1, 3, 200, 200, generator=rng())
    assert _windows.tintless(grey).abs().max() == 0
    assert _windows.tintless(white).std().item() == pytest.approx(1, rel=0.02)


def test_hubers_scale_is_the_normal_deviation_and_hardly_moved_by_outliers():
    h = 0.2 * torch.randn(4, 40_000, generator=rng())
    torch.testing.assert_close(_windows.huber_scale(h), torch.full((4,), 0.2), rtol=0.02, atol=0)
    h[:, ::20] = 10
    assert (_windows.huber_scale(h) < 0.2 * 1.15).all()


def test_unclipped_pixels_have_the_law_before_clipping():
    mean, scale = torch.full((1, 20_000), 0.1), torch.tensor(0.2)
    noisy = (mean + scale * torch.randn(mean.shape, generator=rng())).clamp(0, 1)
    again = unclipped(noisy, ends(noisy), mean, scale, quantiles((20_000,)))
    assert kstest(((again - mean) / scale)[0].numpy(), "norm").pvalue > 0.01
    inside = (noisy > 0) & (noisy < 1)
    assert torch.equal(again[inside], noisy[inside])
    assert (again[noisy == 0] <= 0).all()


def test_what_was_not_clipped_stays():
    y = torch.tensor([[-0.2, 0.3, 1.4]])
    assert torch.equal(unclipped(y, ends(y), y, torch.tensor(0.1), torch.tensor(0.5)), y)


def test_statistics_do_not_depend_on_the_batch():
    x = dirty(tiles(3, 32), "gaussian", sigma=0.2)
    whole, single = detector.look(x), [detector.look(y[None]) for y in x]
    for name, values in whole.items():
        torch.testing.assert_close(values, torch.cat([each[name] for each in single]))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 33, 24), (1, 130, 70)])
def test_white_noise_on_nothing_is_measured_in_any_shape(shape):
    x = 0.5 + 0.1 * torch.randn(12, *shape, generator=rng())
    seen = detector.look(x)
    for name in ("white", "floor", "middle"):
        assert seen[name].mean().item() == pytest.approx(0.1, rel=0.06), name
    f = noise.features({f"noise.{k}": v.double() for k, v in seen.items()}, (0.01, 0.0))
    for name in ("homogeneity", "grain", "tint", "level_of_law", "peaks"):
        assert abs(f[name].mean()) < 0.08, name


def test_unclipping_gives_the_size_back_where_half_the_pixels_were_cut():
    x = eight_bits(0.2 * torch.randn(8, 1, 64, 64, generator=rng()))
    cut = _windows.huber_scale(_windows.haar(x)).mean().item()
    assert cut < 0.12  # max(n, 0) has a deviation of 0.58 sigma
    assert detector.look(x)["white"].mean().item() == pytest.approx(0.2, rel=0.12)


def test_grain_gives_the_correlation_back():
    truth = torch.tensor([0.5, 0.7, 1.0, 1.5], dtype=torch.float64)
    lag = torch.full_like(truth, 4)
    rho = torch.stack([torch.exp(-(d**2) / (4 * truth**2)) for d in (1, lag)])
    grain = ((1 - rho[1]) / (1 - rho[0])).log()
    torch.testing.assert_close(noise.correlation_of(grain, lag), truth, rtol=0, atol=0.01)


def test_the_poisson_law_is_the_line_through_all_images():
    v = torch.rand(50, 4, generator=rng(), dtype=torch.float64)
    seen = {"noise.brightness": v, "noise.middle": (0.01 + 0.08 * v).sqrt()}
    law = noise.poisson_law(seen, torch.ones(50))
    assert law == pytest.approx((0.01, 0.08), rel=1e-4)


# A set: 32x32 tiles of photographs


@pytest.fixture(scope="module")
def photographs():
    return tiles(160, 32, shrunk=1)


def test_the_detector_is_found_by_its_kinds():
    assert isinstance(all_detectors()["noise"], Noise)


def test_clean_photographs_are_left_alone(photographs):
    _, columns = judged(photographs)
    assert (p_noisy(columns) > 0.5).float().mean() <= 0.03
    assert (columns["sigma"] == 0).float().mean() >= 0.97


@pytest.mark.parametrize("n_clean", [16, 140])
def test_sizes_of_white_noise_image_by_image(photographs, n_clean):
    noisy = photographs[n_clean:]
    truth = sigmas(noisy, "gaussian", sigma=[0.05, 0.35])
    made = dirty(noisy, "gaussian", sigma=[0.05, 0.35])
    _, columns = judged(torch.cat([photographs[:n_clean], made]))
    p = p_noisy(columns)
    assert auc(p[:n_clean], p[n_clean:]) > 0.99
    assert (p[:n_clean] > 0.5).float().mean() <= 0.03
    assert (columns["gaussian"][n_clean:] > 0.5).float().mean() >= 0.92
    assert (columns["sigma"][n_clean:] - truth).square().mean().sqrt() < 0.02


def test_a_set_without_a_clean_image(photographs):
    """Nor does the size of the noise, which is one, differ from image to image."""
    _, columns = judged(dirty(photographs, "gaussian", sigma=0.2))
    found = columns["gaussian"] > 0.5
    assert found.float().mean() >= 0.97
    assert columns["sigma"].median().item() == pytest.approx(0.2, rel=0.06)
    assert columns["sigma"][found].std() < 0.004


@pytest.mark.parametrize("deviation", [0.0, 0.3])
def test_sizes_are_drawn_to_their_mean_as_far_as_they_differ_by_chance(deviation):
    """The normal law of ln size, seen with normal errors: its mean given what was seen."""
    n, by_chance = 4000, torch.full((4000,), 0.01, dtype=torch.float64)
    true = -2 + deviation * torch.randn(n, generator=rng(1), dtype=torch.float64)
    seen = true + 0.1 * torch.randn(n, generator=rng(2), dtype=torch.float64)
    usual = noise.usual_size(seen.exp(), by_chance)
    assert usual[0] == pytest.approx(-2, abs=0.02)
    assert usual[1] == pytest.approx(deviation**2, abs=0.01)
    rule = noise.NoiseRule({}, {}, (0.0, 0.0), 0.0, usual=usual)
    off = rule._drawn_to_the_mean(seen.exp(), by_chance).log() - true
    least = math.sqrt(0.01 * deviation**2 / (deviation**2 + 0.01))
    assert off.square().mean().sqrt().item() == pytest.approx(least, abs=0.02)


def test_of_few_noisy_images_each_keeps_its_own_size():
    size = torch.tensor([0.1, 0.2, 0.4]).double()
    by_chance = torch.full((3,), 0.5).double()
    rule = noise.NoiseRule({}, {}, (0.0, 0.0), 0.0, usual=noise.usual_size(size, by_chance))
    torch.testing.assert_close(rule._drawn_to_the_mean(size, by_chance), size)


def test_noise_is_not_called_clean_in_a_large_set_without_a_clean_image(photographs):
    noisy = dirty(photographs[:150], "gaussian", sigma=[0.05, 0.35])
    seen = {f"noise.{name}": values for name, values in detector.look(noisy).items()}
    found = detector.fit({name: torch.cat([values] * 40) for name, values in seen.items()})(seen)
    assert (p_noisy(found) > 0.5).float().mean() >= 0.93


def test_poisson_noise_and_its_law(photographs):
    made = dirty(photographs[16:], "poisson_gaussian", photons=12.0, sigma=0.1)
    _, columns = judged(torch.cat([photographs[:16], made]))
    assert (columns["poisson_gaussian"][16:] > 0.5).float().mean() >= 0.92
    assert columns["sigma"][16:].median().item() == pytest.approx(0.1, rel=0.25)
    assert columns["slope"][16:].median().item() == pytest.approx(1 / 12, rel=0.2)


def test_correlated_noise_its_size_and_its_correlation(photographs):
    made = dirty(photographs[16:], "correlated", sigma=0.2, correlation=0.7)
    _, columns = judged(torch.cat([photographs[:16], made]))
    assert (columns["correlated"][16:] > 0.5).float().mean() >= 0.92
    assert columns["sigma"][16:].median().item() == pytest.approx(0.2, rel=0.25)
    assert columns["correlation"][16:].median().item() == pytest.approx(0.7, rel=0.2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("jpeg", {"quality": [10, 40]}), ("salt_and_pepper", {"share": 0.05}),
     ("missing_blocks", {"block_size": 0.25, "fill": 0.5})],
)  # fmt: skip
def test_other_dirt_is_not_called_noise(photographs, kind, options):
    made = dirty(photographs[16:], kind, **options)
    _, columns = judged(torch.cat([photographs[:16], made]))
    assert (p_noisy(columns)[16:] > 0.5).float().mean() <= 0.08


def test_a_cameras_noise_by_its_statistics():
    """Clean photographs are flat or full of detail; a camera's noise is weak, coarse and grey."""
    n = 200
    draw = {name: torch.randn(2 * n, generator=rng(k)) for k, name in enumerate("abcde")}
    is_noisy = torch.arange(2 * n) >= n
    low = torch.where(is_noisy, -5.6 + 0.3 * draw["a"], -6.4 + 0.3 * draw["a"])
    within = torch.where(is_noisy, -0.27 + 0.08 * draw["b"], -0.5 + 0.2 * draw["b"])
    grain = torch.where(is_noisy, 0.9 + 0.15 * draw["c"], 0.7 + 0.3 * draw["c"])
    tint = torch.where(is_noisy, 1.0 + 0.3 * draw["d"], 0.5 + 0.3 * draw["d"])
    peaks = torch.where(is_noisy, 0.3 + 0.1 * draw["e"], 0.6 + 0.3 * draw["e"])
    middle = low - within
    floor = (low - tint).exp()[:, None].expand(-1, 4)
    seen = {
        "white": floor[:, 0], "brightness": torch.full((2 * n, 4), 0.5), "floor": floor,
        "middle": floor * 1.3, "channels": torch.stack([low, middle, middle + grain], 1),
        "peaks": peaks[:, None].expand(-1, 2), "lag": torch.full((2 * n,), 4.0),
        "is_colour": torch.ones(2 * n), "flat": torch.zeros(2 * n), "pixels": torch.zeros(2 * n, 0),
        "shape": torch.tensor([[3.0, 64.0, 64.0]]).expand(2 * n, -1),
    }  # fmt: skip
    seen = {f"noise.{name}": values for name, values in seen.items()}
    columns = detector.fit(seen)(seen)
    assert auc(columns["correlated"][:n], columns["correlated"][n:]) > 0.95
    found = columns["correlated"] > 0.5
    # at 1 pixel, carried over by the grain that the set's images share
    shared = (columns["sigma"] * noise.FAR_LEFT[4]).log()[found] - middle[found]
    torch.testing.assert_close(shared, shared[:1].expand_as(shared), rtol=0, atol=1e-4)
    assert shared[0].item() == pytest.approx(grain[found].quantile(0.3).item(), abs=0.02)
    assert (columns["sigma"][~found] == 0).all()
    seen["said.blur"] = is_noisy.float()  # what has no fine detail left shows no camera's noise
    assert (detector.fit(seen)(seen)["correlated"][n:] < 0.01).all()


# Images too small to have windows


@pytest.fixture(scope="module")
def digits():
    return eight_bits(torch.tensor(load_digits().images, dtype=torch.float32)[:1500, None] / 16)


def test_clean_digits_are_left_alone(digits):
    _, columns = judged(digits)
    assert (p_noisy(columns) > 0.5).float().mean() <= 0.03


def test_noise_on_digits(digits):
    """Of one size; sizes found from few images' directions would be too large by a tenth."""
    made = dirty(digits[150:], "gaussian", sigma=0.2)
    _, columns = judged(torch.cat([digits[:150], made]))
    p = columns["gaussian"]
    assert auc(p[:150], p[150:]) > 0.98
    assert (p[:150] > 0.5).float().mean() <= 0.05
    assert columns["sigma"][150:].median().item() == pytest.approx(0.2, rel=0.08)
    assert columns["sigma"][150:][p[150:] > 0.5].std() < 0.02


@pytest.mark.parametrize("n_clean", [0, 150])
def test_sizes_of_noise_on_digits(digits, n_clean):
    options = {"sigma": [0.05, 0.35]}
    made, sizes = dirty(digits, "gaussian", **options), sigmas(digits, "gaussian", **options)
    _, columns = judged(torch.cat([digits[:n_clean], made[n_clean:]]))
    found = columns["gaussian"] > 0.5
    assert found[n_clean:].float().mean() >= 0.85
    assert found[:n_clean].sum() <= 0.05 * n_clean
    off = (columns["sigma"] - sizes)[n_clean:]
    assert off.square().mean().sqrt() <= 0.06


@pytest.mark.parametrize(
    ("kind", "options", "sizes"),
    [("poisson_gaussian", {"photons": 12, "sigma": 0.1}, {"sigma": 0.1, "slope": 1 / 12}),
     ("correlated", {"sigma": 0.2, "correlation": 0.7}, {"sigma": 0.2, "correlation": 0.7})],
)  # fmt: skip
def test_the_law_of_noise_on_digits(digits, kind, options, sizes):
    _, columns = judged(torch.cat([digits[:150], dirty(digits[150:], kind, **options)]))
    named = columns[kind] > 0.5
    assert named[150:].float().mean() >= 0.85
    assert named[:150].float().mean() <= 0.1
    for name, value in sizes.items():
        assert columns[name][150:][named[150:]].median().item() == pytest.approx(value, rel=0.2)
    assert columns["sigma"][150:][named[150:]].std() < 0.02  # the set has one size


@pytest.mark.parametrize(("clip", "low", "high"), [(False, 1.0, 1.3), (True, 1.6, 4.0)])
def test_a_likelihood_of_drawn_pixels_is_doubted(clip, low, high):
    """Normal images of known sizes: all is as the likelihood claims, unless half of each is cut."""
    g = rng()
    texture = torch.cat([torch.zeros(8), torch.full((8,), 0.5)]).double()
    basis = torch.linalg.qr(torch.randn(16, 16, generator=g, dtype=torch.float64)).Q
    size = torch.exp(0.3 * torch.randn(4000, generator=g, dtype=torch.float64)) * 0.1
    w = torch.randn(4000, 16, generator=g, dtype=torch.float64)
    w = w * (texture**2 + size[:, None] ** 2).sqrt()
    own = Directions(torch.zeros(16).double(), basis.T, texture**2, (texture**2).clamp(min=1e-6))
    images = w @ basis.T
    side = torch.arange(4000) % 2
    images = images.clamp(0, 1) if clip else images - 3
    own = own if clip else replace(own, mean=own.mean - 3)
    assert low <= doubt_of(images, size, (own, own), side) <= high


@pytest.mark.parametrize("n_clean", [150, 750])
@pytest.mark.parametrize(
    ("kind", "options"), [("jpeg", {"quality": [10, 40]}), ("blur", {"blur_sigma": 1.0})]
)
def test_what_is_not_noise_on_digits(digits, kind, options, n_clean):
    """JPEG and blur take from the quiet directions, so the clean images stick out there."""
    _, columns = judged(torch.cat([digits[:n_clean], dirty(digits[n_clean:], kind, **options)]))
    assert (p_noisy(columns) > 0.5).float().mean() <= 0.03


def test_few_small_images_say_nothing(digits):
    rule, columns = judged(digits[:100])
    assert rule.halves is None
    assert p_noisy(columns).max() == 0


@pytest.mark.parametrize("shape", [(1, 5, 8), (3, 4, 6)])
def test_the_covariance_of_correlated_noise(shape):
    noise = torch.stack([
        make("correlated", {"sigma": 1.0, "correlation": 0.7})
        .of(i).apply(torch.zeros(shape), rng(i), None).flatten() for i in range(1000)
    ])  # fmt: skip
    mean = torch.zeros(noise.shape[1])
    expected = NoiseLaw("correlated", correlation=0.7).covariance(mean, shape)
    torch.testing.assert_close(noise.T @ noise / 1000, expected, atol=0.16, rtol=0)
    torch.testing.assert_close(expected.diag(), torch.ones(noise.shape[1]))


def test_whitening_with_the_noises_law_leaves_its_directions_alike():
    """texture in 2 of 8 directions; with another law the quiet variances differ."""
    mean = torch.linspace(0, 1, 8, dtype=torch.float64)
    law = NoiseLaw("poisson_gaussian", ratio=8.0)
    noise, strokes = law.covariance(mean, (1, 2, 4)), torch.eye(8, dtype=torch.float64)[:, :2]
    covariance = 0.01 * noise + strokes @ strokes.T
    across, variance = whitening(covariance, noise)
    torch.testing.assert_close(across @ noise @ across.T, torch.eye(8).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance[:6], torch.full((6,), 0.01).double(), atol=1e-5, rtol=0)
    assert unlikeness(variance, 6) < 1e-6
    assert unlikeness(whitening(covariance, WHITE.covariance(mean, (1, 2, 4)))[1], 6) > 0.05


def test_clipped_pixels_are_drawn_from_their_law_given_the_others():
    """Two normal variables correlating by 0.8, cut off at 0, have their covariance again."""
    n = 20000
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64) / 25
    root = torch.linalg.cholesky(covariance)
    z = torch.randn(n, 2, generator=rng(), dtype=torch.float64) @ root.T
    pixels, uniform = z.clamp(0, 1), torch.rand(n, 2, generator=rng(1), dtype=torch.float64)
    across, variance = whitening(covariance, torch.eye(2, dtype=torch.float64))
    own = Directions(torch.zeros(2, dtype=torch.float64), across, variance, variance)
    redone, nothing = pixels, torch.zeros(n, dtype=torch.float64)
    for i in range(12):
        redone = sweep(pixels, redone, own, nothing, turned(uniform, i))
    assert torch.equal(redone[pixels > 0], pixels[pixels > 0])
    assert (redone[pixels == 0] <= 0).all()
    torch.testing.assert_close(redone.T.cov(), covariance, atol=0.002, rtol=0)


def test_directions_of_noise_have_no_texture():
    """Texture 0.3 in the first of 8 pixels, noise of 0.1 in all; weak images count for more."""
    z = 0.1 * torch.randn(4000, 8, generator=rng(), dtype=torch.float64)
    z[:, 0] += 0.3 * torch.randn(4000, generator=rng(1), dtype=torch.float64)
    own = directions(z, torch.full((4000,), 0.1).double(), WHITE, (1, 2, 4))
    assert own.texture[-1].item() == pytest.approx(0.09, rel=0.1)
    assert own.texture[:-1].max() < 0.002
    assert own.across[-1, 0].abs() > 0.99


def test_half_and_quantiles_follow_from_the_image_alone(digits):
    pixels = digits[:64].flatten(1)
    for found in (side_of, own_quantiles):
        whole = found(pixels)
        assert torch.equal(whole, torch.cat([found(each[None]) for each in pixels]))
    assert own_quantiles(pixels).corrcoef().triu(1).abs().max() < 0.7
    assert kstest(own_quantiles(pixels).flatten().numpy(), "uniform").pvalue > 0.01


def test_small_images_are_measured_in_the_directions_of_the_other_half():
    pixels = eight_bits(torch.rand(40, 4, generator=rng()))
    eye, none = torch.eye(4), torch.zeros(4)
    halves = tuple(Directions(none, eye.roll(-a, 0), none, none) for a in (0, 2))
    side = side_of(pixels)
    assert 0 < side.sum() < 40
    seen = torch.where(side[:, None] == 0, pixels[:, 2:], pixels[:, :2])  # of half 1, of half 0
    expected = (seen.square() + SMALLEST**2).mean(1).log() / 2
    torch.testing.assert_close(levels(pixels, halves)[:, 0], expected)


# Black areas


def test_noise_that_was_cut_off_leaves_one_quad_of_sixteen_black():
    black = torch.zeros(4, 1, 128, 128)
    assert noise.flatness(black)[0] == pytest.approx(127**2 / 128**2)
    white = eight_bits(black + 0.1 * torch.randn(black.shape, generator=rng()))
    torch.testing.assert_close(noise.flatness(white), torch.full((4,), 1 / 8), atol=0.01, rtol=0)
    correlated = dirty(black, "correlated", sigma=0.1, correlation=0.7)
    most, spread = noise.FLATTEST["correlated"]
    assert (noise.flatness(correlated) < most + 1.5 * spread).all()
    little = torch.rand(2, 1, 40, 40, generator=rng()) + 0.1
    little[..., :8, :8] = 0  # 4 % of the image
    assert (noise.flatness(little) == 0).all()


def clothes(n, seed, weave):
    """Grey bodies of 20 x 20 on black, 28 x 28, whose weave has this standard deviation."""
    x, own = torch.zeros(n, 1, 28, 28), rng(seed)
    shade = 0.4 + 0.2 * torch.rand(n, 1, 1, 1, generator=own)
    x[..., 4:24, 4:24] = shade + weave * torch.randn(n, 1, 20, 20, generator=own)
    return eight_bits(x)


def test_a_weave_on_a_flat_black_ground_is_no_noise():
    plain, woven = clothes(500, 0, weave=0.01), clothes(40, 1, weave=0.04)
    noisy = dirty(clothes(500, 2, weave=0.01), "gaussian", sigma=0.15)
    p = p_noisy(judged(torch.cat([plain, woven, noisy]))[1])
    assert (p[:500] > 0.5).float().mean() < 0.01
    assert (p[500:540] > 0.5).float().mean() < 0.1
    assert (p[540:] > 0.5).float().mean() > 0.99
