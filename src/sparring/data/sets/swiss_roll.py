"""A rolled sheet."""

from .. import analytic
from ..data_set import Points


class SwissRoll(Points):
    """scikit-learn's roll in [-1, 1]; dim = 2: the spiral alone."""

    def truth(self, seed: int) -> analytic.SwissRollTruth:
        return analytic.SwissRollTruth(self.dim, seed)
