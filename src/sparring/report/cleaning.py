"""What `sparring clean` did, as one HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..evaluation.studies.cleaning import FIGURES
from .charts import NOISY, cleaning_chart, cleaning_curve
from .page import N_STYLES, template
from .pictures import read_picture
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
    return template("cleaning.html").render(
        title=Path(str(result["data"]["name"])).name, result=result, pictures=pictures, charts=[],
        rows=[], protocol=flat(result["protocol"]), show_value=show_value,
        version=__version__,
    )  # fmt: skip


def render_levels(result: Mapping[str, Any], folder: Path) -> str:
    """The page of models that clean noise of known sizes: curves, table, pictures.

    Args:
        result: As in report.json.
        folder: Holds a picture for each level.
    """
    levels = result["levels"]
    pictures = {
        f"noise {level:g}: clean, noisy, {', '.join(result['models'])}": read_picture(
            folder / f"level-{level:g}.png"
        )
        for level in levels
    }
    all_figures = {NOISY: result["noisy"], **result["models"]}
    styles = {name: i % N_STYLES for i, name in enumerate(all_figures)}
    charts = [
        cleaning_chart(
            key, [cleaning_curve(name, styles[name], one, key) for name, one in all_figures.items()]
        )
        for key in ("psnr", "feature_distance")
    ]
    rows = [
        Row(
            f"{figure.label}: {name}",
            [cell(one.get(key), _spread(one, key)) for one in figures],
            hint=figure.hint,
        )
        for key, figure in FIGURES.items()
        for name, figures in all_figures.items()
        if any(key in one for one in figures)
    ]
    return template("cleaning.html").render(
        title=str(result["protocol"]["data"]), result=result, pictures=pictures, charts=charts,
        rows=rows, protocol=flat(result["protocol"]), show_value=show_value,
        version=__version__,
    )  # fmt: skip


def _spread(figures: Mapping[str, Any], key: str) -> str:
    low_high = figures.get(f"{key}_interval")
    return "" if low_high is None else f"{show(low_high[0])} to {show(low_high[1])}"
