"""Classes as data name them: words, ids with gaps, folders; and in which order they are numbered.

labels, names = labels_of([5, 700, 5], None, "label", "cats.parquet", explicit=True)
# tensor([0, 1, 0]), ["5", "700"]
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..support.errors import UserError

N_NAMED = 5  # absent classes


def natural(name: str) -> tuple[list[Any], str]:
    """A key that sorts names as people do: 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    # a number by its length and its digits, as `int` takes no more than 4,300 of them
    digits = [part.lstrip("0") if i % 2 else part for i, part in enumerate(parts)]
    return [(len(part), part) if i % 2 else part for i, part in enumerate(digits)], name


def numbers(n: int) -> list[str]:
    """Class names 0, 1, ..., n - 1."""
    return [str(i) for i in range(n)]


def named(values: Sequence[Any], first: Sequence[Any] = ()) -> tuple[Tensor, list[str]]:
    """Consecutive classes of ids or words, (n,), and their names in natural order. Ids 5, 700 and
    90000 become classes 0, 1 and 2, which are called 5, 700 and 90000. What only `values` hold is
    numbered behind `first`."""
    names: dict[str, None] = {}
    for some in (first, values):
        is_word = len(some) > 0 and isinstance(some[0], str)
        names |= dict.fromkeys(map(str, sorted(set(some), key=natural if is_word else None)))
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[str(value)] for value in values], dtype=torch.long), list(names)


def labels_of(
    values: Sequence[Any],
    kind: Any,
    column: str,
    origin: str,
    explicit: bool,
    remarks: list[str],
    others: Iterable[Any] = (),
) -> tuple[Tensor | None, list[str]]:
    """Classes of a column of classes, ids from 0 on or words; None if it holds anything else.

    Args:
        values: The column; its feature `kind` may know the names.
        column, origin: What messages call the column and the whole.
        explicit: Whether the column was named in the config; then it must hold classes (UserError).
        remarks: What is no class is said here.
        others: The column in the rows of train, where `values` are those of another split: both
            must number their classes alike. What only `values` hold is numbered last.
    """
    names = getattr(kind, "names", None)
    found, wrong = _known(values, len(names) if names else None)
    known, wrong_there = _known(others, None)
    is_one_kind = len({type(value) for value in found + known}) <= 1
    if wrong is None and wrong_there is None and is_one_kind:
        if names:
            return torch.tensor(found, dtype=torch.long), list(names)
        return named(found, known)
    reason = "it mixes kinds, or is none in train"
    if wrong is not None:
        reason = f"row {wrong} holds {values[wrong]!r:.40}"
    if explicit:
        raise UserError(
            f"data.label_column: column '{column}' of {origin} must hold classes in every row, "
            f"integers from 0, or words: {reason}"
        )
    remarks.append(
        f"column '{column}' of {origin} is not read as classes, which are integers from 0 or "
        f"words in every row: {reason}"
    )
    return None, []


def _known(values: Iterable[Any], n: int | None) -> tuple[list[Any], int | None]:
    """The values as bools, ids or words, and the first row that is none of these."""
    found = []
    for row, value in enumerate(values):
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError:
                return found, row
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        is_id = isinstance(value, int) and 0 <= value < (n or math.inf)
        if not (is_id or (isinstance(value, str) and n is None)):
            return found, row
        found.append(value)
    return found, None


def absent_remark(origin: str, names: Sequence[str], absent: Sequence[int]) -> list[str]:
    """What is said of classes without a sample."""
    if not absent:
        return []
    some = ", ".join(f"'{names[i]}'" for i in absent[:N_NAMED])
    more = ", ..." if len(absent) > N_NAMED else ""
    return [f"{len(absent)} of {len(names)} classes of {origin} have no image: {some}{more}"]
