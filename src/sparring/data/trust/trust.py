r"""What each image of a batch can teach, and at which noise: the one thing training knows of dirt.

    y = x0 + noise of covariance Sigma,   seen elements only, cut to [-1, 1] where `clipped`

Everything is in the model's units (images in [-1, 1]: twice a value of the [0, 1] scale). A batch
of a data set carries it as `batch["trust"]`, by the names below; a batch without is trusted whole.
Who made it, an audit, a person's table or the truth, cannot be told from it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Trust(NamedTuple):
    """Per row of a batch; a tuple, so that loaders and accelerate move it like any tensor."""

    sigma: Tensor  # standard deviation of the noise where the image is black, (B,); 0 for none
    slope: Tensor  # at a value v in [-1, 1] the noise's variance is sigma^2 + slope (v + 1), (B,)
    # standard deviation of the blur that made the noise, pixels, (B,): 0 for white, else no slope
    correlation: Tensor
    clipped: Tensor  # whether values at -1 and 1 are noisy ones that were cut off, (B,), bool
    # noise level s = sigma_t / alpha_t from which on the image may be used, (B,), 0 for a clean
    # one; what its noise asks beside that follows from the noise
    level: Tensor
    weight: Tensor  # of the image in every loss, (B,), 0 for one that teaches nothing
    seen: Tensor | None = None  # elements that say something, (B, 1, H, W), bool; None for all

    def rows(self, which: Tensor) -> "Trust":
        """Of some rows, by their numbers or by a mask."""
        return Trust(*(None if field is None else field[which] for field in self))  # pyright: ignore

    def of_latents(self) -> "Trust":
        """What of it holds for latents of the images: levels and weights, for neither noise nor a
        hole of an image is one of its latents."""
        zero = torch.zeros_like(self.sigma)
        return Trust(zero, zero, zero, torch.zeros_like(self.clipped), self.level, self.weight)

    def mirrored(self, is_mirrored: Tensor) -> "Trust":
        """Of the same images, where `is_mirrored` (B,) turned left to right."""
        if self.seen is None:
            return self
        turned = torch.where(is_mirrored.view(-1, 1, 1, 1), self.seen.flip(-1), self.seen)
        return self._replace(seen=turned)

    @classmethod
    def joined(cls, parts: Sequence["Trust"]) -> "Trust":
        """The rows of all, in their order. Either all say what is seen, or none does."""
        fields = zip(*parts, strict=True)
        return cls(*(None if each[0] is None else torch.cat(each) for each in fields))  # pyright: ignore
