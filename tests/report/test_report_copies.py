"""Copies of training images on the page."""

import json
import re

import numpy as np
import pytest
from fake_runs import digits_grid, figures, write_run
from test_report_page import EVIL, Page, make

from sparring.report.copies import bands, distance_chart, pair_words
from sparring.report.page import Picture
from sparring.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

MEMORIZATION = {
    "extractor": "classifier", "calibration": "held-out images", "n_train": 64,
    "near_duplicates": 0.97, "near_duplicates_interval": [0.95, 0.99],
    "near_duplicates_of_calibration": 0.0101, "authentic": 0.02, "authentic_of_calibration": 0.5,
    "thresholds": {"near_duplicates": 1.0, "within_5_percent": 1.5}, "is_flagged": True,
    "verdict": "copies its training images: 97.0 % of the samples",
    "histogram": {"edges": [0.0, 1.0, 2.0, 3.0, 4.0], "samples": [0.75, 0.25, 0, 0],
                  "calibration": [0, 0.125, 0.375, 0.5]},
    "pairs": [
        {"sample": 12, "training": 55, "where": None, "distance": 0.31, "second_distance": 2.4,
         "n_near_duplicates": 7},
        {"sample": 3, "training": 1, "where": "a.png", "distance": 0.4, "second_distance": 3.0,
         "n_near_duplicates": 1},
    ],
}  # fmt: skip


def run_with(folder, picture=True, **more):
    run = write_run(folder, evaluation=figures(10, 0.1, memorization=MEMORIZATION | more))
    file = next((folder / "evaluation").glob("*.json"))
    if picture:
        digits_grid(file.with_name(f"{file.stem}-memorization.png"), 0, n_side=2)
    return str(run)


def test_the_section_has_the_verdict_the_chart_and_a_band_of_the_picture_for_each_pair(tmp_path):
    html, page, _ = make([run_with(tmp_path / "a")], tmp_path)
    section = html.split('id="copies"')[1].split("</section>")[0]
    assert '<p class="warning">copies its training images: 97.0 % of the samples.</p>' in section
    assert section.count("<use href=") == 2
    assert section.count("data:image/png;base64,") == 1
    assert re.findall(r'viewBox="(0 \d+ 16 8)"', section) == ["0 0 16 8", "0 8 16 8"]
    assert "sample 3, training image 1 (a.png): 0.400 apart, the next 3.00" in section
    assert "Near duplicates of training images" in page.text
    assert re.search(r"Near duplicates of training images.* 0\.970 ", page.text)
    assert "0.0101" in page.text


def test_without_the_picture_the_figures_stay_and_without_figures_there_is_no_section(tmp_path):
    html, _, _ = make([run_with(tmp_path / "a", picture=False, is_flagged=False)], tmp_path)
    section = html.split('id="copies"')[1].split("</section>")[0]
    assert "<use" not in section
    assert 'class="warning"' not in section
    assert "copies its training images" in section
    bare = write_run(tmp_path / "bare", evaluation=figures(10, 0.1))
    assert 'id="copies"' not in make([str(bare)], tmp_path)[0]


def test_names_of_files_are_escaped(tmp_path):
    pairs = [MEMORIZATION["pairs"][0] | {"where": EVIL}]
    html, page, _ = make(
        [run_with(tmp_path / "a", pairs=pairs, verdict=EVIL, calibration=EVIL)], tmp_path
    )
    assert html.count("<script") == 1  # the page's own
    assert len(page.all("script")) == 1


def test_the_chart_draws_both_shares_and_tells_each_bin():
    svg = str(distance_chart(MEMORIZATION, 3, "a & b"))
    page = Page(svg)
    assert "a &amp; b" in svg
    (curve,) = json.loads(page.all("svg")[0]["data-curves"])
    assert curve["name"] == "a & b"
    assert [point[2] for point in curve["points"]] == [0.5, 1.5, 2.5, 3.5]
    assert curve["points"][1][3:] == [
        25.0, "25.0 % of the samples, 12.5 % of held-out images (1.00 to 2.00)"
    ]  # fmt: skip
    foot, top = HEIGHT - BOTTOM, TOP
    (line,) = (e["points"] for e in page.all("polyline") if e["class"] == "line-3")
    points = np.array([point.split(",") for point in line.split()], dtype=float)
    at = np.linspace(LEFT, WIDTH - RIGHT, 5)
    np.testing.assert_allclose(points[:, 0], np.repeat(at, 2), atol=0.06)
    heights = [0, 0.75, 0.75, 0.25, 0.25, 0, 0, 0, 0, 0]
    expected = foot - np.array(heights) / 0.75 * (foot - top)
    np.testing.assert_allclose(points[:, 1], expected, atol=0.06)
    lines = [e["d"] for e in page.all("path") if e["class"] == "threshold"]
    assert [float(d[1:].split()[0]) for d in lines] == pytest.approx(
        [at[1], (at[1] + at[2]) / 2], abs=0.06
    )
    assert distance_chart({"histogram": {}}, 0, "a") == ""


def test_bands_hold_the_rows_of_a_grid_with_margins():
    margin, side, n = 2, 64, 24  # as sampling.images.grid lays them out
    picture = Picture("data:,", 2 * (side + margin) + margin, n * (side + margin) + margin)
    for i, band in enumerate(bands(picture, n)):
        x, y, width, height = map(float, band.split())
        assert (x, width) == (0, picture.width)
        assert y <= margin + i * (side + margin) + 1e-6
        assert y + height >= (i + 1) * (side + margin) - 1e-6


def test_words_of_a_pair():
    first, second = MEMORIZATION["pairs"]
    assert pair_words(first) == (
        "sample 12, training image 55: 0.310 apart, the next 2.40; 7 near duplicates of it"
    )
    assert pair_words(second).endswith("; 1 near duplicate of it")
    assert pair_words(first | {"n_near_duplicates": None}).endswith("the next 2.40")
