"""Options of a kind: their types say what they may be, and ranges are drawn for each image.

    sigma: Annotated[Amount, Limits(at_least=0)] = 0.1     # a number >= 0, or a range [low, high]

A range means that each image has its own value, uniform between the two ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import torch

from ...support.errors import did_you_mean

Amount = float | Sequence[float]
"""One value for all images, or [low, high]."""
WholeAmount = int | Sequence[int]
"""The same in whole numbers; both ends are drawn too."""


@dataclass(frozen=True)
class Limits:
    """Of a number, finite in any case."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf

    def hold(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most and self.above < value

    def __str__(self) -> str:
        signs = {"at_least": ">=", "above": ">", "at_most": "<="}
        said = [(signs[one.name], getattr(self, one.name)) for one in fields(self)]
        return " and".join(f" {sign} {limit:g}" for sign, limit in said if math.isfinite(limit))


class WrongOption(ValueError):  # noqa: N818 - an option, as a TypeError is of a type
    """An option that cannot be. The message begins with its name, so that whoever knows the place
    of the option in a config can put that in front."""


def refuse(name: str, wanted: str, got: Any) -> WrongOption:
    """The error that says what an option must be."""
    return WrongOption(f"{name} must be {wanted}, got {got!r:.60}")


def checked(name: str, kind: Any, value: Any) -> Any:
    """The value of an option as its type has it, or the WrongOption that says what it must be.

    The types are bool, a Literal of words, or float, int, Amount or WholeAmount, with Limits or
    without, each `| None`; others are let through.
    """
    limits = Limits()
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        limits = next((one for one in more if isinstance(one, Limits)), limits)
    inner = [one for one in get_args(kind) if one is not NoneType]
    if NoneType in get_args(kind) and len(inner) == 1:
        return None if value is None else checked(name, Annotated[inner[0], limits], value)
    if kind is bool and not isinstance(value, bool):
        raise refuse(name, "true or false", value)
    if get_origin(kind) is Literal and value not in inner:
        hint = did_you_mean(str(value), inner)
        error = refuse(name, f"one of {', '.join(inner)}", value)
        raise WrongOption(f"{error}{hint if 'did' in hint else ''}")
    if kind in (float, int, Amount, WholeAmount):
        return _number(name, kind, limits, value)
    return value


def _number(name: str, kind: Any, limits: Limits, value: Any) -> Any:
    is_whole, may_range = kind in (int, WholeAmount), kind in (Amount, WholeAmount)
    is_range = may_range and isinstance(value, list | tuple) and len(value) == 2
    ends: list[Any] = list(value) if is_range else [value]
    are_numbers = all(_is_number(end, is_whole) and limits.hold(end) for end in ends)
    if not are_numbers or ends[0] > ends[-1]:
        words = f"a {'whole ' if is_whole else ''}number{limits}"
        raise refuse(name, words + (", or a range [low, high] of such" if may_range else ""), value)
    ends = ends if is_whole else [float(end) for end in ends]
    return ends if is_range else ends[0]


def _is_number(value: Any, is_whole: bool) -> bool:
    kinds = (int,) if is_whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def may_range(kind: Any) -> bool:
    """Whether an option of this type may be a range."""
    return (get_args(kind)[0] if get_origin(kind) is Annotated else kind) in (Amount, WholeAmount)


def drawn(value: Amount, rng: torch.Generator) -> Any:
    """This image's value; `rng` is used for a range only, which is whole if its ends are."""
    if isinstance(value, int | float):
        return value
    low, high = value
    if isinstance(low, int):
        return int(torch.randint(low, int(high) + 1, (), generator=rng))
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))
