"""What users get wrong: each ends in one clear line and exit code 2, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparring.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
DIGITS, PLANE = CONFIGS / "digits.yaml", CONFIGS / "plane.yaml"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def refusal(*words):
    """The one line that the command answers with."""
    told = CliRunner().invoke(main, [str(word) for word in words])
    assert told.exit_code == 2, told.output
    assert isinstance(told.exception, SystemExit)
    lines = [line for line in told.stderr.splitlines() if "error:" in line]
    assert told.stderr.splitlines()[-1:] == lines, told.stderr
    assert lines[0].startswith("sparring: error: ")
    return lines[0]


def folder_of_images(folder, n=3, n_channels=3):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shape = (8, 8, 3) if n_channels == 3 else (8, 8)
    for i in range(n):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def on_folder(folder, *more):
    """Words that train the digits config's network on a folder for two steps."""
    return [
        "train", DIGITS, "data.name=image_folder", f"data.train_data_dir={folder}",
        "data.resolution=8", "contamination.kind=none", "training.output_dir=run",
        "training.max_train_steps=2", "training.train_batch_size=4", "training.report_to=none",
        "training.lr_warmup_steps=0", "training.validation_steps=null",
        "model.network.block_out_channels=[16, 16]", *more,
    ]  # fmt: skip


# Done-when 8, in its order


def test_missing_config():
    assert "config nowhere.yaml does not exist" in refusal("train", "nowhere.yaml")


def test_unknown_key():
    line = refusal("train", PLANE, "training.learning_rat=1")
    assert "unknown key 'training.learning_rat' - did you mean 'learning_rate'?" in line


def test_wrong_type():
    line = refusal("train", PLANE, "training.max_train_steps=many")
    assert "training.max_train_steps must be a whole number, got 'many'" in line


def test_negative_radius():
    line = refusal("train", PLANE, "objective=detail", "objective.radius_low=-0.1")
    assert "objective.radius_low must be > 0, got -0.1" in line
    line = refusal("train", PLANE, "objective=smoothing_random", "objective.min_bias=-1")
    assert "objective.min_bias must be >= 0, got -1" in line
    line = refusal("train", PLANE, "objective=dro", "objective.max_norm=-1")
    assert "objective.max_norm must be >= 0, got -1" in line


def test_radius_that_the_method_refuses():
    words = ["objective=detail", "objective.radius_low=0.3", "objective.radius_high=0.2"]
    assert "radius" in refusal("train", PLANE, *words)


def test_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    line = refusal(*on_folder(tmp_path / "empty"))
    assert str(tmp_path / "empty") in line
    assert "no image" in line


def test_missing_folder(tmp_path):
    assert "no folder" in refusal(*on_folder(tmp_path / "nowhere"))


def test_only_corrupt_images(tmp_path):
    folder = tmp_path / "corrupt"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"this is no image")
    assert "corrupt" in refusal(*on_folder(folder))


def test_one_corrupt_image_among_good_ones_is_listed_and_training_goes_on(tmp_path):
    folder = folder_of_images(tmp_path / "images")
    (folder / "bad.png").write_bytes(b"this is no image")
    told = CliRunner().invoke(main, [str(word) for word in on_folder(folder)])
    assert told.exit_code == 0, told.output
    assert "bad.png" in (tmp_path / "run" / "data" / "unreadable.json").read_text()
    assert (folder / "bad.png").exists()


def test_wrong_channel_count(tmp_path):
    folder = folder_of_images(tmp_path / "images")
    line = refusal(*on_folder(folder, "model.network.in_channels=1"))
    assert "model.network.in_channels is 1 but the images have 3 channel(s)" in line
    line = refusal(*on_folder(folder, "model.network.out_channels=1"))
    assert "model.network.out_channels is 1 but the images have 3 channel(s)" in line


def test_resume_without_checkpoint():
    line = refusal("train", PLANE, "training.resume_from_checkpoint=latest")
    assert "no checkpoint to resume from" in line
    line = refusal("train", PLANE, "training.resume_from_checkpoint=checkpoint-7")
    assert "no checkpoint checkpoint-7" in line


def test_existing_run(tmp_path):
    words = ["train", PLANE, "training.max_train_steps=2", "training.report_to=none"]
    assert CliRunner().invoke(main, [str(word) for word in words]).exit_code == 0
    line = refusal(*words)
    assert "holds a run already" in line
    assert "training.resume_from_checkpoint=latest" in line
    assert "training.overwrite_output_dir=true" in line


def test_output_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refusal("train", PLANE, f"training.output_dir={tmp_path}/file/run")
    assert "cannot write" in refusal("demo", "--output-dir", tmp_path / "file" / "demo")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_folder(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert "cannot write" in refusal("train", PLANE, f"training.output_dir={folder}/run")


def test_eps_prediction_with_zero_terminal_snr():
    words = ["model.prediction_type=epsilon", "model.scheduler.rescale_betas_zero_snr=true"]
    line = refusal("train", PLANE, *words)
    assert "zero terminal SNR" in line
    assert "v_prediction" in line


# And more of the same


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "Missing argument 'CONFIG'"),
        (["trian", "x"], "No such command 'trian' - did you mean 'sparring train'?"),
        (["train", PLANE, "--dryrun"], "No such option"),
        (["train", CONFIGS], f"data.name=image_folder data.train_data_dir={CONFIGS}"),
        (["train", PLANE, "seed"], "is not key=value"),
        (["train", PLANE, "contamination.kind=jpeg"], "needs images"),
        (["train", PLANE, "contamination.kind=jpeg", "--dry-run"], "needs images"),
        (["train", DIGITS, "contamination.sgima=0.1", "--dry-run"], "did you mean 'sigma'?"),
        (["train", DIGITS, "contamination.sgima=0.1"], "did you mean 'sigma'?"),
        (["train", DIGITS, "contamination.sigma=[0.3,0.1]"], "a range [low, high]"),
        (
            ["train", DIGITS, "contamination={kind: mixture, parts: [{kind: jpeg, rate: 0.5}]}"],
            "parts[0].rate does not apply to kind jpeg: it is said once, of the whole",
        ),
        (["train", DIGITS, "contamination.kind=none", "contamination.sigma=0.1"], "kind is none"),
        (["inspect", "digits", "contamination.sigma=0.1"], "kind is none"),
        (["train", PLANE, "model.class_conditional=true"], "plane has none"),
        (["train", DIGITS, "model.network={_class_name: UNet3DModle}"], "unknown network"),
        (["train", DIGITS, "model.network.layers_per_blok=1"], "did you mean 'layers_per_block'?"),
        (["train", DIGITS, "model.network.down_block_types=[Nothing]"], "model.network"),
        (
            ["train", DIGITS, "data.train_data_dir=x"],
            "does not apply to digits: it goes with data.name=image_folder",
        ),
        (["train", PLANE, "training.mixed_precision=fp16"], "needs a GPU"),
        (["train", PLANE, "objective=nowhere.py:Mine"], "no file nowhere.py"),
        (["train", PLANE, "training.timestep_sampling=loss_second_moment",
          "model.prediction_type=flow_prediction",
          "model.scheduler={_class_name: FlowMatchEulerDiscreteScheduler}"], "integer times"),
        (["train", PLANE, "model={network: null, scheduler: null, prediction_type: null, "
          "pretrained_model_name_or_path: ./nowhere}"], "no model at ./nowhere"),
        (["sample", "./nowhere"], "no model at ./nowhere"),
        (["sample", "./nowhere", "sampling.sheduler=ddim"], "unknown key 'sampling.sheduler'"),
        (["evaluate"], "Missing argument 'MODEL"),
        (["evaluate", "data.name=digits"], "Missing argument 'MODEL'"),
        (["evaluate", "./nowhere"], "no model at ./nowhere"),
        (["report", "./nowhere"], "nowhere"),
        (["inspect", "my/photos"], "cannot load my/photos (no folder here, so a name on the hub)"),
        (["contaminate", "./nowhere"], "no folder './nowhere'"),
        (["contaminate", "plane"], "contaminate writes images"),
        (["contaminate", "digits", "--kind", "jpge"], "did you mean 'jpeg'?"),
        (["contaminate", "digits", "--rate", "2"], "contamination.rate must be <= 1"),
        (["contaminate", "digits", "training.seed=1"], "contaminate takes data.*"),
        (["inspect", "./nowhere"], "no folder './nowhere'"),
        (["inspect", "plane"], "inspect looks at images"),
        (["inspect", "digits", "contamination.kind=jpge"], "did you mean 'jpeg'?"),
        (["inspect", "digits", "training.seed=1"], "inspect takes data.*"),
        (["inspect", "digits", "-o", "/dev/null/here"], "/dev/null/here cannot be written"),
        (["demo", "training.sed=1"], "unknown key 'training.sed'"),
        (["demo", "objective=dro"], "the demo sets this itself"),
    ],
)  # fmt: skip
def test_each_is_one_line(words, said):
    assert said in refusal(*words)


def test_a_folder_of_runs_is_no_run_and_they_are_named(tmp_path):
    for name in ("plain", "robust"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("{}")
    assert refusal("report", "runs").endswith("sparring report runs/plain runs/robust")


def test_adversarial_tuning_of_what_it_does_not_fit():
    assert "adt needs images, and plane has none" in refusal("train", PLANE, "objective=adt")
    words = ["objective=adt", "objective.guidance_scale=2", "training.train_batch_size=4"]
    line = refusal("train", DIGITS, *words, "model.class_conditional=false")
    assert "objective.guidance_scale needs a text-to-image model" in line
    line = refusal("train", DIGITS, "objective=adt", "objective.discriminator.features=./nowhere")
    assert "objective.discriminator.features ./nowhere cannot be loaded" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", str(PLANE), "objective.lam=1"], "unknown key 'objective.lam'"),
        (["train", str(PLANE), "model.network.dim=2"], "the data have 3 dimensions"),
    ],
)
def test_as_real_commands(words, said):
    told = subprocess.run(
        [sys.executable, "-m", "sparring", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 2
    assert told.stdout == ""
    assert "Traceback" not in told.stderr
    assert told.stderr.splitlines()[-1].startswith("sparring: error: ")
    assert said in told.stderr.splitlines()[-1]
    assert len(told.stderr.splitlines()) == 1
