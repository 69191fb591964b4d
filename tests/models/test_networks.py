"""The networks of our own: patches are a U-Net's pixels, and nothing else changes."""

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from sparring.models.networks import PatchedUNet

WIDTHS = {"block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 8}


def test_patches_of_one_pixel_are_the_plain_u_net():
    torch.manual_seed(0)
    patched = PatchedUNet(8, 1, 1, patch_size=1, **WIDTHS)
    plain = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **WIDTHS,
    )  # fmt: skip
    plain.load_state_dict(patched.unet.state_dict())
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    assert torch.equal(patched(x, t), plain(x, t).sample)


def test_each_patch_becomes_channels_and_comes_back_to_its_place(monkeypatch):
    patched = PatchedUNet(8, 3, 3, **WIDTHS)
    seen = []

    def identity(patches, t, **words):
        seen.append(patches)
        return (patches,)

    monkeypatch.setattr(patched.unet, "forward", identity)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(patched(x, torch.zeros(2)), x)
    assert seen[0].shape == (2, 12, 4, 4)
    assert torch.equal(seen[0][0, :4, 1, 2], x[0, 0, 2:4, 4:6].flatten())


def test_attention_lies_where_it_is_asked_for():
    patched = PatchedUNet(16, 1, 1, block_out_channels=(32, 32), attention_levels=(1,))
    kinds = [type(block).__name__ for block in (*patched.unet.down_blocks, *patched.unet.up_blocks)]
    assert kinds == ["DownBlock2D", "AttnDownBlock2D", "AttnUpBlock2D", "UpBlock2D"]


def test_its_config_builds_it_again_with_classes():
    made = PatchedUNet(8, 1, 1, num_class_embeds=3, **WIDTHS)
    again = PatchedUNet(**made.config)
    again.load_state_dict(made.state_dict())
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    answers = [net(x, t, class_labels=torch.tensor([0, 2])) for net in (made, again)]
    assert torch.equal(*answers)
    with pytest.raises(ValueError, match="class_labels"):
        made(x, t)
