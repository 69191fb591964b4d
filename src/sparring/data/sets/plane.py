"""A plane in space."""

from typing import Annotated, Any

from pydantic import Field

from .. import analytic
from ..data_set import Points


class Plane(Points):
    """Uniform on [-1, 1]^2 in R^dim, oriented by the seed."""

    def __init__(self, *, dim: Annotated[int, Field(ge=2)] = 3, **common: Any) -> None:
        super().__init__(dim=dim, **common)

    def truth(self, seed: int) -> analytic.PlaneTruth:
        return analytic.plane(self.dim, seed)
