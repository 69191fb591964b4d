"""What a report reads from a run folder, and nothing else does: it neither samples nor measures."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ..evaluation.figure import Figure
from ..evaluation.metrics.registry import all_figures
from ..support.errors import UserError
from ..support.text_files import lines_of
from ..support.yaml_files import read_yaml

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Evaluation:
    """One JSON file of `evaluation/`: figures at top level, `protocol` says how they were made."""

    path: Path
    figures: dict[str, Any]

    @property
    def protocol(self) -> dict[str, Any]:
        return mapping(self.figures, "protocol")

    @property
    def grid(self) -> Path | None:
        """The picture of its samples."""
        return _png(self.path.with_name(f"{self.path.stem}-grid.png"))

    @property
    def numbers(self) -> dict[str, float]:
        """The figures that are one number each."""
        numbers = {
            key: value for key, value in self.figures.items()
            if is_number(value) and not key.endswith("_seconds")
        }  # fmt: skip
        for figure in all_figures(self.own_figures).values():
            inner = figure.numbers(self.figures)
            numbers |= {key: value for key, value in inner.items() if is_number(value)}
        return numbers

    @property
    def own_figures(self) -> list[Figure]:
        """How the figures of the user's own metrics are labelled."""
        return [Figure(**one) for one in mapping(self.figures, "own_figures").values()]

    @property
    def mismatch(self) -> list[dict[str, Any]]:
        """Curves of `sparring evaluate RUN evaluation.mismatch=true`, as they were written."""
        return [curve for curve in self.figures.get("mismatch") or [] if isinstance(curve, dict)]

    @property
    def sweep(self) -> list[Evaluation]:
        """The evaluations of `sparring evaluate RUN evaluation.sweep=...`, one a combination."""
        cells = (cell for cell in self.figures.get("sweep") or [] if isinstance(cell, dict))
        found = [Evaluation(self.path, cell) for cell in cells]
        return [cell for cell in found if is_number(cell.protocol.get("steps"))]

    def interval(self, key: str) -> tuple[float, float] | None:
        """Lower and upper end of a figure's interval, where the file has one."""
        pair = self.figures.get(f"{key}_interval")
        if isinstance(pair, list) and len(pair) == 2 and all(is_number(end) for end in pair):
            return float(pair[0]), float(pair[1])
        return None


@dataclass(frozen=True)
class Run:
    """A run, finished or not, as its folder tells it; what the folder lacks is empty or None."""

    folder: Path
    argument: str  # the folder as the user wrote it, for the commands that the page suggests
    name: str
    config: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)  # run.json
    training: dict[str, Any] = field(default_factory=dict)  # training.json
    model: dict[str, Any] = field(default_factory=dict)  # what its model is
    metrics: list[dict[str, Any]] = field(default_factory=list)  # metrics.jsonl, one row a step
    evaluations: list[Evaluation] = field(default_factory=list)
    manifest: dict[str, Any] | None = None  # the header of data/manifest.jsonl
    cleaning: list[dict[str, Any]] = field(default_factory=list)  # of sparring clean --levels
    training_samples: Path | None = None
    samples: Path | None = None
    before: Path | None = None  # grid of the model that it started from, and the last at its noise
    after: Path | None = None

    def section(self, name: str) -> dict[str, Any]:
        """A section of config.yaml; empty where the file has none."""
        return mapping(self.config, name)

    @property
    def objective(self) -> str:
        return str(self.section("objective").get("name", "unknown"))

    @property
    def contamination(self) -> dict[str, Any]:
        """The `contamination` section, empty where the training data were left alone."""
        section = self.section("contamination")
        if section.get("kind", "none") in ("none", None) or section.get("rate") == 0:
            return {}
        return {key: value for key, value in section.items() if value is not None}

    @property
    def is_vector(self) -> bool:
        return len(self.model.get("sample_shape") or ()) == 1

    @property
    def drawn(self) -> dict[str, Any]:
        """How the samples of the picture were drawn: sampler, steps, seed, each where recorded."""
        if self.samples is None:
            return {}
        if shown := [one.protocol for one in self.evaluations if one.grid == self.samples]:
            of, keys, picture = shown[0], ("sampler", "steps"), "by sparring evaluate"
            seed = mapping(of, "seeds").get("sampling")
        else:
            of, keys = self.section("sampling"), ("scheduler", "num_inference_steps")
            seed, picture = of.get("seed"), "during training"
        drawn = {"sampler": of.get(keys[0]), "steps": of.get(keys[1]), "seed": seed,
                 "picture": picture}  # fmt: skip
        return {key: value for key, value in drawn.items() if value is not None}

    @property
    def command(self) -> str:
        """The command that trained the run, as recorded in run.json."""
        return as_command(self.info.get("command"))


def mapping(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What stands under the key; empty where that is no mapping."""
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """True for a finite int or float; False for bool, None, NaN and text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_command(command: Any) -> str:
    """A command recorded as text or as sys.argv, as one line for a shell: `sparring train ...`."""
    if not isinstance(command, list) or not command:
        return str(command or "")
    program = Path(str(command[0])).name.replace("__main__.py", "sparring")
    return shlex.join([program, *map(str, command[1:])])


def read_runs(arguments: list[str]) -> list[Run]:
    """The runs named by the user, in that order, under names that differ.

    Raises:
        UserError: where a folder does not exist, is no run, or holds a file that cannot be read.
    """
    folders = [Path(argument) for argument in arguments]
    return list(map(read_run, arguments, folders, short_names(folders)))


def short_names(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that differ: `plain`, or `a/plain` and `b/plain`."""
    parts = [Path(os.path.realpath(one)).parts for one in folders]  # also of a loop of links
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{p[-1]} ({i + 1})" for i, p in enumerate(parts)]


def read_run(argument: str, folder: Path, name: str) -> Run:
    """One run folder; only config.yaml must be there."""
    if not folder.is_dir():
        raise UserError(f"{argument}: no such run folder; give folders that `sparring train` wrote")
    if not (folder / "config.yaml").is_file():
        inner = sorted(str(one.parent) for one in folder.glob("*/config.yaml"))
        advice = f"sparring report {shlex.join(inner)}" if inner else "`sparring train` writes them"
        raise UserError(f"{argument}: not a run (it has no config.yaml); give its runs: {advice}")
    config = read_yaml(folder / "config.yaml")
    found = [Evaluation(path, read_object(path)) for path in newest(folder / "evaluation", "*")]
    evaluations = [one for one in found if one.numbers]
    grids = (one.grid for one in evaluations if one.grid is not None)
    cleaning = newest(folder / "evaluation", "cleaning-*")
    models = (read_object(folder / part / "model.json") for part in ("checkpoints", "."))
    return Run(
        folder, argument, name, config,
        info=read_object(folder / "run.json"), training=read_object(folder / "training.json"),
        model=next(filter(None, models), {}), metrics=read_metrics(folder / "metrics.jsonl"),
        evaluations=evaluations, cleaning=[read_object(path) for path in cleaning],
        manifest=read_manifest_header(folder / "data" / "manifest.jsonl"),
        training_samples=_png(folder / "data" / "training_samples.png"),
        samples=next(grids, None) or last_grid(folder / "samples"),
        before=_png(folder / "samples" / "step-0.png"), after=last_grid(folder / "samples"),
    )  # fmt: skip


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl by rising step.

    A resumed run writes some steps again: the later row counts. A line that a kill cut short is
    left out.
    """
    if not path.is_file():
        return []
    rows: dict[int, dict[str, Any]] = {}
    for line in read_file(path, lines_of):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def newest(folder: Path, name: str) -> list[Path]:
    """The JSON files of a name in a folder, newest first."""
    return sorted(folder.glob(f"{name}.json"), key=lambda p: (-p.stat().st_mtime, p.name))


def read_manifest_header(path: Path) -> dict[str, Any] | None:
    """The manifest's first line: what was done to the data. None where nothing was recorded."""
    if not path.is_file():
        return None
    header = read_file(path, lambda text: json.loads(next(filter(None, lines_of(text)), "{}")))
    return header if isinstance(header, dict) else {}


def last_grid(folder: Path) -> Path | None:
    """The grid of the highest step among samples/step-<step>.png; None where there is none."""
    steps = [int(match[1]) for path in folder.glob("step-*.png")
             if (match := re.fullmatch(r"step-(\d+)\.png", path.name))]  # fmt: skip
    return _png(folder / f"step-{max(steps)}.png") if steps else None


def missing(run: Run) -> list[str]:
    """What the run's folder lacks, one sentence each with the command that makes it."""
    evaluate = f"`sparring evaluate {shlex.quote(run.argument)}`"
    said = []
    if not run.training.get("finished", False):
        done = run.metrics[-1]["step"] if run.metrics else 0
        if (run.folder / "stopped.json").is_file():
            said.append("stopped because a loss or gradient was not finite "
                        "(stopped.json in its folder names the samples)")  # fmt: skip
        said.append(f"did not finish (last logged step: {done}): "
                    f"`sparring train {shlex.quote(str(run.folder / 'config.yaml'))} "
                    "training.resume_from_checkpoint=latest`")  # fmt: skip
    if not run.evaluations:
        said.append(f"has no evaluation: {evaluate}")
    if not run.metrics:
        said.append("has no loss curves (metrics.jsonl is missing or empty)")
    if run.samples is None and not run.is_vector:
        said.append(f"has no samples: {evaluate}")
    if run.training_samples is None and not run.is_vector:
        said.append("has no picture of its training data (data/training_samples.png)")
    if run.contamination and run.manifest is None:
        said.append("has no contamination manifest (data/manifest.jsonl); "
                    "its config is quoted instead")  # fmt: skip
    return [f"run {run.name} {sentence}" for sentence in said]


def _png(path: Path) -> Path | None:
    """The path where it really is a PNG file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return path if file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE else None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no file."""
    if not path.is_file():
        return {}
    content = read_file(path, json.loads)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object; remove the file or make it again")
    return content


def read_file(path: Path, parse: Callable[[str], Any]) -> Any:
    """What a file of text holds.

    Raises:
        UserError: where it cannot be read or parsed.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({reason}); remove it or make it again") from error
