"""Sweeps on the page: quality against steps, a line for each sampler and guidance, and its table.

Nothing here measures: a number is copied from an evaluation of `evaluation.sweep`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..evaluation.metrics.registry import all_figures
from . import tables
from .page import N_STYLES
from .plots import Curve, line_chart
from .ranking import comparable
from .runs import Evaluation, Run, is_number
from .wording import show, show_value

N_SHOWN = 2  # figures of one sweep that are drawn


@dataclass(frozen=True)
class Sweep:
    """One figure of one run's sweep: a chart, and the same numbers as a table."""

    title: str
    svg: Markup
    legend: list[tuple[str, int]]
    columns: list[str]
    rows: list[tables.Row]


def sweeps_of(runs: Sequence[Run]) -> list[Sweep]:
    """The newest sweep of each run, and what several runs swept alike in one chart a sampler."""
    newest = {run.name: found for run in runs if (found := _newest(run))}
    drawn = []
    for name, cells in newest.items():
        lines = {_line_name(cell): {} for cell in cells}
        for cell in cells:
            lines[_line_name(cell)][cell.protocol["steps"]] = cell
        drawn += _charts(f"{name}, {_measured(cells[0])}", lines)
    shared: dict[str, dict[str, dict[int, Evaluation]]] = {}
    for name, cells in newest.items():
        for cell in cells:
            alike = comparable(cell.protocol) | {"steps": None}
            group = shared.setdefault(json.dumps(alike, sort_keys=True), {})
            group.setdefault(name, {})[cell.protocol["steps"]] = cell
    for group in shared.values():
        if len(group) > 1:
            one = next(iter(next(iter(group.values())).values()))
            drawn += _charts(f"{_line_name(one)}, {_measured(one)}", group)
    return drawn


def _newest(run: Run) -> list[Evaluation]:
    """The evaluations of the newest file that holds a sweep; [] where none does."""
    for evaluation in run.evaluations:
        if evaluation.sweep:
            return evaluation.sweep
    return []


def _line_name(cell: Evaluation) -> str:
    guidance = cell.protocol.get("guidance", 1)
    sampler = str(cell.protocol.get("sampler"))
    return sampler if guidance == 1 else f"{sampler}, guidance {show_value(guidance)}"


def _measured(cell: Evaluation) -> str:
    """'300 samples against 1797 of digits'."""
    return "{n_fake} samples against {n_real} of {data}".format(**cell.protocol)


def _charts(title: str, lines: Mapping[str, Mapping[int, Evaluation]]) -> list[Sweep]:
    """A chart and a table for each of the leading figures."""
    cells = [cell for line in lines.values() for cell in line.values()]
    known = all_figures(figure for cell in cells for figure in cell.own_figures).values()
    drawn = sorted(
        (one for one in known if one.drawn and any(one.key in cell.numbers for cell in cells)),
        key=lambda one: (not one.decides, one.drawn),
    )
    counts = sorted({count for line in lines.values() for count in line})
    found = []
    for figure in drawn[:N_SHOWN]:
        key, label = figure.key, figure.label
        curves = []
        for i, (name, line) in enumerate(lines.items()):
            points = [
                (n, line[n].numbers[key]) for n in counts if n in line and key in line[n].numbers
            ]
            if points:
                steps, values = zip(*points, strict=True)
                curves.append(Curve(name, (i + 1) % N_STYLES, steps, values))
        floors = [cell.numbers.get(f"{key}_of_reference") for cell in cells]
        floor = max((value for value in floors if is_number(value)), default=None)
        svg = line_chart(
            curves, x_label="steps, log scale", y_label=label,
            title=f"{label} by steps, {title}", x_is_log=True,
            floor=None if floor is None else Curve("", 0, counts, [floor] * len(counts)),
        )  # fmt: skip
        rows = [
            tables.Row(name, [_cell(line.get(n), key) for n in counts])
            for name, line in lines.items()
        ]
        if floor is not None:
            row = [tables.cell(floor)] * len(counts)
            rows.append(tables.Row(tables.beside(figure)["_of_reference"], row, "", True))
        legend = [(curve.name, curve.style) for curve in curves]
        columns = [f"{n} step{'s' * (n != 1)}" for n in counts]
        found.append(Sweep(f"{label}, {title}", svg, legend, columns, rows))
    return found


def _cell(cell: Evaluation | None, key: str) -> tables.Cell:
    """A number and its interval."""
    if cell is None:
        return tables.Cell("")
    ends = cell.figures.get(f"{key}_interval")
    detail = f"{show(ends[0])} – {show(ends[1])}" if ends else ""
    return tables.cell(cell.numbers.get(key), detail)
