"""Gaussians on a circle."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Count
from .. import analytic
from ..base import InMemory
from ..data_set import DataSet, given, points


class GaussianMixture(DataSet):
    """Gaussians of std 0.05 on the unit circle, a class each.

    Args:
        dim: Of the space.
        n_components: How many there are.
        n_points: Of each split.
    """

    is_bundled = True

    def __init__(self, *, dim: Count = 2, n_components: Count = 8, n_points: Count = 8192) -> None:
        self.dim, self.n_components, self.n_points = dim, n_components, n_points

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        truth = analytic.gaussian_mixture(self.dim, self.n_components, **given(fields, "seed"))
        return points("gaussian_mixture", truth, self.n_points, split, fields, len(truth.means))
