"""Dead pixels."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, Limits, drawn


@dataclass
class SaltAndPepper(Corruption):
    """Pixels replaced by white or black, all channels together.

    Args:
        share: Probability that a pixel is replaced, in [0, 1]; half of them turn 1, half 0. A
            number or [low, high].
    """

    share: Annotated[Amount, Limits(at_least=0, at_most=1)] = 0.1

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        black, white = self._replaced(tuple(x.shape), rng)
        return torch.where(white, 1.0, torch.where(black, 0.0, x))

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        black, white = self._replaced(shape, rng)
        return Knowledge(hidden=black | white)

    def _replaced(self, shape: tuple[int, ...], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels that turn black, and those that turn white, (H, W) each, bool."""
        share = drawn(self.share, rng)
        u = torch.rand(shape[1:], generator=rng)
        return u < share / 2, u >= 1 - share / 2
