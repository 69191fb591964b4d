"""PSNR and the distance of features, in closed form."""

import math

import pytest
import torch

from sparring.evaluation.studies.cleaning import cleaning_figures, feature_distance, psnr


def test_psnr_of_a_known_error():
    clean = torch.rand(3, 1, 4, 4)
    off = torch.tensor([0.1, 0.01, 0.0])[:, None, None, None]
    torch.testing.assert_close(
        psnr(clean + off, clean), torch.tensor([20.0, 40.0, 100.0]).double(), rtol=1e-4, atol=0
    )


def test_the_distance_of_features_is_0_for_the_same_and_1_for_another_image():
    rng = torch.Generator().manual_seed(0)
    own, another = torch.randn(2, 5000, 8, generator=rng, dtype=torch.float64)
    assert feature_distance(own, own) == 0
    assert feature_distance(another, own) == pytest.approx(1, rel=0.02)
    # phi(cleaned) = phi(clean) + s n: s / sqrt(2) of features with variance 1
    assert feature_distance(own + 0.3 * another, own) == pytest.approx(0.3 / math.sqrt(2), rel=0.02)


def test_all_figures_with_their_intervals():
    rng = torch.Generator().manual_seed(0)
    clean = torch.rand(400, 1, 2, 2, generator=rng)
    noise = 0.1 * torch.randn(clean.shape, generator=rng)
    images, own = clean + noise, clean.flatten(1).double()
    found = cleaning_figures(images, clean, images.flatten(1).double(), own, 20)
    assert found["psnr"] == pytest.approx(psnr(images, clean).mean().item())
    assert found["psnr"] == pytest.approx(20, abs=2)
    # error 0.01 a pixel over 2 / 12, the variance of two uniform pixels
    assert found["feature_distance"] == pytest.approx(math.sqrt(0.01 * 6), rel=0.05)
    for name in ("psnr", "feature_distance"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    decibels = psnr(images, clean)
    low, high = found["psnr_interval"]
    assert high - low == pytest.approx(2 * 1.96 * decibels.std().item() / 20, rel=0.4)
    assert 0 < found["frechet_distance"] < 0.1
    few = cleaning_figures(images[:4], clean[:4], images[:4].flatten(1).double(), own[:4])
    assert "frechet_distance" not in few
