"""Processes that read data, and what happens when one of them dies.

torch raises an error from a signal handler, wherever the main thread is: in the middle of an
optimiser's step too. Here it is raised where batches are waited for; whoever asks for the next one
can begin again, for which batches come next is known (`batches`).
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader

MOST = 4  # workers of a training process, unless a config says how many


def n_readers(asked: int | str, is_decoded: bool, on_gpu: bool, n_processes: int = 1) -> int:
    """How many processes read for each of `n_processes` that train, where `asked` is auto: some if
    samples `is_decoded` beside a GPU, but one of the cores at most. Where processes are not forked
    there are none: they take seconds to start, and cannot be sent a class of the user's own file.
    """
    if not isinstance(asked, str):
        return asked
    method = multiprocessing.get_start_method(allow_none=True)
    method = method or multiprocessing.get_all_start_methods()[0]  # the system's default
    if not (is_decoded and on_gpu and method == "fork"):
        return 0
    return min(MOST, ((os.cpu_count() or 1) - 1) // n_processes)


class WorkerLost(Exception):  # noqa: N818 - the state of a process
    """A worker is gone: killed, mostly for want of memory. Internal."""


class Waiting:
    """Iterates over a loader; while it waits for a batch it may raise `WorkerLost`."""

    def __init__(self, loader: "DataLoader[Any]") -> None:
        self._batches, self._n_workers = iter(loader), loader.num_workers
        self._waits = self._something_ended = False
        in_main = threading.current_thread() is threading.main_thread()
        if loader.num_workers > 0 and in_main and hasattr(signal, "SIGCHLD"):  # not on Windows
            _listen()
            _ALL.add(self)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._waits = True
        try:
            if self._something_ended:
                self._look()
            return next(self._batches)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not self._is_lost(error):
                raise
            raise WorkerLost(" ".join(str(error).split()) or "a worker is gone") from error
        finally:
            self._waits = False

    def _is_lost(self, error: Exception) -> bool:
        """Whether torch says so, or a batch of a worker's cannot be fetched any more."""
        if isinstance(error, RuntimeError):
            return "DataLoader worker (pid" in str(error)
        # what is raised inside a worker comes with "Caught ..." before it
        return self._n_workers > 0 and not str(error).startswith("Caught ")

    def child_ended(self) -> None:
        """Some child process ended: a worker of this loader's, or another."""
        self._something_ended = True
        if self._waits:  # now: a worker that was killed while it wrote lets us wait for ever
            self._look()

    def _look(self) -> None:
        self._something_ended = False
        if callable(_of_torch):
            _of_torch(signal.SIGCHLD, None)


_ALL: "WeakSet[Waiting]" = WeakSet()
_of_torch: Any = None
"""torch's own handler, which raises if a worker of any loader failed; torch sets it only once."""


def _listen() -> None:
    global _of_torch
    before = signal.getsignal(signal.SIGCHLD)
    if before is not _on_child:
        _of_torch = before
        signal.signal(signal.SIGCHLD, _on_child)


def _on_child(number: int, frame: FrameType | None) -> None:
    for each in list(_ALL):
        each.child_ended()


def worker_init() -> partial[None]:
    """What each worker does first; to be made in the process that trains."""
    return partial(_begin, os.getpid())


def _begin(trainer: int, number: int) -> None:
    """Ctrl-C is for the trainer, which finishes its batch; without it there is nothing to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loud = sys.excepthook

    def quiet(kind: type[BaseException], *error: Any) -> None:
        # the trainer's end of a connection closes before it is gone
        if os.getppid() == trainer and not issubclass(kind, ConnectionError | EOFError):
            loud(kind, *error)

    sys.excepthook = quiet
