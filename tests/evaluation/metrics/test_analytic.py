"""Errors that are known by construction: samples are put at a known distance from a known truth."""

import math

import pytest
import torch
from measuring import analytic_figures

from sparring.data.datasets import build_dataset
from sparring.evaluation.metrics.flat_manifold import flat_manifold_errors
from sparring.evaluation.metrics.mixture import mixture_errors


def off_plane(truth):
    """An orthonormal basis of what is off the plane, (d - 2, d)."""
    d = truth.basis.shape[1]
    projector = torch.eye(d) - truth.basis.T @ truth.basis
    return torch.linalg.svd(projector).Vh[: d - 2]


@pytest.mark.parametrize("dim", [3, 16])
def test_off_manifold_rms_counts_each_direction_off_the_plane(dim):
    truth = build_dataset("plane", dim=dim).truth
    normals = off_plane(truth)
    clean = truth.sample(500, seed=3)
    # every sample 0.3 off along one direction: sqrt(0.3^2 / (d - 2)) per direction
    moved = clean + 0.3 * normals[0]
    errors = flat_manifold_errors(moved, truth)
    assert errors["off_manifold_rms"] == pytest.approx(0.3 / math.sqrt(dim - 2), rel=1e-5)
    # along every direction: 0.3 per direction; half of the samples: 0.3 / sqrt 2
    everywhere = clean + 0.3 * normals.sum(0)
    assert flat_manifold_errors(everywhere, truth)["off_manifold_rms"] == pytest.approx(
        0.3, rel=1e-5
    )
    everywhere[::2] = clean[::2]
    errors = flat_manifold_errors(everywhere, truth)
    assert errors["off_manifold_rms"] == pytest.approx(0.3 / math.sqrt(2), rel=1e-5)


def test_points_on_the_plane_have_no_error_but_rounding():
    truth = build_dataset("plane", dim=3).truth
    assert flat_manifold_errors(truth.sample(500, 0), truth)["off_manifold_rms"] < 2e-7


def test_in_manifold_std_is_the_rms_over_directions_and_ignores_what_is_off():
    truth = build_dataset("plane", dim=5).truth
    u = torch.tensor([[1.0, 3.0], [-1.0, 3.0], [1.0, -3.0], [-1.0, -3.0]]) + 7
    samples = u @ truth.basis + 2 * off_plane(truth)[1]
    expected = math.sqrt((1 + 9) / 2 * 4 / 3)  # unbiased variances 4/3 and 12 around their mean
    assert flat_manifold_errors(samples, truth)["in_manifold_std"] == pytest.approx(expected)


def test_true_spread_of_a_plane_is_that_of_fresh_samples():
    truth = build_dataset("plane", dim=3).truth
    errors = flat_manifold_errors(truth.sample(200_000, 1), truth)
    assert errors["in_manifold_std_true"] == pytest.approx(1 / math.sqrt(3))
    assert errors["in_manifold_std"] == pytest.approx(1 / math.sqrt(3), rel=5e-3)


def test_a_plane_that_fills_its_space_has_nothing_off_it():
    truth = build_dataset("plane", dim=2).truth
    assert flat_manifold_errors(truth.sample(10, 0), truth)["off_manifold_rms"] == 0


def test_digits_outside_their_subspace_are_seen():
    data = build_dataset("digits_subspace", split="all", n_components=12)
    images = data.read_all()["x0"]
    errors = flat_manifold_errors(images, data.truth)
    assert errors["off_manifold_rms"] < 1e-6
    # unbiased here, over n there
    assert errors["in_manifold_std"] == pytest.approx(errors["in_manifold_std_true"], rel=1e-3)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = flat_manifold_errors(images + 0.1 * noise, data.truth)
    assert noisy["off_manifold_rms"] == pytest.approx(0.1, rel=0.01)


def test_sliced_wasserstein_to_the_truth_stands_beside_that_of_two_clean_sets():
    """Samples of the truth cannot be told from the floor; a shift of s adds |s| / 2 (d = 3)."""
    truth = build_dataset("plane", dim=3).truth
    clean = analytic_figures(truth.sample(2000, 77), truth, 3)
    floor = clean["sliced_wasserstein_of_reference"]
    assert 0.5 * floor < clean["sliced_wasserstein"] < 2 * floor
    assert floor < 0.04
    shifted = analytic_figures(truth.sample(2000, 77) + torch.tensor([3.0, 0, 0]), truth, 3)
    assert shifted["sliced_wasserstein"] == pytest.approx(1.5, rel=0.05)
    low, high = shifted["sliced_wasserstein_interval"]
    assert low < shifted["sliced_wasserstein"] < high
    assert high - low < 0.05


def test_mixture_says_which_mode_is_missing_and_which_is_too_wide():
    truth = build_dataset("gaussian_mixture").truth
    n_modes = len(truth.means)
    random = torch.Generator().manual_seed(0)
    parts = []
    for mode in range(1, n_modes):  # mode 0 is missing, mode 1 twice as often and twice as wide
        n, std = (2000, 0.1) if mode == 1 else (1000, truth.std)
        parts.append(truth.means[mode] + std * torch.randn(n, 2, generator=random))
    errors = mixture_errors(torch.cat(parts), truth)
    n_all = 1000 * n_modes
    assert errors["mode_share"][0] < 1e-3
    assert errors["mode_share"][1:] == pytest.approx([2000 / n_all] + [1000 / n_all] * 6, rel=0.01)
    assert errors["mode_std"][1] == pytest.approx(0.1, rel=0.05)
    assert errors["mode_std"][2:] == pytest.approx([0.05] * 6, rel=0.05)
    assert errors["mode_share_true"] == [1 / 8] * 8
    assert errors["mode_std_true"] == [pytest.approx(0.05)] * 8


def test_a_mode_without_samples_has_no_spread():
    truth = build_dataset("gaussian_mixture").truth
    errors = mixture_errors(truth.means[1:3].repeat(5, 1), truth)
    assert errors["mode_share"] == [0, 0.5, 0.5, 0, 0, 0, 0, 0]
    assert errors["mode_std"][0] is None
    assert errors["mode_std"][1] == pytest.approx(0)


@pytest.mark.parametrize("name", ["plane", "gaussian_mixture", "swiss_roll", "two_moons"])
def test_every_analytic_set_has_its_figures(name):
    truth = build_dataset(name).truth
    figures = analytic_figures(truth.sample(400, 5), truth, n_resamples=3)
    assert 0 < figures["sliced_wasserstein"] < 0.2
    assert ("off_manifold_rms" in figures) == (name == "plane")
    assert ("mode_share" in figures) == (name == "gaussian_mixture")


def test_intervals_of_the_plane_hold_the_figures():
    truth = build_dataset("plane", dim=3).truth
    noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    figures = analytic_figures(truth.sample(500, 5) + 0.1 * noise, truth, n_resamples=40)
    low, high = figures["off_manifold_rms_interval"]
    assert low < 0.1 < high
    # the standard error of a normal rms is rms / sqrt(2 n)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 / math.sqrt(1000), rel=0.35)
    low, high = figures["in_manifold_std_interval"]
    assert low < figures["in_manifold_std"] < high
