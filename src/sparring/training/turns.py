"""A turn: its backward pass, and what all processes make of it before a weight changes."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..diffusion.noising import on_device
from ..objectives.base import Terms, Turn
from .sharding import gradients_stay


def backward(turns: Sequence[Turn], network: nn.Module, accelerator: Accelerator) -> list[Terms]:
    """Gradients of one turn, from all micro-batches and parts; one graph is alive at a time.

    loss = mean over micro-batches of mean over rows of the sum of all terms. Processes share their
    gradients in the last backward pass only. `network` is the player's, as prepared by accelerate.
    Returned are the terms of each micro-batch, per sample, detached.
    """
    seen: list[Terms] = []
    for micro, turn in enumerate(turns):
        seen.append({})
        for number, part in enumerate(turn.parts, start=1):
            last = micro == len(turns) - 1 and number == len(turn.parts)
            with nullcontext() if last else gradients_stay(network, accelerator):
                terms = part()
                loss = torch.stack(list(terms.values())).sum(0).mean() / len(turns)
                accelerator.backward(loss)
            for name, term in terms.items():
                before = seen[micro].get(name)
                seen[micro][name] = term.detach() if before is None else before + term.detach()
    return seen


@dataclass(frozen=True)
class Update:
    """What a turn asks the weights to do, as all processes agree on it."""

    losses: Sequence[Terms]  # the terms of each own micro-batch, per sample
    terms: dict[str, float]  # mean of each term over the global batch
    grad_norm: float  # of the gradients before clipping
    bad_loss: bool  # whether one is not finite, on any process
    bad_gradient: bool
    stop_asked: bool  # whether a process was told to stop after this batch

    @property
    def is_finite(self) -> bool:
        return not (self.bad_loss or self.bad_gradient)


def agreed(
    losses: Sequence[Terms], grad_norm: float, stop_asked: bool, accelerator: Accelerator
) -> Update:
    """One update for all processes, which call it together; see `Update` for the arguments."""
    each = {name: torch.stack([loss[name].mean() for loss in losses]) for name in losses[0]}
    terms = {name: float(means.mean()) for name, means in each.items()}
    bad_loss = not all(isfinite(term) for term in terms.values())
    values = [bad_loss, not isfinite(grad_norm), stop_asked, *terms.values()]
    if accelerator.num_processes > 1:
        together = on_device(torch.tensor(values, dtype=torch.float64), accelerator.device)
        values = cast("Tensor", accelerator.reduce(together, reduction="mean")).tolist()
    loss, gradient, asked, *means = values
    terms = dict(zip(terms, means, strict=True))
    return Update(losses, terms, grad_norm, loss > 0, gradient > 0, asked > 0)
