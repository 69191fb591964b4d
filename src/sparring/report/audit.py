"""A data audit as one HTML file: everything inline, nothing fetched."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.audit.summary import Found
from .page import Bar, Bars, template
from .pictures import read_picture
from .plots import Curve, line_chart

N_ROWS = 50


def render(result: Mapping[str, Any], folder: Path) -> str:
    """The page of what `sparring inspect` found.

    Args:
        result: As in report.json.
        folder: Holds examples/KIND.png of each kind that was found, and of clean images.
    """
    found = [Found(**one) for one in result["found"]]
    examples = [
        (one, read_picture(folder / "examples" / f"{one.kind}.png"))
        for one in found
        if one.n_images > 0
    ]
    return template("audit.html").render(
        result=result, finding=_finding(found), mixture=_mixture(found), examples=examples,
        chart=_histogram(result["sigma_histogram"]), n_rows=N_ROWS, version=__version__,
    )  # fmt: skip


def _finding(found: list[Found]) -> str:
    """The sentence that the page opens with."""
    *dirt, clean = found
    if not dirt:
        return "No dirt was found."
    share = f"{100 * (1 - clean.share):.0f} % of the images are not clean"
    most = f"{100 * dirt[0].share:.0f} % have {dirt[0].kind.replace('_', ' ')}"
    return f"{share}{'' if len(dirt) == 1 else f'; {most}, the commonest of {len(dirt)} kinds'}."


def _mixture(found: list[Found]) -> Bars:
    """The share of each kind; an image may have several."""
    bars = [
        Bar(
            one.kind, 0 if one.kind == "clean" else 1, f"{100 * one.share:.1f} %",
            round(100 * one.share, 2), None, one.kind == "clean",
        )
        for one in found
    ]  # fmt: skip
    return Bars("Share of the images", bars)


def _histogram(sigma: Mapping[str, Any] | None) -> str:
    """Noisy images by the size of their noise, a line over the middles of the bins."""
    if sigma is None:
        return ""
    middles = [(a + b) / 2 for a, b in pairwise(sigma["edges"])]
    return line_chart(
        [Curve("images", 1, middles, sigma["n_images"])], x_label="sigma, [0, 1] scale",
        y_label="images", title="Noisy images by the size of their noise",
    )  # fmt: skip
