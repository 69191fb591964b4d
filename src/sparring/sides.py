"""Can a network take samples of this height and width? It is asked, without memory or weights.

A U-Net halves the sides once a level and a transformer cuts them into patches; a side that does not
come out even ends in a traceback of shapes, or in samples of another size. So the network is built
on torch's device "meta", called once, and its answer must have the shape of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .denoiser import Denoiser
from .errors import UserError
from .schedules import Schedule

Shape = tuple[int, ...]
Trial = Callable[[Shape], str | None]
"""Shape of a sample -> why the network does not take it; None: it does."""
_STEPS = (*range(2, 17), 20, 24, 28, 32, 48, 64, 96, 128)
"""Of what sides may have to be multiples."""


def trial(
    build: Callable[[Shape], nn.Module],
    schedule: Schedule,
    kind: str,
    condition: Mapping[str, Tensor],
    n_outputs: int = 1,
    device: str = "meta",
) -> Trial:
    """One call of a network that is built for the occasion.

    Args:
        build: The network for samples of a shape.
        schedule: Its times are given to it as in training.
        kind: What it predicts.
        condition: Its further arguments, one row each.
        n_outputs: 2 for a learned variance: the output has twice the channels.
        device: "meta", or "cpu" for networks that look at numbers.
    """

    def answer(shape: Shape) -> str | None:
        expected = (1, n_outputs * shape[0], *shape[1:])
        t = schedule.times(torch.tensor([0.5])).to(device)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device(device):
                network = build(shape).eval()
                own = {name: value.to(device) for name, value in condition.items()}
                output = Denoiser(network, schedule, kind).output(torch.zeros(1, *shape), t, **own)
        except UserError:
            raise
        except Exception as error:  # whatever a network makes of a shape
            return " ".join(str(error).split()) or type(error).__name__
        came = tuple(output.shape)
        return None if came == expected else f"it answers with {_x(came[1:])}"

    return answer


def check_sides(meta: Trial, real: Trial | None, shape: Shape, place: str, factor: int = 1) -> None:
    """Refuses samples that the network does not take, with the nearest that it does.

    Args:
        meta: A call without memory.
        real: A call with memory, which has the last word where the network takes no other shape
            without; None: then nothing is said.
        shape: Of a sample, (C, H, W) or (d,).
        place: The network in words, such as "model.network (UNet2DModel)".
        factor: Pixels per element along a side, of latents.

    Raises:
        UserError: one line.
    """
    refused: UserError | None = None
    try:
        reason = meta(shape)
    except UserError as error:  # its constructor does not take such a side, or anything else
        reason, refused = str(error), error
    if reason is None:
        return
    near = nearest(meta, shape)
    if not near and refused is not None:
        raise refused
    if not near:
        reason = None if real is None else real(shape)
        if reason is None or real is None:
            return
        near = nearest(real, shape)
    what = "vectors of" if len(shape) == 1 else "images of"
    sides = _x([factor * side for side in shape[:0:-1]] or shape)
    if not near:
        raise UserError(f"{place} does not take {what} {sides}: {reason}")
    other = [_x([factor * side for side in one[:0:-1]]) for one in near]
    if all(len(set(one[1:])) == 1 for one in (shape, *near)):
        word = "data.resolution " + " or ".join(str(factor * one[-1]) for one in near)
    else:
        word = " or ".join(other) + " (width x height)"
    if refused is not None:
        raise UserError(f"{refused}; the nearest that it takes: {word}")
    raise UserError(f"{place} does not take {what} {sides}, which do not come out even: use {word}")


def nearest(fits: Trial, shape: Shape) -> list[Shape]:
    """The nearest smaller and larger shapes that fit, of sides that are multiples of one number."""
    if len(shape) != 3:
        return []
    found: list[Shape] = []
    for step in _STEPS:
        below = tuple(side // step * step for side in shape[1:])
        above = tuple(-(-side // step) * step for side in shape[1:])
        pair = [(shape[0], *one) for one in (below, above) if min(one) > 0 and one != shape[1:]]
        fitting = [one for one in pair if _fits(fits, one)]
        if len(fitting) == 2 or (len(fitting) == 1 and not min(below)):
            return fitting
        found = found or fitting
    if not found and shape[1] != shape[2]:
        squares = [(shape[0], side, side) for side in sorted(shape[1:])]
        found = [one for one in squares if _fits(fits, one)]
    return found


def _fits(fits: Trial, shape: Shape) -> bool:
    try:
        return fits(shape) is None
    except UserError:
        return False


def _x(sides: Any) -> str:
    return "x".join(map(str, sides))
