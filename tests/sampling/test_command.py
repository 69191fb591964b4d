"""`sparring sample` leaves what it drew, and how."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)
from PIL import Image
from safetensors.torch import load_file

from sparring.commands.sample.draw import sample_command
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import schedule_from_config
from sparring.models.networks import MLP
from sparring.models.pretrained import Model, load, save
from sparring.sampling.images import grid
from sparring.sampling.sample import sample
from sparring.support.errors import UserError

VP = {"_class_name": "DDPMScheduler"}


@pytest.fixture
def digits(tmp_path, request):
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        num_class_embeds=3,
    )  # fmt: skip
    folder = tmp_path / "run"
    denoiser = Denoiser(network, schedule_from_config(VP), null_condition={"class_labels": 2})
    model = Model(denoiser, VP, (1, 8, 8), 2)
    model.class_names = ["5", "700"] if "ids" in request.node.name else ["cat", "dog"]
    model.absent_classes = [1] if "absent" in request.node.name else []
    save(folder, model, "card")
    sampling = {"num_inference_steps": 4, "n_images": 5, "seed": 3, "guidance_scale": 2.0}
    (folder / "config.yaml").write_text(yaml.safe_dump({"sampling": sampling}))
    return folder


def test_images_of_a_run_with_its_own_settings(digits):
    result = sample_command(str(digits), device="cpu")
    folder = digits / "evaluation" / "samples"
    assert result["output"] == str(folder)
    expected = sample(load(digits), 5, num_inference_steps=4, seed=3, guidance_scale=2.0)
    expected = ((expected + 1) / 2).clamp(0, 1).mul(255).round().byte()
    for i in range(5):
        assert (np.asarray(Image.open(folder / f"{i:05d}.png")) == expected[i, 0].numpy()).all()
    protocol = json.loads((folder / "sampling.json").read_text())
    assert protocol == result["protocol"]
    assert (protocol["sampler"], protocol["steps"], protocol["seed"]) == ("ddim", 4, 3)
    assert protocol["clip_sample"] is True
    assert protocol["class_labels"] == [0, 1]
    assert (folder / "grid.png").exists()

    again = sample_command(str(digits), n_images=2, class_labels=[1], device="cpu")
    assert again["files"] == ["grid.png", "00000.png", "00001.png"]
    assert len(list(folder.glob("0*.png"))) == 5  # the first ones are still there
    folder = Path(again["output"])
    assert folder.parent == digits / "evaluation"
    assert folder.name.startswith("samples-class_labels-1-n_images-2-")
    assert sorted(path.name for path in folder.glob("0*.png")) == ["00000.png", "00001.png"]
    first = np.asarray(Image.open(folder / "00001.png"))
    assert (first == expected[1, 0].numpy()).all()  # sample 1 was of class 1 before, too


def drawn_classes(folder, *labels):
    protocol = sample_command(str(folder), n_images=2, class_labels=labels, device="cpu")[
        "protocol"
    ]
    return protocol["class_labels"], protocol["class_names"]


def test_classes_are_called_by_name_or_number(digits):
    assert drawn_classes(digits, "dog") == drawn_classes(digits, "1") == ([1], ["dog"])
    assert drawn_classes(digits, 0, "dog") == ([0, 1], ["cat", "dog"])
    with pytest.raises(UserError, match="no class 'cow'"):
        drawn_classes(digits, "cow")


def test_ids_are_names_and_never_numbers(digits):
    assert drawn_classes(digits, "700") == drawn_classes(digits, 700) == ([1], ["700"])
    with pytest.raises(UserError, match=r"no class '1' \(it has 5, 700\)"):
        drawn_classes(digits, 1)


def test_an_absent_class_is_never_drawn(digits):
    assert drawn_classes(digits) == ([0], ["cat"])
    with pytest.raises(UserError, match="never trained on class 'dog'"):
        drawn_classes(digits, "dog")
    expected = sample(load(digits), 3, class_labels=0, num_inference_steps=2, seed=1)
    assert torch.equal(sample(load(digits), 3, num_inference_steps=2, seed=1), expected)
    pipe = DiffusionPipeline.from_pretrained(digits, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    words = {"num_inference_steps": 2, "output_type": "pt"}
    told = [{"batch_size": 3}, {"class_labels": ["cat"] * 3}, {"class_labels": [0, 0, 0]}]
    first, *others = [
        pipe(**one, **words, generator=torch.Generator().manual_seed(0)).images for one in told
    ]
    assert all(torch.equal(first, other) for other in others)
    assert pipe.config["class_names"] == ["cat", "dog"]


def test_a_sweep_shows_a_row_for_each_number_of_steps(digits):
    result = sample_command(str(digits), n_images=3, sweep=[1, 4], device="cpu")
    picture = np.asarray(Image.open(Path(result["output"]) / "sweep.png"))
    rows = [
        sample(load(digits), 3, num_inference_steps=count, seed=3, guidance_scale=2.0)
        for count in (1, 4)
    ]
    assert (picture == np.asarray(grid(torch.cat(rows), n_columns=3))).all()


def test_other_images_in_the_folder_are_not_touched(digits, tmp_path):
    (tmp_path / "mine").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "mine" / "00000.png")
    with pytest.raises(UserError, match="another origin"):
        sample_command(str(digits), tmp_path / "mine", device="cpu")
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_the_same_samples_replace_themselves_and_no_others(digits, tmp_path):
    out = tmp_path / "out"
    sample_command(str(digits), out, n_images=3, device="cpu")
    sample_command(str(digits), out, n_images=3, batch_size=2, num_inference_steps=4, device="cpu")
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    others = {"seed": 4}, {"n_images": 2}, {"class_labels": [1]}, {"sweep": [1, 2]}
    for _ in range(2):  # the second time each replaces its own
        places = [
            sample_command(str(digits), out, device="cpu", **{"n_images": 3, **other})["output"]
            for other in others
        ]
        assert {Path(place).parent for place in places} == {out}
        assert len(set(places)) == len(others)
        assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == kept
        assert len([path for path in out.iterdir() if path.is_dir()]) == len(others)
    sample_command(str(digits), out, n_images=2, seed=4, device="cpu", overwrite=True)
    assert sorted(path.name for path in out.glob("0*.png")) == ["00000.png", "00001.png"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.csv").write_text("my own")
    with pytest.raises(UserError, match=r"mine/samples.csv is there"):
        sample_command(str(digits), tmp_path / "mine", device="cpu")


def test_samples_asked_for_otherwise_have_a_folder_of_their_own(digits):
    options = [{}, {"seed": 4}, {"n_images": 4}, {"num_inference_steps": 3, "seed": 4}]
    folders = [sample_command(str(digits), device="cpu", **told)["output"] for told in options]
    assert len(set(folders)) == len(options)
    assert folders[0] == str(digits / "evaluation" / "samples")
    assert (
        sample_command(str(digits), device="cpu", seed=3)["output"] == folders[0]
    )  # as configured


@pytest.mark.parametrize("dim", [1, 3])
def test_vectors(tmp_path, dim):
    denoiser = Denoiser(MLP(dim, width=8), schedule_from_config(VP))
    save(tmp_path / "run", Model(denoiser, VP, (dim,), None), "card")
    result = sample_command(
        str(tmp_path / "run"), tmp_path / "out", n_images=6, num_inference_steps=3, device="cpu"
    )
    x = load_file(tmp_path / "out" / "samples.safetensors")["x"]
    assert torch.equal(x, sample(load(tmp_path / "run"), 6, num_inference_steps=3))
    with (tmp_path / "out" / "samples.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == [f"x{i}" for i in range(dim)]
    torch.testing.assert_close(torch.tensor([[float(v) for v in row] for row in rows[1:]]), x)
    assert result["protocol"]["clip_sample"] is False
    assert Image.open(tmp_path / "out" / "scatter.png").size[0] > 100


def test_latents_are_decoded(tmp_path):
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1,
        sample_size=4, num_embeds_ada_norm=3, norm_num_groups=1,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    DiTPipeline(dit, vae, DDIMScheduler()).save_pretrained(tmp_path / "dit")
    words = {"num_inference_steps": 2, "n_images": 2}
    sample_command(str(tmp_path / "dit"), tmp_path / "out", device="cpu", **words)
    model = load(tmp_path / "dit")
    latents = sample(model, 2, num_inference_steps=2)
    images = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    expected = ((images + 1) / 2).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
    for i in range(2):
        assert (
            np.asarray(Image.open(tmp_path / "out" / f"{i:05d}.png")) == expected[i].numpy()
        ).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"scheduler": "dimm"}, "did you mean 'ddim'"),
        ({"num_inference_steps": 2000}, "at most 1000"),
        ({"class_labels": [7]}, "has no class '7' .it has cat, dog"),
        ({"n_images": 0}, "n_images must be >= 1"),
        ({"scheduler_options": {"timestep_spacing": "odd"}}, "odd"),
    ],
)
def test_wrong_arguments_are_one_line(digits, tmp_path, words, message):
    with pytest.raises(UserError, match=message) as caught:
        sample_command(str(digits), tmp_path / "out", device="cpu", **words)
    assert "\n" not in str(caught.value)
