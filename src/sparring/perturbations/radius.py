r"""Radius schedules: how large a perturbation may be at each noise level, in noise units."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..options.sections import check_options
from ..options.value_types import NotNegative, Positive


@dataclass(frozen=True)
class Radius:
    r"""The ball's radius as a function of sigma_t, with a random bias.

    schedule = "power":      r = beta + (1 - beta) sigma_t^rho      (default)
               "power_sum":  r = beta + sigma_t^rho
               "sigma":      r = scale sigma_t, at least beta
               "constant":   r = scale
    with beta uniform in [min_bias, max_bias].

    The paper says: the radius follows the noise scale with exponent rho = 2, has a minimum bias of
    8/255 and a random bias so that it does not vanish at t = 0. It does not give the formula or
    beta's distribution: "power" and "power_sum" are two reconstructions, the others its ablations.

    Attributes:
        schedule: One of the four above.
        rho: Exponent, larger keeps the radius small for longer. No unit.
        min_bias: Smallest bias, noise units. The paper's 8/255.
        max_bias: Largest bias, noise units. Not given by the paper.
        scale: Factor of "sigma", or the value of "constant".

    Source: paper 2 (ICLR 2026), radius r_beta(t); formula reconstructed.
    """

    schedule: Literal["power", "power_sum", "sigma", "constant"] = "power"
    rho: Positive = 2.0
    min_bias: NotNegative = 8 / 255
    max_bias: NotNegative = 0.3
    scale: NotNegative = 1.0

    def __post_init__(self) -> None:
        check_options(type(self), vars(self))
        low, high = self.min_bias, self.max_bias
        if low > high:
            raise ValueError(f"radius needs min_bias <= max_bias, got {low} and {high}")

    def __call__(self, sigma_t: Tensor, u: Tensor) -> Tensor:
        """The radius at sigma_t (B,), for u (B,) uniform in [0, 1), noise units, (B,)."""
        beta = self.min_bias + (self.max_bias - self.min_bias) * u
        if self.schedule == "power":
            return beta + (1 - beta) * sigma_t**self.rho
        if self.schedule == "power_sum":
            return beta + sigma_t**self.rho
        if self.schedule == "sigma":
            return torch.maximum(self.scale * sigma_t, beta)
        return torch.full_like(sigma_t, self.scale)
