"""The ways a command ends early, each one line without a traceback and with an exit code.

2     the user asked for something that cannot be done, or the machine did not allow it
3     a number was not finite: training stopped before the update
130   Ctrl-C (SIGINT), 143 SIGTERM: the batch was finished and a checkpoint written
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """One clear line that says what is wrong and what to do; shown without a traceback."""

    exit_code = 2


class TrainingStopped(UserError):  # noqa: N818 - it is a decision, not an accident
    """Training stopped before an optimiser step because a number was not finite."""

    exit_code = 3


class NotSaved(UserError):  # noqa: N818 - the state of a checkpoint
    """A checkpoint could not be written; those before it are untouched."""


class LockHeld(UserError):  # noqa: N818 - the state of a run folder
    """Another start writes the run folder; nothing was touched."""


class LockLost(UserError):  # noqa: N818 - the state of a run folder
    """Another start has taken the run folder over; nothing was written since."""


class Interrupted(UserError):  # noqa: N818 - somebody asked for it
    """A signal asked for the end, and all was saved; the exit code is a shell's, 128 + signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


OUT_OF_MEMORY = (
    "OutOfMemoryError", "not enough memory", "can't allocate memory", "out of memory",
    "ALLOC_FAILED",
)  # fmt: skip
"""In torch's errors, which have no type of their own for it on a CPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by Python, the CPU's allocator or a GPU; without torch."""
    said = f"{type(error).__name__}: {error}"
    is_said = any(words in said for words in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_said)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest known word; "" when none is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f" - did you mean {near[0]!r}?" if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The same, or all known words when none is near."""
    words = sorted(known)
    return nearest(word, words) or f" (known: {', '.join(words)})"


@contextmanager
def one_line_errors(
    place: str, kinds: tuple[type[Exception], ...] = (ValueError, TypeError, NotImplementedError)
) -> Iterator[None]:
    """Errors become one line that names the place, such as a key of a config or a model."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(reason if place in reason else f"{place}: {reason}") from error
