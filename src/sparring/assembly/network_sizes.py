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

from ..diffusion.denoiser import Denoiser
from ..diffusion.schedules import Schedule
from ..support.errors import UserError

Shape = tuple[int, ...]
Trial = Callable[[Shape], str | None]
"""Shape of a sample -> why the network does not take it; None: it does."""
_STEPS = (*range(2, 17), 20, 24, 28, 32, 48, 64, 96, 128)
"""Of what sides may have to be multiples."""
N_ALIKE = 6
"""Sizes that are tried before a reason that does not change is believed."""


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
            without; None: the network is too large for that, and the answer without memory counts
            unless it is about the missing memory.
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
    if not near and real is None and "meta" in reason.lower():
        return
    if not near and real is not None:
        reason = real(shape)
        if reason is None:
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
    """The nearest smaller and larger shapes that fit, of sides that are multiples of one number.

    A network that gives one and the same reason for `N_ALIKE` sizes does not mind the size.
    """
    if len(shape) != 3:
        return []
    found: list[Shape] = []
    reasons: dict[Shape, str | None] = {}

    def why(one: Shape) -> str | None:
        if one not in reasons:
            reasons[one] = _why(fits, one)
        return reasons[one]

    for step in _STEPS:
        below = tuple(side // step * step for side in shape[1:])
        above = tuple(-(-side // step) * step for side in shape[1:])
        pair = [(shape[0], *one) for one in (below, above) if min(one) > 0 and one != shape[1:]]
        fitting = [one for one in pair if why(one) is None]
        if len(fitting) == 2 or (len(fitting) == 1 and not min(below)):
            return fitting
        found = found or fitting
        if len(reasons) >= N_ALIKE and len(set(reasons.values())) == 1:
            return []
    if not found and shape[1] != shape[2]:
        squares = [(shape[0], side, side) for side in sorted(shape[1:])]
        found = [one for one in squares if why(one) is None]
    return found


def _why(fits: Trial, shape: Shape) -> str | None:
    try:
        return fits(shape)
    except UserError as error:
        return str(error)


def _x(sides: Any) -> str:
    return "x".join(map(str, sides))
