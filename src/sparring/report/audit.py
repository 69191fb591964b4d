"""A data audit as one HTML file: everything inline, nothing fetched."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.audit.summary import Found
from .page import read_picture, template
from .plots import Curve, line_chart


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
    *dirt, clean = found
    finding = "No dirt was found."
    if dirt:
        finding = f"{100 * (1 - clean.share):.0f} % of the images are not clean"
        most = f"{100 * dirt[0].share:.0f} % have {dirt[0].kind.replace('_', ' ')}"
        finding += f"; {most}, the commonest of {len(dirt)} kinds." if len(dirt) > 1 else "."
    chart, sigma = "", result["sigma_histogram"]
    if sigma is not None:  # a line over the middles of the bins
        middles = [(a + b) / 2 for a, b in pairwise(sigma["edges"])]
        chart = line_chart(
            [Curve("images", 1, middles, sigma["n_images"])], x_label="sigma, [0, 1] scale",
            y_label="images", title="Noisy images by the size of their noise",
        )  # fmt: skip
    return template("audit.html").render(
        result=result, finding=finding, found=found, examples=examples, chart=chart, n_rows=50,
        version=__version__,
    )  # fmt: skip
