"""The backward pass of a turn: what the loop and `sparring replay` do alike."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import nn

from ..objectives.base import Terms, Turn
from .sharding import gradients_stay


def backward(turns: Sequence[Turn], network: nn.Module, accelerator: Accelerator) -> list[Terms]:
    """Gradients of one turn, from all micro-batches and parts; one graph is alive at a time.

    loss = mean over micro-batches of mean over rows of the sum of all terms. Processes share their
    gradients in the last backward pass only.

    Args:
        turns: The turn of each micro-batch.
        network: The player's network, as prepared by accelerate.
        accelerator: Scales for fp16.

    Returns:
        The terms of each micro-batch, per sample, detached.
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
