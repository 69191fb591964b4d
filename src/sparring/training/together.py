"""What one process cannot do, none goes on from: errors are shared, so nobody waits for ever."""

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from ..errors import UserError

T = TypeVar("T")
DISK_ERRORS = (OSError, SafetensorError)
FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
"""Reasons, `in_words`, that free space would end: a full disk, a quota."""


def first_failure(action: Callable[[], None]) -> str | None:
    """Run `action` on every process and tell them all why it failed on one, None if on none.

    Only what a disk refuses counts as a failure; whatever else is raised goes through.
    """
    reason = None
    try:
        action()
    except DISK_ERRORS as error:
        reason = in_words(error)
    return next((one for one in gather_object([reason]) if one is not None), None)


def on_main(action: Callable[[], T]) -> T:
    """What `action` returns, or the UserError it raises, from the main process to all of them."""
    state = PartialState()
    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            answer[0] = action()
        except UserError as error:
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def in_words(error: BaseException) -> str:
    """The reason alone: safetensors wraps it into Rust's words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    full = [reason for reason in FULL if reason in str(error)]
    return full[0] if full else " ".join(str(error).split())
