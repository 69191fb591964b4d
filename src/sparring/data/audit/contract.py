r"""What a detector of dirt is: it looks at single images, then at the set, then judges each image.

    seen = detector.look(x)              # statistics of each image, in any batch, worker or process
    rule = detector.fit(all_seen)        # once, from those of the set (of a stream: of a sample)
    columns = rule(seen)                 # of each image again: probabilities, sizes

Images are (B, C, H, W) in [0, 1], multiples of 1/255 (what files hold) or floats, of any size from
8x8 to 1024x1024, grey or colour. What an image's statistics are depends on this image alone.

Columns that a rule may give, each (B,), float32:

- a probability for each of the detector's kinds, under the name that `contamination.kind` gives to
  that kind of dirt: gaussian, poisson_gaussian, correlated, jpeg, blur, enlarged, salt_and_pepper,
  missing_blocks, watermark, outlier;
- `sigma`: standard deviation of the noise where the image is black, [0, 1] scale; `slope`: its
  variance is sigma^2 + slope * brightness; `correlation`: as of the kind correlated, pixels;
- `quality` of the JPEG, 1 to 100; `blur_sigma`: standard deviation of the kernel, pixels.

A detector sees the statistics of all detectors, so one can ask another. Those that hide pixels come
first and see only each other's: where they hide something, it is filled before the others look.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

Statistics = Mapping[str, Tensor]
"""By `detector.statistic`: (B,) or (B, k), float32."""
Columns = dict[str, Tensor]

SIZES = ("sigma", "slope", "correlation", "quality", "blur_sigma")
"""Columns that are no probabilities; 0 where the image does not have that dirt."""


class Rule(ABC):
    """Judges images by their statistics. A frozen dataclass of numbers, so workers can have it."""

    @abstractmethod
    def __call__(self, seen: Statistics) -> Columns:
        """Columns of images with these statistics, (B,) each."""


class Detector(ABC):
    """Finds the dirt of some kinds.

    Attributes:
        kinds: What it gives a probability for.
    """

    kinds: tuple[str, ...] = ()

    @abstractmethod
    def look(self, x: Tensor) -> dict[str, Tensor]:
        """Statistics of images (B, C, H, W), (B,) or (B, k) each, float32, finite."""

    @abstractmethod
    def fit(self, seen: Statistics) -> Rule:
        """The rule for a set whose images, (n,) of them, have these statistics."""

    def hidden(self, x: Tensor, kind: str) -> Tensor | None:
        """Pixels that say nothing in images (B, C, H, W) of this kind, (B, 1, H, W), bool.

        None where the kind leaves no pixel without any information.
        """
        return None
