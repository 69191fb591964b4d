"""The small trainers of recipes/, of which pages show the lines: what is told of dirt arrives."""

import difflib
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from diffusers import DiffusionPipeline

import sparring
from sparring.commands.export.folders import export_command

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes"))

LOOPS = ("pytorch_loop", "accelerate_loop", "lightning_loop", "diffusers_unconditional")
PAGES = {
    "docs/tutorials/your_loop.md": ["pytorch_loop", "exported_images"],
    "docs/how_to/accelerate.md": ["accelerate_loop"],
    "docs/how_to/lightning.md": ["lightning_loop"],
    "docs/how_to/diffusers_scripts.md": ["diffusers_unconditional", "diffusers_text_to_image"],
}


def twin(name):
    if name.startswith("lightning"):
        pytest.importorskip("lightning")
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))


def exported(folder, weight, data, n_images):
    """Images whose noise is known, each of this weight, as `sparring export` writes them."""
    table = folder / "dirt.csv"
    rows = [f"{i},{0.2 * (i % 2)},{weight}" for i in range(n_images)]
    table.write_text("\n".join(["index,sigma,weight", *rows]) + "\n")
    export_command(data, {"kind": "none"}, folder / "out", str(table))
    return folder / "out/images"


@pytest.fixture(params=[1, 0], ids=["taught", "not to teach"])
def digits(request, tmp_path):
    data = {"name": "digits", "max_train_samples": 48}
    return request.param, exported(tmp_path, request.param, data, 48)


@pytest.mark.parametrize("name", LOOPS)
def test_a_twin_trains_and_images_of_no_weight_teach_nothing(name, digits, tmp_path):
    weight, images = digits
    losses = twin(name).train(images, tmp_path / "run", num_epochs=2, train_batch_size=16)
    assert len(losses) == 6
    if weight:
        assert min(losses) > 0.05
        assert sum(losses[-2:]) < sum(losses[:2])
    else:
        assert losses == [0.0] * 6
    images = sparring.sample(sparring.load(str(tmp_path / "run")), 2, num_inference_steps=2)
    assert images.shape == (2, 1, 8, 8)


@pytest.mark.slow
def test_two_processes_train_in_a_loop_of_accelerate(tmp_path):
    """Each with batches of its own, whose rows are all that its losses ask for."""
    images = exported(tmp_path, 1, {"name": "digits", "max_train_samples": 48}, 48)
    words = [images, tmp_path / "run", "--num_epochs=3", "--train_batch_size=8"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT / "recipes")])
    told = subprocess.run(
        [*launch, ROOT / "recipes/accelerate_loop.py", *words],
        env=environment, text=True, capture_output=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    saved = sparring.load(str(tmp_path / "run"))
    assert sparring.sample(saved, 2, num_inference_steps=2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("weight", [1, 0])
def test_the_text_twin_trains_and_images_of_no_weight_teach_nothing(weight, tmp_path):
    pytest.importorskip("transformers")
    from text_to_image import captioned_folder, stable_diffusion

    place = stable_diffusion(tmp_path)
    photos = captioned_folder(tmp_path / "photos")
    data = {"name": "image_folder", "train_data_dir": str(photos)}
    images = exported(tmp_path, weight, data, 6)
    losses = twin("diffusers_text_to_image").train(images, tmp_path / "run", 2, 3, str(place))
    assert len(losses) == 4
    assert min(losses) > 0.05 if weight else losses == [0.0] * 4
    before = DiffusionPipeline.from_pretrained(place, safety_checker=None).unet
    after = DiffusionPipeline.from_pretrained(tmp_path / "run", safety_checker=None).unet
    is_alike = all(map(torch.equal, before.parameters(), after.parameters()))
    assert is_alike == (weight == 0)


def test_a_twin_is_told_the_noise(tmp_path):
    """The loss of the same images in the same order differs from one that is told of none."""
    data = {"name": "digits", "max_train_samples": 48}
    told = exported(tmp_path, 1, data, 48)
    lines = [json.loads(line) for line in (told / "metadata.jsonl").read_text().splitlines()]
    losses = []
    for sigma in (None, 0.0):
        if sigma is not None:
            text = "\n".join(json.dumps(line | {"sigma": sigma}) for line in lines)
            (told / "metadata.jsonl").write_text(text + "\n")
        torch.manual_seed(0)
        losses += twin("pytorch_loop").train(told, tmp_path / "run", 3, 48)
    assert losses[0] != losses[3]


@pytest.mark.parametrize(("page", "names"), PAGES.items(), ids=lambda one: Path(str(one)).stem)
def test_the_lines_that_a_page_adds_stand_in_its_twin(page, names):
    """But for what only one of them has: indentation, `args.` and marks of the formatter."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```diff\n(.*?)```", text, re.S)
    assert blocks
    twins = "\n".join((ROOT / "recipes" / f"{name}.py").read_text() for name in names)
    known = {line.removesuffix("# fmt: skip").strip() for line in twins.splitlines()}
    added = [line for block in blocks for line in block.splitlines() if line.startswith("+")]
    for line in (one[1:].replace("args.", "").strip() for one in added):
        near = difflib.get_close_matches(line, known, 1)
        assert line in known, f"{line!r}, nearest in the twin: {near}"
