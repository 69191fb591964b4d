"""Curves as hand-built SVG: crisp, small, coloured by the page in light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

# One user unit is about one CSS pixel on a phone, so that text keeps its size there.
WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 38
MAX_POINTS = 150
LOG_FROM_RATIO = 12.0
N_TICKS = 5  # about


@dataclass(frozen=True)
class Curve:
    """Values of one term of one run; `style` is its place among the page's line styles.

    `low` and `high` are a band around at most `MAX_POINTS` values, `notes` what each of these says
    when it is pointed at; a control's line is thin and dotted.
    """

    name: str
    style: int
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None
    notes: Sequence[str] = ()
    is_control: bool = False

    @classmethod
    def of(cls, name: str, style: int, rows: Iterable[Mapping[str, Any]], x: str, y: str) -> Curve:
        """The curve of two columns of rows."""
        points = [(row[x], row[y]) for row in rows]
        return cls(name, style, [a for a, _ in points], [b for _, b in points])


@dataclass(frozen=True)
class Chart:
    """A drawing with its heading, and the name and line style of each curve."""

    title: str
    svg: Markup
    legend: list[tuple[str, int]]

    @classmethod
    def of(cls, heading: str, curves: Sequence[Curve], **words: Any) -> Chart:
        """The `line_chart` of curves, and their names."""
        legend = [(curve.name, curve.style) for curve in curves]
        return cls(heading, line_chart(curves, **words), legend)


class Stretches(NamedTuple):
    """A curve cut into stretches of steps: mean, smallest and largest value of each."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def downsample(
    steps: Sequence[float], values: Sequence[float], max_points: int = MAX_POINTS
) -> Stretches:
    """At most `max_points` stretches of equal count; values that are not finite are left out."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    parts = np.array_split(np.arange(len(x)), min(max_points, len(x))) if len(x) else []
    found = [(x[p].mean(), y[p].mean(), y[p].min(), y[p].max()) for p in parts]
    return Stretches(*np.array(found).reshape(-1, 4).T)


def line_chart(
    curves: Sequence[Curve], *, x_label: str, y_label: str, title: str,
    x_is_log: bool = False, floor: Curve | None = None,
) -> Markup:  # fmt: skip
    """An SVG chart: a line through each stretch's mean over a band from its smallest to largest.

    The y axis is logarithmic where the means are positive and span more than a factor of 12.
    Colours and dashes come from the classes `line-<style>` and `band-<style>`; text is escaped.

    Args:
        curves: One line each. Where none has a finite value, the chart is empty.
        x_label, y_label, title: Words on the axes, and for those who cannot see the drawing.
        x_is_log: Put the steps, all > 0, on a logarithmic axis; else the axis starts at 0.
        floor: What lies under it is shaded: values that mean nothing. A linear y axis starts at 0.
    """
    drawn = []
    for curve in curves:
        s = downsample(curve.steps, curve.values)
        if curve.low is not None and curve.high is not None and len(s.steps) == len(curve.values):
            s = s._replace(low=np.asarray(curve.low), high=np.asarray(curve.high))
        drawn += [(curve, s)] * bool(len(s.steps))
    if not drawn:
        return Markup("")
    shade = [(floor, downsample(floor.steps, floor.values))] if floor is not None else []
    means = np.concatenate([s.mean for _, s in drawn + shade])
    is_log = bool(means.min() > 0 and means.max() > LOG_FROM_RATIO * means.min())
    steps = [step for curve, _ in drawn for step in curve.steps]
    if x_is_log:
        x_axis = Axis.log(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    else:
        x_axis = Axis.linear(0.0, max(steps) or 1.0, LEFT, WIDTH - RIGHT)
    low, high = _y_range(drawn + shade)
    if shade and not is_log:
        low = min(low, 0.0)  # the height of the shaded area is read
    y_axis = (Axis.log if is_log else Axis.linear)(low, high, HEIGHT - BOTTOM, TOP)

    parts = [grid_lines(x_axis, y_axis)]
    for _, s in shade:  # everything between the floor and the foot of the drawing
        x, foot = x_axis(s.steps), [HEIGHT - BOTTOM] * 2
        outline = _points([*x, x[-1], x[0]], [*y_axis(s.mean), *foot])
        parts.append(f'<polygon class="under-floor" points="{outline}"/>')
    for curve, s in drawn:
        if np.any(s.high > s.low):
            x = x_axis(s.steps)
            outline = _points([*x, *x[::-1]], y_axis(np.append(s.high, s.low[::-1])))
            parts.append(f'<polygon class="band-{curve.style}" points="{outline}"/>')
    for curve, s in drawn:
        x, y = x_axis(s.steps), y_axis(s.mean)
        if len(x) == 1:
            place = f'cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="3"'
            parts.append(f'<circle class="line-{curve.style} dot" {place}/>')
        else:
            thin = " control" * curve.is_control
            parts.append(f'<polyline class="line-{curve.style}{thin}" points="{_points(x, y)}"/>')
    parts.append(axis_words(x_label, y_label + (", log scale" if is_log else "")))
    points = _numbers(drawn, x_axis, y_axis)
    return drawing("".join(parts), title, page_numbers(x_label.partition(",")[0], points))


def axis_words(x_label: str, y_label: str) -> str:
    """What stands below and beside a drawing."""
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<text class="axis" x="{middle_x:g}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="axis" transform="translate(11 {middle_y:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )


def drawing(inside: str, title: str, numbers: str = "") -> Markup:
    """The `<svg>` element; `title` is for those who cannot see it, `numbers` for page.js."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" {numbers}{" " * bool(numbers)}'
        f'xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
    )


def arrow_chart(
    points: Sequence[Sequence[float]], fields: Sequence[Sequence[Sequence[float]]], *, title: str
) -> Markup:
    """An SVG drawing of vector fields on the same points of the plane; field i has `line-<i>`.

    Points and fields are (n, 2). The longest arrow of the first field is 1.4 times as long as the
    points of a square grid are apart, and all others are to scale, up to twice that.
    """
    at, side = np.asarray(points, dtype=float), HEIGHT - 2 * TOP
    low, high = at.min(0), at.max(0)
    scale = side / max(float((high - low).max()), 1e-12) * 0.86
    corner = np.array([(WIDTH - side) / 2 + 0.07 * side, HEIGHT - TOP - 0.07 * side])
    start = corner + (at - low) * scale * np.array([1, -1])
    gap = scale * float((high - low).max()) / max(math.sqrt(len(at)) - 1, 1)
    longest = max(float(np.linalg.norm(np.asarray(fields[0], dtype=float), axis=1).max()), 1e-12)
    parts = []
    for style, field in enumerate(fields):
        vector = np.asarray(field, dtype=float) / longest * 1.4 * gap * np.array([1, -1])
        length = np.linalg.norm(vector, axis=1, keepdims=True)
        vector = vector * np.minimum(1, 2.8 * gap / np.maximum(length, 1e-12))
        end, across = start + vector, vector[:, ::-1] * np.array([1, -1])
        heads = [end - 0.35 * vector + side * 0.2 * across for side in (1, -1)]
        path = "".join(
            f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}"
            f"M{c[0]:.1f} {c[1]:.1f}L{b[0]:.1f} {b[1]:.1f}L{d[0]:.1f} {d[1]:.1f}"
            for a, b, c, d in zip(start, end, *heads, strict=True)
        )
        parts.append(f'<path class="line-{style} arrow" fill="none" d="{path}"/>')
    return drawing("".join(parts), title)


def tick_label(value: float) -> str:
    """A short number for an axis: 0.05, 20, 3k, 1e-5."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 and value == int(value):
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:g}"


@dataclass(frozen=True)
class Axis:
    """Maps data to the drawing; values outside [low, high] are drawn on the edge."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: tuple[float, ...]

    @classmethod
    def linear(cls, low: float, high: float, start: float, end: float) -> Axis:
        if high <= low:
            pad = abs(low) * 0.1 or 1.0
            low, high = low - pad, high + pad
        raw = (high - low) / N_TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        ticks = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
        return cls(low, high, start, end, False, tuple(float(f"{t:.10g}") for t in ticks))

    @classmethod
    def log(cls, low: float, high: float, start: float, end: float) -> Axis:
        if high <= low:
            low, high = low / 2, high * 2
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for multiples in ((1,), (1, 3), (1, 2, 5)):
            every = [float(f"{m}e{d}") for d in decades for m in multiples]
            ticks = tuple(t for t in every if low <= t <= high)
            if len(ticks) >= 3:
                break
        return cls(low, high, start, end, True, ticks)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        inside = np.clip(np.asarray(values, dtype=float), self.low, self.high)
        scale = np.log10 if self.is_log else np.asarray
        share = (scale(inside) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)


def _y_range(drawn: Sequence[tuple[Curve, Stretches]]) -> tuple[float, float]:
    """All means, and the bands but their most extreme 2 %; above 0 where the means are."""
    columns = zip(*(s for _, s in drawn), strict=True)
    _, means, lows, highs = (np.concatenate(column) for column in columns)
    low = min(means.min(), float(np.quantile(lows, 0.02)))
    high = max(means.max(), float(np.quantile(highs, 0.98)))
    if means.min() > 0:
        low = max(low, means.min() / 2)
    return float(low), float(high)


def page_numbers(x: str, curves: Sequence[Mapping[str, Any]]) -> Markup:
    """The attributes from which page.js tells a drawing's numbers: what the x axis is; name, style
    and points of each curve, a point as [x, y on the drawing, x, y, what it says if not its y]."""
    text = json.dumps(curves, separators=(",", ":"), ensure_ascii=False)
    return Markup(f'data-x="{escape(x)}" data-curves="{escape(text)}"')


def _numbers(
    drawn: Sequence[tuple[Curve, Stretches]], x_axis: Axis, y_axis: Axis
) -> list[dict[str, Any]]:
    curves = []
    for curve, s in drawn:
        places = zip(x_axis(s.steps), y_axis(s.mean), s.steps, s.mean, strict=True)
        points: list[list[Any]] = [
            [round(a, 1), round(b, 1), float(f"{x:.6g}"), float(f"{y:.4g}")]
            for a, b, x, y in places
        ]
        for point, note in zip(points, curve.notes, strict=False):  # all have one, or none
            point.append(note)
        curves.append({"name": curve.name, "style": curve.style, "points": points})
    return curves


def _points(x: Iterable[float], y: Iterable[float]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def grid_lines(x_axis: Axis, y_axis: Axis) -> str:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path class="frame" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>']
    for tick, y in zip(y_axis.ticks, y_axis(np.array(y_axis.ticks)), strict=True):
        parts.append(
            f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_label(tick)}</text>'
        )
    for tick, x in zip(x_axis.ticks, x_axis(np.array(x_axis.ticks)), strict=True):
        parts.append(
            f'<path class="frame" d="M{x:.1f} {bottom}v4"/>'
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick_label(tick)}</text>'
        )
    return "".join(parts)
