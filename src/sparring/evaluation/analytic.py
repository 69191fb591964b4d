r"""Exact errors of samples from sets whose truth is known, all in data units.

A sample x of a flat manifold is mean + basis^T u + r with r orthogonal to the basis:

    off_manifold_rms = sqrt(mean over samples and off-manifold directions of r_i^2)   best: 0
    in_manifold_std  = sqrt(mean over in-manifold directions of var u_i)       best: the true one

A denoiser that removes the noise and the variability with it shows in the second number. The sliced
Wasserstein distance to fresh clean samples sees both, and stands beside that of two clean sets.

Source: ours; the sliced Wasserstein distance as in `metrics.sliced_wasserstein`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..data.analytic import LinearTruth, MixtureTruth, Truth
from .metrics import sliced_wasserstein
from .resampling import half_samples, interval

N_PROJECTIONS = 500


def analytic_figures(
    samples: Tensor, truth: Truth, n_resamples: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Every figure that the truth allows.

    Args:
        samples: Samples (N, *), data units ([0, 1] for images).
        truth: What is known about the data.
        n_resamples: Random halves of the samples behind each 95 % interval.
        seed: Of the fresh clean samples, the directions and the halves.
    """
    samples = samples.flatten(1)
    figures: dict[str, Any] = distances_to_truth(samples, truth, n_resamples, seed)
    if isinstance(truth, LinearTruth):
        errors = flat_manifold_errors(samples, truth)
        for name in ("off_manifold_rms", "in_manifold_std"):
            halves = half_samples(
                lambda half, name=name: flat_manifold_errors(half, truth)[name],
                samples, n_resamples, seed,
            )  # fmt: skip
            figures |= {name: errors[name], f"{name}_interval": interval(errors[name], halves)}
        figures["in_manifold_std_true"] = errors["in_manifold_std_true"]
    if isinstance(truth, MixtureTruth):
        figures |= mixture_errors(samples, truth)
    return figures


def distances_to_truth(
    samples: Tensor, truth: Truth, n_resamples: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Sliced Wasserstein distance to as many fresh clean samples, and that of two clean sets.

    The second is the floor: what a perfect generator has with this number of samples.
    """
    n = len(samples)
    # Seeds 2 s and 2 s + 1: fresh sets of different seeds never share a stream.
    fresh, another = (truth.sample(n, 2 * seed + i).flatten(1) for i in (0, 1))
    distance = sliced_wasserstein(fresh, samples, N_PROJECTIONS, seed)
    halves = half_samples(
        lambda half: sliced_wasserstein(fresh, half, N_PROJECTIONS, seed),
        samples,
        n_resamples,
        seed,
    )
    return {
        "sliced_wasserstein": distance,
        "sliced_wasserstein_interval": interval(distance, halves),
        "sliced_wasserstein_of_reference": sliced_wasserstein(fresh, another, N_PROJECTIONS, seed),
    }


def flat_manifold_errors(samples: Tensor, truth: LinearTruth) -> dict[str, float]:
    """off_manifold_rms, in_manifold_std and in_manifold_std_true of samples (N, *), N >= 2.

    A manifold that fills its space has no direction off it, and 0 for the first.
    """
    # Exact projections: the truth's basis is float32, so its own methods would leave 1e-7.
    basis = torch.linalg.qr(truth.basis.double().T).Q
    centred = samples.flatten(1).double() - truth.mean.double().flatten()
    inside = centred @ basis
    residual = centred - inside @ basis.T
    n_samples, d = centred.shape
    n_off = d - basis.shape[1]
    off = math.sqrt(residual.square().sum().item() / (n_samples * n_off)) if n_off else 0.0
    return {
        "off_manifold_rms": off,
        "in_manifold_std": inside.var(0).mean().sqrt().item(),
        "in_manifold_std_true": float(truth.in_manifold_std_true),
    }


def mixture_errors(samples: Tensor, truth: MixtureTruth) -> dict[str, Any]:
    """Share and spread of each mode (samples count for the nearest centre), beside the true ones.

    `mode_std` is the rms over directions of the standard deviation around the mode's own mean; null
    for a mode with fewer than two samples.
    """
    samples, means = samples.double(), truth.means.double()
    nearest = torch.cdist(samples, means).argmin(1)
    shares, spreads = [], []
    for mode in range(len(means)):
        members = samples[nearest == mode]
        shares.append(len(members) / len(samples))
        spreads.append(members.var(0).mean().sqrt().item() if len(members) > 1 else None)
    return {
        "mode_share": shares,
        "mode_share_true": [1 / len(means)] * len(means),
        "mode_std": spreads,
        "mode_std_true": [float(truth.std)] * len(means),
    }
