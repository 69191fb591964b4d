r"""Errors of samples x = mean + basis^T u + r, r off the basis, of a known plane, in data units:

    off_manifold_rms = sqrt(mean over samples and off-manifold directions of r_i^2)   best: 0
    in_manifold_std  = sqrt(mean over in-manifold directions of var u_i)       best: the true one

A denoiser that removes the noise and the variability with it shows in the second number (ours).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...data.analytic import LinearTruth
from ..resampling import with_interval
from .base import Comparison, Figure, Metric


class FlatManifold(Metric):
    """Of vectors and images in a known subspace."""

    looks_at, place = "x0", 120
    figures = (
        Figure(
            "off_manifold_rms", "Distance off the manifold", "rms per direction, 0 is exact",
            better="lower", drawn=4, decides=True, is_noise=True,
        ),
        Figure(
            "in_manifold_std", "Spread in the manifold", "nearest to the true one", better="true",
        ),
    )  # fmt: skip

    def suits(self, against: Comparison) -> bool:
        return isinstance(against.reference.dataset.truth, LinearTruth)

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        settings = against.reference.settings
        truth: Any = against.reference.dataset.truth
        figures: dict[str, Any] = {}
        for one in self.figures:
            figures |= with_interval(
                one.key,
                lambda half, key=one.key: flat_manifold_errors(half, truth)[key],
                seen["x0"], settings.n_resamples, settings.seed,
            )  # fmt: skip
        return figures | {"in_manifold_std_true": float(truth.in_manifold_std_true)}


def flat_manifold_errors(samples: Tensor, truth: LinearTruth) -> dict[str, float]:
    """off_manifold_rms, in_manifold_std and in_manifold_std_true of samples (N, *), N >= 2.
    A manifold that fills its space has no direction off it, and 0 for the first."""
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
