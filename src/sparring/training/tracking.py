"""What a run says about itself: metrics.jsonl always, a tracker if wanted, one progress bar."""

import importlib.util
import json
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from tqdm import tqdm

from .. import __version__
from ..support.errors import UserError
from ..support.secrets import masked
from ..support.terminal import printable
from ..support.whole_files import whole_file
from .launcher import asked_for
from .settings import TrainSettings


@dataclass
class Window:
    """What happened since the last line of the log; part of a checkpoint, so no line is lost.

    All numbers are those of the global batch, the same on every process.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    n_images: int = 0
    seconds: float = 0.0

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Mean of each name over the updates that had it."""
        return {name: math.fsum(values) / len(values) for name, values in self.values.items()}

    @property
    def images_per_second(self) -> float:
        """Throughput of the window, all processes together."""
        return self.n_images / max(self.seconds, 1e-9)


class Log:
    """Writes lines to metrics.jsonl and to the tracker; does nothing outside the main process.

    Lines after `after_step` are dropped first: the resumed run writes them again.
    """

    def __init__(self, path: Path, accelerator: Accelerator, after_step: int) -> None:
        self._path, self._accelerator = path, accelerator
        if accelerator.is_main_process:
            kept = [line for line in read_metrics(path) if line["step"] <= after_step]
            with whole_file(path) as half:
                half.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: the step and the values by name."""
        if self._accelerator.is_main_process:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        self._accelerator.log(dict(values), step=step)

    def sync(self) -> None:
        """Bring what is written to the disk: a checkpoint drops it from memory."""
        if self._accelerator.is_main_process:
            with self._path.open("a") as file:
                os.fsync(file.fileno())

    def image(self, step: int, path: Path) -> None:
        """Show a picture that lies in the run folder in the tracker."""
        if not self._accelerator.is_main_process or not path.exists():
            return
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.tracker.add_image("samples", pixels, step, dataformats="HWC")
            elif tracker.name == "wandb":
                tracker.log_images({"samples": [Image.fromarray(pixels)]}, step=step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without one that a killed run or the disk has spoilt."""
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def note_unreadable(run_dir: Path, names: set[str], accelerator: Accelerator) -> None:
    """Keep data/unreadable.json: the samples that were replaced, of all processes and restarts."""
    path = run_dir / "data/unreadable.json"
    everyone = set(gather_object(sorted(names)))
    if not accelerator.is_main_process or not everyone:
        return
    try:
        known = set(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # not there yet, or spoilt
        known = set()
    if not everyone <= known:
        write_json(path, sorted(known | everyone))
        line = printable(f"sparring: unreadable samples were replaced, see {path}")
        tqdm.write(line, file=sys.stderr)


def progress_bar(n_steps: int, first_step: int, shown: bool) -> tqdm:
    """One bar on stderr; rarely redrawn where nobody watches."""
    return tqdm(
        total=n_steps,
        initial=first_step,
        unit="step",
        disable=not shown,
        mininterval=0.2 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )


def start_tracker(
    accelerator: Accelerator, settings: TrainSettings, config: Mapping[str, Any], step: int
) -> None:
    """Start what `report_to` names, under `logs/`, and tell it the run's settings."""
    if settings.report_to == "none":
        return
    _let_writers_fail_once()
    is_purged = settings.report_to == "tensorboard"  # of lines that the run writes again
    kwargs = {"tensorboard": {"purge_step": step + 1}} if is_purged else {}
    accelerator.init_trackers("sparring", flat(config), init_kwargs=kwargs)


def _let_writers_fail_once() -> None:
    """A disk error in tensorboard's writing thread is raised again at the next line: said there."""
    before = threading.excepthook
    if getattr(before, "__name__", "") == "quiet_writers":
        return

    def quiet_writers(args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and issubclass(args.exc_type, OSError)):
            before(args)

    threading.excepthook = quiet_writers


def check_tracker(report_to: str) -> None:
    """Raises UserError if the tracker's package is missing (accelerate would say nothing)."""
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        why = f"training.report_to={report_to} needs a package that is not installed"
        raise UserError(f"{why}: pip install {report_to}")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """{"a": {"b": 1}} -> {"a.b": 1}; what is no plain value becomes a string."""
    leaves: dict[str, int | float | str | bool] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, int | float | str | bool)
            leaves[f"{prefix}{key}"] = value if plain else str(value)
    return leaves


def describe(accelerator: Accelerator) -> dict[str, Any]:
    """Who runs what on which machine: the contents of run.json."""
    packages = ("torch", "diffusers", "accelerate", "numpy")
    gpu = accelerator.device.type == "cuda"
    launched = asked_for()
    return {
        "version": __version__,
        "command": [masked(word) for word in sys.argv],
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name() if gpu else accelerator.device.type,
        "n_processes": accelerator.num_processes,
        **({"asked_by_accelerate": launched} if launched else {}),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one piece: a reader never sees half of it."""
    with whole_file(path) as half:
        half.write_text(json.dumps(value, indent=1) + "\n")
