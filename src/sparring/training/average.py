"""The moving average of the weights that learn."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

foreach: Any = torch  # its functions of lists of tensors have names with an underscore


class MovingAverage:
    r"""shadow <- d shadow + (1 - d) weights, at update n = 1, 2, ...

    With warm-up, d = min(decay, 1 - n^{-3/4}): the first update copies the weights, as in the
    train_unconditional script of diffusers. Without, d = decay from the first update on and the
    shadow starts at the initial weights, as in the official code of the DRO paper.

    The `EMAModel` of diffusers can give the same bits. Importing it takes a second, as it brings
    networks, loaders and peft along.
    """

    def __init__(self, weights: Iterable[Tensor], decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self.shadow = [weight.detach().clone() for weight in weights]
        self.n_updates = 0
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def step(self, weights: Sequence[Tensor]) -> None:
        """One update."""
        self.n_updates += 1
        warm = 1 - float(self.n_updates) ** -0.75
        decay = min(warm, self.decay) if self.warmup else self.decay
        apart = foreach._foreach_sub(self.shadow, list(weights))
        foreach._foreach_sub_(self.shadow, apart, alpha=1 - decay)

    @torch.no_grad()
    def copy_to(self, weights: Sequence[Tensor]) -> None:
        """The weights become the average."""
        foreach._foreach_copy_(list(weights), self.shadow)

    def store(self, weights: Sequence[Tensor]) -> None:
        """Keep these weights in the CPU's memory, until `restore`."""
        self._kept = [weight.detach().cpu().clone() for weight in weights]

    @torch.no_grad()
    def restore(self, weights: Sequence[Tensor]) -> None:
        """The weights become those that were kept."""
        foreach._foreach_copy_(list(weights), self._kept)
        self._kept = []
