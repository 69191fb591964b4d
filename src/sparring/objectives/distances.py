"""Distances between two estimates of x0, which a consistency loss is made of."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor

from ..diffusion.noising import l2_norm, mse, per_sample_mean
from ..options.value_types import Place
from ..support.errors import did_you_mean

Metric = Callable[[Tensor, Tensor], Tensor]
"""Takes two estimates of x0, (B, *), gives their distance, (B,)."""
METRICS = ("pseudo_huber", "huber", "l2", "l1")


def _check_metric(name: str) -> str:
    if name not in METRICS and ".py:" not in name:
        raise ValueError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}")
    return name


MetricName = Annotated[Place, AfterValidator(_check_metric)]


def pseudo_huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """sqrt(||a - b||^2 + c^2) - c, (B,).

    Source: Song & Dhariwal 2023, eq. 7; ECT's loss with c = 0.
    """
    rest = torch.full((len(a), 1), c).to(a)
    return l2_norm(torch.cat([(a - b).flatten(1), rest], dim=1)) - c


def huber(a: Tensor, b: Tensor, c: float) -> Tensor:
    """Mean over the elements of sqrt((a - b)^2 + c^2) - c, (B,).

    Source: diffusers' training script for latent consistency models (c = 0.001).
    """
    return per_sample_mean(torch.sqrt((a - b) ** 2 + c**2) - c)


def make_metric(name: str | Metric, c: float | None, n_elements: int) -> Metric:
    """pseudo_huber (c None: 0.00054 sqrt(d), as in iCT), huber (0.001), l2, l1, or itself."""
    if callable(name):
        return name
    known: dict[str, Metric] = {
        "pseudo_huber": partial(pseudo_huber, c=0.00054 * n_elements**0.5 if c is None else c),
        "huber": partial(huber, c=0.001 if c is None else c),
        "l2": mse,
        "l1": lambda a, b: per_sample_mean((a - b).abs()),
    }
    return known[name]
