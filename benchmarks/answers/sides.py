"""Networks and the sizes of images: does a run begin that cannot end, or is one refused that could?

The oracle is the plain network of diffusers (or a module of one's own), built with a memory and
called once: it runs and answers in the shape of the data, or it does not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers as library
import torch
from known_answers import Verdict, right, wrong
from torch import Tensor, nn

diffusers: Any = library  # whose annotations are narrower than its code

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, step={step}, reads={reads}):
        super().__init__()
        self.reads = reads
        self.down = nn.Conv2d(in_channels, 4, step, step)
        self.up = nn.ConvTranspose2d(4, in_channels, step, step)

    def forward(self, x, t):
        scale = 1 + 0 * float(t[0]) if self.reads else 1
        return self.up(self.down(x)) * scale
"""


def _runs(network: nn.Module, shape: tuple[int, ...], **condition: Any) -> bool:
    """Whether the network answers in the shape of the data."""
    t, x = torch.zeros(1, dtype=torch.long), torch.zeros(1, *shape)
    try:
        with torch.no_grad():
            output: Any = network.eval()(x, t, **condition)
    except Exception:  # whatever it makes of a shape: that is the question
        return False
    return tuple((output if isinstance(output, Tensor) else output[0]).shape[1:]) == shape


def _verdict(
    network: Mapping[str, Any],
    shape: tuple[int, ...],
    classes: int | None,
    plain: Callable[[tuple[int, ...]], bool],
) -> Verdict:
    """Dry run and resolved run, against the plain network."""
    from sparring.assembly.network import check_network
    from sparring.config.checks import check
    from sparring.diffusion.schedules import schedule_from_config
    from sparring.support.errors import UserError

    raw = {
        "model": {"network": network, "class_conditional": classes is not None},
        "data": {"name": "image_folder", "train_data_dir": "nowhere"},
        "training": {"output_dir": "nowhere"},
    }
    config = check(raw, "case")
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    told = f"{dict(network)} {shape}"
    torch.manual_seed(0)
    before = torch.get_rng_state()
    try:
        check_network(config, shape, classes, schedule, "eps")
    except UserError as error:
        line = str(error)
        if plain(shape):
            return wrong(f"refused, runs in plain diffusers: {told}: {line}")
        if "\n" in line:
            return wrong(f"several lines: {line}")
        for one in re.findall(r"use data\.resolution (\d+)(?: or (\d+))?", line):
            for side in filter(None, one):
                if not plain((shape[0], int(side), int(side))):
                    return wrong(f"{told}: {side} is recommended and does not run")
        return right("refused")
    if not torch.equal(before, torch.get_rng_state()):
        return wrong(f"the look changed torch's random state: {told}")
    return right("read") if plain(shape) else wrong(f"accepted, does not run: {told}")


def _shape(rng: random.Random) -> tuple[int, int, int]:
    height = rng.choice([rng.randint(1, 40), rng.choice([8, 16, 24, 32, 48])])
    width = height if rng.random() < 0.7 else rng.randint(1, 40)
    return rng.choice([1, 3, 4]), height, width


def unets(rng: random.Random, folder: Path) -> Verdict:
    """Levels, channels, attention, ways to halve and to double."""
    levels = rng.randint(1, 4)
    kind = rng.choice(["", "", "Attn"])
    words = {
        "block_out_channels": [8] * (levels - 1) + [16],
        "down_block_types": ["DownBlock2D"] * (levels - 1) + [f"{kind}DownBlock2D"],
        "up_block_types": [f"{kind}UpBlock2D"] + ["UpBlock2D"] * (levels - 1),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "downsample_type": rng.choice(["conv", "resnet"]),
        "add_attention": rng.random() < 0.5,
    }
    shape = _shape(rng)
    plain = diffusers.UNet2DModel(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in words.items()},
        in_channels=shape[0], out_channels=shape[0],
    )  # fmt: skip
    network = {"_class_name": "UNet2DModel", **words}
    return _verdict(network, shape, None, lambda one: _runs(plain, one))


def patches(rng: random.Random, folder: Path) -> Verdict:
    """Transformers that cut images into patches."""
    words = {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "norm_num_groups": 4,
        "patch_size": rng.choice([1, 2, 3, 4, 8]),
    }  # fmt: skip
    channels, side, _ = _shape(rng)
    labels = {"class_labels": torch.zeros(1, dtype=torch.long)}

    def plain(shape: tuple[int, ...]) -> bool:
        try:
            own = diffusers.DiTTransformer2DModel(
                **words, in_channels=channels, out_channels=channels, sample_size=shape[-1],
                num_embeds_ada_norm=5,
            )  # fmt: skip
        except Exception:  # no patch fits in
            return False
        return _runs(own, shape, **labels)

    network = {"_class_name": "DiTTransformer2DModel", **words}
    return _verdict(network, (channels, side, side), 5, plain)


def networks_of_ones_own(rng: random.Random, folder: Path) -> Verdict:
    """A file of the user's, whose sides are multiples of any number; some look at a number."""
    step, reads = rng.choice([1, 2, 3, 5, 6, 7]), rng.random() < 0.5
    file = folder / "mine.py"
    file.write_text(OWN.format(step=step, reads=reads), encoding="utf-8")
    shape = _shape(rng)

    def plain(one: tuple[int, ...]) -> bool:
        return min(one[1:]) >= step and all(side % step == 0 for side in one[1:])

    return _verdict({"_class_name": f"{file}:Net"}, shape, None, plain)


def latents(rng: random.Random, folder: Path) -> Verdict:
    """Images that a VAE halves a number of times."""
    from sparring.models.latents import latent_shape
    from sparring.support.errors import UserError

    levels = rng.randint(1, 4)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=1, norm_num_groups=2,
        latent_channels=2,
    )  # fmt: skip
    height, width = (rng.randint(1, 8) * rng.choice([1, 2, 4, 8]) for _ in range(2))
    x = torch.zeros(1, 3, height, width)
    try:
        with torch.no_grad():
            z: Any = vae.encode(x).latent_dist.mode()
            back: Any = vae.decode(z).sample
        runs = back.shape == x.shape
    except RuntimeError:
        z, runs = None, False
    try:
        shape = latent_shape(vae, (3, height, width))
    except UserError as error:
        return wrong(f"refused {height}x{width}: {error}") if runs else right("refused")
    if not runs or shape != tuple(z.shape[1:]):
        return wrong(f"{height}x{width} becomes {shape}")
    return right("read")


KINDS = {
    "U-Nets": unets,
    "transformers of patches": patches,
    "networks of one's own": networks_of_ones_own,
    "latents": latents,
}
