"""The report's section on attacks: the numbers of the files, side by side only where alike."""

import json
import re

import pytest
from fake_runs import PROTOCOL, digits_grid, make_demo_runs
from test_report_page import EVIL, make

from sparring.report.attacks import grouped, read_attack, render_page
from sparring.support.errors import UserError

RADII = (0.0, 0.1, 0.4)


def points(values, spread=1.5):
    return [
        {"radius": radius, "frechet_distance": float(value), "frechet_distance_std": spread}
        for radius, value in zip(RADII, values, strict=True)
    ]


def write_attack(folder, values, control, name="model", picture=True, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    attack = {"kind": "pgd", "norm": "linf", "units": "noise",
              "per": "element", "aim": "final", "n_attack_steps": 10,
              "n_path_steps": 1, "n_expectation": None, "where": [0, 0.5], "n_seeds": 3,
              "corruptions": [], "transfer_from": None}  # fmt: skip
    data = {
        "quality": "frechet_distance", "frechet_distance_of_reference": 4.25, "model": name,
        "command": f"sparring attack {name}", "protocol": PROTOCOL | {"attack": attack | changes},
        "curves": [{"name": "pgd", "kind": "attack", "points": points(values)},
                   {"name": "random", "kind": "control", "points": points(control)}],
    }  # fmt: skip
    if picture:
        digits_grid(folder / "a.png", 0.2)
        data["picture"] = {"file": "a.png", "radius": 0.4, "n": 4}
    (folder / "a.json").write_text(json.dumps(data))
    return folder / "a.json"


@pytest.fixture
def attacked_runs(tmp_path):
    runs = make_demo_runs(tmp_path / "runs")
    values = {"plain": (20, 25, 61.7), "robust": (10, 12, 30.5), "clean": (5, 9, 40)}
    for name, found in values.items():
        folder = tmp_path / "runs" / name / "attacks"
        write_attack(folder, found, (found[0], found[0] + 1, found[0] + 2), name)
    return runs


def test_the_page_draws_and_tables_what_the_files_say(attacked_runs, tmp_path):
    html, page, _ = make(attacked_runs, tmp_path)
    text = page.text
    assert "Under attack" in text
    assert ("Fréchet distance from radius 0 to 0.4: plain 20.0 to 61.7 (random noise: 22.0); "
            "robust 10.0 to 30.5 (random noise: 12.0); clean 5.00 to 40.0") in text  # fmt: skip
    assert (
        "pgd of 10 steps, on final, looking 1 call ahead, linf, at call 0, 0.5 of the path" in text
    )
    assert "3 seeds of 1797 samples, ddim, 50 steps, against digits" in text
    assert "As many images of the reference itself: 4.25." in text
    assert "&#34;plain, pgd 61.7 ± 1.50&#34;" in html  # under the pointer
    assert "&#34;robust, random 11.0 ± 1.50&#34;" in html
    assert len(re.findall(r'<polyline class="line-\d control"', html)) == 3
    section = html[html.index('id="attacks"') : html.index('id="losses"')]
    assert section.count("<polyline") == 6
    assert section.count('<polygon class="band-') == 3
    assert section.count('class="on-the-way') == 3
    assert "radius 0.1" in text


def test_unlike_attacks_are_not_drawn_together(tmp_path):
    a = write_attack(tmp_path / "a", (1, 2, 3), (1, 1, 1), "a", picture=False)
    b = write_attack(tmp_path / "b", (1, 2, 3), (1, 1, 1), "b", picture=False, n_path_steps=None)
    c = write_attack(tmp_path / "c", (2, 2, 3), (2, 1, 1), "c", picture=False)
    groups = grouped([read_attack(path) for path in (a, b, c)])
    assert [[one.name for one in group.members] for group in groups] == [["a", "c"], ["b"]]


def test_a_page_of_its_own_escapes_names(tmp_path):
    name = f"x{EVIL.replace('/', '')}"
    path = write_attack(tmp_path / "a", (1, 2, 3), (1, 1, 1), name, picture=False)
    html = render_page([path])
    assert html.count("<script") == 1  # the page's own
    assert "&lt;script&gt;" in html
    assert "Quality against radius" in html


def test_a_broken_file_is_named_and_another_is_left_alone(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="broken"):
        read_attack(tmp_path / "broken.json")
    (tmp_path / "other.json").write_text("{}")
    assert read_attack(tmp_path / "other.json") is None


def test_runs_without_attacks_have_no_such_section(demo_runs, tmp_path):
    html, _, _ = make(demo_runs, tmp_path)
    assert "Under attack" not in html
