"""The page as a file: self-contained, well-formed, the user's text escaped, clear errors."""

import base64
import hashlib
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_runs import (
    DETAIL,
    GAUSSIAN,
    PROTOCOL,
    digits_grid,
    figures,
    mismatch_curve,
    write_run,
)

from sparring.commands.report import report_command
from sparring.report.html import mismatch_charts
from sparring.report.runs import read_runs
from sparring.support.errors import UserError

VOID = {"meta", "link", "img", "br", "wbr", "hr", "input", "col"}
EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Elements with their attributes and text; unclosed and crossed elements are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def make(runs: list[str], folder: Path, title: str | None = None) -> tuple[str, Page, dict]:
    result = report_command(runs, folder / "report.html", title, overwrite=True)
    html = (folder / "report.html").read_text(encoding="utf-8")
    return html, Page(html), result


def test_the_command_tells_what_the_page_tells(demo_runs, tmp_path):
    _, page, result = make(demo_runs, tmp_path)
    assert result == {
        "output": str(tmp_path / "report.html"), "runs": ["plain", "robust", "clean"],
        "missing": [],
        "headline": "robust: Fréchet distance 31.2 against 88.0 for plain (×0.355), "
                    "leftover noise 0.410 of plain’s.",
    }  # fmt: skip
    assert result["headline"] in page.text
    json.dumps(result)
    assert "sparring evaluate runs/x evaluation.seed=0 --json" in page.text
    assert "sparring train configs/digits.yaml" in page.text
    assert "torch 2.13.0" in page.text


def test_nothing_is_fetched_and_one_script_runs(demo_runs, tmp_path):
    html, page, _ = make(demo_runs, tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(page.all("script")) == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("href", "data:,") == "data:,"
    assert set(re.findall(r"https?://[^\"'\s<>)]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import", html)
    policy = next(
        m["content"] for m in page.all("meta") if "content" in m and "src" in m["content"]
    )
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_pictures_are_the_runs_own_and_equal_training_samples_are_shown_once(demo_runs, tmp_path):
    _, page, _ = make(demo_runs, tmp_path)
    shown = [base64.b64decode(image["src"].split(",")[1]) for image in page.all("img")]
    expected = [Path(demo_runs[0], "data/training_samples.png").read_bytes()]
    expected += [Path(run, "evaluation/figures-grid.png").read_bytes() for run in demo_runs]
    assert shown == expected
    assert all(image["alt"] and image["width"] == image["height"] == "64"
               for image in page.all("img"))  # fmt: skip


def test_the_last_grid_of_training_stands_in_and_unlike_noise_is_said(tmp_path):
    runs = [write_run(tmp_path / name, None, GAUSSIAN) for name in ("a", "b")]
    html, page, _ = make([str(run) for run in runs], tmp_path)
    grid = base64.b64encode((runs[0] / "samples" / "step-3000.png").read_bytes()).decode()
    assert html.count(grid) == 2
    assert "started from the same noise" in page.text
    config = runs[1] / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("n_images: 64\n  seed: 0", "n_images: 64\n  seed: 7"))
    _, page, _ = make([str(run) for run in runs], tmp_path)
    assert "The grids do not start from the same noise (seed: 0 / 7)." in page.text


def test_a_tuned_run_shows_what_its_model_drew_before(tmp_path):
    tuned, other = (write_run(tmp_path / name, None, None) for name in ("tuned", "other"))
    digits_grid(tuned / "samples" / "step-0.png", 0.7, seed=3)
    rows = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"balance/overlap": 0.3, "balance/real": 1.0} for row in rows]
    (tuned / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    html, page, _ = make([str(tuned), str(other)], tmp_path)
    before, after = (
        base64.b64encode((tuned / "samples" / f"step-{n}.png").read_bytes()).decode()
        for n in (0, 3000)
    )
    section = html.split('id="before-after"')[1].split("</section>")[0]
    assert section.count("<img") == 2
    assert section.index(before) < section.index(after)
    assert "after step 3000" in section
    assert "Overlap of real and fake scores" in page.text
    assert 'id="before-after"' not in make([str(other)], tmp_path)[0]


def test_the_noise_of_an_evaluation_is_its_protocol_s(tmp_path):
    ways = [PROTOCOL, PROTOCOL | {"steps": 10}, PROTOCOL | {"seeds": {"sampling": 3}}]
    a, b, c = (
        str(write_run(tmp_path / name, None, None, evaluation=figures(9, 0.1, way)))
        for name, way in zip("abc", ways, strict=True)
    )
    assert "same noise, but they were drawn in unlike ways (steps: 50 / 10)." in (
        make([a, b], tmp_path)[1].text
    )
    assert "do not start from the same noise (seed: 0 / 3)." in make([a, c], tmp_path)[1].text


def test_everything_from_the_user_is_escaped(tmp_path):
    evil = write_run(
        tmp_path / EVIL.replace("/", "|"), DETAIL | {"name": EVIL}, GAUSSIAN | {"kind": EVIL},
        data={"name": EVIL, "class_names": [EVIL, "</style>"]}, command=f"sparring train {EVIL}",
        terms=("denoise", EVIL), evaluation=figures(9, 0.1, {"data": EVIL, "seeds": {EVIL: EVIL}})
        | {"command": EVIL, EVIL: 3.0},
    )  # fmt: skip
    (evil / "run.json").write_text(json.dumps({"device": EVIL, "versions": {EVIL: EVIL},
                                               "started": EVIL, "version": EVIL}))  # fmt: skip
    other = write_run(tmp_path / "other", None, None, finished=False)
    html, page, _ = make([str(evil), str(other)], tmp_path, title=f"{EVIL} & more")
    assert len(page.all("script")) == 1
    assert html.count("<script") == 1  # the page's own
    assert html.count("</style>") == 1
    assert page.text.count("alert(") >= 10  # shown as text wherever it was given
    title = re.search(r"<title>(.*?)</title>", html)
    assert title
    assert title.group(1).startswith("&lt;script&gt;")


def test_accessible_names_and_structure(demo_runs, tmp_path):
    html, page, _ = make(demo_runs, tmp_path)
    assert html.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for button in page.all("button"):
        assert button["aria-label"]
        assert button["popovertarget"] in ids
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert [chart["aria-label"] for chart in charts] == [
        "Total loss by step, plain, robust and clean",
        "Term: denoise by step, plain, robust and clean",
        "Term: detail by step, robust",
    ]
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids


def test_missing_parts_are_named_on_the_page(tmp_path):
    bare = write_run(tmp_path / "bare", None, GAUSSIAN, images=False, finished=False)
    for name in ("metrics.jsonl", "run.json"):
        (bare / name).unlink()
    shutil.rmtree(bare / "data")
    _, page, result = make([str(bare)], tmp_path)
    assert f"run bare has no evaluation: sparring evaluate {bare}" in page.text
    assert result["headline"] == "No figures yet: evaluate the runs to compare them."
    assert len(result["missing"]) == 6


def test_the_same_runs_give_the_same_bytes(demo_runs, tmp_path):
    first, _, _ = make(demo_runs, tmp_path / "a")
    second, _, _ = make(demo_runs, tmp_path / "b")
    assert first == second


def test_unlike_protocols_are_flagged_on_the_page(tmp_path):
    runs = [
        write_run(
            tmp_path / "a", None, GAUSSIAN, evaluation=figures(9, 0.1, {"extractor": "pixels"})
        ),
        write_run(tmp_path / "b", DETAIL, GAUSSIAN, evaluation=figures(8, 0.1)),
    ]
    _, page, _ = make([str(run) for run in runs], tmp_path)
    assert "made by 2 protocols and are not ranked across them" in page.text
    assert "another protocol" in page.text
    assert " best" not in page.text.lower().replace("best of", "")


def test_runs_are_not_written_to(demo_runs, tmp_path):
    def state() -> dict[Path, tuple[int, int]]:
        return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in (tmp_path / "runs").rglob("*")}

    before = state()
    make(demo_runs, tmp_path)
    assert state() == before


def error_of(runs: list[str], output: Path) -> str:
    with pytest.raises(UserError) as caught:
        report_command(runs, output)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_runs_end_in_one_clear_line(demo_runs, tmp_path):
    page = tmp_path / "report.html"
    assert "nowhere: no such run folder" in error_of([*demo_runs, "nowhere"], page)
    (tmp_path / "empty").mkdir()
    assert "empty: not a run" in error_of([str(tmp_path / "empty")], page)
    assert "name at least one run" in error_of([], page)
    broken = Path(demo_runs[0], "evaluation", "figures.json")
    broken.write_text('{"frechet_distance": ')
    assert f"{broken}: cannot be read" in error_of(demo_runs, page)
    broken.write_text("[1, 2]")
    assert "expected a JSON object" in error_of(demo_runs, page)
    Path(demo_runs[0], "config.yaml").write_text("a: [1\nb: {")
    assert "config.yaml: not valid YAML" in error_of(demo_runs, page)
    assert not page.exists()


def test_an_output_that_cannot_be_written_is_one_clear_line(demo_runs, tmp_path):
    assert "is a folder" in error_of(demo_runs, tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_of(demo_runs, tmp_path / "file" / "report.html")
    before = sorted(p.name for p in tmp_path.iterdir())
    report_command(demo_runs, tmp_path / "new" / "folder" / "page.html")
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["page.html"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "new"])


def test_a_file_that_only_claims_to_be_a_picture_is_not_embedded(tmp_path):
    run = write_run(tmp_path / "a", None, None, evaluation=figures(9, 0.1))
    for path in run.rglob("*.png"):
        path.write_text("<svg onload=alert(1)>")
    _, page, result = make([str(run)], tmp_path)
    assert not page.all("img")
    assert any("has no samples" in sentence for sentence in result["missing"])


def test_runs_with_a_mismatch_curve_are_drawn_together_and_the_others_are_not(tmp_path):
    curves = {
        "a": [mismatch_curve({100.0: 0.02, 1.0: 0.4, 0.01: 0.8}), mismatch_curve({1.0: 0.1}, 50)],
        "b": [mismatch_curve({100.0: 0.02, 1.0: 0.2, 0.01: 0.4})],
        "c": [mismatch_curve({100.0: 0.02, 1.0: 0.2, 0.01: 0.4}, n_fake=7)],
        "d": [],
    }
    runs = [
        str(write_run(tmp_path / name, None, None, evaluation=figures(9, 0.1, mismatch=found)))
        for name, found in curves.items()
    ]
    _, page, _ = make([runs[3]], tmp_path)
    assert "Does sampling meet" not in page.text
    html, page, _ = make(runs, tmp_path)
    assert "Does sampling meet what training saw?" in page.text
    section = html[html.index('id="mismatch"') : html.index('id="losses"')]
    charts = section.split("<figure")[1:]
    assert ["10 steps, 1797" in c for c in charts] == [True, False, False]
    assert [sum(f"</svg>{name}<" in c for name in "abcd")
            for c in charts] == [2, 1, 1]  # fmt: skip
    assert all("two sets of q(x_t)" in c and 'class="under-floor"' in c for c in charts)


def test_the_newest_curve_of_a_run_counts(tmp_path):
    run = write_run(tmp_path / "a", None, None)
    (run / "evaluation").mkdir()
    for name, value, age in (("old", 0.5, 100), ("new", 0.25, 0)):
        file = run / "evaluation" / f"{name}.json"
        found = figures(9, 0.1, mismatch=[mismatch_curve({1.0: value, 0.1: value})])
        file.write_text(json.dumps(found))
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    (chart,) = mismatch_charts(read_runs([str(run)]), {"a": 0})
    alone = run / "evaluation" / "old.json"
    alone.unlink()
    assert [chart] == mismatch_charts(read_runs([str(run)]), {"a": 0})


def test_a_page_is_replaced_by_the_same_runs_only(demo_runs, tmp_path):
    page = tmp_path / "report.html"
    report_command(demo_runs, page)
    report_command(demo_runs, page)
    for runs, title in ((demo_runs[:1], None), (demo_runs[::-1], None), (demo_runs, "another")):
        kept = page.read_bytes()
        with pytest.raises(UserError, match=r"report.html is there .*--overwrite"):
            report_command(runs, page, title)
        assert page.read_bytes() == kept
    report_command(demo_runs[:1], page, overwrite=True)
    own = tmp_path / "own.html"
    own.write_text("<html>my own</html>")
    with pytest.raises(UserError, match=r"own\.html is there"):
        report_command(demo_runs, own)
    assert own.read_text() == "<html>my own</html>"
