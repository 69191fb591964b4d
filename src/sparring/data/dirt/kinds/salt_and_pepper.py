"""Dead pixels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import Corruption
from ..options import Amount, amount, drawn


@dataclass
class SaltAndPepper(Corruption):
    """Pixels replaced by white or black, all channels together.

    Args:
        share: Probability that a pixel is replaced, in [0, 1]; half of them turn 1, half 0. A
            number or [low, high].
    """

    share: Amount = 0.1

    def __post_init__(self) -> None:
        self.share = amount("share", self.share, at_least=0, at_most=1)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        share = drawn(self.share, rng)
        u = torch.rand(x.shape[1:], generator=rng)
        out = torch.where(u < share / 2, 0.0, x)
        return torch.where(u >= 1 - share / 2, 1.0, out)

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        return {"share": drawn(self.share, rng)}
