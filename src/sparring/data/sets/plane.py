"""A plane in space."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Count
from .. import analytic
from ..base import InMemory
from ..data_set import DataSet, given, points


class Plane(DataSet):
    """Uniform on [-1, 1]^2 in R^dim, oriented by the seed.

    Args:
        dim: Of the space.
        n_points: Of each split.
    """

    is_bundled = True

    def __init__(self, *, dim: Count = 3, n_points: Count = 8192) -> None:
        self.dim, self.n_points = dim, n_points

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        truth = analytic.plane(self.dim, **given(fields, "seed"))
        return points("plane", truth, self.n_points, split, fields)
