"""A worker that dies is replaced, and the batches are those that it would have read."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from sparring.data import workers
from sparring.data.base import InMemory
from sparring.data.batches import make_loader
from sparring.support.errors import UserError


@pytest.mark.parametrize(
    ("asked", "is_decoded", "on_gpu", "method", "n_cores", "n_processes", "expected"),
    [
        ("auto", True, True, "fork", 16, 1, 4),
        ("auto", True, True, "fork", 16, 8, 1),
        ("auto", True, True, "fork", 3, 1, 2),
        ("auto", True, True, "fork", 1, 1, 0),
        ("auto", True, True, "spawn", 16, 1, 0),
        ("auto", True, False, "fork", 16, 1, 0),
        ("auto", False, True, "fork", 16, 1, 0),
        (3, False, False, "spawn", 1, 1, 3),
        (0, True, True, "fork", 16, 1, 0),
    ],
)
def test_auto_reads_beside_a_gpu_that_would_wait(
    monkeypatch, asked, is_decoded, on_gpu, method, n_cores, n_processes, expected
):
    monkeypatch.setattr(workers.multiprocessing, "get_start_method", lambda allow_none: method)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: n_cores)
    assert workers.n_readers(asked, is_decoded, on_gpu, n_processes) == expected


def data() -> InMemory:
    return InMemory("numbers", torch.arange(40.0)[:, None])


def indices(loader, kill_at=()):
    """The indices of 20 micro-batches; workers are killed before some are asked for."""
    found, others = [], children()
    for number, batch in zip(range(20), loader, strict=False):
        found.append(batch["index"].tolist())
        if number in kill_at:
            kill(children() - others)
    return found


def children() -> set[int]:
    """This process's children: workers, those of earlier tests that are just ending among them."""
    me = os.getpid()
    found = set()
    for number in Path(f"/proc/{me}/task/{me}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if b"resource_tracker" not in Path(f"/proc/{number}/cmdline").read_bytes():
                found.add(int(number))
    return found


def kill(workers: set[int]) -> None:
    """Kill workers, and wait until each has ended and this process has been told."""
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    for worker in workers:
        with contextlib.suppress(ChildProcessError):  # torch has taken its end already
            os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
@pytest.mark.parametrize("n_micro", [1, 2])
def test_killed_workers_change_no_batch(capsys, n_micro):
    def loader(n_workers):
        return make_loader(data(), 3, 8, n_micro=n_micro, n_workers=n_workers, first_batch=2)

    whole = indices(loader(0))
    assert indices(loader(2), kill_at=(4, 11)) == whole
    assert capsys.readouterr().err.count("the workers are replaced, no batch is lost") == 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
def test_workers_that_die_again_and_again_are_one_error():
    with pytest.raises(UserError, match=r"4 times .*lower data.dataloader_num_workers"):
        indices(make_loader(data(), 3, 8, n_workers=1), kill_at=(2, 4, 6, 8))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
def test_the_error_comes_while_waiting_and_nowhere_else():
    """A step of the optimiser is never interrupted, however long the worker has been dead."""
    others = children()
    batches = iter(make_loader(data(), 3, 8, n_workers=1))
    next(batches)
    kill(children() - others)
    for _ in range(20):  # Python runs signal handlers between any two of these
        time.sleep(0.01)
    assert next(batches)["index"].shape == (8,)


def test_an_error_of_the_data_is_not_a_lost_worker():
    class Broken(InMemory):
        def rows(self, indices, positions):
            raise UserError("no image at all")

    broken = Broken("broken", torch.zeros(8, 1))
    for n_workers in (0, 1):
        with pytest.raises(UserError, match=r"^no image at all$"):
            next(iter(make_loader(broken, 0, 4, n_workers=n_workers)))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")
def test_two_loaders_at_once_each_find_their_own(capsys):
    others = children()
    first = iter(make_loader(data(), 3, 8, n_workers=1))
    found = [next(first)["index"].tolist()]
    mine = children() - others
    second = iter(make_loader(data(), 4, 8, n_workers=1))
    next(second)
    kill(mine)
    found += [next(first)["index"].tolist() for _ in range(8)]
    assert next(second)["index"].shape == (8,)
    assert found == indices(make_loader(data(), 3, 8))[:9]
    assert "the workers are replaced" in capsys.readouterr().err
