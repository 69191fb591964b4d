"""What the page says in tables: figures by protocol, costs, settings, where figures come from.

Nothing here measures: a number is copied from a run's files, or is the ratio of two of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.figure import Figure
from .ranking import Group, best_of, differences, flat
from .runs import Evaluation, Run, as_command, is_number
from .wording import show, show_seconds, show_value


@dataclass(frozen=True)
class Cell:
    text: str
    detail: str = ""
    is_best: bool = False
    value: float | None = None  # what it is sorted by; None: its text


def cell(number: Any, detail: str = "", is_best: bool = False) -> Cell:
    """A number as text, sorted by itself."""
    return Cell(show(number), detail, is_best, number if is_number(number) else None)


def _duration(seconds: Any) -> Cell:
    return Cell(show_seconds(seconds), value=seconds if is_number(seconds) else None)


@dataclass(frozen=True)
class Row:
    label: str
    cells: list[Cell]
    hint: str = ""
    is_reference: bool = False


def figure_rows(group: Group, ranked: Sequence[str]) -> list[Row]:
    """One row a figure, one cell a run of the group; what it is compared with follows."""
    rows: list[Row] = []
    names = list(group.members)
    for figure in _figures_of(group):
        best = best_of(group, [n for n in names if n in ranked], figure)
        cells = []
        for name in names:
            ends = group.interval(name, figure.key)
            detail = " – ".join(written(end, figure) for end in ends) if ends else ""
            number = group.value(name, figure.key)
            cells.append(Cell(written(number, figure), detail, name == best, number))
        rows.append(Row(figure.label, cells, figure.words))
        for suffix, label in beside(figure).items():
            values = [group.value(name, figure.key + suffix) for name in names]
            if any(value is not None for value in values):
                others = [Cell(written(value, figure), value=value) for value in values]
                rows.append(Row(label, others, "", True))
    return rows


def beside(figure: Figure) -> dict[str, str]:
    """Labels of the figures that stand beneath one, by the end of their key."""
    return {
        "_of_reference": f"… of {figure.beside}",
        "_of_clean": "… of clean images themselves",
        "_of_halves": "… between two halves of the reference",
        "_true": "… of the true distribution",
    }


def written(number: float | None, figure: Figure) -> str:
    """A number in the figure's own format."""
    return show(number) if number is None or not figure.format else format(number, figure.format)


def _figures_of(group: Group) -> list[Figure]:
    """The known figures that any member has, then its other numbers under their own names."""
    keys = dict.fromkeys(key for e in group.members.values() for key in e.numbers)
    beneath = {key + suffix for key in keys for suffix in beside(Figure("", ""))}
    known = [figure for key, figure in group.figures.items() if key in keys]
    unknown = [key for key in keys if key not in group.figures and key not in beneath]
    return known + [Figure(key, key.replace("_", " ")) for key in unknown]


def cost_rows(runs: Sequence[Run], baseline: Run) -> list[Row]:
    """Recorded costs of each run, and the ratio of its seconds per step to the baseline's."""

    def recorded(run: Run, key: str) -> Any:
        return run.training.get(key)

    def images_per_second(run: Run) -> float | None:
        seconds, images = recorded(run, "train_seconds"), recorded(run, "n_images")
        if is_number(seconds) and is_number(images) and seconds > 0:
            return images / seconds
        return None

    def ratio(run: Run) -> Cell:
        mine, other = run.seconds_per_step, baseline.seconds_per_step
        return Cell(f"×{show(mine / other)}", value=mine / other) if mine and other else Cell("n/a")

    columns = {
        "Training time": lambda run: _duration(recorded(run, "train_seconds")),
        "Steps": lambda run: cell(recorded(run, "n_steps")),
        "Time per step": lambda run: _duration(run.seconds_per_step),
        f"… as a ratio to {baseline.name}": ratio,
        "Images per second": lambda run: cell(images_per_second(run)),
        "Sampling for its figures": lambda run: _duration(
            run.evaluations[0].figures.get("sampling_seconds") if run.evaluations else None
        ),
        "Parameters": lambda run: cell(recorded(run, "n_parameters")),
        "Processes": lambda run: cell(recorded(run, "n_processes")),
        "Device": lambda run: Cell(show_value(run.info.get("device", "n/a"))),
    }
    return [Row(label, [of(run) for run in runs]) for label, of in columns.items()]


def config_rows(runs: Sequence[Run]) -> list[Row]:
    """The settings on which the runs differ, apart from where they were written."""
    configs = [
        {key: value for key, value in flat(run.config).items() if key != "training.output_dir"}
        for run in runs
    ]
    return [Row(key, [Cell(v) for v in values]) for key, values in differences(configs).items()]


@dataclass(frozen=True)
class Provenance:
    """How one evaluation file of one run was made."""

    run: str
    file: str
    command: str
    seed: str
    n_samples: str
    versions: str
    is_shown: bool  # in a table; False where a newer file has the same protocol


def provenance(run: Run, evaluation: Evaluation, groups: Sequence[Group]) -> Provenance:
    """Command, seed, sample count and versions of an evaluation, or 'not recorded'."""

    def recorded(*keys: str) -> Any:
        leaves = evaluation.figures | flat(evaluation.protocol) | evaluation.protocol
        return next((leaves[key] for key in keys if leaves.get(key) is not None), None)

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{key} {show_value(part)}" for key, part in value.items())
        return "not recorded" if value is None else show_value(value)

    return Provenance(
        run.name, evaluation.path.relative_to(run.folder).as_posix(),
        as_command(recorded("command")) or "not recorded", text(recorded("seeds", "seed")),
        text(recorded("n_fake", "n_samples")), text(recorded("versions", "version")),
        any(group.members.get(run.name) is evaluation for group in groups),
    )  # fmt: skip
