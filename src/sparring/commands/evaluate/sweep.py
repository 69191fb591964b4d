"""`sparring evaluate MODEL evaluation.sweep=...`: the figures of every sampler, steps and guidance.

    evaluation.sweep="{scheduler: [ddim, dpmsolver++], num_inference_steps: [5, 10, 50]}"

A sweep is a list of evaluations, each with its own protocol: all combinations of what is listed.
Each is kept in the cache when it is done, so a sweep that was stopped goes on where it was.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...config.schema import SamplingSection, SweepSection
from ...evaluation.metrics.registry import all_figures
from ...report.plots import LOG_FROM_RATIO

Line = tuple[str, float]
"""Sampler and guidance: what one line of a figure keeps while the steps change."""


def combinations(sweep: SweepSection, sampling: SamplingSection) -> list[SamplingSection]:
    """A sampling section for each combination; the number of steps changes fastest."""
    names = ("scheduler", "guidance_scale", "num_inference_steps")
    lists = [dict.fromkeys(getattr(sweep, name) or [getattr(sampling, name)]) for name in names]
    return [
        sampling.model_copy(update=dict(zip(names, values, strict=True)))
        for values in itertools.product(*lists)
    ]


def shown() -> list[str]:
    """Figures that are printed and drawn for each combination: those that metrics say are drawn."""
    drawn = [figure for figure in all_figures().values() if figure.drawn]
    return [figure.key for figure in sorted(drawn, key=lambda one: one.drawn)]


def lines_of(
    sweep: Sequence[Mapping[str, Any]], name: str
) -> dict[Line, dict[int, Mapping[str, Any]]]:
    """The evaluations that have a figure, by sampler and guidance, and by steps in rising order."""
    found: dict[Line, dict[int, Mapping[str, Any]]] = {}
    for one in sweep:
        if name in one:
            protocol = one["protocol"]
            line = (protocol["sampler"], protocol["guidance"])
            found.setdefault(line, {})[protocol["steps"]] = one
    return {line: dict(sorted(cells.items())) for line, cells in found.items()}


def line_names(lines: Sequence[Line]) -> list[str]:
    """`ddim`, with the guidance where any line has one."""
    is_guided = any(guidance != 1 for _, guidance in lines)
    return [f"{name}, guidance {w:g}" if is_guided else name for name, w in lines]


def sweep_lines(sweep: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for a terminal: each main figure, a row for each line, a column for each count."""
    rows = []
    for name in shown():
        lines = lines_of(sweep, name)
        counts = sorted({count for line in lines.values() for count in line})
        if lines:
            rows.append(f"  {f'{name} at steps':<36}" + "".join(f"{n:>10}" for n in counts))
        for label, line in zip(line_names(list(lines)), lines.values(), strict=True):
            values = (f"{line[n][name]:>10.4g}" if n in line else f"{'':>10}" for n in counts)
            rows.append(f"    {label:<34}" + "".join(values))
    return rows


def sweep_picture(sweep: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Each main figure against the steps: a line with 95 % intervals for each sampler and guidance,
    and the floor of the reference itself."""
    names = [name for name in shown() if lines_of(sweep, name)]
    figure = Figure(figsize=(5.2 * len(names), 4), layout="constrained")
    figure.suptitle(title)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        lines, floor = lines_of(sweep, name), None
        for label, line in zip(line_names(list(lines)), lines.values(), strict=True):
            values = [one[name] for one in line.values()]
            ends = [one.get(f"{name}_interval", [one[name]] * 2) for one in line.values()]
            bars = np.abs(np.transpose(ends) - values)
            marks = {"marker": "o", "markersize": 3, "capsize": 2}
            axis.errorbar(list(line), values, yerr=bars, label=label, **marks)
            floor = next((one.get(f"{name}_of_reference") for one in line.values()), floor)
        if floor is not None:
            axis.axhline(floor, color="grey", linestyle=":", label="the reference itself")
        axis.set(xlabel="steps", ylabel=name.replace("_", " "), xscale="log")
        values = [one[name] for line in lines.values() for one in line.values()]
        if 0 < LOG_FROM_RATIO * min(values) < max(values):
            axis.set_yscale("log")
        counts = sorted({count for line in lines.values() for count in line})
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.legend(fontsize="small")
    return figure
