"""`sparring clean`: files in and out, the noise it finds, and figures of known noise."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from html_pages import Sound
from sparring.cli import main
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import Contaminated
from sparring.data.files.decoding import decode
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import generator
from sparring.diffusion.schedules import schedule_from_config
from sparring.evaluation.studies.cleaning import feature_distance, psnr
from sparring.models.networks import MLP
from sparring.models.pretrained import Model, load, save
from sparring.report.charts import cleaning_charts
from sparring.report.runs import read_runs
from sparring.sampling.clean import clean, matching_time
from support import tiny_unet

SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}


def make_model(folder, shape=(1, 8, 8), num_classes=None, network=None, **null):
    network = network or tiny_unet(num_class_embeds=num_classes and num_classes + 1)
    denoiser = Denoiser(network, schedule_from_config(SCHEDULER), "v", null_condition=null)
    save(folder, Model(denoiser, SCHEDULER, shape, num_classes), "a test")
    config = {"model": {"network": {"_class_name": "MLP"}}, "data": {"name": "digits"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "conditional"
    return make_model(folder, num_classes=10, class_labels=10)


GREY = "data.n_channels=1"
"""WebP and GIF files do not say that they are grey."""


def run(*words):
    told = CliRunner().invoke(main, ["clean", *map(str, words)])
    assert told.exit_code == 0, told.output
    return told.stdout


def refusal(*words):
    told = CliRunner().invoke(main, ["clean", *map(str, words)])
    assert told.exit_code == 2, told.output
    (line,) = [line for line in told.stderr.splitlines() if "error:" in line]
    return line


@pytest.fixture
def photos(tmp_path):
    """Grey 8x8 images in a tree, in several formats, with links, one of them out, a broken file."""
    root = tmp_path / "photos"
    (root / "a" / "deep").mkdir(parents=True)
    files = ["1.png", "a/2.jpg", "a/deep/3.PNG", "a/4.webp", "5.bmp", "6.tif", "7.gif", "8.pgm"]
    for i, file in enumerate(files):
        pixels = np.random.RandomState(i).randint(60, 200, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(root / file)
    (root / "broken.png").write_bytes(b"no image")
    (root / "notes.txt").write_text("not an image")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(pixels).save(elsewhere / "far.png")
    (root / "link.png").symlink_to(elsewhere / "far.png")
    (root / "also.png").symlink_to("1.png")
    return root, [*files, "also.png"]


def everything(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_tree_the_names_and_the_formats_stay(model, photos, tmp_path):
    root, files = photos
    before, elsewhere = everything(root), everything(tmp_path / "elsewhere")
    out = tmp_path / "new" / "out"
    said = run(root, model, GREY, "-o", out, "--sigma", "0.2")
    assert everything(root) == before
    assert everything(tmp_path / "elsewhere") == elsewhere
    assert "left out 2 unreadable" in said
    written = sorted(path.relative_to(out / "images") for path in (out / "images").rglob("*.*"))
    assert [path.as_posix() for path in written] == sorted(files)
    loaded = load(model)
    for file in files:
        assert not (out / "images" / file).is_symlink()
        with Image.open(out / "images" / file) as image, Image.open(root / file) as own:
            assert (image.format, image.mode, image.size) == (own.format, own.mode, own.size)
            y = 2 * decode(str(root / file), 1)[None] - 1
            expected = (clean(loaded, y, 0.4, clip_sample=True) + 1) / 2 * 255
            error = np.abs(np.array(image.convert("L")).astype(float) - expected[0, 0].numpy())
            assert error.max() < (12 if file.endswith("jpg") else 0.51), file
    told = json.loads((out / "cleaning.json").read_text())
    assert told["skipped"] == [str(root / "broken.png"), str(root / "link.png")]
    assert (told["n_images"], told["n_cleaned"]) == (9, 9)
    t = matching_time(loaded.denoiser.schedule, torch.tensor([0.4])).item()
    for one in told["images"]:
        assert one["file"] == f"images/{Path(one['source']).relative_to(root).as_posix()}"
        assert (one["sigma"], one["t"]) == (0.2, pytest.approx(t))
    assert told["protocol"]["n_steps"] == 1
    Sound((out / "index.html").read_text())
    assert Image.open(out / "before.png").size == Image.open(out / "after.png").size


def test_nothing_is_written_over_or_into_the_data(model, photos, tmp_path):
    root, _ = photos
    assert "lies inside the data" in refusal(root, model, "-o", root / "x", "--sigma", "0.2")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    assert "is not empty" in refusal(root, model, "-o", full, "--sigma", "0.2")
    assert list(full.iterdir()) == [full / "mine"]


def test_auto_finds_the_noise_and_leaves_the_others_alone(model, tmp_path):
    noise = ["contamination.kind=gaussian", "contamination.sigma=0.2", "contamination.rate=0.5",
             "contamination.clip=false"]  # fmt: skip
    out = tmp_path / "out"
    told = json.loads(run("digits", model, "-o", out, "--sigma", "auto", "--json", *noise))
    assert told["data"]["split"] == "all"
    assert told["estimate"]["sigma"] == pytest.approx(0.2, rel=0.1)
    dirty = Contaminated(build_dataset("digits", "all"), "gaussian", 0.5, 0, False, sigma=0.2)
    cleaned = np.array([one["t"] is not None for one in told["images"]])
    assert told["n_cleaned"] == cleaned.sum()
    assert (cleaned == dirty.dirty.numpy()).mean() > 0.95
    for i in (~cleaned).nonzero()[0][:5]:
        one = told["images"][i]
        assert one["sigma"] == 0
        label = int(dirty[int(i)]["label"])
        assert one["file"] == f"images/{label}/{i:04d}.png"
        with Image.open(out / one["file"]) as image:
            own = dirty[int(i)]["x0"][0].clamp(0, 1).numpy() * 255
            assert np.abs(np.array(image) - own).max() < 0.51
    assert "no noise was found" in refusal("digits", model, "-o", tmp_path / "x", "--sigma", "auto")


def test_steps_and_purification_are_handed_on(model, photos, tmp_path):
    root, _ = photos
    options = ["--purify", "0.3", "--num-inference-steps", "3", "--eta", "1", "--seed", "5"]
    run(root, model, GREY, "-o", tmp_path / "out", *options)
    told = json.loads((tmp_path / "out" / "cleaning.json").read_text())
    (one,) = [one for one in told["images"] if one["file"] == "images/1.png"]
    y = torch.from_numpy(np.array(Image.open(root / "1.png"))).float()[None, None] / 127.5 - 1
    expected = clean(
        load(model), y, 0.0, n_steps=3, eta=1.0, purify=0.6, seed=5, clip_sample=True,
        index=torch.tensor([one["index"]]),
    )  # fmt: skip
    found = np.array(Image.open(tmp_path / "out" / "images" / "1.png")).astype(float)
    assert np.abs(found - ((expected[0, 0] + 1) / 2 * 255).numpy()).max() < 0.51
    assert (one["sigma"], told["sigma"]) == (0, 0)


def test_classes_are_the_datas_or_the_null_class(conditional, photos, tmp_path, monkeypatch):
    from sparring.commands.clean import images as command

    seen = []

    def spy(*args, **kwargs):
        seen.append(kwargs["condition"]["class_labels"])
        return clean(*args, **kwargs)

    monkeypatch.setattr(command, "clean", spy)
    run("digits", conditional, "--levels", "0.2", "-n", "20", "-o", tmp_path / "a",
        "--extractor", "pixels", "data.split=held_out")  # fmt: skip
    told = json.loads((tmp_path / "a" / "report.json").read_text())
    assert told["protocol"]["class_labels"] == "the data's own"
    assert len(set(seen[0].tolist())) > 3
    run(photos[0], conditional, GREY, "-o", tmp_path / "b", "--sigma", "0.2")
    assert set(seen[1].tolist()) == {10}


LEVELS = ["--levels", "0.1,0.3", "-n", "30", "--extractor", "pixels", "data.split=held_out"]


def test_figures_of_known_noise(model, conditional, tmp_path):
    out = tmp_path / "out"
    text = run("digits", model, conditional, *LEVELS, "-o", out, "contamination.seed=3")
    told = json.loads((out / "report.json").read_text())
    protocol = told["protocol"]
    assert (protocol["n_images"], protocol["noise_seed"], protocol["told"]) == (30, 3, "the level")
    held_out = build_dataset("digits", "held_out")
    rows = torch.randperm(297, generator=generator("cpu", 3, "images to clean"))[:30].sort().values
    x0 = held_out.x0[rows]
    for row, level in enumerate((0.1, 0.3)):
        noisy = Contaminated(held_out, "gaussian", 1.0, 3, sigma=level).read_all()["x0"][rows]
        y = clean(load(model), 2 * noisy - 1, 2 * level, clip_sample=True)
        ours, before = told["models"][model][row], told["noisy"][row]
        assert ours["level"] == ours["told"] == level
        for found, images in ((ours, (y + 1) / 2), (before, noisy.clamp(0, 1))):
            assert found["psnr"] == pytest.approx(psnr(images, x0).mean().item(), abs=1e-4)
            flat, own = images.flatten(1).double(), x0.flatten(1).double()
            distance = feature_distance(flat, own)
            assert found["feature_distance"] == pytest.approx(distance, rel=1e-4)
        assert f"{ours['psnr']:>10.4g}" in text
    Sound((out / "index.html").read_text())
    assert sorted(os.listdir(out)) == [
        "index.html",
        "level-0.1.png",
        "level-0.3.png",
        "report.json",
    ]
    assert told["command"].startswith("sparring clean digits")
    again = json.loads(run("digits", model, conditional, *LEVELS, "-o", out, "--json",
                           "contamination.seed=3"))  # fmt: skip
    assert again == told


def test_a_runs_figures_go_to_the_run_and_the_report_draws_them(tmp_path):
    folders = [make_model(tmp_path / name) for name in ("plain", "robust")]
    run("digits", *folders, *LEVELS)
    run("digits", folders[0], *LEVELS, "--purify", "0.4")
    runs = read_runs(folders)
    assert [len(one.cleaning) for one in runs] == [2, 1]
    both = [c for c in cleaning_charts(runs, {"plain": 0, "robust": 1}) if len(c.legend) == 3]
    (chart,) = both
    assert [name for name, _ in chart.legend] == ["the noisy images", "plain", "robust"]
    assert "digits (held_out), 1 step(s)" in chart.title
    (figures,) = runs[1].cleaning[0]["models"].values()
    assert [one["level"] for one in figures] == [0.1, 0.3]
    told = CliRunner().invoke(main, ["report", *folders, "-o", str(tmp_path / "r.html")])
    assert told.exit_code == 0, told.output
    page = (tmp_path / "r.html").read_text()
    Sound(page)
    assert "How well do they clean?" in page


def test_what_makes_no_sense_is_one_line(model, conditional, photos, tmp_path):
    root, _ = photos
    out = ["-o", tmp_path / "out"]
    vectors = make_model(tmp_path / "vectors", (3,), network=MLP(3, 8, 1))
    unknown = make_model(tmp_path / "unknown", num_classes=3)
    for words, said in (
        ([root, model, *out], "--sigma 0.1"),
        ([root, model, "--sigma", "0.2"], "-o OUT"),
        ([root, model, conditional, *out, "--sigma", "0.2"], "name one model"),
        ([root, model, *out, "--sigma", "much"], "--sigma takes a number >= 0, or auto"),
        ([root, model, *out, "--sigma", "nan"], "--sigma takes"),
        ([root, model, *out, "--sigma", "1e6"], "outside what this model knows"),
        ([root, model, *out, "--sigma", "auto"], "no noise was found"),
        ([root, model, *out, "--sigma", "0.2", "-n", "3"], "--n-images goes with --levels"),
        ([root, model, *out, "--sigma", "0.2", "--eta", "2"], "eta must be <= 1"),
        ([root, model, *out, "--sigma", "0.2", "--num-inference-steps", "0"], "must be >= 1"),
        ([root, "./nowhere", *out, "--sigma", "0.2"], "no model at ./nowhere"),
        (["./nowhere", model, *out, "--sigma", "0.2"], "no folder './nowhere'"),
        (["plane", model, *out, "--sigma", "0.2"], "clean works on images"),
        (["digits", vectors, *out, "--sigma", "0.2"], "knows samples of shape (3,)"),
        ([root, model, *out, "--sigma", "0.2", "data.resolution=16"], "set data.resolution=8"),
        ([root, unknown, *out, "--sigma", "0.2"], "wants to know the class"),
        ([root, model, *out, "--sigma", "0.2", "training.seed=1"], "clean takes data.*"),
        (["digits", model, "--levels", "0.1,x"], "--levels takes sizes of noise"),
        (["digits", model, "--levels", "0.1", "contamination.kind=blur"], "kind=none"),
        (["digits", model, "--levels", "0.1", "-n", "2", *out], "at least 4 are needed"),
    ):  # fmt: skip
        grey = [GREY] if words[0] == root else []
        assert said in refusal(*words, *grey), words
    assert not (tmp_path / "out" / "images").exists()
