"""What a metric is: what it looks at, what it computes, and how its figures are labelled.

    class Grey(Metric):
        figures = (Figure("grey", "Mean grey level", "of all samples", better="true"),)
        looks_at = "images"

        def measure(self, seen, against):
            return {"grey": seen["images"].mean().item(), "grey_true": 0.5}

Samples come part by part: `look` says what is kept of a part, `measure` sees what was kept of all.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor

from ..figure import Figure
from ..networks.judges import Readings
from ..store.comparison import Comparison

__all__ = ["Batch", "Comparison", "Figure", "Metric", "given"]

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """A part of the samples, in the forms that metrics look at."""

    x0: Tensor  # (N, *) in data units: images on the [0, 1] scale, neither clipped nor rounded
    against: Comparison
    first: int = 0  # number of the first of them
    captions: Sequence[str] | None = None  # what each was to show (N,), None where nobody said

    @cached_property
    def images(self) -> Tensor:
        """Images (N, C, H, W), clipped to [0, 1]."""
        return self.x0.clamp(0, 1)

    @cached_property
    def features(self) -> Tensor:
        """Of the images, by evaluation.extractor, (N, D)."""
        return self.against.reference.extractor(self.images)

    @cached_property
    def readings(self) -> Readings:
        """What the judges of captioned samples say of the images."""
        panel = self.against.panel
        return {} if panel is None else panel.read(self.images, self.captions)


class Metric(ABC):
    """A way to measure samples. Abstract."""

    figures: ClassVar[tuple[Figure, ...]] = ()  # as tables show them; the keys are `measure`'s
    # "features" or "images" of images, as in `Batch`; "x0" where the truth is known
    looks_at: ClassVar[Literal["features", "images", "x0"]] = "features"
    needs: ClassVar[tuple[str, ...]] = ()  # of the `Comparison`, by name: training, proximal, ...
    place: ClassVar[float] = float("inf")  # of its figures in tables; one's own come last

    def suits(self, against: Comparison) -> bool:
        """Whether it can measure samples that are compared with this."""
        data = against.reference.dataset
        is_seen = data.truth is not None if self.looks_at == "x0" else data.is_image
        return is_seen and all(getattr(against, need) is not None for need in self.needs)

    def prepare(self, against: Comparison) -> None:  # noqa: B027
        """Read what several processes read together, waiting for each other: metric by metric."""

    def look(self, batch: Batch) -> dict[str, Tensor]:
        """What is kept of a part of the samples, by name: a row a sample."""
        return {self.looks_at: getattr(batch, self.looks_at)}

    @abstractmethod
    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> Mapping[str, Any]:
        """JSON-ready figures by key, of what `look` of all metrics kept of all samples.
        Beside KEY may stand KEY_interval, the ends of its 95 % interval; KEY_of_reference, what the
        reference itself would have; KEY_true."""

    def protocol(self, against: Comparison) -> dict[str, Any]:
        """What must be alike for two figures to be compared, besides reference and features."""
        return {}


def given(value: T | None) -> T:
    """What is there, since `suits` found it."""
    if value is None:
        raise ValueError("samples are measured by a metric that does not suit them")
    return value
