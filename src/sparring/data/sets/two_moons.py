"""Two half circles."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ...options.value_types import Count
from .. import analytic
from ..base import InMemory
from ..data_set import DataSet, points


class TwoMoons(DataSet):
    """scikit-learn's moons without noise, centred, a class each.

    Args:
        dim: Of the space.
        n_points: Of each split.
    """

    is_bundled = True

    def __init__(self, *, dim: Annotated[int, Field(ge=2)] = 2, n_points: Count = 8192) -> None:
        self.dim, self.n_points = dim, n_points

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        truth = analytic.TwoMoonsTruth(self.dim, fields.get("seed", 0))
        return points("two_moons", truth, self.n_points, split, fields, 2)
