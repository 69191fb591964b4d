r"""The oracle: a control that is told which training samples are dirty, and how.

    mse(A eps(x_t), eps) of each sample at noise levels above its own, nothing below

with x_t and A as in `own_noise`: there a dirty sample is as good as a clean one, so the minimiser
is the denoiser of the clean data, at every level. No method that must not read the manifest can
expect to be better; it is what robust training is measured against. This is plain denoising that
heeds what a batch says of its rows; whoever trains it hands it the truth.

Source: ours, after Ambient diffusion (Daras et al. 2024, "Consistent diffusion meets Tweedie").
"""

from collections.abc import Mapping
from typing import Any

from ..diffusion.randomness import StepRandom
from .base import Draws
from .denoising import Plain


class Oracle(Plain):
    """Denoising with each sample at the noise levels above its own.

    Source: ours, see above.
    """

    name = "oracle"
    told_of_dirt = "truth"

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> Draws:
        if batch.get("trust") is None:
            raise ValueError("the oracle must be told which samples are dirty: batch['trust']")
        return super().draw(batch, rng, step)
