"""The two ways a run ends early: the user asked for something impossible, or the numbers broke."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One clear line that says what is wrong and what to do; shown without a traceback."""


class TrainingStopped(UserError):  # noqa: N818 - it is a decision, not an accident
    """Training stopped before an optimiser step because a loss or gradient was not finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest known word, or all of them when none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" - did you mean {near[0]!r}?" if near else f" (known: {', '.join(words)})"
