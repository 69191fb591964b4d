"""Sweeps on the page: quality against steps, a line for each sampler and guidance, and its table.

Nothing here measures: a number is copied from an evaluation of `evaluation.sweep`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation.metrics.registry import all_figures
from . import tables
from .page import N_STYLES
from .plots import Chart, Curve
from .ranking import comparable, side_by_side
from .runs import Evaluation, Run, is_number
from .wording import show, show_value

N_STEPS = "number of steps"  # a column beside the figures, which no figure is called


@dataclass(frozen=True)
class Sweep(Chart):
    """One figure of one run's sweep: a chart, and the same numbers as a table."""

    columns: list[str]
    rows: list[tables.Row]


def sweeps_of(runs: Sequence[Run]) -> list[Sweep]:
    """The newest sweep of each run, and what several runs swept alike in one chart a sampler."""
    newest = {
        run.name: cells for run in runs
        if (cells := next((one.sweep for one in run.evaluations if one.sweep), None))
    }  # fmt: skip
    drawn = []
    for name, cells in newest.items():
        drawn += _charts(name, [(_line_name(cell), cell) for cell in cells])
    found = [
        (comparable(cell.protocol) | {"steps": None}, (name, cell.protocol["steps"]), cell)
        for name, cells in newest.items() for cell in cells
    ]  # fmt: skip
    for _, group in side_by_side(found):
        if len({name for name, _ in group}) > 1:
            title = _line_name(next(iter(group.values())))
            drawn += _charts(title, [(name, cell) for (name, _), cell in group.items()])
    return drawn


def _line_name(cell: Evaluation) -> str:
    guidance = cell.protocol.get("guidance", 1)
    sampler = str(cell.protocol.get("sampler"))
    return sampler if guidance == 1 else f"{sampler}, guidance {show_value(guidance)}"


def _charts(name: str, found: Sequence[tuple[str, Evaluation]]) -> list[Sweep]:
    """A chart and a table for each of the leading figures, of (name of its line, evaluation)."""
    cells = [cell for _, cell in found]
    lines: dict[str, dict[int, Evaluation]] = {}
    for line, cell in found:
        lines.setdefault(line, {})[cell.protocol["steps"]] = cell
    measured = "{n_fake} samples against {n_real} of {data}".format(**cells[0].protocol)
    title = f"{name}, {measured}"
    known = all_figures(figure for cell in cells for figure in cell.own_figures).values()
    drawn = sorted(
        (one for one in known if one.drawn and any(one.key in cell.numbers for cell in cells)),
        key=lambda one: (not one.decides, one.drawn),
    )
    counts = sorted({count for line in lines.values() for count in line})
    columns = [f"{n} step{'s' * (n != 1)}" for n in counts]
    sweeps = []
    for figure in drawn[:2]:
        key, label = figure.key, figure.label
        curves = []
        for i, (line, by_steps) in enumerate(lines.items()):
            every = [by_steps[n].numbers | {N_STEPS: n} for n in counts if n in by_steps]
            if rows := [row for row in every if key in row]:
                curves.append(Curve.of(line, (i + 1) % N_STYLES, rows, N_STEPS, key))
        floors = [cell.numbers.get(f"{key}_of_reference") for cell in cells]
        floor = max((value for value in floors if is_number(value)), default=None)
        chart = Chart.of(
            f"{label}, {title}", curves, x_label="steps, log scale", y_label=label,
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
        sweeps.append(Sweep(chart.title, chart.svg, chart.legend, columns, rows))
    return sweeps


def _cell(cell: Evaluation | None, key: str) -> tables.Cell:
    """A number and its interval."""
    if cell is None:
        return tables.Cell("")
    return tables.cell(cell.numbers.get(key), " – ".join(map(show, cell.interval(key) or ())))
