r"""Controls: plain denoising, told what no method knows or helped by what is no method.

    throw_away     of the images that nothing is said against
    denoise_first  of all images, each denoised by a library beforehand
    oracle         mse(A eps(x_t), eps) of each sample at noise levels above its own, nothing below

Every method that is told of dirt is measured against these three. Whoever trains changes the images
of the first two, see data/trust/controls.py, and hands the oracle the truth: with x_t and A as in
`own_noise` its minimiser is the denoiser of the clean data, at every level, and no method that must
not read the manifest can expect to be better.

Source: ours; the oracle after Daras et al. 2024 ("Consistent diffusion meets Tweedie").
"""

from collections.abc import Mapping
from typing import Any

from ..diffusion.randomness import StepRandom
from .base import Draws
from .denoising import Plain


class ThrowAway(Plain):
    """Denoising on the clean images alone."""

    name = "throw_away"
    told_of_dirt = "clean_only"


class DenoiseFirst(Plain):
    """Denoising on images that are denoised once, before training."""

    name = "denoise_first"
    told_of_dirt = "denoised"


class Oracle(Plain):
    """Denoising with each sample at the noise levels above its own."""

    name = "oracle"
    told_of_dirt = "truth"

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> Draws:
        if batch.get("trust") is None:
            raise ValueError("the oracle must be told which samples are dirty: batch['trust']")
        return super().draw(batch, rng, step)
