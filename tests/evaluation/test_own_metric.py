"""A metric of one's own is one file: a user's, named in a config, or one beside ours."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_evaluate_command import make_run, unet

from sparring.cli import main
from sparring.commands.evaluate.figures import as_text, evaluate_command
from sparring.models.pretrained import load
from sparring.report import ranking, tables
from sparring.report.runs import read_runs
from sparring.sampling.sample import sample
from sparring.support.errors import UserError
from support import with_a_file_more

METRIC = '''\
"""How far neighbouring pixels are apart."""

from sparring.evaluation.metrics.base import Figure, Metric


class Steps(Metric):
    figures = (
        Figure("steps", "Size of steps", "between pixels", "[0, 1] scale", "lower", format=".4f"),
    )
    looks_at = "images"

    def measure(self, seen, against):
        return {"steps": seen["images"].diff(dim=3).abs().mean().item()}
'''
NAME = "steps.py:Steps"
OWN = f"evaluation.metrics=[{NAME}]"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs that differ in what they draw."""
    monkeypatch.chdir(tmp_path)
    Path("steps.py").write_text(METRIC)
    evaluation = {"n_samples": 12, "n_resamples": 2, "extractor": "pixels"}
    data, clean = {"name": "digits", "max_train_samples": 20}, {"kind": "none"}
    made = [
        make_run(
            tmp_path / name, unet, (1, 8, 8), data, evaluation=evaluation, contamination=clean,
            sampling={"num_inference_steps": 3, "seed": seed},
        )
        for seed, name in enumerate(("one", "two"))
    ]  # fmt: skip
    return made


def test_the_figure_of_a_file_of_ones_own_stands_beside_ours(runs):
    ours = evaluate_command(runs[:1])
    result = evaluate_command(runs[:1], [OWN])
    samples = sample(load(runs[0]), 12, scheduler="ddim", num_inference_steps=3, seed=0)
    images = ((samples + 1) / 2).clamp(0, 1)
    expected = (images[..., 1:] - images[..., :-1]).abs().mean().item()
    assert result["steps"] == pytest.approx(expected, rel=1e-5)
    assert result.keys() - ours.keys() == {"steps", "own_figures"}
    assert ours.keys() <= result.keys()
    assert f"  {'steps':<36}{expected:>10.4g}" in as_text(result).splitlines()


def test_it_is_compared_and_shown_with_its_label_and_direction(runs):
    result = evaluate_command(runs, [OWN], output_dir="out")
    text = as_text(result)
    assert sum(line.startswith("  steps ") for line in text.splitlines()) == 2
    values = [one["steps"] for one in result["models"].values()]
    for run in runs:
        evaluate_command([run], [OWN])
    read = read_runs(runs)
    (group,) = ranking.group_by_protocol(read)
    rows = {row.label: row for row in tables.figure_rows(group, ["one", "two"])}
    row = rows["Size of steps"]
    assert row.hint == "between pixels, [0, 1] scale"
    assert [cell.text for cell in row.cells] == [f"{value:.4f}" for value in values]
    assert [cell.is_best for cell in row.cells] == [value == min(values) for value in values]
    said = CliRunner().invoke(main, ["report", *runs, "-o", "page.html"])
    assert said.exit_code == 0, said.output
    assert "Size of steps<small>between pixels, [0, 1] scale</small>" in Path(
        "page.html"
    ).read_text(encoding="utf-8")


def test_figures_of_other_code_are_not_compared(runs):
    evaluate_command(runs[:1], [OWN])
    Path("steps.py").write_text(METRIC.replace("dim=3", "dim=2"))
    evaluate_command(runs[1:], [OWN])
    assert len(ranking.group_by_protocol(read_runs(runs))) == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.metrics=[steps.py:Step]", "has no 'Step' - did you mean 'Steps'?"),
        ("evaluation.metrics=[nowhere.py:Steps]", "there is no file nowhere.py"),
        ("evaluation.metrics=[steps.py:Figure]", "is no subclass of sparring.evaluation.metrics."),
        ("evaluation.metrics=[steps]", "names your own, path/to/file.py:Name"),
        ("evaluation.metrics=steps.py:Steps", "evaluation.metrics must be a list"),
        (
            "evaluation.metric=[steps.py:Steps]",
            "unknown key 'evaluation.metric' - did you mean 'me",
        ),
    ],
)
def test_a_wrong_leaf_is_one_line(runs, override, said):
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        evaluate_command(runs[:1], [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def measure", "def mesure", "steps.py:Steps has no method measure"),
        ("figures =", "figuers =", "steps.py:Steps.figures must be a tuple of Figure, got ()"),
        ("looks_at", "def __init__(self, n): ...\n    looks_at", "must be made without arguments"),
        ('"images"', '"x0"', "steps.py:Steps needs x0, which digits does not have here"),
        ("class Steps", "class Steps(", "steps.py cannot be imported (SyntaxError"),
    ],
)
def test_a_file_that_is_no_metric_is_one_line(runs, old, new, said):
    Path("steps.py").write_text(METRIC.replace(old, new, 1))
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        evaluate_command(runs[:1], [OWN])
    assert said in str(caught.value)


def test_a_file_beside_ours_is_a_built_in_metric(runs, tmp_path):
    command = with_a_file_more(tmp_path, "evaluation/metrics/steps.py", METRIC)
    assert json.loads(command("evaluate", runs[0], "--json"))["steps"] > 0
    command("report", runs[0], "-o", "page.html")
    assert "Size of steps<small>" in Path("page.html").read_text(encoding="utf-8")
