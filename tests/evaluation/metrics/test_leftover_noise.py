import math

import pytest
import torch

from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.evaluation.metrics.leftover_noise import empty_pixel_rms
from sparring.evaluation.store.quiet_directions import quiet_directions, rms_of_others


def empty(reference, share=0.97):
    return (reference == 0).double().mean(0) >= share


def test_only_pixels_that_clean_images_leave_empty_count():
    reference = torch.zeros(100, 1, 2, 2)
    reference[:, 0, 0, 0] = 1  # never empty
    reference[:3, 0, 0, 1] = 0.5  # empty in 97 %
    reference[:4, 0, 1, 0] = 0.5  # empty in 96 %
    samples = torch.full((10, 1, 2, 2), 9.0)
    samples[:, 0, 0, 1], samples[:, 0, 1, 1] = 0.3, -0.1
    expected = math.sqrt((0.3**2 + 0.1**2) / 2)
    assert empty_pixel_rms(samples, empty(reference)) == pytest.approx(expected)
    samples[:, 0, 1, 0] = 0.2
    expected = math.sqrt((0.3**2 + 0.1**2 + 0.2**2) / 3)
    assert empty_pixel_rms(samples, empty(reference, 0.96)) == pytest.approx(expected)


def test_nearly_empty_is_not_empty():
    assert empty_pixel_rms(torch.ones(3, 1, 2, 2), empty(torch.full((9, 1, 2, 2), 1e-3))) is None


def test_noise_is_measured_without_clipping_it():
    """Gaussian noise of 0.2 on clean digits leaves 0.2; clipped at 0 it would be 0.2 / sqrt 2."""
    clean = build_dataset("digits", split="all").read_all()["x0"]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert empty_pixel_rms(clean + 0.2 * noise, empty(clean)) == pytest.approx(0.2, rel=0.02)
    assert empty_pixel_rms(clean, empty(clean)) < 0.05


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"samples have shape \(1, 2, 2\), reference \(1, 3, 3\)"):
        empty_pixel_rms(torch.ones(3, 1, 2, 2), torch.ones(1, 3, 3, dtype=torch.bool))


def test_quiet_directions_are_those_of_least_variance():
    """Images of 16 values that vary by 1 in 12 random directions and by 0.05 in 4."""
    random = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=random, dtype=torch.float64)).Q
    scales = torch.tensor([1.0] * 12 + [0.05] * 4, dtype=torch.float64)

    def images(n):
        z = torch.randn(n, 16, generator=random, dtype=torch.float64)
        return (0.5 + (z * scales) @ basis.T).reshape(n, 1, 4, 4)

    data = InMemory("made", images(6000))
    quiet = quiet_directions(data)
    assert rms_of_others(quiet, data) == pytest.approx(0.05, rel=0.02)
    loud = images(6000) + 0.2 * torch.randn(6000, 1, 4, 4, generator=random)
    assert quiet.squares(loud).mean().sqrt().item() == pytest.approx(
        (0.05**2 + 0.2**2) ** 0.5, rel=0.02
    )
    # what the model adds in a direction that is not quiet is no noise
    moved = images(6000) + 5 * basis[:, 0].reshape(1, 1, 4, 4)
    assert quiet.squares(moved).mean().sqrt().item() == pytest.approx(0.05, rel=0.02)


def test_too_few_images_have_no_quiet_directions():
    assert quiet_directions(InMemory("made", torch.rand(20, 1, 4, 4))) is None
