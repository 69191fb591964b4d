"""Holes."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Limits, checked, refuse

GREYS = sorted((k / 16 for k in range(1, 16)), key=lambda grey: (abs(grey - 0.5), grey))
"""What `contrast` chooses from, the middle first."""


@dataclass
class MissingBlocks(Corruption):
    """Rectangles set to one value, in all channels.

    Each of the n_blocks has block_size times the height and the width of the image (rounded, at
    least one pixel) and lies inside it, every place equally likely; blocks may overlap.

    With fill: contrast the value is a grey that stands out from the image: of 1/16, 2/16 to 15/16
    the one that has the fewest of the image's values within 1/8, of equals the nearest to the
    middle. (Counting is exact in any order.)

    Args:
        n_blocks: How many.
        block_size: Share of each side, in (0, 1].
        fill: Their value, [0, 1] scale, or contrast.
    """

    n_blocks: Annotated[int, Limits(at_least=1)] = 1
    block_size: Annotated[float, Limits(above=0, at_most=1)] = 0.5
    fill: float | str = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.fill, str):
            self.fill = checked("fill", float, self.fill)
        elif self.fill != "contrast":
            raise refuse("fill", "a number or 'contrast'", self.fill)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        out = x.clone()
        fill = contrasting_grey(x) if isinstance(self.fill, str) else self.fill
        for top, left, height, width in self._blocks(tuple(x.shape), rng):
            out[:, top : top + height, left : left + width] = fill
        return out

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        return {"blocks": self._blocks(shape, rng), "fill": self.fill}

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        hidden = torch.zeros(shape[1:], dtype=torch.bool)
        for top, left, height, width in self._blocks(shape, rng):
            hidden[top : top + height, left : left + width] = True
        return Knowledge(hidden=hidden)

    def _blocks(self, shape: tuple[int, ...], rng: torch.Generator) -> list[list[int]]:
        """[top, left, height, width] of each, pixels."""
        sides = [max(1, round(self.block_size * side)) for side in shape[1:]]
        rooms = [whole - side + 1 for whole, side in zip(shape[1:], sides, strict=True)]
        return [
            [int(torch.randint(room, (), generator=rng)) for room in rooms] + sides
            for _ in range(self.n_blocks)
        ]


def contrasting_grey(x: Tensor) -> float:
    """The grey of `contrast` for an image, any shape, [0, 1]."""
    return min(GREYS, key=lambda grey: int(((x - grey).abs() <= 1 / 8).sum()))
