"""What one process cannot do, none goes on from: errors are shared, so nobody waits for ever."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from .errors import UserError

T = TypeVar("T")
SLICE_SECONDS = 60.0
"""Of waiting for the main process: several processes wait for each other no longer than minutes."""
DISK_ERRORS = (OSError, SafetensorError)
FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
"""Reasons, `in_words`, that free space would end: a full disk, a quota."""


def first_failure(action: Callable[[], None]) -> str | None:
    """Run `action` on every process and tell them all why it failed on one, None if on none.
    Only what a disk refuses counts as a failure; whatever else is raised goes through."""
    reason = None
    try:
        action()
    except DISK_ERRORS as error:
        reason = in_words(error)
    return next((one for one in gather_object([reason]) if one is not None), None)


def on_main(action: Callable[[], T]) -> T:
    """What `action` returns, or the UserError it raises, from the main process to all of them."""
    answer: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            answer[0] = action()
        except UserError as error:
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def on_main_for_long(action: Callable[[], T]) -> T:
    """`on_main` for what may take hours: the others ask again and again, since no process group
    waits for one answer longer than some minutes."""
    state = PartialState()
    if state.num_processes == 1:
        return action()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(action) if state.is_main_process else Future[T]()
        while not on_main(lambda: bool(wait([future], SLICE_SECONDS).done)):
            pass
        return on_main(future.result)


def in_words(error: BaseException) -> str:
    """The reason alone: safetensors wraps it into Rust's words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    full = [reason for reason in FULL if reason in str(error)]
    return full[0] if full else " ".join(str(error).split())
