"""How figures are labelled: said once, by their metrics."""

from pathlib import Path

from sparring.evaluation.metrics.registry import built_in

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "evaluate.md"
MARKS = "<!-- figures -->\n", "<!-- /figures -->\n"
LOOKS_AT = {"features": "features", "images": "images", "x0": "samples of a known truth"}


def table():
    """Every figure as a row of the page."""
    rows = ["| figure | what it says | looks at | better |", "|---|---|---|---|"]
    for metric in built_in():
        for one in metric.figures:
            said = ": ".join(filter(None, [one.label, one.words]))
            looks_at = LOOKS_AT[metric.looks_at]
            rows.append(f"| `{one.key}` | {said} | {looks_at} | {one.better} |")
    return "\n".join(rows) + "\n"


def test_the_page_lists_every_figure_as_its_metric_says():
    """Wrong after a change of a label: `python tests/evaluation/test_figures.py` writes it anew."""
    assert MARKS[0] + table() + MARKS[1] in PAGE.read_text(encoding="utf-8")


def test_no_two_metrics_have_a_figure_of_one_name():
    keys = [one.key for metric in built_in() for one in metric.figures]
    assert len(keys) == len(set(keys))


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(before + MARKS[0] + table() + MARKS[1] + after, encoding="utf-8")
