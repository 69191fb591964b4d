"""`sparring demo`: plain and robust training on noisy digits, side by side, and what came out.

Three runs of configs/digits.yaml, each in a process of its own with one thread, at most as many at
once as there are cores: plain and robust (`detail`) on noisy digits, plain on clean ones. A run
that is finished is kept and one that was interrupted goes on, so the command can be given again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import RunConfig, resolve
from ..errors import UserError

CONFIG = "digits.yaml"
RUNS = {  # longest first: that keeps two cores busy
    "robust": ("robust training (detail) on noisy digits", ["objective=detail"]),
    "plain": ("plain training on noisy digits", ["objective=plain"]),
    "clean": ("plain training on clean digits", ["objective=plain", "contamination.kind=none"]),
}
SHOWN = ("plain", "robust", "clean")
REPORTED = (
    "frechet_distance",
    "frechet_distance_interval",
    "frechet_distance_of_reference",
    "empty_pixel_rms",
    "nearest_training_distance",
)
FIRST_GUESS = {"robust": 0.16, "plain": 0.09, "clean": 0.09}
"""Seconds per step before any was measured; for the first estimate of the time left only."""
EVALUATION_SECONDS = 30.0
POLL_SECONDS, LINE_SECONDS = 1.0, 20.0


@dataclass
class Run:
    """One run: its commands, its process, and how far it is."""

    name: str
    title: str
    folder: Path
    log: Path
    commands: list[list[str]]  # train, evaluate
    n_steps: int
    process: subprocess.Popen[bytes] | None = None
    stage: int = 0  # how many of the commands are done
    step: int = 0
    seconds_per_step: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def is_done(self) -> bool:
        return self.stage == len(self.commands)

    def look(self) -> None:
        """How far training is, from the last line of its log."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            last = json.loads((self.folder / "metrics.jsonl").read_text().splitlines()[-1])
            self.step = last["step"]
            self.seconds_per_step = last["seconds"] / last["step"]

    def seconds_left(self, guess: float) -> float:
        if self.is_done:
            return 0.0
        training = (self.n_steps - self.step) * (self.seconds_per_step or guess)
        return EVALUATION_SECONDS + (training if self.stage == 0 else 0.0)


def demo_command(output_dir: Path, seed: int = 0, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train, evaluate, report.

    Args:
        output_dir: Holds the three runs, report.html and summary.json.
        seed: Of training and of the contamination.
        overrides: `key=value` for all three runs.

    Returns:
        What summary.json holds.

    Raises:
        UserError: if a setting is wrong, another demo is in the folder, or a run fails.
    """
    began = time.monotonic()
    runs = _plan(output_dir, seed, list(overrides))
    n_slots = max(1, min(len(runs), _n_cores()))
    print(
        "Digits of which 90 % carry Gaussian noise: what does a diffusion model learn from them?\n"
        + "".join(f"  {name:<8}{runs[name].title}\n" for name in SHOWN)
        + f"{n_slots} run(s) at a time, one thread each; everything lands in {output_dir}",
        flush=True,
    )
    _work(list(runs.values()), n_slots)
    summary = _summary(runs, output_dir, seed, overrides, time.monotonic() - began)
    report = _report(output_dir)
    _print_table(summary)
    print(f"Took {_minutes(time.monotonic() - began)}. Figures: {output_dir / 'summary.json'}")
    print(f"Report: {report}")
    return summary


def find_config(name: str) -> Path:
    """A config that comes with sparring, from the repository or from the installed package."""
    here = Path(__file__).resolve()
    for folder in (here.parents[3] / "configs", here.parents[1] / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{name} is not installed with sparring: run the demo from a clone")


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plan(output_dir: Path, seed: int, overrides: list[str]) -> dict[str, Run]:
    """What is to be done for each run; settings are checked before anything starts."""
    for override in overrides:
        if override.partition("=")[0] in ("training.output_dir", "objective", "training.seed"):
            raise UserError(
                f"override {override!r}: the demo sets this itself (see sparring demo -h)"
            )
    config_path = find_config(CONFIG)
    try:
        (output_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write in {output_dir} ({error.strerror})") from error
    runs = {}
    for name, (title, own) in RUNS.items():
        folder = output_dir / name
        words = [
            *own,
            *overrides,
            f"training.seed={seed}",
            f"contamination.seed={seed}",
            f"training.output_dir={folder}",
        ]
        config = resolve(config_path, words)
        how = _how_to_go_on(folder, config)
        train = [sys.executable, "-m", "sparring", "train", str(config_path), *words, *how]
        evaluate = [sys.executable, "-m", "sparring", "evaluate", str(folder)]
        run = Run(
            name,
            title,
            folder,
            output_dir / "logs" / f"{name}.txt",
            [train, evaluate],
            config.training.max_train_steps,
        )
        if _is_finished(folder):
            run.stage = 1
        run.log.write_bytes(b"")
        runs[name] = run
    return runs


def _is_finished(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "training.json").read_text())["finished"])
    except (OSError, ValueError, KeyError):
        return False


def _how_to_go_on(folder: Path, config: RunConfig) -> list[str]:
    """Nothing for a new run, how to resume one of the same settings.

    Raises:
        UserError: if the folder holds a run of other settings.
    """
    if not (folder / "config.yaml").is_file():
        return []
    if resolve(folder / "config.yaml") != config:
        raise UserError(
            f"{folder} holds a demo run with other settings: choose another --output-dir, or "
            "delete that folder"
        )
    has_checkpoint = any((folder / "checkpoints").glob("checkpoint-*"))
    return [
        "training.resume_from_checkpoint=latest" if has_checkpoint
        else "training.overwrite_output_dir=true"
    ]  # fmt: skip


def _work(runs: list[Run], n_slots: int) -> None:
    """Runs all commands, `n_slots` at a time, and says how far they are."""
    last_line = -math.inf
    try:
        while not all(run.is_done for run in runs):
            for run in runs:
                _advance(run)
            busy = sum(run.process is not None for run in runs)
            for run in sorted(runs, key=lambda run: run.stage):  # training before evaluation
                if busy < n_slots and run.process is None and not run.is_done:
                    _start(run)
                    busy += 1
            if time.monotonic() - last_line > LINE_SECONDS:
                for run in runs:
                    run.look()
                print(_progress(runs, n_slots), flush=True)
                last_line = time.monotonic()
            time.sleep(POLL_SECONDS)
    except BaseException:
        _stop(runs)
        raise


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
    done = f"trained in {_minutes(time.monotonic() - run.started)}"
    print(f"  {run.name:<8}{done if run.stage == 1 else 'evaluated'}", flush=True)


def _stop(runs: list[Run]) -> None:
    """Ends what is running; a training run writes a checkpoint first."""
    running = [run.process for run in runs if run.process is not None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def _progress(runs: list[Run], n_slots: int) -> str:
    parts = []
    for name in SHOWN:
        run = next(run for run in runs if run.name == name)
        if run.is_done:
            state = "done"
        elif run.stage == 1:
            state = "evaluating" if run.process is not None else "trained"
        elif run.process is not None:
            state = f"{run.step}/{run.n_steps}"
        else:
            state = "waiting"
        parts.append(f"{name} {state}")
    return f"  {' | '.join(parts)} | about {_minutes(_time_left(runs, n_slots))} left"


def _time_left(runs: list[Run], n_slots: int) -> float:
    """Seconds until all is done, with the runs that wait taking the first free place in turn."""
    measured = {run.name: run.seconds_per_step for run in runs}
    plain = measured.get("plain") or measured.get("clean") or 0.0
    measured |= {"plain": plain, "clean": measured.get("clean") or plain}  # the same work
    places = [0.0] * n_slots
    for run in sorted(runs, key=lambda run: run.process is None):
        first = places.index(min(places))
        places[first] += run.seconds_left(measured[run.name] or FIRST_GUESS[run.name])
    return max(places)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _summary(
    runs: dict[str, Run], output_dir: Path, seed: int, overrides: Sequence[str], seconds: float
) -> dict[str, Any]:
    """What was found, for people and for other programs."""
    models: dict[str, dict[str, Any]] = {}
    protocol: dict[str, Any] = {}
    for name in SHOWN:
        run = runs[name]
        newest = max(
            (run.folder / "evaluation").glob("*.json"), key=lambda path: path.stat().st_mtime
        )
        figures = json.loads(newest.read_text())
        training = json.loads((run.folder / "training.json").read_text())
        protocol = figures["protocol"]
        models[name] = {key: figures.get(key) for key in REPORTED} | {
            "train_seconds": training["train_seconds"],
            "n_steps": training["n_steps"],
            "n_parameters": training["n_parameters"],
            "title": run.title,
            "run": str(run.folder),
            "train_command": shlex.join(["sparring", *run.commands[0][3:]]),
        }
    plain, robust = models["plain"], models["robust"]
    summary = {
        "models": models,
        "robust_over_plain": {
            key: robust[key] / plain[key] if plain[key] and robust[key] is not None else None
            for key in ("frechet_distance", "empty_pixel_rms")
        },
        "seed": seed,
        "overrides": list(overrides),
        "protocol": protocol,
        "n_cores": _n_cores(),
        "total_seconds": round(seconds, 1),
        "version": __version__,
    }
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    (output_dir / "summary.json").write_text(text, encoding="utf-8")
    return summary


def _report(output_dir: Path) -> Path:
    from .report import report_command

    folders = [str(output_dir / name) for name in SHOWN]
    path = output_dir / "report.html"
    report_command(folders, path, "Plain and robust training on noisy digits")
    return path


def _print_table(summary: dict[str, Any]) -> None:
    print(f"\n{'':<10}{'Frechet distance':>18}{'leftover noise':>16}{'training':>12}")
    for name, row in summary["models"].items():
        noise = row["empty_pixel_rms"]
        print(
            f"{name:<10}{row['frechet_distance']:>18.1f}"
            f"{'-' if noise is None else format(noise, '.3f'):>16}"
            f"{_minutes(row['train_seconds']):>12}"
        )
    floor = summary["models"]["plain"]["frechet_distance_of_reference"]
    print(f"{'(floor)':<10}{floor:>18.1f}   distance of a resample of the clean digits\n")
