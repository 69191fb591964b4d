"""What is saved draws what training drew: each model's card, run in plain diffusers.

Training's last grid is caught before it becomes a picture. The card's Python then runs as it stands
there, with the run's number of steps and scale of guidance and the same noise.
"""

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from sparring.commands.train import run_files as command
from sparring.diffusion.randomness import generator
from sparring.models.pretrained import load
from text_to_image import (
    captioned_folder,
    quiet,
    run,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
)

UNET = {
    "_class_name": "UNet2DModel", "block_out_channels": [8, 16], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
    "norm_num_groups": 4,
}  # fmt: skip
DIT = {
    "_class_name": "DiTTransformer2DModel", "num_attention_heads": 2, "attention_head_dim": 8,
    "num_layers": 1, "patch_size": 2, "norm_num_groups": 1,
}  # fmt: skip
STEPS, GUIDANCE = 5, 3.0
TRAINING = {
    "mixed_precision": "no",
    "max_train_steps": 2, "train_batch_size": 4, "learning_rate": 1e-2, "log_every_steps": 1,
    "validation_steps": 2, "checkpointing_steps": 2, "report_to": "none", "n_threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three pipelines, captioned photos, and photos that are not square, of two classes."""
    root = tmp_path_factory.mktemp("saved_models")
    stable_diffusion(root)
    stable_diffusion_xl(root)
    stable_diffusion_3(root)
    captioned_folder(root / "photos")
    for name, size in {"wide": (24, 16), "tall": (8, 24), "square": (16, 16)}.items():
        for i in range(4):
            file = root / name / f"class {i % 2}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(noise).save(file)
            file.with_suffix(".txt").write_text(f"caption {i % 2}")
    return root


def last_grid(monkeypatch, folder, config):
    """Train in a folder; the images, (n, C, H, W) in [0, 1], of the last grid."""
    grids = []

    def watched(x, *words):
        grids.append((x.clone() / 2 + 0.5).clamp(0, 1))
        return grid(x, *words)

    grid = command.grid
    monkeypatch.setattr(command, "grid", watched)
    config = {
        **config,
        "training": {**TRAINING, **config.get("training", {})},
        "sampling": {"num_inference_steps": STEPS, "n_images": 3, "guidance_scale": GUIDANCE},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    told = run("train", folder / "config.yaml", f"training.output_dir={folder / 'run'}")
    assert told.exit_code == 0, told.output
    return grids[-1]


def drawn_by_the_card(folder, monkeypatch, **words):
    """The images of the code in README.md, with the noise of training's grids."""
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "run/README.md").read_text(), re.S)
    *setup, call = code.strip().splitlines()
    found = {"told": lambda *a, **k: (a, k)}
    exec("\n".join(setup) + "\n" + call.replace("pipe(", "told(").replace(".images", ""), found)
    positional, given = found["images"]
    given["num_inference_steps"] = STEPS
    if "guidance_scale" in given:
        given["guidance_scale"] = GUIDANCE
    if "batch_size" in given:
        given["batch_size"] = 3
    if "class_labels" in given:
        given["class_labels"] = [i % 2 for i in range(3)]
    noise = [generator("cpu", 0, "sample", i) for i in range(3)]
    given |= {"generator": noise, "output_type": "pt", **words}
    positional = words.pop("prompts", positional)
    given.pop("prompts", None)
    return quiet(found["pipe"])(*positional, **given).images


def assert_drawn(root, tmp_path, monkeypatch, config, **words):
    ours = last_grid(monkeypatch, tmp_path, config)
    theirs = torch.as_tensor(drawn_by_the_card(tmp_path, monkeypatch, **words)).float()
    assert ours.std() > 0.01
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def pixel(root, place, **model):
    network = model.pop("network", UNET)
    return {
        "data": {"name": "image_folder", "train_data_dir": str(root / place), "n_channels": 3},
        "model": {"network": network, **model},
    }


CLASSES = {"class_conditional": True}
DROPOUT = {"training": {"conditioning_dropout_prob": 0.2}}
CONSISTENCY = {"objective": {"name": "consistency_training"}}
KINDS = ["epsilon", "sample", "v_prediction", "flow_prediction", "edm"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [False, True], ids=["unconditional", "classes"])
def test_pixels(root, tmp_path, monkeypatch, kind, classes):
    config = pixel(root, "tall", prediction_type=kind, class_conditional=classes)
    assert_drawn(root, tmp_path, monkeypatch, config | (DROPOUT if classes else {}))


@pytest.mark.parametrize("more", [DROPOUT, CONSISTENCY], ids=["guided", "consistency"])
@pytest.mark.parametrize("kind", ["v_prediction", "flow_prediction"])
def test_transformers(root, tmp_path, monkeypatch, kind, more):
    config = pixel(root, "square", network=DIT, prediction_type=kind, **CLASSES)
    assert_drawn(root, tmp_path, monkeypatch, config | more)


def test_a_transformer_that_makes_square_images_is_refused_others(root, tmp_path):
    config = pixel(root, "tall", network=DIT, **CLASSES) | {"training": TRAINING}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    told = run("train", tmp_path / "config.yaml", f"training.output_dir={tmp_path / 'run'}")
    assert told.exit_code == 2
    assert "makes square images, the data are 8x24: set data.resolution" in told.stderr


@pytest.mark.parametrize(
    ("words", "training"),
    [
        ({"learned_variance": True}, {}),
        ({"learned_variance": True, **CLASSES}, {"conditioning_dropout_prob": 0.2}),
        ({"network": {**UNET, "sample_size": 64}}, {}),
        ({"scheduler": {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}}, {}),
        ({"scheduler": {"_class_name": "DDIMScheduler", "clip_sample": False}}, {}),
        ({"scheduler": {"_class_name": "DDPMScheduler", "thresholding": True}}, {}),
        ({"scheduler": {"_class_name": "EulerDiscreteScheduler"}}, {"use_ema": False}),
        ({"scheduler": {"_class_name": "HeunDiscreteScheduler"}}, {}),
        (
            {
                "prediction_type": "v_prediction",
                "scheduler": {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
            },
            {},
        ),
        (
            {
                "prediction_type": "flow_prediction",
                "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            },
            {},
        ),
        (
            {
                "prediction_type": "flow_prediction",
                "scheduler": {"_class_name": "FlowMatchHeunDiscreteScheduler"},
            },
            {},
        ),
        ({"scheduler": {"_class_name": "DDIMScheduler", "set_alpha_to_one": False}}, {}),
        ({"scheduler": {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}}, {}),
        ({"scheduler": {"_class_name": "PNDMScheduler"}}, {}),
        ({"scheduler": {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}}, {}),
        (
            {
                "prediction_type": "edm",
                "scheduler": {"_class_name": "EDMDPMSolverMultistepScheduler"},
            },
            {},
        ),
        (
            {
                "prediction_type": "edm",
                "scheduler": {"_class_name": "EDMEulerScheduler", "final_sigmas_type": "sigma_min"},
            },
            {},
        ),
    ],
    ids=[
        "variance", "variance and classes", "another sample_size", "cosine", "ddim",
        "thresholding", "euler", "heun", "zero terminal SNR", "shift", "flow heun",
        "another last alpha", "linspace", "pndm", "sigmoid", "edm solver", "edm's last sigma",
    ],
)  # fmt: skip
def test_other_settings(root, tmp_path, monkeypatch, words, training):
    config = pixel(root, "tall", **words) | {"training": training}
    assert_drawn(root, tmp_path, monkeypatch, config)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [False, True], ids=["unconditional", "classes"])
def test_consistency_models(root, tmp_path, monkeypatch, kind, classes):
    config = pixel(root, "tall", prediction_type=kind, class_conditional=classes)
    assert_drawn(root, tmp_path, monkeypatch, config | CONSISTENCY)


RANKS = {"rank": 2, "alpha": 5}
UNETS = {**RANKS, "target_modules": ["to_q", "conv1", "proj_in", "conv_in", "net.2", "linear_1"]}
TRANSFORMERS = {**RANKS, "target_modules": ["to_q", "add_k_proj", "pos_embed.proj", "net.2"]}
LCM = {"objective": {"name": "latent_consistency_distillation"}}


ADT = {
    "objective": {
        "name": "adt", "num_inference_steps": 4, "n_trained": 2, "guidance_scale": 3.0,
        "discriminator": {"features": "denoiser", "width": 8},
    }
}  # fmt: skip
OBJECTIVES = {"plain": {}, "lcm": LCM, "adt": ADT}
ALWAYS = [
    ("wide", "sd", "lora", "plain"),
    ("photos", "sdxl", "full", "plain"),
    ("photos", "sd3", "lora", "plain"),
    ("photos", "sdxl", "lora", "lcm"),
]
"""What the default run tries; the others are slow."""


def cases():
    for case in itertools.product(
        ["photos", "wide"], ["sd", "sdxl", "sd3"], ["full", "lora"], OBJECTIVES
    ):
        place, family, _, objective = case
        if family == "sd3" and (place == "wide" or objective == "lcm"):
            continue  # refused: photos that are not square, a schedule without LCM's times
        marks = [] if case in ALWAYS else [pytest.mark.slow]
        yield pytest.param(*case, marks=marks, id="-".join(case))


@pytest.mark.parametrize(("place", "family", "learns", "objective"), cases())
def test_text_to_image(root, tmp_path, monkeypatch, place, family, learns, objective):
    lora = None if learns == "full" else TRANSFORMERS if family == "sd3" else UNETS
    config = {
        "data": {"name": "image_folder", "train_data_dir": str(root / place)},
        "model": {"pretrained_model_name_or_path": str(root / family), "lora": lora},
        **OBJECTIVES[objective],
    }
    captions = {"photos": ["a red square", "a green square", "a blue square"]}
    prompts = captions.get(place, ["caption 0", "caption 1", "caption 0"])
    words = {"prompts": [prompts]}
    if not (objective == "lcm" and lora):
        words["guidance_scale"] = GUIDANCE
    assert_drawn(root, tmp_path, monkeypatch, config, **words)


WATCHED = """
import sys
from safetensors.torch import save_file
from sparring import cli
from sparring.commands.train import run_files as train

grid, (_, place, *words) = train.grid, sys.argv

def watched(x, *others):
    save_file({"x": (x / 2 + 0.5).clamp(0, 1).contiguous()}, place)
    return grid(x, *others)

train.grid = watched
cli.main(words)
"""


@pytest.mark.slow
@pytest.mark.parametrize("average", [True, False], ids=["average", "no average"])
def test_a_model_that_was_dealt_to_two_processes(root, tmp_path, monkeypatch, average):
    config = pixel(root, "tall", prediction_type="v_prediction")
    config["training"] = {
        **TRAINING, "train_batch_size": 2, "sharding": "fsdp2", "use_ema": average,
        "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    config["sampling"] = {"num_inference_steps": STEPS, "n_images": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "watched.py").write_text(WATCHED)
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [tmp_path / "watched.py", tmp_path / "grid", "train", tmp_path / "config.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *map(str, words)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    ours = load_file(tmp_path / "grid")["x"]
    theirs = torch.as_tensor(drawn_by_the_card(tmp_path, monkeypatch)).float()
    assert ours.std() > 0.01
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    pieces = tmp_path / "run/checkpoints/checkpoint-2"
    assert len(list(pieces.glob("model.shard-*.safetensors"))) == 2
    whole = load(pieces).denoiser.network.state_dict()
    saved = load(tmp_path / "run").denoiser.network.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in whole.items())
