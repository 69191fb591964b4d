"""`evaluation.sweep`: every combination is an evaluation of its own, and none is made twice."""

import copy
import json

import pytest
import torch
from test_evaluate_command import make_run, unet

from sparring.commands.evaluate import figures as command
from sparring.commands.evaluate.figures import as_text, evaluate_command
from sparring.commands.evaluate.sweep import combinations, line_names, lines_of, sweep_picture
from sparring.config.schema import SamplingSection, SweepSection
from sparring.evaluation.store.cached_figures import code_key, kept_or_measured, model_key
from sparring.models.networks import MLP
from sparring.models.pretrained import load
from sparring.support.errors import UserError

SWEEP = "evaluation.sweep={scheduler: [ddim, dpmsolver++], num_inference_steps: [3, 1]}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def plane_run(tmp_path):
    data = {"name": "plane", "dim": 3, "n_points": 64}
    return make_run(tmp_path / "plane", lambda: MLP(3, width=8, n_blocks=1), (3,), data)


@pytest.fixture
def drawn(monkeypatch):
    """Samplers and steps of what is drawn, but for the first sample of each combination."""
    seen, draw = [], command.sample

    def spy(model, rows, sampling, **words):
        if len(rows) > 1:
            seen.append((sampling.scheduler, sampling.num_inference_steps))
        return draw(model, rows, sampling, **words)

    monkeypatch.setattr(command, "sample", spy)
    return seen


def test_every_combination_is_an_evaluation_of_its_own(plane_run, tmp_path, drawn):
    result = evaluate_command([plane_run], [SWEEP])
    asked = [("ddim", 3), ("ddim", 1), ("dpmsolver++", 3), ("dpmsolver++", 1)]
    assert drawn == asked  # that of the run's own settings serves both
    swept = [(one["protocol"]["sampler"], one["protocol"]["steps"]) for one in result["sweep"]]
    assert swept == asked
    for i, (one, (sampler, steps)) in enumerate(zip(result["sweep"], asked, strict=True)):
        told = [f"sampling.scheduler={sampler}", f"sampling.num_inference_steps={steps}"]
        alone = evaluate_command([plane_run], told, tmp_path / str(i))
        assert {key: alone[key] for key in one} == one
    ddim, one_step, dpmsolver, same = (one["sliced_wasserstein"] for one in result["sweep"])
    assert same == pytest.approx(one_step, rel=1e-5)  # with one step the two samplers are one
    for other, another in [(ddim, one_step), (dpmsolver, one_step), (ddim, dpmsolver)]:
        assert other != pytest.approx(another, rel=1e-2)


def test_a_stopped_sweep_goes_on_and_other_settings_start_anew(plane_run, monkeypatch, drawn):
    spy = command.sample

    def stop(model, rows, *settings, **words):
        if len(rows) > 1 and len(drawn) == 3:
            raise KeyboardInterrupt
        return spy(model, rows, *settings, **words)

    with monkeypatch.context() as patch:
        patch.setattr(command, "sample", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate_command([plane_run], [SWEEP])
    assert drawn == [("ddim", 3), ("ddim", 1), ("dpmsolver++", 3)]
    drawn.clear()
    went_on = evaluate_command([plane_run], [SWEEP])
    assert drawn == [("dpmsolver++", 1)]  # what was missing
    assert evaluate_command([plane_run], [SWEEP])["sweep"] == went_on["sweep"]
    both = [("ddim", 3), ("ddim", 1)]
    for told, expected in [
        ([], []),
        (["evaluation.n_resamples=3"], []),  # other figures of the same samples
        (["sampling.seed=1"], both),
        (["sampling.batch_size=30"], both),
    ]:
        drawn.clear()
        evaluate_command([plane_run], ["evaluation.sweep.num_inference_steps=[1]", *told])
        assert sorted(set(drawn), reverse=True) == expected, told


@pytest.mark.parametrize("change", ["weights", "kind", "null", "boundary", "schedule", "code"])
def test_the_key_of_a_model_says_all_that_is_sampled(plane_run, change):
    model = load(plane_run)
    before = model_key(model)
    assert model_key(load(plane_run)) == before
    if change == "weights":
        with torch.no_grad():
            next(model.denoiser.network.parameters()).view(-1)[0] += 1e-6
    elif change == "kind":
        model.denoiser.kind = "x0"
    elif change == "code":
        model.denoiser.network.__class__ = type("MLP", (MLP,), {"forward": lambda self, x, t: x})
    elif change == "boundary":
        model.denoiser.boundary = "lcm"
    elif change == "null":
        model.denoiser.null_condition = {"class_labels": 2}
    else:
        model.scheduler_config = copy.deepcopy(model.scheduler_config) | {"beta_end": 0.03}
    assert model_key(model) != before


def test_half_a_file_is_measured_again(tmp_path):
    path = tmp_path / "figures" / "a.json"
    assert kept_or_measured(path, lambda: {"a": 0.1}) == {"a": 0.1}
    assert kept_or_measured(path, lambda: {"a": 0.2}) == {"a": 0.1}
    path.write_text('{"a":')
    assert kept_or_measured(path, lambda: {"a": 0.3}) == {"a": 0.3}
    assert code_key() == code_key()


def test_a_combination_that_cannot_be_is_refused_before_anything_is_measured(plane_run, drawn):
    for told, message in [
        ("{guidance_scale: [1, 3]}", r"ddim 3 steps, guidance 3: guidance_scale needs"),
        ("{scheduler: [ddim, flow_euler]}", "flow_euler"),
        ("{num_inference_steps: [1, 5000]}", "ddim 5000 steps: num_inference_steps must be"),
    ]:
        drawn.clear()
        with pytest.raises(UserError, match=message):
            evaluate_command([plane_run], [f"evaluation.sweep={told}"])
        assert drawn == []


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{}", "evaluation.sweep lists nothing"),
        ("{num_inference_steps: []}", "at least 1 item"),
        ("{num_inference_steps: [0]}", "must be >= 1, got 0"),
        ("{scheduler: [dimm]}", "unknown sampler 'dimm'"),
        ("{steps: [1]}", r"evaluation\.sweep\.steps"),
    ],
)
def test_wrong_sweeps_are_one_clear_line(plane_run, told, message):
    with pytest.raises(UserError, match=message) as error:
        evaluate_command([plane_run], [f"evaluation.sweep={told}"])
    assert "\n" not in str(error.value)


def test_classes_are_guided_as_in_an_evaluation_alone(tmp_path):
    data = {"name": "two_moons", "n_points": 60}
    run = make_run(tmp_path / "moons", lambda: MLP(2, 8, 1, num_classes=3), (2,), data, 2)
    description = tmp_path / "moons" / "model.json"
    words = json.loads(description.read_text()) | {"null_condition": {"class_labels": 2}}
    description.write_text(json.dumps(words))
    result = evaluate_command([run], ["evaluation.sweep.guidance_scale=[1, 3]"])
    alone = evaluate_command([run], ["sampling.guidance_scale=3"])
    plain, guided = result["sweep"]
    key = "sliced_wasserstein"
    assert plain[key] == pytest.approx(result[key], rel=1e-6)
    assert guided[key] == pytest.approx(alone[key], rel=1e-6)
    assert guided[key] != pytest.approx(plain[key], rel=1e-3)
    assert "ddim, guidance 3" in as_text(result)


def test_combinations_leave_the_other_settings_alone():
    sampling = SamplingSection(eta=0.5, guidance_scale=2.0, num_inference_steps=7)
    found = combinations(SweepSection(scheduler=["ddim", "ddpm", "ddim"]), sampling)
    assert [one.scheduler for one in found] == ["ddim", "ddpm"]
    assert {(one.eta, one.guidance_scale, one.num_inference_steps) for one in found} == {
        (0.5, 2, 7)
    }
    both = SweepSection(num_inference_steps=[5, 10], guidance_scale=[1, 3])
    found = [(one.guidance_scale, one.num_inference_steps) for one in combinations(both, sampling)]
    assert found == [(1, 5), (1, 10), (3, 5), (3, 10)]


def cell(sampler, steps, value, guidance=1):
    protocol = {"sampler": sampler, "steps": steps, "guidance": guidance}
    return {
        "frechet_distance": value, "frechet_distance_interval": [value - 1, value + 2],
        "frechet_distance_of_reference": 0.5, "protocol": protocol,
    }  # fmt: skip


def test_the_table_and_the_picture_show_each_number_at_its_place():
    sweep = [cell("ddim", 10, 4.0), cell("ddim", 5, 8.0), cell("euler", 10, 3.0, 2.5)]
    lines = lines_of(sweep, "frechet_distance")
    assert [list(line) for line in lines.values()] == [[5, 10], [10]]
    assert line_names(list(lines)) == ["ddim, guidance 1", "euler, guidance 2.5"]
    text = as_text({"sweep": sweep, "protocol": {
        "n_fake": 2, "n_real": 3, "sampler": "ddim", "steps": 10, "guidance": 1, "data": "digits",
        "split": "all",
    }}).splitlines()  # fmt: skip
    assert text[0].split() == ["frechet_distance", "at", "steps", "5", "10"]
    assert text[1].split()[-2:] == ["8", "4"]
    assert text[2].split()[-2:] == ["2.5", "3"]
    (axis,) = sweep_picture(sweep, "a model").axes
    ddim, euler, floor = axis.containers[0], axis.containers[1], axis.lines[-1]
    assert ddim.lines[0].get_xydata().tolist() == [[5, 8], [10, 4]]
    assert euler.lines[0].get_xydata().tolist() == [[10, 3]]
    (bars,) = ddim.lines[2]
    assert [sorted(ends[:, 1]) for ends in bars.get_segments()] == [[7, 10], [3, 6]]
    assert floor.get_ydata() == [0.5, 0.5]
    assert axis.get_xticks().tolist() == [5, 10]


def test_the_protocol_says_where_the_sampler_clips(tmp_path):
    evaluation = {"n_samples": 12, "n_resamples": 2, "extractor": "pixels", "reference": "held_out"}
    run = make_run(tmp_path / "digits", unet, (1, 8, 8), {"name": "digits"}, evaluation=evaluation)
    result = evaluate_command([run], [SWEEP.replace("[3, 1]", "[1]")])
    clips = {one["protocol"]["sampler"]: one["protocol"]["clip_sample"] for one in result["sweep"]}
    assert clips == {"ddim": True, "dpmsolver++": False}
    files = {path.suffix for path in (tmp_path / "digits" / "evaluation").glob("ddim*")}
    assert files == {".json", ".png"}
