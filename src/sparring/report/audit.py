"""A data audit as one HTML file: everything inline, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from .. import __version__
from .html import template
from .pictures import read_picture
from .plots import Curve, line_chart

N_ROWS = 50


def render(result: Mapping[str, Any], folder: Path) -> str:
    """The page of what `sparring inspect` found.

    Args:
        result: As in report.json.
        folder: Holds dirtiest.png and cleanest.png.
    """
    pictures = {name: read_picture(folder / f"{name}.png") for name in ("dirtiest", "cleanest")}
    return template("audit.html").render(
        result=result, pictures=pictures, chart=_histogram(result["noise"]),
        n_rows=N_ROWS, version=__version__,
    )  # fmt: skip


def _histogram(noise: Mapping[str, Any] | None) -> str:
    """Images by residual, a line over the middles of the bins."""
    if noise is None:
        return ""
    edges, counts = (noise["residual_histogram"][key] for key in ("edges", "n_images"))
    middles = [(a * b) ** 0.5 for a, b in pairwise(edges)]
    return line_chart(
        [Curve("images", 1, middles, counts)], x_label="residual, [0, 1] scale, log",
        y_label="images", title="Images by what they have in the quiet directions", x_is_log=True,
    )  # fmt: skip
