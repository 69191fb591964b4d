"""`sparring evaluate RUN evaluation.diagnostics=true` and what the report makes of it."""

import json
import os

import pytest
import torch
import yaml

from html_pages import Sound
from sparring.commands.evaluate import plan as command
from sparring.commands.evaluate.figures import as_text, evaluate_command
from sparring.commands.report import report_command
from sparring.data.datasets import build_dataset
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import generator
from sparring.diffusion.schedules import schedule_from_config
from sparring.evaluation.studies.diagnostics import diagnostics
from sparring.models.networks import MLP
from sparring.models.pretrained import Model, load, save
from sparring.report.charts import arrow_charts, diagnostics_charts, straightness_of
from sparring.report.runs import read_runs
from sparring.support.errors import UserError
from support import tiny_unet

SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
ASKED = ["evaluation.diagnostics=true", "evaluation.diagnostics_points=12"]


def make_run(folder, network, shape, data, num_classes=None, boundary=None):
    torch.manual_seed(0)
    denoiser = Denoiser(network, schedule_from_config(SCHEDULER), "v", boundary=boundary)
    save(folder, Model(denoiser, SCHEDULER, shape, num_classes), "a test")
    config = {
        "model": {"network": {"_class_name": "MLP"}},
        "data": data,
        "sampling": {"num_inference_steps": 2},
        "evaluation": {"n_samples": 20, "n_resamples": 2},
    }
    if data["name"] == "digits":
        config["evaluation"]["extractor"] = "pixels"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return str(folder)


@pytest.fixture
def mixture_run(tmp_path):
    data = {"name": "gaussian_mixture", "dim": 2, "n_points": 64}
    return make_run(tmp_path / "mixture", MLP(2, 8, 1), (2,), data)


def points(data, n=12):
    random = generator("cpu", 0, "diagnostics rows")
    return data.__getitems__(torch.randperm(len(data), generator=random)[:n].tolist())


def test_the_figures_are_the_librarys_at_points_of_the_reference(mixture_run):
    result = evaluate_command([mixture_run], ASKED)
    data = build_dataset("gaussian_mixture", "all", dim=2, n_points=64)
    expected = diagnostics(load(mixture_run).denoiser, points(data)["x0"], truth=data.truth)
    found = result["diagnostics"]
    assert {k: v for k, v in found.items() if k != "protocol"} == {
        k: v for k, v in expected.items() if k != "protocol"
    }
    assert found["protocol"]["data"] == "gaussian_mixture"
    assert found["protocol"]["n_points"] == 12
    (file,) = os.listdir(f"{mixture_run}/evaluation")
    with open(f"{mixture_run}/evaluation/{file}") as stream:
        assert json.load(stream)["diagnostics"] == found
    text = as_text(result)
    assert f"{found['straightness']:>10.4g}" in text
    assert f"{found['times'][0]['lipschitz']:.3g} at 0.02" in text
    assert "score error" in text
    assert "diagnostics" not in evaluate_command([mixture_run])


def test_images_are_in_the_models_range(tmp_path, monkeypatch):
    run = make_run(tmp_path / "digits", tiny_unet(), (1, 8, 8), {"name": "digits"})
    seen = {}

    def spy(denoiser, x0, **words):
        seen.update(x0=x0, **words)
        return diagnostics(denoiser, x0, **words, n_times=2, n_path_steps=2)

    monkeypatch.setattr("sparring.commands.evaluate.studies.diagnostics", spy)
    result = evaluate_command([run], ASKED)
    x0 = points(build_dataset("digits", "all"))["x0"]
    torch.testing.assert_close(seen["x0"], 2 * x0 - 1)
    assert seen["truth"] is None
    assert seen["condition"] == {}
    assert len(result["diagnostics"]["times"]) == 2


def test_a_point_goes_with_its_class(tmp_path, monkeypatch):
    data = {"name": "two_moons", "n_points": 60}
    run = make_run(tmp_path / "moons", MLP(2, 8, 1, num_classes=2), (2,), data, 2)
    seen = {}

    def spy(denoiser, x0, **words):
        seen.update(words)
        return diagnostics(denoiser, x0, **words)

    monkeypatch.setattr("sparring.commands.evaluate.studies.diagnostics", spy)
    result = evaluate_command([run], ASKED)
    moons = build_dataset("two_moons", "all", n_points=60)
    assert seen["condition"]["class_labels"].tolist() == points(moons)["label"].tolist()
    found = result["diagnostics"]  # the true score is that of both moons
    assert "arrows" not in found
    assert all("score_error" not in row for row in found["times"])


def test_latents_and_consistency_models_are_refused(mixture_run, tmp_path, monkeypatch):
    jumping = make_run(
        tmp_path / "jumping", MLP(2, 8, 1), (2,), {"name": "two_moons", "n_points": 60},
        boundary="ddim",
    )  # fmt: skip
    with pytest.raises(UserError, match="is a consistency model"):
        evaluate_command([jumping], ASKED)
    with pytest.raises(UserError, match="diagnostics_points must be >= 2"):
        evaluate_command([mixture_run], ["evaluation.diagnostics_points=1"])
    model = load(mixture_run)
    model.vae = torch.nn.Identity()
    monkeypatch.setattr(command, "load", lambda *_, **__: model)
    with pytest.raises(UserError, match="works on latents"):
        evaluate_command([mixture_run], ASKED)


def test_the_report_draws_what_was_measured(mixture_run, tmp_path):
    data = {"name": "gaussian_mixture", "dim": 2, "n_points": 64}
    other = make_run(tmp_path / "other", MLP(2, 8, 2), (2,), data)
    for run in (mixture_run, other):
        evaluate_command([run], ASKED)
    runs = read_runs([mixture_run, other])
    charts = diagnostics_charts(runs, {"mixture": 0, "other": 1})
    assert [chart.title for chart in charts] == [
        "Equivariance error", "Lipschitz estimate", "Score error",
    ]  # fmt: skip
    assert all(chart.legend == [("mixture", 0), ("other", 1)] for chart in charts)
    drawn = arrow_charts(runs)
    assert len(drawn) == 6
    assert drawn[0].title == "mixture, sigma/alpha 0.1"
    assert drawn[0].svg.count('class="line-0 arrow"') == 1
    assert "nan" not in drawn[0].svg
    found = runs[0].evaluations[0].figures["diagnostics"]
    assert f"mixture {found['straightness']:.3f}" in straightness_of(runs)
    report_command([mixture_run, other], tmp_path / "report.html", None)
    page = (tmp_path / "report.html").read_text()
    Sound(page)
    assert "What kind of field is it?" in page
    assert page.count("arrow") >= 12
