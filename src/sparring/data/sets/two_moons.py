"""Two half circles."""

from .. import analytic
from ..data_set import Points


class TwoMoons(Points):
    """scikit-learn's moons without noise, centred, a class each."""

    n_classes = 2

    def truth(self, seed: int) -> analytic.TwoMoonsTruth:
        return analytic.TwoMoonsTruth(self.dim, seed)
