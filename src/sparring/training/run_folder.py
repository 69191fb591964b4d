"""The run folder, before training: may it be written, is a run there already, what to resume from.

All processes look first and agree, then the main one writes: an error is the same on each.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .checkpoint import (
    CHECKPOINTS,
    checkpoint_step,
    complete_checkpoints,
    damage,
    remove_leftovers,
)
from .processes import process_state

MARKS_OF_A_RUN = (
    "run.json", "metrics.jsonl", CHECKPOINTS, "training.json", "stopped.json", "model_index.json",
    "model.safetensors",
)  # fmt: skip
PARTS_OF_A_RUN = (
    *MARKS_OF_A_RUN, "config.yaml", "logs", "samples", "data", "evaluation", "README.md", "unet",
    "transformer", "scheduler", "model.json", "pipeline.py",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A folder that is ours to write, and the checkpoint to continue from, if any."""

    path: Path
    checkpoint: Path | None = None


def open_run(
    run_dir: str | Path,
    resume_from_checkpoint: str | None = None,
    overwrite_output_dir: bool = False,
) -> RunFolder:
    """Check and create the run folder; call it before anything slow is built.

    Args:
        run_dir: The run's folder.
        resume_from_checkpoint: "latest", a checkpoint's folder, or its name in this run.
        overwrite_output_dir: Delete the run that is there. With a checkpoint's folder to resume
            from, only the checkpoints newer than it.

    Raises:
        UserError: if the folder cannot be written, holds a run, or has not the checkpoint.
    """
    run_dir = Path(run_dir)
    state = process_state()
    _check_writable(run_dir)
    checkpoint = _find(run_dir, resume_from_checkpoint)
    continues = checkpoint is not None and checkpoint.parent == (run_dir / CHECKPOINTS).resolve()
    has_run = any((run_dir / name).exists() for name in MARKS_OF_A_RUN)
    newer = _newer(checkpoint) if checkpoint is not None and continues else []
    is_ours = any((run_dir / name).exists() for name in ("run.json", CHECKPOINTS))
    if has_run and not continues and not is_ours:
        raise UserError(f"{run_dir} holds a model that is no run: choose another output_dir")
    if has_run and not continues and not overwrite_output_dir:
        raise UserError(
            f"{run_dir} holds a run already: continue it with "
            "training.resume_from_checkpoint=latest, choose another training.output_dir, or "
            "delete it with training.overwrite_output_dir=true"
        )
    if newer and not overwrite_output_dir:
        raise UserError(
            f"{run_dir} has checkpoints after the one to resume from (up to {newer[-1].name}), "
            "and two histories would mix: use training.resume_from_checkpoint=latest, or give up "
            "the newer ones with training.overwrite_output_dir=true"
        )
    state.wait_for_everyone()
    if state.is_main_process:
        if has_run and not continues:
            for name in PARTS_OF_A_RUN:
                _remove(run_dir / name)
        for folder in newer:
            _remove(folder)
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run_dir / CHECKPOINTS)
    state.wait_for_everyone()
    return RunFolder(run_dir, checkpoint)


def _check_writable(run_dir: Path) -> None:
    place = run_dir
    while not place.exists():
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(f"{place} is not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError("permission denied")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write in {place} ({reason}): choose another training.output_dir"
        ) from error


def _find(run_dir: Path, wanted: str | None) -> Path | None:
    """The checkpoint that was asked for, resolved; None if none was asked for."""
    if wanted is None:
        return None
    folder = run_dir / CHECKPOINTS
    complete = complete_checkpoints(folder)
    if wanted == "latest":
        if not complete:
            raise UserError(
                f"no checkpoint to resume from in {folder}: to start from the beginning leave "
                "training.resume_from_checkpoint out"
            )
        return complete[-1].resolve()
    for path in (Path(wanted), folder / wanted):
        if path.is_dir():
            reason = damage(path)
            if reason is not None:
                raise UserError(f"checkpoint {path} cannot be used: {reason}")
            return path.resolve()
    known = ", ".join(path.name for path in complete) or "none"
    raise UserError(f"no checkpoint {wanted} to resume from; {folder} has: {known}")


def _newer(checkpoint: Path) -> list[Path]:
    return [
        path
        for path in complete_checkpoints(checkpoint.parent)
        if checkpoint_step(path) > checkpoint_step(checkpoint)
    ]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
