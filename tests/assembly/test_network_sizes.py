"""Sizes of images that a network does not take are refused before anything starts."""

import pytest
from torch import nn

from sparring.assembly.network import check_network, check_sides, trial
from sparring.commands.train.dry_run import dry_run_text
from sparring.config.checks import check
from sparring.diffusion.schedules import FlowSchedule, schedule_from_config
from sparring.models.latents import check_multiple
from sparring.support.errors import UserError

VP = schedule_from_config({"_class_name": "DDPMScheduler"})
UNET = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [8, 8, 16],
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
DIT = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "patch_size": 4,
    "norm_num_groups": 4,
}


def config_of(network, **data):
    data = {"name": "image_folder", "train_data_dir": "no photos", **data}
    model = {"network": network, "class_conditional": network is DIT}
    raw = {"model": model, "data": data, "training": {"output_dir": "nowhere"}}
    return check(raw, "test")


@pytest.mark.parametrize(
    ("network", "shape", "words"),
    [
        (UNET, (3, 30, 30), "data.resolution 28 or 32"),
        (UNET, (1, 31, 31), "data.resolution 28 or 32"),
        (UNET, (3, 20, 30), "28x20 or 32x20"),
        (UNET, (3, 2, 2), "data.resolution 4"),
        (DIT, (3, 30, 30), "data.resolution 28 or 32"),
        (DIT, (3, 2, 2), "data.resolution 4"),
    ],
)
def test_a_side_that_does_not_come_out_even_is_refused_with_the_nearest(network, shape, words):
    classes = 10 if network is DIT else None
    with pytest.raises(UserError, match=words):
        check_network(config_of(network), shape, classes, VP, "eps")


@pytest.mark.parametrize(
    ("network", "shape"), [(UNET, (3, 28, 28)), (UNET, (3, 20, 32)), (DIT, (3, 32, 32))]
)
def test_sides_that_come_out_even_are_taken(network, shape):
    check_network(config_of(network), shape, 10 if network is DIT else None, VP, "eps")


def test_a_dry_run_refuses_the_side_too():
    with pytest.raises(UserError, match=r"data\.resolution 28 or 32"):
        dry_run_text(config_of(UNET, resolution=30))
    assert "samples       3 x 28 x 28" in dry_run_text(config_of(UNET, resolution=28))


class OfThree(nn.Module):
    """A network of one's own, of sides that are multiples of three; it reads a number."""

    def __init__(self, reads: bool = False) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, 3), nn.ConvTranspose2d(4, 1, 3, 3)
        self.reads = reads

    def forward(self, x, t):
        scale = t[0].item() if self.reads else 1.0  # which a network without memory cannot
        return self.up(self.down(x)) * scale


@pytest.mark.parametrize("reads", [False, True])
def test_ones_own_network_is_asked(reads):
    meta, real = (
        trial(lambda shape: OfThree(reads), FlowSchedule(), "flow", {}, device=device)
        for device in ("meta", "cpu")
    )
    check_sides(meta, real, (1, 9, 12), "mine")
    with pytest.raises(UserError, match=r"mine does not take images of 10x10.*9 or 12"):
        check_sides(meta, real, (1, 10, 10), "mine")


def test_what_is_no_matter_of_size_is_said_as_it_is():
    network = UNET | {"class_embed_type": "timestep"}
    with pytest.raises(UserError, match="class_labels should be provided"):
        check_network(config_of(network), (3, 32, 32), None, VP, "eps")


def test_latents_need_multiples_of_their_factor():
    check_multiple(64, 96, 8, "the VAE")
    with pytest.raises(UserError, match=r"96x60: set data\.resolution to 56 or 64"):
        check_multiple(60, 96, 8, "the VAE")
