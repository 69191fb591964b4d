"""Images without fine detail: what a blur and an enlargement do to a spectrum, and who has it."""

import math

import numpy as np
import pytest
import torch
from photographs import dirty, tiles
from scipy.special import polygamma
from scipy.stats import multivariate_normal, rankdata

from sparring.data.audit.detectors.blur import (
    ENLARGED,
    FLOOR,
    GROUPS,
    NOISY,
    ORDINARY,
    REACH,
    SIZES,
    SPREAD,
    WAVER,
    Blur,
    BlurRule,
    band_power,
    bands,
    blurring,
    dct,
    enlarging,
    likelihood,
    templates,
    width_of,
)
from sparring.data.audit.detectors.jpeg import Jpeg
from sparring.data.dirt.registry import make

FIRST_SIZE = GROUPS[0]
CLEAN = slice(0, GROUPS[0])


def statistics(x):
    return {
        f"{name}.{statistic}": values
        for name, detector in (("blur", Blur()), ("jpeg", Jpeg()))
        for statistic, values in detector.look(x).items()
    }


def columns(x):
    seen = statistics(x)
    seen["said.jpeg"] = Jpeg().fit(seen)(seen)["jpeg"]
    return Blur().fit(seen)(seen)


def auc(clean, dirty):
    ranks = rankdata(torch.cat([clean, dirty]).numpy())[len(clean) :]
    return (ranks.mean() - (len(dirty) + 1) / 2) / len(clean)


def test_a_mirrored_blur_scales_the_coefficients():
    for size in (1.0, 2.0):
        scales = dct(32) @ blurring(32, size) @ dct(32).T
        w = math.pi * torch.arange(32) / 32
        assert torch.allclose(scales, torch.diag(torch.exp(-((size * w) ** 2) / 2)), atol=0.01)


@pytest.mark.parametrize(
    ("kind", "options", "way"),
    [
        ("blur", {"blur_sigma": 1.2}, lambda n: blurring(n, 1.2)),
        ("enlarged", {"factor": 2.0}, lambda n: enlarging(n, 2.0, "bicubic")),
        (
            "enlarged",
            {"factor": 3.0, "filter": "bilinear"},
            lambda n: enlarging(n, 3.0, "bilinear"),
        ),
    ],
)
def test_the_matrices_do_what_the_dirt_does(kind, options, way):
    x = torch.rand(1, 16, 24, generator=torch.Generator().manual_seed(0))
    made = make(kind, options).of(0).apply(x, torch.Generator(), None)
    assert torch.allclose(way(16) @ x[0] @ way(24).T, made[0], atol=1e-5)


def test_bands_are_squares_and_leave_out_the_lowest():
    member = bands(16, 32)
    assert (member.sum(0) <= 1).all()
    assert member[:, :2, :4].sum() == 0
    assert member.sum() == 16 * 32 - 2 * 4
    assert (member[0, 2, :4] == 1).all()
    assert member[-1, 15, 0] == member[-1, 0, 31] == member[-1, 15, 31] == 1


def test_band_power_of_white_noise_is_its_variance():
    y = 5 * torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    power, counts = band_power(y)
    assert counts.tolist() == [2 * 2 * (2 * k + 1) for k in range(1, 8)]
    assert torch.allclose(power.mean(0), torch.full((7,), 25.0), rtol=0.1)


@pytest.mark.parametrize("brightness", [1e4, 1e6])
def test_a_spectrum_that_keeps_the_law_of_a_hypothesis_gets_that_hypothesis(brightness):
    laws = templates(32, 32)
    assert len(laws) == sum(GROUPS)
    power = brightness * laws
    _, counts = band_power(torch.zeros(1, 1, 32, 32))
    nats = likelihood(power, counts, laws)
    groups = torch.repeat_interleave(torch.arange(3), torch.tensor(GROUPS))
    clear = [*range(GROUPS[0]), *(FIRST_SIZE + i for i, size in enumerate(SIZES) if size <= 1.2)]
    assert (groups[nats.argmax(1)] == groups)[clear].all()
    widest = FIRST_SIZE + SIZES.index(1.0)
    assert nats[widest].argmax() == widest


@pytest.mark.parametrize("brightness", [1e3, 1e6])
def test_the_likelihood_agrees_with_scipy(brightness):
    """Some bands below the floor, or none; the power by the law of one hypothesis, with scatter."""
    laws, (_, counts) = templates(32, 32), band_power(torch.zeros(1, 1, 32, 32))
    scatter = torch.randn(7, generator=torch.Generator().manual_seed(1))
    power = brightness * laws[FIRST_SIZE + SIZES.index(1.0)] * torch.exp(0.2 * scatter)
    nats = likelihood(power[None], counts, laws)[0]
    expected = [marginal(power, counts, law) for law in laws]
    close = nats > nats.max() - 30
    assert close.sum() >= 3
    difference = nats - torch.tensor(expected)
    assert (difference - difference[nats.argmax()]).abs()[close].max() < 0.35


def marginal(power, counts, law):
    """ln of the likelihood, its mean linear in a near the best a."""
    f, law = np.log(power.numpy().astype(float) + FLOOR), law.numpy().astype(float)
    r = np.log((np.arange(1, 8) + 0.5) / 8)
    clean = WAVER**2 * np.exp(-np.abs(r[:, None] - r) / REACH) + SPREAD**2 * np.outer(r, r)
    own = np.diag(polygamma(1, counts.numpy() / 4))

    def parts(a):
        g = np.exp(a) * law / (np.exp(a) * law + FLOOR)
        covariance = g[:, None] * clean * g + own
        return f - np.log(np.exp(a) * law + FLOOR), g, covariance

    def misfit(a):
        rest, _, covariance = parts(a)
        return rest @ np.linalg.solve(covariance, rest)

    grid = np.linspace(np.log(1e-2), np.log(1e12), 3000)
    rest, g, covariance = parts(grid[np.argmin([misfit(a) for a in grid])])
    information = g @ np.linalg.solve(covariance, g)
    return multivariate_normal.logpdf(rest, cov=covariance) - np.log(information) / 2


def test_white_noise_on_a_clean_image_is_a_hypothesis_of_its_own():
    laws, (_, counts) = templates(32, 32), band_power(torch.zeros(1, 1, 32, 32))
    noisy = 1e6 * (laws[len(NOISY)] + NOISY[1] * laws[len(NOISY), 0])
    assert likelihood(noisy[None], counts, laws).argmax() == 1


def test_the_law_is_blind_to_contrast():
    laws, (_, counts) = templates(32, 32), band_power(torch.zeros(1, 1, 32, 32))
    blurred = laws[FIRST_SIZE + SIZES.index(1.0)]
    once, twice = likelihood(torch.stack([1e7 * blurred, 4e7 * blurred]), counts, laws)
    assert torch.allclose(once, twice, atol=0.5)


def test_what_lies_below_the_floor_changes_nothing():
    laws, (_, counts) = templates(32, 32), band_power(torch.zeros(1, 1, 32, 32))
    power = 1e4 * laws[FIRST_SIZE + SIZES.index(2.0)]
    assert (power[4:] < FLOOR / 20).all()
    emptied = torch.where(power < FLOOR / 20, 0.0, power)
    some, others = likelihood(torch.stack([power, emptied]), counts, laws)
    assert torch.allclose(some, others, atol=0.5)


def test_what_lies_below_the_floor_says_nothing():
    laws, (_, counts) = templates(16, 16), band_power(torch.zeros(1, 1, 16, 16))
    nats = likelihood(1e-3 * FLOOR * torch.ones(1, 7), counts, laws)
    assert nats[:, CLEAN].amax() > nats[:, FIRST_SIZE:].amax() - 3
    assert (columns(torch.full((3, 1, 16, 16), 0.4))["blur"] < 0.5).all()


@pytest.mark.parametrize(("side", "n_channels"), [(32, 3), (16, 1)])
def test_a_blur_of_one_pixel_is_found(side, n_channels):
    clean = tiles(60, side, n_channels=n_channels)
    blurred = dirty(clean, "blur", blur_sigma=1.0)
    found = columns(torch.cat([clean, blurred]))
    assert auc(found["blur"][:60], found["blur"][60:]) > 0.97
    assert (found["blur"][:60] > 0.5).float().mean() <= 0.03
    assert (found["enlarged"] > 0.5).float().mean() <= 0.05
    assert found["blur_sigma"][60:].median() == pytest.approx(1.0, abs=0.25)
    assert (found["blur_sigma"][:60] > 0).float().mean() <= 0.03


@pytest.mark.parametrize("shrunk", [1, 2])
def test_clean_sets_are_not_blurred(shrunk):
    found = columns(tiles(60, 32, shrunk=shrunk))
    assert ((found["blur"] > 0.5) | (found["enlarged"] > 0.5)).float().mean() <= 0.03


def test_a_set_that_is_blurred_as_a_whole_is_found_against_images_in_general():
    found = columns(dirty(tiles(60, 32), "blur", blur_sigma=1.0))
    assert (found["blur"] > 0.5).float().mean() > 0.9


@pytest.mark.parametrize(("factor", "filter"), [(2.0, "bicubic"), (3.0, "bilinear")])
def test_enlarged_thumbnails_are_found(factor, filter):
    clean = tiles(60, 32)
    found = columns(torch.cat([clean, dirty(clean, "enlarged", factor=factor, filter=filter)]))
    assert (found["enlarged"][60:] > 0.5).float().mean() > 0.9
    assert ((found["enlarged"] + found["blur"])[:60] > 0.5).float().mean() <= 0.03
    assert found["blur_sigma"][60:].median() == pytest.approx(width_of(factor), abs=0.2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gaussian", {"sigma": 0.1}),
        ("correlated", {"sigma": 0.2, "correlation": 0.7}),
        ("salt_and_pepper", {"share": 0.05}),
        ("missing_blocks", {"block_size": 0.25, "fill": "contrast"}),
        ("jpeg", {"quality": 10}),
    ],
)
def test_other_dirt_is_no_blur_and_makes_none_of_clean_images(kind, options):
    clean = tiles(60, 32)
    found = columns(torch.cat([clean, dirty(clean, kind, **options)]))
    called = (found["blur"] > 0.5) | (found["enlarged"] > 0.5)
    assert called[:60].float().mean() <= 0.03
    assert called[60:].float().mean() <= 0.05


def test_the_shares_are_those_of_the_set():
    x = tiles(60, 32)
    x = torch.cat([x[:30], dirty(x[30:], "blur", blur_sigma=1.0)])
    rule = Blur().fit(statistics(x))
    assert isinstance(rule, BlurRule)
    clean, blurred, enlarged = torch.tensor(rule.shares).split(GROUPS)
    total = clean.sum() + blurred.sum() + enlarged.sum()
    assert float(total) == pytest.approx(1, abs=1e-5)
    assert float(blurred.sum()) == pytest.approx((30 + 4) / (60 + 12), abs=0.03)


def test_an_enlargement_has_the_width_that_halves_its_last_frequency():
    for factor in (1.5, 4.0):
        assert math.exp(-((width_of(factor) * math.pi / factor) ** 2) / 2) == pytest.approx(0.5)


def test_sizes_that_are_large_or_odd_or_too_small():
    x = tiles(2, 200, shrunk=1)
    found = columns(dirty(x, "blur", blur_sigma=1.5))
    assert (torch.maximum(found["blur"], found["enlarged"]) > 0.5).all()
    assert Blur().look(x[:, :, :70, :41])["nats"].shape == (2, sum(GROUPS))
    assert (columns(torch.rand(4, 1, 7, 9))["blur"] < 0.5).all()


def test_the_statistics_of_an_image_depend_on_it_alone():
    x = dirty(tiles(60, 32), "blur", blur_sigma=[0.3, 2.0])[:12]
    together = Blur().look(x)["nats"]
    alone = torch.cat([Blur().look(image[None])["nats"] for image in x])
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-2)
    assert len(ORDINARY) + len(SIZES) + len(ENLARGED) < together.shape[1]
