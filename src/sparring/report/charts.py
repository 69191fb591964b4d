"""Charts of what runs do besides their losses: how well they clean, what field they are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.studies import cleaning, diagnostics
from .plots import Chart, Curve, arrow_chart
from .runs import Run
from .wording import show

NOISY = "the noisy images"
NOISY_STYLE = 7  # the last of the page's line styles


def cleaning_charts(runs: Sequence[Run], styles: Mapping[str, int]) -> list[Chart]:
    """PSNR of cleaned images against the level of the noise; one chart for each protocol, the
    newest curve of each run."""
    charts: dict[str, tuple[Mapping[str, Any], list[Curve]]] = {}
    for run in runs:
        for result in run.cleaning:
            (figures,) = result["models"].values()
            apart = ("versions", "class_labels")
            alike = {k: v for k, v in result["protocol"].items() if k not in apart}
            group = json.dumps([alike, result["levels"]], sort_keys=True)
            if group not in charts:
                noisy = cleaning_curve(NOISY, NOISY_STYLE, result["noisy"], "psnr")
                charts[group] = result, [noisy]
            curves = charts[group][1]
            if run.name not in [curve.name for curve in curves]:
                curves.append(cleaning_curve(run.name, styles[run.name], figures, "psnr"))
    return [
        cleaning_chart(
            "psnr", curves, "{data} ({split}), {n_steps} step(s)".format(**result["protocol"])
        )
        for result, curves in charts.values()
    ]


def cleaning_curve(name: str, style: int, figures: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """A figure by the level of the noise."""
    return Curve(name, style, [one["level"] for one in figures], [one[key] for one in figures])


def cleaning_chart(key: str, curves: list[Curve], title: str = "") -> Chart:
    """The curves of a figure of cleaned images, under its name or a title."""
    figure = cleaning.FIGURES[key]
    return Chart.of(
        title or figure.label, curves, x_label="noise of the images, [0, 1] scale",
        y_label=f"{figure.label}, {figure.hint}",
        title=f"{figure.label} of cleaned images by the noise that they had {title}".strip(),
    )  # fmt: skip


def diagnostics_charts(runs: Sequence[Run], styles: Mapping[str, int]) -> list[Chart]:
    """The figures per t against sigma/alpha; a chart for each figure and protocol, the newest curve
    of each run."""
    charts: dict[tuple[str, str], list[Curve]] = {}
    for run, found in _diagnosed(runs):
        alike = {key: value for key, value in found["protocol"].items() if key != "seeds"}
        for key in diagnostics.FIGURES:
            rows = [row for row in found["times"] if key in row]
            curves = charts.setdefault((key, json.dumps(alike, sort_keys=True)), [])
            if rows and run.name not in [curve.name for curve in curves]:
                ratios, values = [row["ratio"] for row in rows], [row[key] for row in rows]
                curves.append(Curve(run.name, styles[run.name], ratios, values))
    drawn = []
    for (key, protocol), curves in charts.items():
        figure, told = diagnostics.FIGURES[key], json.loads(protocol)
        chart = Chart.of(
            figure.label, curves, x_label="noise level sigma/alpha, log scale", y_label=figure.hint,
            title=f"{figure.label} by noise level, {told.get('data')}, {told['n_points']} points",
            x_is_log=True,
        )  # fmt: skip
        if chart.svg:
            drawn.append(chart)
    order = [figure.label for figure in diagnostics.FIGURES.values()]
    return sorted(drawn, key=lambda chart: order.index(chart.title))


def straightness_of(runs: Sequence[Run]) -> str:
    """'plain 0.81, robust 0.84': of the newest diagnostics of each run."""
    said: dict[str, str] = {}
    for run, found in _diagnosed(runs):
        said.setdefault(run.name, f"{run.name} {show(found['straightness'])}")
    return ", ".join(said.values())


def arrow_charts(runs: Sequence[Run]) -> list[Chart]:
    """True and learned score of two-dimensional data, newest of each run, a chart a noise level."""
    charts: dict[tuple[str, float], Chart] = {}
    for run, found in _diagnosed(runs):
        for field in found.get("arrows", []):
            title = f"{run.name}, sigma/alpha {field['ratio']:g}"
            svg = arrow_chart(
                field["points"], [field["true"], field["learned"]], title=f"Score of {title}"
            )
            key = run.name, field["ratio"]
            charts.setdefault(key, Chart(title, svg, [("true", 0), ("learned", 1)]))
    return list(charts.values())


def _diagnosed(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    return [(run, one.diagnostics) for run in runs for one in run.evaluations if one.diagnostics]
