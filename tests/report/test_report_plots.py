"""Loss curves: where the data land on the drawing, and that nothing of the user's is markup."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sparring.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Curve,
    arrow_chart,
    downsample,
    line_chart,
    tick_label,
)  # fmt: skip


def points_of(svg: str) -> np.ndarray:
    found = re.search(r'<polyline class="line-0" points="([^"]+)"', svg)
    assert found
    return np.array([[float(v) for v in p.split(",")] for p in found.group(1).split()])


def test_a_short_curve_is_drawn_point_for_point():
    svg = line_chart([Curve("a", 0, [0, 50, 100], [1.0, 3.0, 2.0])], x_label="step", y_label="loss",
                     title="t")  # fmt: skip
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    expected = [[left, bottom], [(left + right) / 2, top], [right, (top + bottom) / 2]]
    np.testing.assert_allclose(points_of(svg), expected, atol=0.06)
    assert "log scale" not in svg


def test_a_wide_range_is_drawn_on_a_log_scale():
    svg = line_chart([Curve("a", 0, [0, 1, 2], [1.0, 0.1, 0.01])], x_label="step", y_label="loss",
                     title="t")  # fmt: skip
    heights = points_of(svg)[:, 1]
    np.testing.assert_allclose(np.diff(heights), (HEIGHT - BOTTOM - TOP) / 2, atol=0.5)
    assert "loss, log scale" in svg


def test_a_curve_with_zeros_stays_on_a_linear_scale():
    svg = line_chart([Curve("a", 0, [0, 1, 2], [0.0, 1.0, 50.0])], x_label="step", y_label="term",
                     title="t")  # fmt: skip
    assert "log scale" not in svg
    np.testing.assert_allclose(points_of(svg)[:, 1], [194, 194 - 182 / 50, 12], atol=0.06)


def test_noise_levels_lie_on_a_log_axis_over_the_shaded_floor():
    floor = Curve("", 0, [100.0, 1.0, 0.01], [1.0, 1.0, 1.0])
    svg = line_chart([Curve("a", 0, [100.0, 1.0, 0.01], [1.0, 2.0, 3.0])], x_label="ratio",
                     y_label="d", title="t", x_is_log=True, floor=floor)  # fmt: skip
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    third = (bottom - top) / 3
    expected = [[right, bottom - third], [(left + right) / 2, top + third], [left, top]]
    np.testing.assert_allclose(points_of(svg), expected, atol=0.06)
    shaded = re.search(r'<polygon class="under-floor" points="([^"]+)"', svg)
    assert shaded
    places = [[float(v) for v in p.split(",")] for p in shaded.group(1).split()]
    height = bottom - third
    expected = [[right, height], [(left + right) / 2, height], [left, height], [left, bottom],
                [right, bottom]]  # fmt: skip
    np.testing.assert_allclose(places, expected, atol=0.06)
    assert "d, log scale" not in svg


def test_one_noise_level_is_a_dot():
    svg = line_chart([Curve("a", 0, [2.0], [1.0])], x_label="", y_label="", title="",
                     x_is_log=True)  # fmt: skip
    assert 'class="line-0 dot"' in svg


def test_downsampling_keeps_means_and_extremes():
    values = np.arange(1000.0)
    few = downsample(range(1000), values, max_points=10)
    np.testing.assert_allclose(few.mean, values.reshape(10, 100).mean(1))
    np.testing.assert_allclose(few.low, values.reshape(10, 100).min(1))
    np.testing.assert_allclose(few.high, values.reshape(10, 100).max(1))


def test_values_that_are_not_finite_are_left_out():
    few = downsample([0, 1, 2, 3], [1.0, float("nan"), float("inf"), 4.0])
    assert few.steps.tolist() == [0, 3]
    assert few.mean.tolist() == [1, 4]
    assert line_chart([Curve("a", 0, [1], [float("nan")])], x_label="", y_label="", title="") == ""


def test_the_band_holds_every_value_of_a_stretch():
    svg = line_chart([Curve("a", 0, range(300), [1.0, 2.0] * 150)], x_label="step", y_label="loss",
                     title="t")  # fmt: skip
    band = re.search(r'<polygon class="band-0" points="([^"]+)"', svg)
    assert band
    heights = {float(p.split(",")[1]) for p in band.group(1).split()}
    assert heights == {float(TOP), float(HEIGHT - BOTTOM)}
    assert set(points_of(svg)[:, 1]) == {(TOP + HEIGHT - BOTTOM) / 2}


def test_text_is_escaped_and_the_drawing_is_well_formed():
    evil = '"><script>alert(1)</script>&'
    svg = line_chart([Curve(evil, 0, [0, 1], [1, 2])], x_label=evil, y_label=evil, title=evil)
    root = ElementTree.fromstring(svg)  # parses: every name was escaped
    assert root.attrib["aria-label"] == evil
    assert not [element for element in root.iter() if element.tag.endswith("script")]


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (0.05, "0.05"), (20, "20"), (3000, "3k"), (2.5e6, "2.5M"), (1e-5, "1e-5"),
])  # fmt: skip
def test_tick_labels(value: float, text: str):
    assert tick_label(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 3000), (0.013, 0.9), (-4, 4), (7, 7), (0, 1)])
def test_linear_ticks_are_even_and_inside(low: float, high: float):
    axis = Axis.linear(low, high, 0, 100)
    assert 2 <= len(axis.ticks) <= 7
    assert all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in axis.ticks)
    np.testing.assert_allclose(np.diff(axis.ticks), np.diff(axis.ticks)[0])


def test_arrows_start_at_their_points_and_point_where_the_field_does():
    points = [[x, y] for x in (0.0, 1.0, 2.0) for y in (0.0, 1.0, 2.0)]
    right, up = [[1.0, 0.0]] * 9, [[0.0, 0.5]] * 9
    svg = arrow_chart(points, [right, up], title="<b>")
    assert "<b>" not in svg
    first, second = (
        [[float(n) for n in part.split()] for part in re.split("[ML]", path) if part]
        for path in re.findall(r' d="([^"]*)"', svg)
    )
    (x0, y0), (x1, y1) = first[:2]
    assert y1 == y0
    assert x1 > x0
    assert first[0] == second[0]
    gap = first[5 * 3][0] - x0  # three points up, then one to the right; five ends an arrow
    assert x1 - x0 == pytest.approx(1.4 * gap, rel=0.01)
    (x0, y0), (x1, y1) = second[:2]
    assert x1 == x0
    assert y0 - y1 == pytest.approx(0.7 * gap, rel=0.01)
