"""Gaussians on a circle."""

from typing import Any

from ...options.value_types import Count
from .. import analytic
from ..data_set import Points


class GaussianMixture(Points):
    """Gaussians of std 0.05 on the unit circle, a class each.

    Args:
        n_components: How many there are.
    """

    def __init__(self, *, n_components: Count = 8, **common: Any) -> None:
        super().__init__(**common)
        self.n_classes = n_components

    def truth(self, seed: int) -> analytic.MixtureTruth:
        return analytic.gaussian_mixture(self.dim, self.n_classes, seed=seed)
