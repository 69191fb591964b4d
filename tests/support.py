"""Tiny networks, and one denoiser that is exactly right."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

import sparring
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.parametrization import KINDS
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import (
    EDMSchedule,
    FlowSchedule,
    Schedule,
    VPSchedule,
    schedule_from_config,
)

SD = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
"""Configs of the schedulers of Stable Diffusion 1.x and XL, and of 3."""
CLOSE = {"rtol": 0, "atol": 1e-5}
"""How near two programs, or two sizes of a batch, come: their kernels round differently."""

Item = TypeVar("Item")


class GaussianNetwork(nn.Module):
    r"""The perfect network for x0 ~ N(mean, std^2) in every element.

    E[x0 | x_t] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean)
    """

    def __init__(self, schedule: Schedule, kind: str, mean: float = 0.3, std: float = 0.7) -> None:
        super().__init__()
        self.schedule, self.kind, self.mean, self.std = schedule, kind, mean, std
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.at(t, like=x)
        x_t = x / self.schedule.input_scale(sigma)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        x0 = self.mean + gain * (x_t - alpha * self.mean)
        eps = (x_t - alpha * x0) / sigma
        a, b = Denoiser(nn.Identity(), self.schedule, self.kind).pair(alpha, sigma)
        return a * x0 + b * eps


class LinearEps(nn.Module):
    """eps_hat = x W^T: a linear denoiser whose equivariance residual is (sigma W - 1) omega."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ self.weight.T


class AtRatio:
    """Draws the one time at which sigma/alpha is the given one."""

    def __init__(self, schedule: Schedule, ratio: float) -> None:
        t = schedule.time_of_ratio(torch.tensor(ratio, dtype=torch.float64))
        self.t = t.round().long() if isinstance(schedule, VPSchedule) else t

    def draw(self, rng: StepRandom) -> tuple[Tensor, Tensor]:
        return self.t.expand(rng.n_rows), torch.ones(rng.n_rows)

    def update(self, t: Tensor, losses: Tensor) -> None:
        pass


SCHEDULES = {
    "vp": lambda: schedule_from_config({"_class_name": "DDPMScheduler"}),
    "cosine": lambda: schedule_from_config(
        {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
    ),
    "flow": lambda: FlowSchedule(shift=3.0),
    "edm": lambda: EDMSchedule(),
}
CASES = [
    (name, kind)
    for name in SCHEDULES
    for kind in (["edm", "edm_v"] if name == "edm" else list(KINDS))
]
"""Every (schedule, parametrisation) that may go together."""


def tiny_unet(**changes: object) -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel

    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    return UNet2DModel(**(settings | changes))


def tiny_dino(folder: Path, *, registers: bool = False) -> Path:
    """A DINOv2 of five blocks, saved in a folder."""
    import transformers

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4)  # pyright: ignore
        transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    else:
        transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)  # pyright: ignore
    return folder


def with_a_file_more(folder: Path, place: str, text: str) -> Callable[..., str]:
    """A copy of `sparring` with one file of one's own beside ours; nothing else is edited.

    Args:
        folder: Where the copy and what it writes lie.
        place: The file's, in the package.
        text: What is in it.

    Returns:
        The command line of the copy: takes its words, gives what it prints.
    """
    copy = folder / "sparring"
    ours = Path(sparring.__file__).parent
    shutil.copytree(ours, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / place).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(folder)}

    def command(*words: str) -> str:
        told = subprocess.run(
            [sys.executable, "-m", "sparring", *words],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        return told.stdout

    return command


def in_random_order(items: Sequence[Item], file_of: Callable[[Item], str], seed: int) -> list[Item]:
    """Files in a random order and their items too, still file by file: fixtures are made once."""
    order = random.Random(seed)
    files: dict[str, list[Item]] = {}
    for item in items:
        files.setdefault(file_of(item), []).append(item)
    shuffled = order.sample(list(files.values()), len(files))
    return [item for of_file in shuffled for item in order.sample(of_file, len(of_file))]


EVERY_DIRT = [
    {"kind": "gaussian", "sigma": [0.05, 0.35]}, {"kind": "poisson_gaussian", "photons": 12},
    {"kind": "correlated", "sigma": 0.2}, {"kind": "jpeg", "quality": [10, 40]},
    {"kind": "blur", "blur_sigma": [0.5, 1.5]}, {"kind": "enlarged"},
    {"kind": "salt_and_pepper"}, {"kind": "missing_blocks", "fill": "contrast"},
    {"kind": "watermark", "place": "random"}, {"kind": "outlier"},
    {"kind": "outlier", "images": {"name": "digits", "split": "train"}}, {"kind": "adversarial"},
]  # fmt: skip
"""Parts of a mixture: all kinds of dirt, as a config says them."""


def watched(seen, move=None):
    """A `move` of `sample` that appends (t, x_t) of each call, after another move."""

    def watch(steps, call, x):
        x = x if move is None else move(steps, call, x)
        seen.append((steps.times[call], steps.x_t(x, call)))
        return x

    return watch
