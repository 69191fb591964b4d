"""The names of classes go from the data into the model, its card and its samples."""

import json

import pytest
import yaml
from diffusers import DiffusionPipeline
from PIL import Image

from sparring.models.pretrained import load
from text_to_image import run

CONFIG = {
    "data": {"name": "image_folder"},
    "model": {
        "class_conditional": True,
        "network": {
            "_class_name": "UNet2DModel", "block_out_channels": [8], "layers_per_block": 1,
            "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
            "norm_num_groups": 4,
        },
    },
    "training": {
        "max_train_steps": 1, "train_batch_size": 4, "validation_steps": None, "n_threads": 1,
        "report_to": "none",
    },
    "sampling": {"num_inference_steps": 2, "n_images": 3},
}  # fmt: skip


def photos(folder, *names):
    for i, name in enumerate(names):
        for j in range(2):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 40 * i + j).save(folder / name / f"{i}{j}.png")
    return folder


def train(folder, data, *words):
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    where = (f"data.train_data_dir={data}", f"training.output_dir={folder / 'run'}")
    told = run("train", folder / "config.yaml", *where, *words)
    assert told.exit_code == 0, told.output
    return folder / "run", told.stderr


@pytest.fixture
def trained(tmp_path):
    return train(tmp_path, photos(tmp_path / "photos", "10", "9", "700"))[0]


def test_names_are_kept_with_the_model_and_samples_are_asked_for_by_them(trained, tmp_path):
    names = ["9", "10", "700"]
    assert json.loads((trained / "model.json").read_text())["class_names"] == names
    assert load(trained).class_names == names
    assert "0: 9, 1: 10, 2: 700" in (trained / "README.md").read_text()
    pipe = DiffusionPipeline.from_pretrained(trained, trust_remote_code=True)
    assert pipe.config["class_names"] == names
    told = run("sample", trained, "-n", 1, "--class-label", "700", "-o", tmp_path / "out")
    assert told.exit_code == 0, told.output
    protocol = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert (protocol["class_labels"], protocol["class_names"]) == ([2], ["700"])
    told = run("sample", trained, "-n", 1, "--class-label", "0", "-o", tmp_path / "out")
    assert told.exit_code == 2
    assert "has no class '0' (it has 9, 10, 700)" in told.stderr


def test_classes_with_another_meaning_than_the_pretrained_models_are_said(trained, tmp_path):
    (tmp_path / "next").mkdir()
    data = photos(tmp_path / "birds", "duck", "9", "owl")
    start = (f"model.pretrained_model_name_or_path={trained}", "model.network=null")
    folder, said = train(tmp_path / "next", data, *start)
    assert "2 of 3 classes have another name" in said
    assert "'10' becomes 'duck'" in said
    assert load(folder).class_names == ["9", "duck", "owl"]
    assert not load(trained).has_classes_of(load(folder))
