"""A rolled sheet."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from ...options.value_types import Count
from .. import analytic
from ..base import InMemory
from ..data_set import DataSet, points


class SwissRoll(DataSet):
    """scikit-learn's roll in [-1, 1]; dim = 2: the spiral alone.

    Args:
        dim: Of the space.
        n_points: Of each split.
    """

    is_bundled = True

    def __init__(self, *, dim: Annotated[int, Field(ge=2)] = 2, n_points: Count = 8192) -> None:
        self.dim, self.n_points = dim, n_points

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        truth = analytic.SwissRollTruth(self.dim, fields.get("seed", 0))
        return points("swiss_roll", truth, self.n_points, split, fields)
