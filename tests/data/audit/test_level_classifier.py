"""Images that differ from trusted ones are used where noise hides the difference."""

import numpy as np
import pytest
import torch

from sparring.data.audit.level_classifier import LEVELS, features, looked_at, unknown_levels
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate


def test_features_are_the_log_energies_of_the_spectrum():
    """White noise has its variance in each coefficient; a cosine, all its energy in one."""
    noise = 0.3 * torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert features(noise).exp().numpy() == pytest.approx(0.09, rel=0.15)
    x = torch.cos(torch.pi * (torch.arange(16) + 0.5) * 3 / 8).expand(1, 1, 16, 16)
    energy = features(x).exp()[0, :64].view(8, 8)
    assert float(energy[0, 3]) == pytest.approx(float(x.square().sum()) / 4, rel=1e-3)
    assert float(energy.sum() - energy[0, 3]) < 0.01
    bands = features(x).exp()[0, 64:]
    assert float(bands[3]) == pytest.approx(float(energy[0, 3]) / 4, rel=1e-3)


def test_an_image_is_seen_alike_in_any_batch_and_one_that_is_no_multiple_of_8():
    x = torch.rand(5, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    whole = looked_at(x, 3)
    assert whole.shape == (len(LEVELS), 4, 5, 79)
    np.testing.assert_allclose(looked_at(x[2:3], 3)[:, :, 0], whole[:, :, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "least"),
    [("blur", {"blur_sigma": 1.0}, 0.95), ("jpeg", {"quality": 10}, 0.8)],
)
def test_what_is_wrong_is_found_and_clean_images_stay_clean(kind, options, least):
    digits = build_dataset("digits", max_train_samples=500)
    dirty = contaminate(digits, {"kind": kind, "rate": 0.5, **options})
    is_dirty = dirty.dirty.numpy()  # pyright: ignore
    trusted = np.flatnonzero(~is_dirty)[::4]
    others = np.setdiff1d(np.arange(len(dirty)), trusted)
    levels = unknown_levels(dirty, trusted, others)
    assert levels is not None
    assert (levels[is_dirty[others]] > 0).mean() > least
    assert (levels[~is_dirty[others]] == 0).mean() > 0.75
    assert np.array_equal(levels, unknown_levels(dirty, trusted, others))


def test_what_is_clean_like_the_trusted_images_has_no_level():
    digits = build_dataset("digits", max_train_samples=500)
    trusted = np.arange(0, 500, 8)
    assert unknown_levels(digits, trusted, np.setdiff1d(np.arange(500), trusted)) is None


def test_worse_dirt_has_a_higher_level():
    digits = build_dataset("digits", max_train_samples=500)
    parts = [{"kind": "blur", "blur_sigma": blur_sigma} for blur_sigma in (0.4, 1.0)]
    dirty = contaminate(digits, {"kind": "mixture", "rate": 0.8, "parts": parts})
    clean = np.flatnonzero(~dirty.dirty.numpy())  # pyright: ignore
    others = np.setdiff1d(np.arange(500), clean)
    levels = unknown_levels(dirty, clean, others)
    assert levels is not None
    part = dirty.number[others].numpy() % 2  # pyright: ignore
    assert levels[part == 0].mean() < 0.8 * levels[part == 1].mean()
