"""What `sparring clean` did, as one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..evaluation.studies.cleaning import FIGURES
from .charts import NOISY, cleaning_chart
from .page import N_STYLES, Picture, read_picture, template
from .plots import Chart, Curve
from .ranking import flat
from .tables import Row, cell
from .wording import show, show_value


def render(result: Mapping[str, Any], folder: Path) -> str:
    """The page of a cleaned set.

    Args:
        result: As in cleaning.json.
        folder: Holds before.png and after.png.
    """
    pictures = {name: read_picture(folder / f"{name}.png") for name in ("before", "after")}
    return _page(Path(str(result["data"]["name"])).name, result, pictures)


def render_levels(result: Mapping[str, Any], folder: Path) -> str:
    """The page of models that clean noise of known sizes: curves, table, pictures.

    Args:
        result: As in report.json.
        folder: Holds a picture for each level.
    """
    models = ", ".join(result["models"])
    pictures = {
        f"noise {level:g}: clean, noisy, {models}": read_picture(folder / f"level-{level:g}.png")
        for level in result["levels"]
    }
    all_figures = {NOISY: result["noisy"], **result["models"]}
    charts = [
        cleaning_chart(key, [
            Curve.of(name, i % N_STYLES, rows, "level", key)
            for i, (name, rows) in enumerate(all_figures.items())
        ])
        for key in ("psnr", "feature_distance")
    ]  # fmt: skip
    rows = [
        Row(f"{figure.label}: {name}", [cell(one.get(key), _spread(one, key)) for one in figures],
            figure.hint)
        for key, figure in FIGURES.items()
        for name, figures in all_figures.items()
        if any(key in one for one in figures)
    ]  # fmt: skip
    return _page(str(result["protocol"]["data"]), result, pictures, charts, rows)


def _page(
    title: str, result: Mapping[str, Any], pictures: dict[str, Picture],
    charts: Sequence[Chart] = (), rows: Sequence[Row] = (),
) -> str:  # fmt: skip
    return template("cleaning.html").render(
        title=title, result=result, pictures=pictures, charts=charts, rows=rows,
        protocol=flat(result["protocol"]), show_value=show_value, version=__version__,
    )  # fmt: skip


def _spread(figures: Mapping[str, Any], key: str) -> str:
    low_high = figures.get(f"{key}_interval")
    return "" if low_high is None else f"{show(low_high[0])} to {show(low_high[1])}"
