"""Several runs side by side, each in a process of its own with one thread.

`sparring demo` and `make bench-quality` work this way: a run is a list of commands, and what was
finished or interrupted before is kept or goes on.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...config.read import resolve
from ...config.schema import RunConfig
from ...support.errors import UserError
from ...support.terminal import echo

EVALUATION_SECONDS = 20.0
"""Of one command after training; for the estimate of the time left only."""
POLL_SECONDS, LINE_SECONDS = 0.2, 20.0


@dataclass
class Run:
    """One run: its commands, its process, and how far it is."""

    name: str
    title: str
    folder: Path
    log: Path
    commands: list[list[str]]  # train first, if it trains, then what needs the trained model
    n_steps: int  # 0: it does not train
    seconds_after: float = EVALUATION_SECONDS  # of each command that follows training, guessed
    waits: bool = True  # for what `work` is told to prepare
    after: Run | None = None  # whose training it needs
    process: subprocess.Popen[bytes] | None = None
    stage: int = 0  # how many of the commands are done
    step: int = 0
    seconds_per_step: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def is_done(self) -> bool:
        return self.stage == len(self.commands)

    @property
    def may_start(self) -> bool:
        has_model = self.after is None or self.after.stage > 0
        return self.process is None and not self.is_done and has_model

    def look(self) -> None:
        """How far training is, from the last line of its log."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            last = json.loads((self.folder / "metrics.jsonl").read_text().splitlines()[-1])
            self.step = last["step"]
            self.seconds_per_step = last["seconds"] / last["step"]

    def seconds_left(self, guess: float) -> float:
        """Until it is done; `guess` is a step's cost as long as none was measured."""
        if self.is_done:
            return 0.0
        training = (self.n_steps - self.step) * (self.seconds_per_step or guess)
        n_after = len(self.commands) - max(self.stage, min(self.n_steps, 1))
        return self.seconds_after * n_after + (training if self.stage == 0 else 0.0)


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a finished training."""
    try:
        return bool(json.loads((folder / "training.json").read_text())["finished"])
    except (OSError, ValueError, KeyError):
        return False


def how_to_go_on(folder: Path, config: RunConfig, what: str, option: str) -> list[str]:
    """Nothing for a new run, how to resume one of the same settings.

    Args:
        folder: The run's folder.
        config: Its settings.
        what: What such a run is called in the error.
        option: The command's option that chooses another folder.

    Raises:
        UserError: if the folder holds a run of other settings.
    """
    if not (folder / "config.yaml").is_file():
        return []
    kept = resolve(folder / "config.yaml")
    if config.training.mixed_precision == "auto":  # a run keeps what it meant when it began
        kept.training.mixed_precision = "auto"
    if kept.model_dump() != config.model_dump():
        raise UserError(
            f"{folder} holds a {what} with other settings: choose another {option}, or "
            "delete that folder"
        )
    has_checkpoint = any((folder / "checkpoints").glob("checkpoint-*"))
    return [
        "training.resume_from_checkpoint=latest" if has_checkpoint
        else "training.overwrite_output_dir=true"
    ]  # fmt: skip


def work(
    runs: Sequence[Run],
    n_slots: int,
    progress: Callable[[], str],
    *,
    finish_first: bool = False,
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Runs all commands, `n_slots` at a time.

    Args:
        runs: What is to be done; those named first start first.
        n_slots: Commands at a time.
        progress: One line that says how far they are; printed now and then.
        finish_first: Whether a run is evaluated before another one is trained, so that what is
            broken off has figures; else training, which takes longest, comes first.
        prepare: What most runs need; where there is room those start before that do not wait.

    Raises:
        UserError: if a command fails; the others are stopped.
    """
    last_line = -math.inf
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) if in_main else None
    try:
        for run in [run for run in runs if not (run.waits or run.is_done)][: n_slots - 1]:
            _start(run)
        prepare()
        while not all(run.is_done for run in runs):
            for run in runs:
                _advance(run)
            busy = sum(run.process is not None for run in runs)
            for run in sorted(runs, key=lambda run: run.stage, reverse=finish_first):
                if busy < n_slots and run.may_start:
                    _start(run)
                    busy += 1
            if time.monotonic() - last_line > LINE_SECONDS:
                for run in runs:
                    run.look()
                echo(progress())
                last_line = time.monotonic()
            time.sleep(POLL_SECONDS)
    except BaseException:
        _stop(runs)
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _start(run: Run) -> None:
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = "1"
    run.started = time.monotonic()
    with run.log.open("ab") as log:
        run.process = subprocess.Popen(
            run.commands[run.stage],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _advance(run: Run) -> None:
    """Notes a command that has ended; the next one starts when there is room."""
    if run.process is None or run.process.poll() is None:
        return
    code, run.process = run.process.returncode, None
    if code != 0:
        lines = run.log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
        said = lines[-1].removeprefix("sparring: error: ") if lines else f"exit code {code}"
        raise UserError(f"{run.title} failed: {said} (all it said is in {run.log})")
    run.stage += 1
    trained = f"trained in {minutes(time.monotonic() - run.started)}"
    echo(f"  {run.name:<8} {'done' if run.is_done else 'evaluated' if run.stage > 1 else trained}")


def _stop(runs: Sequence[Run]) -> None:
    """Ends what is running; a training run writes a checkpoint first."""
    running = [run.process for run in runs if run.process is not None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def minutes(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
