"""The run folder, before training: may it be written, is a run there already, what to resume from.

The main process looks and the others hear of it, then it writes: an error is the same on each.
While a run writes its folder it holds the folder's lock (see `lock`).
"""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from accelerate import PartialState

from ..support.errors import UserError
from ..support.shared_errors import SLICE_SECONDS, on_main
from ..support.terminal import echo
from .checkpoint import (
    CHECKPOINTS,
    checkpoint_step,
    complete_checkpoints,
    damage,
    newest_good,
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


@dataclass(frozen=True)
class RunFolder:
    """A folder that is ours to write, and the checkpoint to continue from, if any.

    It is locked until `close`, or until the end of a `with` block.

    Attributes:
        path: The run's folder.
        writer: This start, which holds the lock.
        checkpoint: Verified; this run's own, or another one's.
        is_fork: Whether the run may differ from the one that the checkpoint is of.
    """

    path: Path
    writer: Writer = field(repr=False)
    checkpoint: Path | None = None
    is_fork: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """See `Writer.check`."""
        self.writer.check()

    def close(self) -> None:
        """Let others write the folder."""
        self.writer.close()

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
    on stderr names each with the reason.

    Args:
        run_dir: The run's folder.
        resume_from_checkpoint: "latest", a checkpoint's folder, or its name in this run; "auto":
            the latest if there is any, good or damaged, else the beginning.
        overwrite_output_dir: Delete the run that is there; with a checkpoint to resume from, only
            the checkpoints newer than it.
        fork_from: Another run, or a checkpoint of one, whose state a new run begins with, unless
            `resume_from_checkpoint` is said.
        wait_for_lock: Seconds to wait while another start writes the folder.

    Raises:
        LockHeld: if another start writes it.
        UserError: if the folder cannot be written, holds a run, or has not the checkpoint.
    """
    process_state()
    path = Path(run_dir)
    writer = _lock(path, wait_for_lock or 0.0)
    try:
        checkpoint, is_fork = on_main(
            lambda: _open(path, resume_from_checkpoint, overwrite_output_dir, fork_from)
        )
    except BaseException:
        if writer.lock is not None and os.listdir(path) == [LOCK]:
            writer.lock.remove()
        writer.close()
        raise
    return RunFolder(path, writer, checkpoint, is_fork)


def _lock(run_dir: Path, wait_seconds: float) -> Writer:
    """The main process takes the lock; the others hear from it often enough not to give up."""
    lock, began = RunLock(run_dir), time.monotonic()

    def attempt() -> str | None:
        _check_writable(run_dir)
        _check_ours(run_dir)
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


def _check_ours(run_dir: Path) -> None:
    """Refuse a folder with a model that no run of ours has left."""
    has_run = any((run_dir / name).exists() for name in MARKS_OF_A_RUN)
    is_ours = any((run_dir / name).exists() for name in ("run.json", CHECKPOINTS))
    if has_run and not is_ours:
        raise UserError(f"{run_dir} holds a model that is no run: choose another output_dir")


def _open(
    run_dir: Path, wanted: str | None, overwrite: bool, fork_from: str | None
) -> tuple[Path | None, bool]:
    """The checkpoint to begin with and whether that is a fork; the folder is ready for it."""
    if wanted == "auto":
        wanted = "latest" if _has_checkpoints(run_dir) else None
        overwrite = overwrite or (wanted is None and _begins_again(run_dir))
    source = None if fork_from is None or wanted is not None else Path(fork_from)
    checkpoint, passed_over = _find(run_dir, wanted) if source is None else _origin_of_fork(source)
    is_fork = source is not None
    continues = checkpoint is not None and checkpoint.parent == (run_dir / CHECKPOINTS).resolve()
    if is_fork and continues:
        raise UserError(
            f"training.fork_from names {run_dir} itself: choose another training.output_dir"
        )
    has_run = any((run_dir / name).exists() for name in MARKS_OF_A_RUN)
    newer = []
    if checkpoint is not None and continues:
        newest, complete = checkpoint_step(checkpoint), complete_checkpoints(checkpoint.parent)
        newer = [path for path in complete if checkpoint_step(path) > newest]
        newer = [path for path in newer if path not in passed_over]
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
                _remove(run_dir / name)
        for folder in newer:
            _remove(folder)
        remove_leftovers(run_dir / CHECKPOINTS)
        for path, reason in passed_over.items():
            aside = put_aside(path) if continues else path
            echo(f"sparring: passed over checkpoint {aside}: {reason}", err=True)
    except OSError as error:
        raise UserError(f"cannot write in {run_dir} ({error.strerror or error})") from error
    return checkpoint, is_fork


def _has_checkpoints(run_dir: Path) -> bool:
    """Whether there is one, or was one before it was put aside."""
    remove_leftovers(run_dir / CHECKPOINTS)  # first: a checkpoint may come back
    return any(path.is_dir() for path in (run_dir / CHECKPOINTS).glob("*checkpoint-*"))


def _begins_again(run_dir: Path) -> bool:
    """Whether a run of ours ended before its first checkpoint; a line says that it begins again."""
    is_ours = (run_dir / "run.json").exists()
    if is_ours:
        echo(f"sparring: {run_dir} has no checkpoint yet: the run begins again", err=True)
    return is_ours


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
    """The checkpoint that was asked for, verified and resolved; None if none was asked for.

    Also newer ones that do not verify, with the reasons.
    """
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
    path, passed_over = newest_good(folder.resolve())
    if path is None:
        reasons = "".join(f"; {bad.name} cannot be used: {why}" for bad, why in passed_over.items())
        raise UserError(
            f"no checkpoint to resume from in {folder}{reasons}: to start from the beginning leave "
            "training.resume_from_checkpoint out"
        )
    return path, passed_over


def _verified(path: Path) -> Path:
    reason = damage(path, check_contents=True)
    if reason is not None:
        raise UserError(f"checkpoint {path} cannot be used: {reason}")
    return path.resolve()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
