"""Sweeps on the page: the numbers of the files, at their places."""

import re

from fake_runs import PROTOCOL, figures, write_run

from sparring.report.html import render
from sparring.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH
from sparring.report.runs import read_runs
from sparring.report.sweeps import sweeps_of


def cell(value, steps, sampler="ddim", guidance=1, **protocol):
    own = PROTOCOL | {"steps": steps, "sampler": sampler, "guidance": guidance} | protocol
    return figures(value, 0.1, own)


def swept(folder, *cells):
    return str(write_run(folder, evaluation=figures(9, 0.1, sweep=list(cells))))


def test_a_run_has_a_line_and_a_row_for_each_sampler_and_guidance(tmp_path):
    guided = cell(6.0, 5, "euler", 3), cell(5.0, 20, "euler", 3)
    run = swept(tmp_path / "a", cell(8.0, 5), cell(4.0, 20), *guided)
    runs = read_runs([run])
    frechet, leftover = sweeps_of(runs)
    assert frechet.title == "Fréchet distance, a, 1797 samples against 1797 of digits"
    assert leftover.title.startswith("Leftover noise, a")
    assert frechet.columns == ["5 steps", "20 steps"]
    assert [name for name, _ in frechet.legend] == ["ddim", "euler, guidance 3"]
    texts = [[one.text for one in row.cells] for row in frechet.rows]
    assert texts == [["8.00", "4.00"], ["6.00", "5.00"], ["2.13", "2.13"]]
    assert frechet.rows[0].cells[0].detail == "7.60 – 8.40"
    assert frechet.rows[2].is_reference
    points = re.findall(r'<polyline class="line-\d" points="([^"]+)"', frechet.svg)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points[0].split())
    assert (x0, x1) == (LEFT, WIDTH - RIGHT)  # 5 and 20 are the ends
    foot = HEIGHT - BOTTOM  # the axis starts at 0, because a floor is shaded
    assert abs((foot - y0) / (foot - y1) - 2) < 0.01
    html, _ = render(runs)
    assert 'id="sweep"' in html
    assert "euler, guidance 3" in html


def test_runs_swept_alike_share_a_chart_and_others_do_not(tmp_path):
    runs = read_runs([
        swept(tmp_path / "a", cell(8.0, 5), cell(4.0, 20)),
        swept(tmp_path / "b", cell(7.0, 5), cell(3.0, 20), cell(2.0, 20, "euler")),
        swept(tmp_path / "c", cell(7.0, 5, n_fake=50)),
        str(write_run(tmp_path / "d", evaluation=figures(9, 0.1))),
    ])  # fmt: skip
    found = [one for one in sweeps_of(runs) if one.title.startswith("Fréchet")]
    assert [one.title.split(", ")[1] for one in found] == ["a", "b", "c", "ddim"]
    assert [name for name, _ in found[-1].legend] == ["a", "b"]
    assert [[one.text for one in row.cells] for row in found[-1].rows[:2]] == [
        ["8.00", "4.00"], ["7.00", "3.00"],
    ]  # fmt: skip
    assert found[1].rows[1].cells[0].text == ""  # euler was not asked for 5 steps
    assert sweeps_of(runs[3:]) == []
    assert 'id="sweep"' not in render(runs[3:])[0]
