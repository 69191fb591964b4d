"""`sparring evaluate` on small untrained runs: its figures are those of `sample` and `evaluate`."""

import json
import os
import shutil

import pytest
import torch
import yaml
from measuring import evaluate
from PIL import Image

from sparring.commands.evaluate import figures as command
from sparring.commands.evaluate import plan as plan
from sparring.commands.evaluate.figures import as_text, evaluate_command
from sparring.commands.evaluate.studies import clean_data
from sparring.data.datasets import build_dataset
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import schedule_from_config
from sparring.evaluation.metrics.flat_manifold import flat_manifold_errors
from sparring.evaluation.store.reference import Reference, Settings
from sparring.evaluation.store.statistics import claims_of
from sparring.evaluation.studies.mismatch import Counts, mismatch
from sparring.models.networks import MLP
from sparring.models.pretrained import Model, load, save
from sparring.sampling.sample import sample
from sparring.sampling.settings import Sampling
from sparring.support.errors import UserError

SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}


def make_run(folder, network, shape, data, num_classes=None, **sections):
    torch.manual_seed(0)
    denoiser = Denoiser(network(), schedule_from_config(SCHEDULER), "eps")
    save(folder, Model(denoiser, SCHEDULER, shape, num_classes), "a test")
    config = {
        "model": {"network": {"_class_name": "MLP"}},
        "data": data,
        "contamination": {"kind": "gaussian", "rate": 0.9, "sigma": 0.5},
        "sampling": {"num_inference_steps": 3},
        "evaluation": {"n_samples": 40, "n_resamples": 2},
    } | sections
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return str(folder)


@pytest.fixture
def plane_run(tmp_path):
    data = {"name": "plane", "dim": 3, "n_points": 64}
    return make_run(tmp_path / "plane", lambda: MLP(3, width=8, n_blocks=1), (3,), data)


def unet():
    from diffusers.models.unets.unet_2d import UNet2DModel

    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    evaluation = {"n_samples": 40, "n_resamples": 2, "extractor": "pixels"}
    return make_run(folder, unet, (1, 8, 8), {"name": "digits"}, evaluation=evaluation)


def test_one_plane_is_its_contract_at_top_level(plane_run):
    result = evaluate_command([plane_run])
    for key in (
        "sliced_wasserstein",
        "off_manifold_rms",
        "in_manifold_std",
        "in_manifold_std_true",
    ):
        assert isinstance(result[key], float)
    samples = sample(load(plane_run), 40, scheduler="ddim", num_inference_steps=3, seed=0)
    data = build_dataset("plane", "all", dim=3, n_points=64)
    expected = evaluate(samples, data, None, Settings(n_resamples=2))
    assert result["off_manifold_rms"] == pytest.approx(expected["off_manifold_rms"], rel=1e-6)
    assert result["sliced_wasserstein"] == pytest.approx(expected["sliced_wasserstein"], rel=1e-6)
    assert result["protocol"]["seeds"] == {"evaluation": 0, "sampling": 0}
    (file,) = os.listdir(f"{plane_run}/evaluation")
    assert file == "ddim-3-seed0.json"
    with open(f"{plane_run}/evaluation/{file}") as stream:
        assert json.load(stream) == result


def test_images_have_their_contract_and_a_clean_reference(digits_run):
    result = evaluate_command([digits_run])
    samples = sample(load(digits_run), 40, scheduler="ddim", num_inference_steps=3, seed=0)
    data = build_dataset("digits", "all")
    expected = evaluate(samples, data, None, Settings("pixels", n_resamples=2))
    for name in ("frechet_distance", "frechet_distance_of_reference"):
        assert result[name] == pytest.approx(expected[name], rel=1e-6)
    protocol = result["protocol"]
    assert (protocol["data"], protocol["split"], protocol["n_real"]) == ("digits", "all", 1797)
    assert (protocol["sampler"], protocol["steps"], protocol["guidance"]) == ("ddim", 3, 1)
    assert protocol["clip_sample"] is True
    assert protocol["precision"] == "float32"
    assert protocol["data_fingerprint"] == data.fingerprint()
    assert result["nearest_training_distance"]["calibration"] == "held-out images"
    assert result["nearest_training_distance"]["n_train"] == 1500
    assert sorted(os.listdir(f"{digits_run}/evaluation")) == [
        "ddim-3-seed0-grid.png", "ddim-3-seed0-memorization.png",
        "ddim-3-seed0-memorization_of_dirty.png", "ddim-3-seed0.json",
    ]  # fmt: skip
    copies = result["memorization"]
    assert (copies["n_train"], copies["n_calibration"], copies["n_samples"]) == (1500, 297, 40)
    assert copies["calibration"] == "held-out images"
    with Image.open(f"{digits_run}/evaluation/ddim-3-seed0-memorization.png") as picture:
        n_pairs = len(copies["pairs"])
        assert picture.size == (2 * 66 + 2, n_pairs * 66 + 2)
    dirty = result["memorization_of_dirty"]
    assert dirty["n_train"] == 1500
    assert dirty["histogram"] != copies["histogram"]
    text = as_text(result)
    assert "frechet_distance " in text
    assert copies["verdict"] in text
    assert dirty["verdict"] in text
    assert "40 samples, ddim 3 steps, against 1797 of digits (all)" in text


def test_images_that_training_saw_do_not_calibrate(tmp_path):
    evaluation = {"n_samples": 12, "n_resamples": 2, "extractor": "pixels"}
    data = {"name": "digits", "split": "all"}
    clean = {"kind": "none"}
    run = make_run(
        tmp_path / "all", unet, (1, 8, 8), data, evaluation=evaluation, contamination=clean
    )
    copies = evaluate_command([run])["memorization"]
    assert copies["calibration"] == "each training image and its nearest other one"
    assert "no held-out images" in copies["verdict"]
    assert "memorization_of_dirty.png" not in "".join(os.listdir(f"{run}/evaluation"))


def test_several_models_stand_under_their_names_and_land_in_o(plane_run, tmp_path, monkeypatch):
    other = make_run(
        tmp_path / "other", lambda: MLP(3, width=8, n_blocks=2), (3,),
        {"name": "plane", "dim": 3, "n_points": 64},
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = evaluate_command(["plane", other, "plane"], output_dir=tmp_path / "out")
    assert result.keys() == {"models"}
    assert list(result["models"]) == ["plane", other]
    first, second = result["models"].values()
    assert first["off_manifold_rms"] != second["off_manifold_rms"]
    assert first["protocol"] == second["protocol"]
    assert len(os.listdir(tmp_path / "out")) == 2
    assert not (tmp_path / "plane" / "evaluation").exists()
    assert as_text(result).count("sliced_wasserstein") == 2


def test_overrides_change_the_sampling_and_get_a_file_of_their_own(plane_run):
    first = evaluate_command([plane_run])
    second = evaluate_command([plane_run], ["sampling.num_inference_steps=2", "sampling.seed=4"])
    assert second["protocol"]["steps"] == 2
    assert second["off_manifold_rms"] != first["off_manifold_rms"]
    samples = sample(load(plane_run), 40, scheduler="ddim", num_inference_steps=2, seed=4)
    truth = build_dataset("plane", dim=3).truth
    expected = flat_manifold_errors(samples, truth)["off_manifold_rms"]
    assert second["off_manifold_rms"] == pytest.approx(expected, rel=1e-6)
    third = evaluate_command([plane_run], ["evaluation.n_samples=20"])
    assert third["protocol"]["n_fake"] == 20
    files = sorted(os.listdir(f"{plane_run}/evaluation"))
    assert len(files) == 3
    assert {"ddim-2-seed4.json", "ddim-3-seed0.json"} < set(files)
    assert files[1].startswith("ddim-3-seed0-n_samples-20-")
    assert second["command"].endswith("sampling.num_inference_steps=2 sampling.seed=4")


def test_unlike_models_are_refused_before_anything_is_sampled(plane_run, tmp_path, monkeypatch):
    other = make_run(
        tmp_path / "other", lambda: MLP(3, width=8, n_blocks=1), (3,),
        {"name": "plane", "dim": 3, "n_points": 64}, sampling={"num_inference_steps": 4},
    )  # fmt: skip

    def refuse(*_, **__):
        raise AssertionError("sampled")

    third = make_run(
        tmp_path / "third", lambda: MLP(3, width=8, n_blocks=1), (3,),
        {"name": "plane", "dim": 3, "n_points": 64},
        evaluation={"n_samples": 30, "n_resamples": 2},
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(command, "sample", refuse)
        with pytest.raises(UserError, match=r"cannot be compared \(steps: 3 and 4\)"):
            evaluate_command([plane_run, other])
        with pytest.raises(UserError, match=r"cannot be compared \(n_fake: 40 and 30\)"):
            evaluate_command([plane_run, third], allow_unlike_sampling=True)
    result = evaluate_command([plane_run, other], allow_unlike_sampling=True)
    assert [one["protocol"]["steps"] for one in result["models"].values()] == [3, 4]


def test_a_model_that_is_no_run_needs_the_name_of_its_data(plane_run, caplog):
    os.remove(f"{plane_run}/config.yaml")
    with pytest.raises(UserError, match=r"has no config\.yaml .*data\.name=digits"):
        evaluate_command([plane_run])
    overrides = ["data.name=plane", "data.dim=3", "evaluation.n_samples=20"]
    result = evaluate_command([plane_run], [*overrides, "sampling.num_inference_steps=2"])
    assert result["protocol"]["n_fake"] == 20
    assert "printed only (give -o)" in caplog.text
    assert not os.path.exists(f"{plane_run}/evaluation")


def test_another_data_set_replaces_the_runs_fields(plane_run):
    result = evaluate_command([plane_run], ["data.name=swiss_roll", "data.dim=3"])
    assert result["protocol"]["data"] == "swiss_roll"
    assert result["protocol"]["n_real"] == 2 * 8192  # not the run's n_points
    assert "off_manifold_rms" not in result


def test_classes_of_a_conditional_model_are_those_of_the_reference(tmp_path, monkeypatch):
    data = {"name": "two_moons", "n_points": 60}
    run = make_run(tmp_path / "moons", lambda: MLP(2, 8, 1, num_classes=2), (2,), data, 2)
    seen = []

    def spy(*args, **kwargs):
        seen.append(kwargs["class_labels"])
        return sample(*args, **kwargs)

    monkeypatch.setattr(command, "sample", spy)
    result = evaluate_command([run], ["evaluation.n_samples=120", "sampling.batch_size=50"])
    data = build_dataset("two_moons", "all", n_points=60)
    assert [len(part) for part in seen] == [50, 50, 20]
    assert torch.bincount(torch.cat(seen)).tolist() == torch.bincount(data.labels).tolist()
    assert torch.equal(torch.cat(seen), Reference(data, Settings()).labels)
    assert result["protocol"]["class_labels"] == "as in the reference"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.seed=1"], r"evaluate takes data\.\*, sampling\.\*, evaluation\.\*"),
        (["data.split=held_out"], r"the reference is evaluation\.reference"),
        (["evaluation.reference=none"], "data.split must be one of train, held_out, all"),
        (["evaluation.k=0"], "evaluation.k"),
        (["sampling.stepps=3"], "sampling.stepps"),
        (["data.dim=4"], r"samples of shape \(3,\) but plane has \(4,\)"),
        (["evaluation.n_samples=1"], "1 samples are too few"),
        (["sampling.scheduler=flow_euler"], "flow_euler"),
        (["sampling.num_inference_steps=5000"], "num_inference_steps must be"),
    ],
)
def test_wrong_input_is_one_clear_line(overrides, message, plane_run):
    with pytest.raises(UserError, match=message) as error:
        evaluate_command([plane_run], overrides)
    assert "\n" not in str(error.value)


def test_no_model_and_a_missing_one(tmp_path):
    with pytest.raises(UserError, match="name at least one model"):
        evaluate_command([])
    with pytest.raises(UserError, match="no such folder"):
        evaluate_command([str(tmp_path / "missing")])


def test_a_folder_that_cannot_be_written_is_said_before_sampling(plane_run, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()

    def refuse(*_, **__):
        raise AssertionError("sampled")

    monkeypatch.setattr(command, "sample", refuse)
    with pytest.raises(UserError, match=r"cannot be written .*choose another folder with -o"):
        evaluate_command([plane_run], output_dir=file / "out")


MISMATCH = ["evaluation.mismatch=true", "evaluation.mismatch_samples=30"]


def test_the_mismatch_of_a_plane_is_that_of_the_library(plane_run):
    result = evaluate_command([plane_run], [*MISMATCH, "evaluation.mismatch_steps=[2, 3]"])
    data = build_dataset("plane", "all", dim=3, n_points=64)
    first, second = result["mismatch"]
    assert [curve["protocol"]["steps"] for curve in (first, second)] == [2, 3]
    for curve, steps in ((first, 2), (second, 3)):
        expected = mismatch(
            load(plane_run), data.truth.sample, Sampling(num_inference_steps=steps), Counts(30, 2)
        )
        assert curve["times"] == expected["times"]
        assert curve["mean"] == expected["mean"]
        protocol = curve["protocol"]
        assert (protocol["n_fake"], protocol["sampler"], protocol["data"]) == (30, "ddim", "plane")
    assert result["protocol"]["steps"] == 3
    (file,) = os.listdir(f"{plane_run}/evaluation")
    with open(f"{plane_run}/evaluation/{file}") as stream:
        assert json.load(stream)["mismatch"] == result["mismatch"]
    text = as_text(result)
    assert "mismatch while sampling, 2 steps" in text
    assert "mismatch while sampling, 3 steps" in text
    assert "mismatch" not in evaluate_command([plane_run])


def test_the_mismatch_of_images_has_features_and_the_models_range(digits_run):
    result = evaluate_command([digits_run], [*MISMATCH, "evaluation.mismatch_steps=[10]"])
    (curve,) = result["mismatch"]
    assert len(curve["times"]) == 10
    last = curve["times"][-1]
    assert last["frechet_distance"] > last["frechet_distance_of_reference"]
    assert [row["ratio"] <= 1 for row in curve["times"]] == [
        "frechet_distance" in row for row in curve["times"]
    ]


def test_clean_images_are_in_the_models_range_and_a_known_truth_is_drawn_afresh():
    data = build_dataset("digits", "all")
    x0 = clean_data(Reference(data, Settings("pixels")))
    assert isinstance(x0, torch.Tensor)
    assert (len(x0), x0.min(), x0.max()) == (1797, -1, 1)
    torch.testing.assert_close(x0.mean(), 2 * data.read_all()["x0"].mean() - 1)
    plane = build_dataset("plane", "all", dim=3, n_points=64)
    draw = clean_data(Reference(plane, Settings()))
    assert torch.equal(draw(5, 7), plane.truth.sample(5, 7))
    subspace = build_dataset("digits_subspace", "all")
    draw = clean_data(Reference(subspace, Settings("pixels")))
    assert torch.equal(draw(5, 7), 2 * subspace.truth.sample(5, 7) - 1)


def test_mismatch_needs_its_switch_and_no_latents(plane_run, monkeypatch):
    with pytest.raises(UserError, match=r"mismatch_steps needs evaluation\.mismatch=true"):
        evaluate_command([plane_run], ["evaluation.mismatch_steps=[2]"])
    with pytest.raises(UserError, match="num_inference_steps must be"):
        evaluate_command([plane_run], [*MISMATCH, "evaluation.mismatch_steps=[5000]"])
    model = load(plane_run)
    model.vae = torch.nn.Identity()
    monkeypatch.setattr(plan, "load", lambda *_, **__: model)
    with pytest.raises(UserError, match="samples latents"):
        evaluate_command([plane_run], MISMATCH)


# --- A saved reference


def test_a_saved_reference_is_used_the_next_time(digits_run, tmp_path):
    file = tmp_path / "kept" / "digits.safetensors"
    first = evaluate_command([digits_run], output_dir=tmp_path, save_reference=file)
    told = [f"evaluation.statistics={file}"]
    again = evaluate_command([digits_run], told, output_dir=tmp_path)
    changing = ("command", "sampling_seconds", "evaluation_seconds")
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }
    with pytest.raises(UserError, match=r"is of another reference .*split: all in the file, train"):
        evaluate_command([digits_run], [*told, "evaluation.reference=train"])
    assert [one.name for one in file.parent.iterdir()] == ["digits.safetensors"]


def test_a_reference_that_cannot_be_saved_is_one_clear_line(digits_run, plane_run, tmp_path):
    with pytest.raises(UserError, match=r"--save-reference r\.npz must end in \.safetensors"):
        evaluate_command([digits_run], save_reference="r.npz")
    with pytest.raises(UserError, match="plane has no images: it needs no saved statistics"):
        evaluate_command([plane_run], save_reference=tmp_path / "r.safetensors")


def test_a_saved_reference_is_replaced_by_the_same_one_only(tmp_path):
    one, other = (
        Reference(build_dataset("digits", split, max_train_samples=32), Settings("pixels"))
        for split in ("train", "held_out")
    )
    file = tmp_path / "r.safetensors"
    command.write_reference(one, file, overwrite=False)
    command.write_reference(one, file, overwrite=False)
    with pytest.raises(UserError, match=r"r\.safetensors is there .*--overwrite"):
        command.write_reference(other, file, overwrite=False)
    assert claims_of(file) == one.claims()
    command.write_reference(other, file, overwrite=True)
    assert claims_of(file) == other.claims()
    file.write_bytes(b"my own")
    with pytest.raises(UserError, match=r"r\.safetensors is there"):
        command.write_reference(one, file, overwrite=False)
    assert file.read_bytes() == b"my own"


def test_models_and_settings_that_differ_have_files_that_differ(plane_run, tmp_path):
    """r/lr/1 and r/lr-1 are two models, evaluation.seed and data.seed two settings."""
    runs = [tmp_path / "r" / "lr" / "1", tmp_path / "r" / "lr-1"]
    for run in runs:
        run.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(plane_run, run)
    out = tmp_path / "out"
    evaluate_command([str(run) for run in runs], output_dir=out)
    for run in runs:  # one by one too
        evaluate_command([str(run)], ["evaluation.seed=1"], output_dir=out)
        evaluate_command([str(run)], ["data.seed=1"], output_dir=out)
        evaluate_command([str(run)], ["data.seed=1"], output_dir=out)
    found = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert sorted((one["model"], one["command"].split()[3:]) for one in found) == sorted(
        (str(run), words) for run in runs for words in ([], ["evaluation.seed=1"], ["data.seed=1"])
    )
