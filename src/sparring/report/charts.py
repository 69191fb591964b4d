"""Charts of what runs do besides their losses: how well they clean, what field they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.studies import cleaning, diagnostics
from .plots import Chart, Curve, arrow_chart
from .ranking import side_by_side
from .runs import Run, mapping
from .wording import show

NOISY = "the noisy images"
NOISY_STYLE = 7  # the last of the page's line styles


def cleaning_charts(runs: Sequence[Run], styles: Mapping[str, int]) -> list[Chart]:
    """PSNR of cleaned images against the level of the noise; one chart for each protocol, the
    newest curve of each run."""
    apart = ("versions", "class_labels")
    found = [
        ([{k: v for k, v in one["protocol"].items() if k not in apart}, one["levels"]],
         run.name, one)
        for run in runs for one in run.cleaning
    ]  # fmt: skip
    charts = []
    for _, group in side_by_side(found):
        first = next(iter(group.values()))
        curves = [Curve.of(NOISY, NOISY_STYLE, first["noisy"], "level", "psnr")]
        for name, one in group.items():
            (figures,) = one["models"].values()
            curves.append(Curve.of(name, styles[name], figures, "level", "psnr"))
        title = "{data} ({split}), {n_steps} step(s)".format(**first["protocol"])
        charts.append(cleaning_chart("psnr", curves, title))
    return charts


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
    drawn = []
    for key, figure in diagnostics.FIGURES.items():
        found = [
            ({k: v for k, v in one["protocol"].items() if k != "seeds"}, run.name, rows)
            for run, one in _diagnosed(runs)
            if (rows := [row for row in one["times"] if key in row])
        ]
        for protocol, group in side_by_side(found):
            said = f"{protocol.get('data')}, {protocol['n_points']} points"
            curves = [
                Curve.of(name, styles[name], rows, "ratio", key) for name, rows in group.items()
            ]
            drawn.append(Chart.of(
                figure.label, curves, x_label="noise level sigma/alpha, log scale",
                y_label=figure.hint, title=f"{figure.label} by noise level, {said}", x_is_log=True,
            ))  # fmt: skip
    return [chart for chart in drawn if chart.svg]


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
    found = [(run, mapping(one.figures, "diagnostics")) for run in runs for one in run.evaluations]
    return [(run, one) for run, one in found if one]
