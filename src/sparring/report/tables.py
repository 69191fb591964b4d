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
    for figure in _figures_of(group):
        best = best_of(group, [name for name in group.members if name in ranked], figure)
        cells = []
        for name in group.members:
            ends, number = group.interval(name, figure.key), group.value(name, figure.key)
            detail = " – ".join(written(end, figure) for end in ends or ())
            cells.append(Cell(written(number, figure), detail, name == best, number))
        rows.append(Row(figure.label, cells, figure.words))
        for suffix, label in beside(figure).items():
            values = [group.value(name, figure.key + suffix) for name in group.members]
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

    def quotient(a: Any, b: Any) -> float | None:
        return a / b if is_number(a) and is_number(b) and b > 0 else None

    pace, of = "seconds_per_step", [run.training for run in runs]
    ratios = [quotient(one.get(pace), baseline.training.get(pace)) for one in of]
    speeds = [quotient(one.get("n_images"), one.get("train_seconds")) for one in of]
    newest = [run.evaluations[0].figures if run.evaluations else {} for run in runs]
    return [
        Row("Training time", [_duration(one.get("train_seconds")) for one in of]),
        Row("Steps", [cell(one.get("n_steps")) for one in of]),
        Row("Time per step", [_duration(one.get(pace)) for one in of]),
        Row(f"… as a ratio to {baseline.name}",
            [Cell(f"×{show(one)}", value=one) if one else Cell("n/a") for one in ratios]),
        Row("Images per second", [cell(one) for one in speeds]),
        Row("Sampling for its figures", [_duration(one.get("sampling_seconds")) for one in newest]),
        Row("Parameters", [cell(one.get("n_parameters")) for one in of]),
        Row("Processes", [cell(one.get("n_processes")) for one in of]),
        Row("Device", [Cell(show_value(run.info.get("device", "n/a"))) for run in runs]),
    ]  # fmt: skip


def config_rows(runs: Sequence[Run]) -> list[Row]:
    """The settings on which the runs differ, apart from where they were written."""
    rows = difference_rows([run.config for run in runs])
    return [row for row in rows if row.label != "training.output_dir"]


def difference_rows(trees: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each dotted key on which the trees disagree."""
    return [Row(key, [Cell(v) for v in values]) for key, values in differences(trees).items()]


def provenance(run: Run, evaluation: Evaluation, groups: Sequence[Group]) -> dict[str, Any]:
    """How an evaluation was made, or 'not recorded'; `is_shown`: is it in a table, or is there a
    newer file of the same protocol?"""

    def recorded(*keys: str) -> Any:
        leaves = evaluation.figures | flat(evaluation.protocol) | evaluation.protocol
        return next((leaves[key] for key in keys if leaves.get(key) is not None), None)

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{key} {show_value(part)}" for key, part in value.items())
        return "not recorded" if value is None else show_value(value)

    return {
        "run": run.name, "file": evaluation.path.relative_to(run.folder).as_posix(),
        "command": as_command(recorded("command")) or "not recorded",
        "seed": text(recorded("seeds", "seed")),
        "n_samples": text(recorded("n_fake", "n_samples")),
        "versions": text(recorded("versions", "version")),
        "is_shown": any(group.members.get(run.name) is evaluation for group in groups),
    }  # fmt: skip
