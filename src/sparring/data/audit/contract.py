"""What a detector of dirt is: it looks at single images, then at the set, then judges each image.

    seen = detector.look(x)              # statistics of each image, in any batch, worker or process
    rule = detector.fit(all_seen)        # once, from those of the set (of a stream: of a sample)
    columns = rule(seen)                 # of each image again: probabilities, sizes

Images are (B, C, H, W) in [0, 1], multiples of 1/255 (what files hold) or floats, of any size from
8x8 to 1024x1024, grey or colour. What an image's statistics are depends on this image alone.

Columns that a rule may give, each (B,), float32:

- a probability for each of the detector's kinds, under the name that `contamination.kind` gives it:
  gaussian, poisson_gaussian, correlated, jpeg, blur, enlarged, salt_and_pepper, missing_blocks,
  watermark, outlier;
- sizes: `sigma`, `slope`, `correlation`, `quality` and `blur_sigma`, see `table.Table`.

A detector sees the statistics of all detectors. Those that hide pixels come first and see only each
other's: where they hide something, it is filled before the others look. One that must not take the
dirt of another for its own names it in `after`: what that one said of each image is then among the
statistics (`said`), when its rule is fitted and when it judges.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Statistics = Mapping[str, Tensor]  # by `detector.statistic`: (B,) or (B, k), float32
Columns = dict[str, Tensor]

HAS = 0.5  # an image has the kinds of dirt whose probability is above this
SAID = "said."  # begins the names of the statistics that are what earlier detectors said, by kind


def said(seen: Statistics, kinds: Iterable[str]) -> Tensor:
    """The largest probability that earlier detectors gave to one of these kinds, (B,); else 0."""
    found = [seen[SAID + kind] for kind in kinds if SAID + kind in seen]
    if not found:
        return torch.zeros(len(next(iter(seen.values()))))
    return torch.stack(found).amax(0)


class Rule(ABC):
    """Judges images by their statistics. A frozen dataclass of numbers, so workers can have it."""

    @abstractmethod
    def __call__(self, seen: Statistics) -> Columns:
        """Columns of images with these statistics, (B,) each."""


class Detector(ABC):
    """Finds the dirt of some kinds."""

    kinds: tuple[str, ...] = ()  # what it gives a probability for
    after: tuple[str, ...] = ()  # detectors that judge before it, as those that hide pixels do

    @abstractmethod
    def look(self, x: Tensor) -> dict[str, Tensor]:
        """Statistics of images (B, C, H, W), (B,) or (B, k) each, float32, finite."""

    @abstractmethod
    def fit(self, seen: Statistics) -> Rule:
        """The rule for a set whose images, (n,) of them, have these statistics."""

    def hidden(self, x: Tensor, kind: str) -> Tensor | None:
        """Pixels that say nothing in images (B, C, H, W) of this kind, (B, 1, H, W), bool."""
        return None
