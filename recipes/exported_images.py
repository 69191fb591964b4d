"""What the small trainers here share: the images of `sparring export`, and a small network.

    sparring export photos -o photos-exported
    python recipes/pytorch_loop.py photos-exported/images runs/loop

`pytorch_loop.py`, `accelerate_loop.py`, `lightning_loop.py`, `diffusers_unconditional.py` and
`diffusers_text_to_image.py` each do what the pages of docs/how_to say of bigger ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from diffusers import UNet2DModel
from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler

import sparring


def arguments(trainer: str, epochs: str = "num_epochs", **more: int | str) -> argparse.Namespace:
    """Of the command line: images, output_dir, epochs, batch size, and what a trainer adds."""
    parser = argparse.ArgumentParser(description=trainer)
    parser.add_argument("images", type=Path, help="OUT/images of sparring export")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument(f"--{epochs}", type=int, default=3)
    parser.add_argument("--train_batch_size", type=int, default=64)
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def images_of(folder: Path) -> Dataset:
    """An image folder of Hugging Face, with the columns of its metadata.jsonl."""
    return load_dataset("imagefolder", data_dir=str(folder), split="train")


def tensor(image: Any) -> Tensor:
    """A PIL image as (C, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image)).float() / 127.5 - 1
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def loader_of(folder: Path, batch_size: int, schedule: sparring.Schedule) -> DataLoader:
    """Batches of `image`, (B, C, H, W) in [-1, 1], and of every column of its metadata. Images come
    in random order, each as often as it teaches."""
    images = images_of(folder)
    columns, shape = images.remove_columns("image").to_dict(), tensor(images[0]["image"]).shape
    often = sparring.how_often(columns, shape, schedule)
    sampler = WeightedRandomSampler(often, len(images))

    def transform(examples: dict[str, list]) -> dict[str, list]:
        return examples | {"image": [tensor(image) for image in examples["image"]]}

    return DataLoader(images.with_transform(transform), batch_size, sampler=sampler)


def small_unet(n_channels: int, side: int) -> UNet2DModel:
    """The network of configs/digits.yaml."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=side,
        in_channels=n_channels,
        out_channels=n_channels,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
    )
