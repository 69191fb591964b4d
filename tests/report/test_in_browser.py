"""The page in a real browser, without network: numbers on hover, sorting, widths, no complaint.

Needs Chromium (Debian's package is enough); without one these tests are skipped.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparring.commands.report import report_command

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

FRAME = """<!DOCTYPE html><meta charset="utf-8">
<iframe width="{width}" height="2000" srcdoc="{page}"></iframe><pre></pre>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const view = page.defaultView;
  let said;
  try {{ said = ({probe})(page, view); }} catch (error) {{ said = String(error.stack); }}
  document.querySelector("pre").textContent = JSON.stringify(said);
}};
</script>"""
"""The page's policy lets no script but its own run in it, so the probe looks in from outside."""


@pytest.fixture
def page(demo_runs, tmp_path) -> str:
    report_command(demo_runs, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def chromium(*options: str) -> subprocess.CompletedProcess:
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=3000"]
    return subprocess.run(
        [CHROMIUM, *flags, *offline, *options], capture_output=True, text=True, timeout=120
    )


def look(page: str, folder: Path, probe: str, width: int = 1440):
    """What the probe, a JavaScript function of (document, window), finds in the page."""
    outer = folder / "outer.html"
    outer.write_text(FRAME.format(width=width, page=html.escape(page), probe=probe))
    done = chromium("--dump-dom", outer.as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(html.unescape(re.findall(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)[-1]))


def test_axe_finds_nothing_at_390_and_1440_pixels_in_light_and_dark(page, tmp_path):
    """`npm install --prefix recipes/accessibility` brings what it needs."""
    script = Path(__file__).parents[2] / "recipes/accessibility/check.mjs"
    if (node := shutil.which("node")) is None or not script.is_file():
        pytest.skip("node or the recipe is not there")
    command = [node, str(script), "--json", str(tmp_path / "report.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode == 3:
        pytest.skip(done.stderr)
    assert done.stderr == ""
    assert json.loads(done.stdout) == []


def test_on_a_phone_the_main_table_fits_and_each_cell_has_its_run_s_name(page, tmp_path):
    probe = """(page, view) => [...page.querySelectorAll(".scroll")].map((box) => ({
      needed: box.scrollWidth,
      given: box.clientWidth,
      names: [...box.querySelectorAll("tbody tr:first-child td")].map(
        (cell) => view.getComputedStyle(cell, "::before").content),
    }))"""
    for box in look(page, tmp_path, probe, 390):
        assert box["needed"] <= box["given"]
        assert box["names"] == ['"plain"', '"robust"', '"clean"']


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_its_window_and_the_console_is_silent(page, tmp_path, width):
    probe = "(page) => [page.documentElement.scrollWidth, page.documentElement.clientWidth]"
    needed, given = look(page, tmp_path, probe, width)
    assert needed <= given <= width


def test_a_chart_tells_the_numbers_under_the_pointer(page, tmp_path):
    probe = """(page, view) => [...page.querySelectorAll("svg[data-curves]")].map((chart) => {
      const curves = JSON.parse(chart.dataset.curves);
      const [x, y] = curves[0].points[3];
      const at = new view.DOMPoint(x, y).matrixTransform(chart.getScreenCTM());
      const told = [chart.nextElementSibling.textContent];
      for (const kind of ["pointermove", "pointerdown"]) {
        chart.dispatchEvent(new view.PointerEvent(kind, {clientX: at.x, clientY: at.y}));
        told.push(chart.nextElementSibling.textContent);
      }
      chart.dispatchEvent(new view.KeyboardEvent("keydown", {key: "ArrowRight"}));
      told.push(chart.nextElementSibling.textContent);
      return {word: chart.dataset.x, curves, told};
    })"""
    charts = look(page, tmp_path, probe)
    assert len(charts) >= 3
    for chart in charts:
        first, move, tap, right = chart["told"]
        assert first == "Point at the chart for its numbers."
        assert move == tap != right
        for text, at in ((move, 3), (right, 4)):
            step, value = chart["curves"][0]["points"][at][2:]
            name = chart["curves"][0]["name"]
            assert text.startswith(f"{chart['word']} {step:g}: ")
            told = re.search(rf"{name} (\S+)", text)
            assert told is not None
            assert float(told[1]) == pytest.approx(value, rel=1e-3)


def test_a_click_on_a_figure_sorts_the_models_by_it(page, tmp_path):
    probe = """(page) => {
      const table = page.querySelector("table[data-sort=columns]");
      const names = () => [...table.tHead.rows[0].cells].slice(1).map((c) => c.innerText.trim());
      const row = table.tBodies[0].rows[0];
      const values = () => [...row.cells].slice(1).map((cell) => Number(cell.dataset.value));
      const seen = [[names(), values(), row.cells[0].getAttribute("aria-sort")]];
      for (let k = 0; k < 3; k += 1) {
        row.cells[0].querySelector("button").click();
        seen.push([names(), values(), row.cells[0].getAttribute("aria-sort")]);
      }
      return seen;
    }"""
    start, up, down, again = look(page, tmp_path, probe)
    pairs = sorted(zip(start[1], start[0], strict=True))
    assert up == [[name for _, name in pairs], [value for value, _ in pairs], "ascending"]
    assert down == [up[0][::-1], up[1][::-1], "descending"]
    assert again == start
    assert start[0] == ["plain", "robust", "clean"]


def test_rows_are_sorted_by_number_then_by_text(page, tmp_path):
    rows = [("b", 10), ("of b", 0), ("c", 9), ("a10", None), ("a9", None)]
    cells = "".join(
        f"<tr{' class=reference' if name == 'of b' else ''}><td>{name}</td>"
        f"<td{'' if n is None else f' data-value={n}'}>{name}</td></tr>"
        for name, n in rows
    )
    table = f"<table><thead><tr><th>x</th><th>y</th></tr></thead><tbody>{cells}</tbody></table>"
    probe = """(page) => {
      const table = page.querySelectorAll("table")[0];
      table.querySelectorAll("button")[1].click();
      return [...table.tBodies[0].rows].map((row) => row.cells[0].innerText);
    }"""
    order = look(page.replace("<main>", "<main>" + table), tmp_path, probe)
    assert order == ["c", "b", "of b", "a9", "a10"]  # what belongs to b stays with it


def test_no_other_script_runs_in_the_page(page, tmp_path):
    evil = page.replace("<main>", "<main><script>document.title = 'changed'</script>")
    outer = tmp_path / "outer.html"
    probe = "(page) => page.title"
    outer.write_text(FRAME.format(width=1440, page=html.escape(evil), probe=probe))
    done = chromium("--dump-dom", outer.as_uri())
    assert "changed" not in html.unescape(re.findall(r"<pre>(.*)</pre>", done.stdout)[-1])
    assert "Content Security Policy" in done.stderr


def test_it_prints(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    chromium(f"--print-to-pdf={tmp_path / 'page.pdf'}", (tmp_path / "page.html").as_uri())
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12
