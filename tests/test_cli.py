"""The command line as it is typed: spelling, JSON, speed, and one whole small story."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from sparring import __version__, commands
from sparring.cli import main
from sparring.commands.demo.side_by_side import EVALUATION_SECONDS, Run
from sparring.commands.demo.story import _plan, time_left, write_photos
from sparring.config.read import resolve
from sparring.data.dirt.manifest import read_manifest
from sparring.support.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
COMMANDS = commands.names()
TINY_UNET = (
    "model.network={_class_name: UNet2DModel, block_out_channels: [8, 8], layers_per_block: 1, "
    "down_block_types: [DownBlock2D, DownBlock2D], up_block_types: [UpBlock2D, UpBlock2D], "
    "norm_num_groups: 4, attention_head_dim: 4}"
)
SHORT = (
    TINY_UNET,
    "training.max_train_steps=4",
    "training.train_batch_size=8",
    "training.lr_warmup_steps=0",
    "training.log_every_steps=2",
    "training.validation_steps=4",
    "training.report_to=none",
    "sampling.num_inference_steps=2",
    "sampling.n_images=4",
)


@pytest.fixture(autouse=True)
def _same_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_version_and_help():
    assert run("--version").output == f"sparring {__version__}\n"
    listed = run("--help").output
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        told = run(name, "--help")
        assert told.exit_code == 0
        assert f"sparring {name}" in told.output.partition("Example")[2]


def test_no_command_shows_the_help():
    assert run().output == run("--help").output


MISSPELT = ["train", str(CONFIGS / "digits.yaml"), "training.sed=1"]


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS), MISSPELT])
def test_help_and_config_errors_do_not_wait_for_torch(words):
    code = (
        "import sys\nfrom sparring.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


HEAVY = {
    "sklearn",
    "pandas",
    "scipy.optimize",
    "scipy.stats",
    "matplotlib.pyplot",
    "datasets",
    "peft",
}
"""What takes seconds to import, and a training of digits has no use for."""


def test_a_training_begins_without_what_it_does_not_need(tmp_path):
    words = [
        "train", "digits", "objective=plain", "training.max_train_steps=1",
        "training.train_batch_size=4", f"training.output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    code = (
        "import sys\nfrom sparring.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"found = {HEAVY!r} & set(sys.modules)\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_demo_estimates_thetime_left(tmp_path):
    def one(name, stage, step, pace, process):
        run = Run(name, "", tmp_path, tmp_path, [[], []], 100, stage=stage)
        run.step, run.seconds_per_step, run.process = step, pace, process
        return run

    robust, plain = one("robust", 0, 50, 2.0, object()), one("plain", 0, 50, 1.0, object())
    clean = one("clean", 0, 0, 0.0, None)
    # robust: 50 steps and its evaluation; plain: 50 steps, then clean at plain's pace
    left = time_left([robust, plain, clean], 2)
    assert left == max(100 + EVALUATION_SECONDS, 50 + 100 + 2 * EVALUATION_SECONDS)
    assert time_left([one("plain", 2, 100, 1.0, None)], 1) == 0


def test_the_short_demo_does_less_and_the_users_words_win(tmp_path):
    def plan(place, words, quick):
        runs, attacks = _plan(tmp_path / place, 0, words, quick)
        run = runs["robust"]
        train, evaluate, attack = (one[3:] for one in run.commands + attacks["robust"].commands)
        assert (train[0], evaluate[0], attack[0]) == ("train", "evaluate", "attack")
        return run.n_steps, resolve(train[1], train[2:]).sampling.num_inference_steps, attack

    long, short = plan("a", [], False), plan("b", [], True)
    assert short[0] < long[0] / 3
    assert short[1] < long[1]
    assert "attack.radii=[0.2]" in short[2]
    assert "attack.radii=[0.2]" not in long[2]
    own = plan("c", ["training.max_train_steps=7", "sampling.num_inference_steps=3"], True)
    assert own[:2] == (7, 3)


def test_the_demos_files_are_written_once_with_noise_of_mixed_sizes(tmp_path):
    few = ["data.max_train_samples=40"]
    write_photos(tmp_path, 0, few)
    header, entries = read_manifest(tmp_path / "photos" / "manifest.jsonl")
    sizes = [entry["sigma"] for entry in entries]
    assert (header["kind"], header["rate"], len(sizes)) == ("gaussian", 0.9, 36)
    assert 0.05 <= min(sizes) < 0.1
    assert 0.3 < max(sizes) <= 0.35
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(files) == 40
    write_photos(tmp_path, 0, few)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == files
    for seed, words in ((1, few), (0, [*few, "contamination.rate=0.5"])):
        with pytest.raises(UserError, match="other settings"):
            write_photos(tmp_path, seed, words)


def test_a_dry_run_reads_the_size_of_images_that_no_setting_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (24, 16), (i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    words = [f"{key}_block_types=[{kind}]" for key, kind in
             (("down", "DownBlock2D"), ("up", "UpBlock2D"))]  # fmt: skip
    network = {"_class_name": "UNet2DModel", "block_out_channels": [32]}
    config = {"model": {"network": network},
              "data": {"name": "image_folder", "train_data_dir": "photos"}}  # fmt: skip
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    told = run("train", "a.yaml", "--dry-run", *(f"model.network.{word}" for word in words))
    assert told.exit_code == 0, told.output
    assert "samples       3 x 16 x 24" in told.output


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_run_in_the_folder_of_its_images_is_refused(tmp_path, more):
    words = ["data.name=image_folder", f"data.train_data_dir={tmp_path}", "data.resolution=8"]
    words += [f"training.output_dir={tmp_path / 'x' / '..'}", *more]
    told = run("train", CONFIGS / "digits.yaml", *words)
    assert told.exit_code == 2
    assert "is the folder of the images" in told.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "folder"),
    [
        ("photos.v2", "photos.v2-contaminated"),
        ("in/photos/", "photos-contaminated"),
        ("..", None),
        (".", None),
    ],
)
def test_a_contaminated_copy_has_the_name_of_its_data_and_lies_outside(
    tmp_path, monkeypatch, data, folder
):
    here = tmp_path / "data" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    place = Path(data)
    place.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(place / "0.png")
    told = run("contaminate", data)
    if folder is None:
        assert told.exit_code == 2
        assert f"{data} is where you are: name another folder with -o" in told.stderr
    else:
        assert told.exit_code == 0, told.output
        assert (here / folder / "manifest.jsonl").is_file()


def test_a_dry_run_prints_yaml_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run("train", CONFIGS / "plane.yaml", "objective=detail", "--dry-run")
    assert told.exit_code == 0
    resolved = yaml.safe_load(told.output)
    assert resolved["objective"]["lam"] == 10
    assert resolved["training"]["output_dir"] == "runs/plane"
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A finished run of a few steps."""
    folder = tmp_path_factory.mktemp("cli") / "digits"
    told = run("train", CONFIGS / "digits.yaml", *SHORT, f"training.output_dir={folder}")
    assert told.exit_code == 0, told.output
    return folder


def test_train_leaves_the_run_folder(digits):
    resolved = yaml.safe_load((digits / "config.yaml").read_text())
    assert resolved["training"]["max_train_steps"] == 4
    assert (digits / "data" / "training_samples.png").is_file()
    assert (digits / "data" / "manifest.jsonl").is_file()
    assert (digits / "samples" / "step-4.png").is_file()
    assert (digits / "model_index.json").is_file()
    assert f"sparring train {CONFIGS / 'digits.yaml'}" in (digits / "README.md").read_text()
    steps = [
        json.loads(line)["step"] for line in (digits / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [2, 4]
    assert json.loads((digits / "training.json").read_text())["finished"] is True


def test_the_resolved_config_is_a_config(digits):
    told = run("train", digits / "config.yaml")
    assert told.exit_code == 2
    assert "holds a run already" in told.stderr
    told = run("train", digits / "config.yaml", "training.resume_from_checkpoint=latest")
    assert told.exit_code == 0
    kept = yaml.safe_load((digits / "config.yaml").read_text())
    assert kept["training"]["resume_from_checkpoint"] is None


def test_evaluate_prints_one_json_object_and_keeps_it(digits):
    words = ("evaluation.n_samples=80", "evaluation.extractor=pixels")
    told = run("evaluate", digits, *words, "--json")
    assert told.exit_code == 0, told.output
    figures = json.loads(told.stdout)
    for key in ("frechet_distance", "frechet_distance_of_reference"):
        assert figures[key] > 0
    assert figures["protocol"]["n_fake"] == 80
    kept = [json.loads(path.read_text()) for path in (digits / "evaluation").glob("*.json")]
    assert figures["frechet_distance"] in [one["frechet_distance"] for one in kept]


def test_evaluating_several_models_gives_figures_by_model(digits, tmp_path):
    other = tmp_path / "other"
    words = [*SHORT, f"training.output_dir={other}", "training.seed=1"]
    assert run("train", CONFIGS / "digits.yaml", *words).exit_code == 0
    measure = ("evaluation.n_samples=80", "evaluation.extractor=pixels")
    told = run("evaluate", digits, other, *measure, "--json")
    assert told.exit_code == 0, told.output
    assert set(json.loads(told.stdout)["models"]) == {str(digits), str(other)}
    page = tmp_path / "report.html"
    told = run("report", digits, other, "-o", page, "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["output"] == str(page)
    assert "<html" in page.read_text()


def test_sample_writes_images(digits, tmp_path):
    told = run("sample", digits, "-n", 3, "-o", tmp_path / "out", "--seed", 1, "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["n_images"] == 3
    assert len(list((tmp_path / "out").glob("0*.png"))) == 3


def test_contaminate_writes_a_copy(tmp_path):
    words = ("data.max_train_samples=20", "contamination.sigma=0.2", "--rate", 0.5)
    told = run("contaminate", "digits", "-o", tmp_path / "copy", *words, "--json")
    assert told.exit_code == 0, told.output
    summary = json.loads(told.stdout)
    assert (summary["n_images"], summary["n_dirty"], summary["clip"]) == (20, 10, True)
    assert len(list((tmp_path / "copy").rglob("*.png"))) == 20


def test_inspect_prints_its_findings():
    words = ("contamination.kind=salt_and_pepper", "contamination.share=0.2")
    told = run("inspect", "digits", *words, "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert [one["index"] for one in found["images"]] == list(range(1500))
    assert found["images"][0].keys() >= {"source", "kinds", "sigma", "level", "weight"}
    assert found["found"][0]["kind"] == "salt_and_pepper"
    assert found["suggestion"]["objective"] == "detail"
    told = run("inspect", "digits", *words)
    assert "\nsalt_and_pepper: " in told.stdout
    assert "  salt_and_pepper on " in told.stdout
    assert "suggestion: objective=detail\n" in told.stdout


@pytest.mark.slow
def test_the_demo_trains_evaluates_reports_and_can_be_repeated(tmp_path):
    words = ["demo", "--output-dir", tmp_path / "demo", *SHORT, "evaluation.n_samples=80"]
    words += ["evaluation.extractor=pixels", "training.validation_steps=null"]
    told = run(*words)
    assert told.exit_code == 0, told.output
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert list(summary["models"]) == ["plain", "robust", "clean"]
    for model in summary["models"].values():
        assert model["frechet_distance"] > 0
        assert model["empty_pixel_rms"] > 0
        assert model["train_seconds"] > 0
        assert {name: len(curve) for name, curve in model["attack"].items()} == {
            "pgd": 4, "random": 4,
        }  # fmt: skip
    photos = tmp_path / "demo" / "photos"
    for name, data, objective in [
        ("plain", "image_folder", "plain"), ("robust", "image_folder", "detail"),
        ("clean", "digits", "plain"),
    ]:  # fmt: skip
        config = yaml.safe_load((tmp_path / "demo" / name / "config.yaml").read_text())
        assert (config["data"]["name"], config["objective"]["name"]) == (data, objective)
        assert config["contamination"]["kind"] == "none"
        assert config["data"].get("train_data_dir") in (None, str(photos))
    assert len(list(photos.rglob("*.png"))) == 1500
    assert summary["protocol"]["n_real"] == 1797  # all clean digits
    assert (tmp_path / "demo" / "photos-report" / "index.html").is_file()
    found = [one["kind"] for one in summary["found"]]
    assert found[0] == "gaussian"
    assert "\n  gaussian: " in told.output
    assert f"Report: {tmp_path / 'demo' / 'report.html'}" in told.output
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("&#34;plain, pgd ") == 4
    assert page.count(f"<dd>{photos}, as they are</dd>") == 2
    assert page.count(" on the way</h3>") == 3
    other = run(*words, "training.learning_rate=0.5")
    assert other.exit_code == 2
    assert "holds a demo run with other settings" in other.stderr
    other = run(*words, "contamination.rate=0.5")
    assert other.exit_code == 2
    assert "photos holds files of a demo run with other settings" in other.stderr
