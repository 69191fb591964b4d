"""Copies of training images on the page: a chart of distances, and the pairs most alike.

Read from the `memorization` of an evaluation file, and from the picture that lies beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from . import plots
from .page import Picture, read_picture
from .plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis
from .runs import Evaluation, Run, is_number
from .wording import show


def copies_of(runs: Sequence[Run], styles: Mapping[str, int]) -> list[dict[str, Any]]:
    """Of each run, its newest evaluation that looked for copies; clean images before dirty ones."""
    found = []
    for run in runs:
        for key in ("memorization", "memorization_of_dirty"):
            looked = (one for one in run.evaluations if isinstance(one.figures.get(key), dict))
            if (newest := next(looked, None)) is not None:
                found.append(_copies(run, styles[run.name], newest, key))
    return found


def _copies(run: Run, style: int, evaluation: Evaluation, key: str) -> dict[str, Any]:
    """What the page shows; each pair is a band of the picture (`view`) with its words."""
    figures = evaluation.figures[key]
    path = evaluation.path.with_name(f"{evaluation.path.stem}-{key}.png")
    picture = read_picture(path) if path.is_file() else None
    pairs = figures.get("pairs", []) if picture else []
    views = bands(picture, len(pairs)) if picture else []
    return {
        "name": run.name, "style": style, "picture": picture,
        "verdict": figures.get("verdict", ""),
        "is_warning": figures.get("is_flagged") or figures.get("is_suspected"),
        "calibration": figures.get("calibration", ""),
        "chart": distance_chart(figures, style, run.name),
        "pairs": [{"view": view, "what": pair_words(pair)}
                  for view, pair in zip(views, pairs, strict=True)],
    }  # fmt: skip


def bands(picture: Picture, n: int) -> list[str]:
    """The n rows of a picture as views of an SVG: x, y, width and height."""
    height = picture.height / max(n, 1)
    return [f"0 {i * height:g} {picture.width} {height:g}" for i in range(n)]


def pair_words(pair: Mapping[str, Any]) -> str:
    """'sample 12, training image 55 (a.png): 0.31 apart, the next 2.40; 7 near duplicates of it'"""
    where = f" ({pair['where']})" if pair.get("where") else ""
    words = (
        f"sample {pair.get('sample')}, training image {pair.get('training')}{where}: "
        f"{show(pair.get('distance'))} apart, the next {show(pair.get('second_distance'))}"
    )
    count = pair.get("n_near_duplicates")
    return f"{words}; {count} near duplicate{'s' if count > 1 else ''} of it" if count else words


def distance_chart(figures: Mapping[str, Any], style: int, name: str) -> Markup:
    """Shares of samples (line) and of calibrating images (shaded) by the distance to the nearest
    training image, with the thresholds; each bin tells its numbers to the pointer."""
    histogram = figures.get("histogram", {})
    edges, samples, known = (histogram.get(key, []) for key in ("edges", "samples", "calibration"))
    if len(edges) < 2 or len(samples) != len(edges) - 1 or len(known) != len(samples):
        return Markup("")
    x_axis = Axis.linear(0.0, edges[-1], LEFT, WIDTH - RIGHT)
    y_axis = Axis.linear(0.0, 100 * max(*samples, *known), HEIGHT - BOTTOM, TOP)
    parts = [plots.grid_lines(x_axis, y_axis)]
    parts.append(f'<polygon class="under-floor" points="{_steps(x_axis, y_axis, edges, known)}"/>')
    parts.append(
        f'<polyline class="line-{style}" points="{_steps(x_axis, y_axis, edges, samples)}"/>'
    )
    for value in figures.get("thresholds", {}).values():
        if is_number(value):
            x = float(x_axis(np.array(value)))
            parts.append(f'<path class="threshold" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    calibration = str(figures.get("calibration", ""))
    points = []
    for i, (of_samples, of_known) in enumerate(zip(samples, known, strict=True)):
        middle, share = (edges[i] + edges[i + 1]) / 2, 100 * of_samples
        words = (
            f"{share:.1f} % of the samples, {100 * of_known:.1f} % of {calibration} "
            f"({show(edges[i])} to {show(edges[i + 1])})"
        )
        at = float(x_axis(np.array(middle))), float(y_axis(np.array(share)))
        points.append([round(at[0], 1), round(at[1], 1), middle, share, words])
    space = figures.get("extractor", "")
    parts.append(plots.axis_words(f"distance to the nearest training image ({space})", "share, %"))
    label = f"Distance of the samples of {name} to their nearest training image"
    curve = {"name": name, "style": style, "points": points}
    return plots.drawing("".join(parts), label, plots.page_numbers("distance", [curve]))


def _steps(x_axis: Axis, y_axis: Axis, edges: Sequence[float], shares: Sequence[float]) -> str:
    """Outline of a histogram from the foot up, over the bins, and down."""
    x = np.repeat(x_axis(np.array(edges)), 2)
    y = np.concatenate([[0.0], np.repeat(shares, 2), [0.0]])
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y_axis(100 * y), strict=True))
