"""Options of a kind: checked once, where the kind is made, and drawn where they are ranges.

A range [low, high] means that each image has its own value, uniform between the two.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from ...support.errors import did_you_mean

Amount = float | Sequence[float]
"""One value for all images, or [low, high]."""
WholeAmount = int | Sequence[int]
"""The same in whole numbers; both ends are drawn too."""


class WrongOption(ValueError):  # noqa: N818 - an option, as a TypeError is of a type
    """An option that cannot be. The message begins with its name, so that whoever knows the place
    of the option in a config can put that in front."""


def refuse(name: str, wanted: str, got: Any) -> WrongOption:
    """The error that says what an option must be."""
    return WrongOption(f"{name} must be {wanted}, got {got!r:.60}")


def number(name: str, value: Any, **limits: float) -> float:
    """A finite number.

    Args:
        name: Of the option.
        value: What was given for it.
        limits: at_least, above, at_most.

    Raises:
        WrongOption: for anything else.
    """
    if not _is_number(value, limits):
        raise refuse(name, f"a number{_words(limits)}", value)
    return float(value)


def amount(name: str, value: Any, **limits: float) -> float | list[float]:
    """A number, or a range of numbers [low, high]; limits as of `number`."""
    if not _is_range(value, limits):
        if isinstance(value, list | tuple) or not _is_number(value, limits):
            raise refuse(name, f"a number{_words(limits)}, or a range [low, high] of such", value)
        return float(value)
    low, high = value
    return [float(low), float(high)]


def whole(name: str, value: Any, **limits: float) -> int:
    """A whole number; limits as of `number`."""
    if not (isinstance(value, int) and _is_number(value, limits)):
        raise refuse(name, f"a whole number{_words(limits)}", value)
    return value


def whole_amount(name: str, value: Any, **limits: float) -> int | list[int]:
    """A whole number, or a range of whole numbers [low, high]; limits as of `number`."""
    if _is_range(value, limits) and all(isinstance(end, int) for end in value):
        return list(value)
    if not (isinstance(value, int) and _is_number(value, limits)):
        raise refuse(name, f"a whole number{_words(limits)}, or a range [low, high] of such", value)
    return value


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of some words."""
    if value not in known:
        hint = did_you_mean(str(value), known)
        wanted = f"one of {', '.join(known)}"
        raise WrongOption(
            f"{name} must be {wanted}, got {value!r:.60}{hint if 'did' in hint else ''}"
        )
    return value


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise refuse(name, "true or false", value)
    return value


def drawn(value: Amount, rng: torch.Generator) -> float:
    """This image's value; `rng` is used for a range only."""
    if isinstance(value, int | float):
        return value
    low, high = value
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def whole_drawn(value: WholeAmount, rng: torch.Generator) -> int:
    """This image's value; `rng` is used for a range only."""
    if isinstance(value, int):
        return value
    low, high = value
    return int(torch.randint(low, high + 1, (), generator=rng))


def _is_number(value: Any, limits: dict[str, float]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return (
        value >= limits.get("at_least", -math.inf)
        and value > limits.get("above", -math.inf)
        and value <= limits.get("at_most", math.inf)
    )


def _is_range(value: Any, limits: dict[str, float]) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(_is_number(end, limits) for end in value) and value[0] <= value[1]


def _words(limits: dict[str, float]) -> str:
    signs = {"at_least": ">=", "above": ">", "at_most": "<="}
    return "".join(
        f"{' and' if i else ''} {signs[name]} {limit:g}"
        for i, (name, limit) in enumerate(limits.items())
    )
