"""The run folder, before training: may it be written, is a run there already, what to resume from.

The main process looks and the others hear of it, then it writes: an error is the same on each.
While a run writes its folder it holds the folder's lock (see `lock`).
"""

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from accelerate import PartialState

from ..support.errors import UserError
from ..support.shared_errors import SLICE_SECONDS, on_main
from ..support.terminal import echo
from ..support.whole_files import remove
from .checkpoint import (
    CHECKPOINTS,
    checkpoint_step,
    checkpoints,
    complete_checkpoints,
    damage,
    put_aside,
    remove_leftovers,
)
from .lock import FOLDER as LOCK
from .lock import RunLock, Writer
from .processes import process_state

MARKS_OF_A_RUN = (
    "run.json", "metrics.jsonl", CHECKPOINTS, "training.json", "stopped.json", "model_index.json",
    "model.safetensors", "stopped",
)  # fmt: skip
PARTS_OF_A_RUN = (
    *MARKS_OF_A_RUN, "config.yaml", "logs", "samples", "data", "evaluation", "README.md", "unet",
    "transformer", "scheduler", "model.json", "pipeline.py",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunFolder(Writer):
    """A folder that is ours to write, until `close` or the end of a `with` block."""

    path: Path
    checkpoint: Path | None = None  # to continue from: verified; this run's own, or another one's
    is_fork: bool = False  # whether the run may differ from the one that the checkpoint is of

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_new(self) -> bool:
        """Whether nothing of this run is in the folder yet."""
        own = (self.path / CHECKPOINTS).resolve()
        return self.checkpoint is None or self.checkpoint.parent != own


def open_run(
    run_dir: str | Path,
    resume_from_checkpoint: str | None = None,
    overwrite_output_dir: bool = False,
    fork_from: str | None = None,
    wait_for_lock: float | None = None,
) -> RunFolder:
    """Check, create and lock the run folder; call it before anything slow is built.

    The newest checkpoint is the newest whose contents verify. Newer ones are put aside, and a line
    on stderr names each with the reason. For the arguments see section `training` of a config.
    LockHeld if another start writes it; UserError if the folder cannot be written, holds a run, or
    has not the checkpoint.
    """
    process_state()
    path = Path(run_dir)
    writer = _lock(path, wait_for_lock or 0.0)
    try:
        words = (path, resume_from_checkpoint, overwrite_output_dir, fork_from)
        checkpoint, is_fork = on_main(lambda: _open(*words))
    except BaseException:
        if writer.lock is not None and os.listdir(path) == [LOCK]:
            writer.lock.remove()
        writer.close()
        raise
    return RunFolder(writer.token, writer.lock, path=path, checkpoint=checkpoint, is_fork=is_fork)


def _lock(run_dir: Path, wait_seconds: float) -> Writer:
    """The main process takes the lock; the others hear from it often enough not to give up."""
    lock, began = RunLock(run_dir), time.monotonic()

    def attempt() -> str | None:
        _check_writable(run_dir)
        if _holds(run_dir, MARKS_OF_A_RUN) and not _holds(run_dir, ("run.json", CHECKPOINTS)):
            raise UserError(f"{run_dir} holds a model that is no run: choose another output_dir")
        left = wait_seconds - (time.monotonic() - began)
        return lock.token if lock.take(left, slice_seconds=SLICE_SECONDS) else None

    token = None
    try:
        while token is None:
            token = on_main(attempt)
    except BaseException:
        lock.release()  # it may have the system's half of it
        raise
    return Writer(token, lock if PartialState().is_main_process else None)


def _holds(run_dir: Path, names: Iterable[str]) -> bool:
    return any((run_dir / name).exists() for name in names)


def _open(
    run_dir: Path, wanted: str | None, overwrite: bool, fork_from: str | None
) -> tuple[Path | None, bool]:
    """The checkpoint to begin with and whether that is a fork; the folder is ready for it."""
    if wanted == "auto":
        remove_leftovers(run_dir / CHECKPOINTS)  # first: a checkpoint may come back
        seen = (run_dir / CHECKPOINTS).glob("*checkpoint-*")  # those that were put aside, too
        wanted = "latest" if any(path.is_dir() for path in seen) else None
        if wanted is None and not overwrite and (run_dir / "run.json").exists():
            echo(f"sparring: {run_dir} has no checkpoint yet: the run begins again", err=True)
            overwrite = True
    source = None if fork_from is None or wanted is not None else Path(fork_from)
    checkpoint, passed_over = _find(run_dir, wanted) if source is None else _origin_of_fork(source)
    continues = checkpoint is not None and checkpoint.parent == (run_dir / CHECKPOINTS).resolve()
    if source is not None and continues:
        advice = "choose another training.output_dir"
        raise UserError(f"training.fork_from names {run_dir} itself: {advice}")
    has_run = _holds(run_dir, MARKS_OF_A_RUN)
    newer = []
    if checkpoint is not None and continues:
        step, complete = checkpoint_step(checkpoint), complete_checkpoints(checkpoint.parent)
        newer = [one for one in complete if checkpoint_step(one) > step and one not in passed_over]
    if has_run and not continues and not overwrite:
        raise UserError(
            f"{run_dir} holds a run already: continue it with "
            "training.resume_from_checkpoint=latest, choose another training.output_dir, or "
            "delete it with training.overwrite_output_dir=true"
        )
    if newer and not overwrite:
        raise UserError(
            f"{run_dir} has checkpoints after the one to resume from (up to {newer[-1].name}), "
            "and two histories would mix: use training.resume_from_checkpoint=latest, or give up "
            "the newer ones with training.overwrite_output_dir=true"
        )
    try:
        if has_run and not continues:
            for name in PARTS_OF_A_RUN:
                remove(run_dir / name)
        for folder in newer:
            remove(folder)
        remove_leftovers(run_dir / CHECKPOINTS)
        for path, reason in passed_over.items():
            aside = put_aside(path) if continues else path
            echo(f"sparring: passed over checkpoint {aside}: {reason}", err=True)
    except OSError as error:
        raise UserError(f"cannot write in {run_dir} ({error.strerror or error})") from error
    return checkpoint, source is not None


def _check_writable(run_dir: Path) -> None:
    place = run_dir
    while not place.exists():
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(f"{place} is not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError("permission denied")
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        why = f"cannot write in {place} ({error.strerror or error})"
        raise UserError(f"{why}: choose another training.output_dir") from error


def _find(run_dir: Path, wanted: str | None) -> tuple[Path | None, dict[Path, str]]:
    """The checkpoint that was asked for, verified, and newer ones that do not verify, with why."""
    if wanted is None:
        return None, {}
    folder = run_dir / CHECKPOINTS
    if wanted == "latest":
        remove_leftovers(folder)  # first: a checkpoint may come back
        return _newest(folder)
    for path in (Path(wanted), folder / wanted):
        if path.is_dir():
            return _verified(path), {}
    known = ", ".join(path.name for path in complete_checkpoints(folder)) or "none"
    raise UserError(f"no checkpoint {wanted} to resume from; {folder} has: {known}")


def _origin_of_fork(source: Path) -> tuple[Path, dict[Path, str]]:
    """A checkpoint's folder, or the newest good one of a run."""
    if (source / CHECKPOINTS).is_dir():
        return _newest(source / CHECKPOINTS)
    if not source.is_dir():
        raise UserError(f"training.fork_from: no run and no checkpoint at {source}")
    return _verified(source), {}


def _newest(folder: Path) -> tuple[Path, dict[Path, str]]:
    """The newest checkpoint whose contents verify, and why each newer one does not."""
    passed_over: dict[Path, str] = {}
    for path in reversed(checkpoints(folder.resolve())):
        reason = damage(path, check_contents=True)
        if reason is None:
            return path, passed_over
        passed_over[path] = reason
    reasons = "".join(f"; {bad.name} cannot be used: {why}" for bad, why in passed_over.items())
    advice = "to start from the beginning leave training.resume_from_checkpoint out"
    raise UserError(f"no checkpoint to resume from in {folder}{reasons}: {advice}")


def _verified(path: Path) -> Path:
    reason = damage(path, check_contents=True)
    if reason is not None:
        raise UserError(f"checkpoint {path} cannot be used: {reason}")
    return path.resolve()
