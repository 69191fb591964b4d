"""What a kind of dirt is.

    @dataclass
    class Rain(Corruption):
        drops: Annotated[int, Limits(at_least=1)] = 10

        def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor: ...

In a config this is `contamination: {kind: path/to/rain.py:Rain, drops: 3}`. The options of a kind
are the arguments of its constructor, kept as attributes of the same names; of a dataclass they are
checked by their types (`options.checked`). Those of `section.OF_THE_SET` are the data set's.

A kind sees one sample, its label and a generator seeded for this sample alone, so the result cannot
depend on batch, worker or process. Arithmetic is elementwise in a fixed order (no convolution, no
threaded sum), so it is the same to the bit with any number of threads; on another processor normal
noise may differ in its last digit. No kind clips, but jpeg, whose files hold 8 bits; the data set
does that (see contaminated).

Images are (C, H, W) in [0, 1]; vectors (d,) in data units.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ...options.sections import options_of
from ..base import Dataset
from .options import checked, drawn, may_range


@dataclass(frozen=True)
class Knowledge:
    """What is true of one dirty sample, on the scale of the data.

    Attributes:
        sigma, slope: Its noise has the variance sigma^2 + slope v at a value v.
        correlation: Of that noise, see the kind correlated; 0: white.
        quality: Of the JPEG that it was, 1 to 100; 0: it was none.
        blur_sigma: Standard deviation of the Gaussian kernel that would take as much, pixels.
        hidden: Pixels that say nothing, (H, W), bool: those that were replaced, whether or not that
            changed them, since those that stayed by chance were chosen by what they are.
        weight: 0 for a sample that teaches nothing.
    """

    sigma: float = 0.0
    slope: float = 0.0
    correlation: float = 0.0
    quality: float = 0.0
    blur_sigma: float = 0.0
    hidden: Tensor | None = None
    weight: float = 1.0


NOTHING = Knowledge(weight=0.0)


class Dirt(ABC):
    """What is done to the dirty samples of a data set. Abstract."""

    kind: str = ""  # its name in a config
    images_only: bool = True  # whether it refuses vectors

    def __post_init__(self) -> None:
        for name, (kind, _) in options_of(type(self)).items():
            setattr(self, name, checked(name, kind, getattr(self, name)))

    @abstractmethod
    def of(self, number: int) -> "Corruption":
        """What the dirty sample of this number gets; the dirty ones are counted from 0."""

    def prepared(self, dataset: Dataset, seed: int) -> Self:
        """This kind with what it has to learn from the data it will make dirty, or to read first;
        UserError if the data do not allow it."""
        return self

    def settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """The options that matter to samples of this shape, by name, as JSON can hold them."""
        return {name: getattr(self, name) for name in options_of(type(self))}


class Corruption(Dirt):
    """What one sample gets. Abstract; most kinds are this, for every dirty sample the same one."""

    def of(self, number: int) -> "Corruption":
        return self

    @abstractmethod
    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        """The dirty version of one sample, of the same shape; `x` is left as it is."""

    def values(self, rng: torch.Generator) -> dict[str, Any]:
        """This sample's own of the options that may be ranges, drawn in their order."""
        return {
            name: drawn(getattr(self, name), rng)
            for name, (kind, _) in options_of(type(self)).items()
            if may_range(kind)
        }

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        """What happened to a sample of this shape whose generator is `rng`, for the manifest. It
        draws from `rng` in the order in which `apply` does: the options' values, or more."""
        return {**self.settings(shape), **self.values(rng)}

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        """What is true of a sample of this shape whose generator is `rng`; draws as `describe`. Of
        a kind that does not say, a sample teaches nothing."""
        return NOTHING
