"""Samples of a Gaussian mixture that is known: which modes are missing, which are too wide."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...data.analytic import MixtureTruth
from .base import Comparison, Metric


class Mixture(Metric):
    """A list of numbers each, a number a mode: no row in a table."""

    looks_at, place = "x0", 140

    def suits(self, against: Comparison) -> bool:
        return isinstance(against.reference.dataset.truth, MixtureTruth)

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        truth: Any = against.reference.dataset.truth
        return mixture_errors(seen["x0"], truth)


def mixture_errors(samples: Tensor, truth: MixtureTruth) -> dict[str, Any]:
    """Share and spread of each mode (samples count for the nearest centre), beside the true ones.
    `mode_std`: rms over directions of the deviation from the mode's mean, null of one sample."""
    samples, means = samples.double(), truth.means.double()
    closest = torch.cdist(samples, means).argmin(1)
    shares, spreads = [], []
    for mode in range(len(means)):
        members = samples[closest == mode]
        shares.append(len(members) / len(samples))
        spreads.append(members.var(0).mean().sqrt().item() if len(members) > 1 else None)
    return {
        "mode_share": shares,
        "mode_share_true": [1 / len(means)] * len(means),
        "mode_std": spreads,
        "mode_std_true": [float(truth.std)] * len(means),
    }
