"""The noise level of a set of images: known answers, and what is no noise."""

import numpy as np
import pytest
import torch

from sparring.data.audit.audit import audit_images
from sparring.data.audit.noise_level import fit_noise_level, patches, quiet_directions
from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate

OTHER_KINDS = ("outlier", "salt_and_pepper", "blur", "jpeg", "missing_blocks")


@pytest.fixture(scope="module")
def digits():
    return build_dataset("digits")


def unclipped(dataset, contamination):
    """Floats whose noise was never cut: the estimate's best case."""
    return contaminate(dataset, {**contamination, "clip": False})


def smooth_images(n, shape, seed=0):
    """A few low frequencies with random weights, in [0.2, 0.8]: far from both ends."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, shape[0], 3, 3, generator=rng)
    x0 = torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return (0.2 + 0.6 * x0).clamp(0.2, 0.8)


def test_the_mixture_is_found_in_energies_drawn_from_it():
    rng = np.random.RandomState(0)
    n, nu, rate, sigma = 4000, 32, 0.7, 0.1
    t = np.exp(np.log(0.03**2) + 0.9 * rng.randn(n))
    noisy = rng.rand(n) < rate
    e = np.where(noisy, sigma**2 / nu * rng.noncentral_chisquare(nu, nu * t / sigma**2), t)
    found = fit_noise_level(np.stack([e, e], 1), nu)
    assert found.is_found
    assert found.sigma == pytest.approx(sigma, rel=0.02)
    assert found.rate == pytest.approx(noisy.mean(), abs=0.02)
    assert found.clean_rms == pytest.approx(0.03, rel=0.1)
    assert found.spread == pytest.approx(0.9, rel=0.1)
    p = found.p_noisy(e)
    assert p[noisy].mean() > 0.95  # the model's own calibration: few of t are above sigma^2
    assert p.mean() == pytest.approx(found.rate, abs=0.03)


def test_the_energy_of_noise_is_its_variance():
    """The smallest variances of a sample are below the true one; by the other half they are not."""
    rng = torch.Generator().manual_seed(0)
    dataset = InMemory("noise", 0.2 * torch.randn(600, 1, 6, 6, generator=rng))
    residual = quiet_directions(dataset)
    batch = dataset.read_all()
    energy = residual.energy(batch["x0"], batch["index"])
    assert residual.degrees == 9
    np.testing.assert_allclose(energy.mean(0), 0.04, rtol=0.05)
    directions = residual.halves[0].directions
    torch.testing.assert_close(directions.T @ directions, torch.eye(9), atol=1e-5, rtol=0)
    of_its_own = batch["x0"][residual.side == 0].flatten(1) - residual.halves[0].mean
    assert (of_its_own @ directions).square().mean() < 0.036


def test_patches_tile_the_image():
    x = torch.arange(2 * 3 * 5 * 6.0).view(2, 3, 5, 6)
    tiles = patches(x, (2, 3))
    assert tiles.shape == (2, 4, 18)
    torch.testing.assert_close(tiles[1, 3], x[1, :, 2:4, 3:6].flatten())


@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_noise_on_most_digits(digits, sigma):
    dirty = unclipped(digits, {"kind": "gaussian", "sigma": sigma, "seed": 3})
    audit = audit_images(dirty)
    assert audit.noise.is_found
    assert audit.noise.sigma == pytest.approx(sigma, rel=0.05)
    assert audit.noise.rate == pytest.approx(0.9, abs=0.03)
    assert ((audit.p_noisy > 0.5) == dirty.dirty.numpy()).mean() > 0.95
    ranked = dirty.dirty.numpy()[audit.order()]
    assert ranked[:1000].mean() > 0.99


def test_noise_on_some_and_on_all_digits(digits):
    for rate in (0.2, 0.5, 1.0):
        noise = audit_images(unclipped(digits, {"kind": "gaussian", "rate": rate})).noise
        assert noise.rate == pytest.approx(rate, abs=0.05)
        assert noise.sigma == pytest.approx(0.1, rel=0.15)


def test_clipped_noise_is_measured_at_its_full_size(digits):
    noise = audit_images(contaminate(digits, {"kind": "gaussian", "sigma": 0.2})).noise
    assert noise.sigma_left < 0.13
    assert noise.sigma == pytest.approx(0.2, rel=0.15)
    assert noise.rate == pytest.approx(0.9, abs=0.05)


def test_clean_digits_have_no_noise(digits):
    audit = audit_images(digits)
    assert not audit.noise.is_found
    assert audit.noise.rate < 0.05
    assert not audit.p_noisy.any()
    assert all(not record["flags"] for record in audit.ranking())


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_dirt_is_looked_at_too(digits, kind):
    """A tenth of sharp images among blurred ones may pass for noisy, all other images may not."""
    some = digits.select(torch.arange(500))
    audit = audit_images(unclipped(some, {"kind": kind}))
    if kind == "salt_and_pepper":
        assert audit.noise.is_found
    else:
        assert not audit.noise.is_found or (kind == "blur" and audit.noise.rate < 0.15)


def test_large_images_are_cut_into_patches():
    clean = InMemory("smooth", smooth_images(100, (3, 32, 40)))
    audit = audit_images(unclipped(clean, {"kind": "gaussian", "rate": 0.6, "sigma": 0.05}))
    assert audit.patch == (8, 8)
    assert audit.noise.sigma == pytest.approx(0.05, rel=0.02)
    assert audit.noise.rate == pytest.approx(0.6, abs=0.01)
    assert sum(audit.p_noisy > 0.5) == 60


def test_the_estimate_repeats_itself_and_the_seed_matters(digits):
    dirty = unclipped(digits, {"kind": "gaussian", "sigma": 0.2})
    first, again, other = (audit_images(dirty, seed).noise for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_images_that_are_all_alike_or_too_few():
    flat = audit_images(InMemory("flat", torch.full((200, 1, 8, 8), 0.5)))
    assert not flat.noise.is_found
    assert flat.is_blank.all()
    few = audit_images(InMemory("few", torch.rand(5, 1, 8, 8)))
    assert few.noise is None
    assert few.ranking()[0]["sigma"] is None
    with pytest.raises(ValueError, match="needs 32 images, got 1"):
        fit_noise_level(np.ones((1, 2)), 8)
