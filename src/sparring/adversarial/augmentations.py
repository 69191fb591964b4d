r"""Differentiable augmentation of what a discriminator sees, from numbers that were drawn before.

    color        brightness, saturation and contrast
    flip         left to right
    translation  by up to an eighth of the side, zeros come in
    zoom         by a factor in [0.8, 1.25]
    cutout       a square of half the side becomes zero

Real and fake images are treated alike, so a generator cannot learn the augmentation itself. Source:
Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training" (color, translation,
cutout with its ranges); flip and zoom are ours.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion.parametrization import column
from ..diffusion.randomness import StepRandom

Policy = Literal["color", "flip", "translation", "zoom", "cutout"]
POLICIES = get_args(Policy)
USUAL: tuple[Policy, ...] = ("color", "translation", "cutout")


@dataclass(frozen=True)
class Look:
    """Uniform numbers in [0, 1) that decide how each image is shown."""

    colour: Tensor  # brightness, saturation, contrast, (B, 3)
    place: Tensor  # flip, translation in x and y, zoom, centre of the cutout in x and y, (B, 6)

    def __getitem__(self, rows: slice) -> "Look":
        return Look(self.colour[rows], self.place[rows])


def draw_looks(rng: StepRandom, *, shared: bool) -> tuple[Look, Look]:
    """Two looks at the same images: different colours, and with `shared` the same places."""
    first, second = (
        Look(rng.uniform(f"colour {name}", (3,)), rng.uniform(f"place {name}", (6,)))
        for name in ("a", "b")
    )
    return first, replace(second, place=first.place) if shared else second


def augment(images: Tensor, look: Look, policy: Collection[str]) -> Tensor:
    """Images (B, C, H, W) in about [-1, 1] as a discriminator is to see them, differentiable.
    `policy` says which of POLICIES are applied, in their order above."""
    if "color" in policy:
        images = _colour(images, *look.colour.to(images).unbind(1))
    if {"flip", "translation", "zoom"} & set(policy):
        images = _move(images, look.place.to(images), policy)
    if "cutout" in policy:
        images = _cut_out(images, *look.place[:, 4:].to(images).unbind(1))
    return images


def _colour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    images = images + column(brightness - 0.5, images)
    grey = images.mean(1, keepdim=True)
    images = grey + column(2 * saturation, images) * (images - grey)
    level = images.mean((1, 2, 3), keepdim=True)
    return level + column(contrast + 0.5, images) * (images - level)


def _move(images: Tensor, place: Tensor, policy: Collection[str]) -> Tensor:
    """One resampling: where each pixel of the result comes from, in [-1, 1] coordinates."""
    flip, right, down, zoom = place[:, :4].unbind(1)
    unit, none = torch.ones_like(flip), torch.zeros_like(flip)
    sign = torch.where(flip < 0.5, -1.0, 1.0) if "flip" in policy else unit
    scale = 1.25 ** (2 * zoom - 1) if "zoom" in policy else unit
    along_x, along_y = (
        ((2 * one - 1) / 4 for one in (right, down)) if "translation" in policy else (none, none)
    )
    rows = torch.stack([sign * scale, none, along_x, none, scale, along_y], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _cut_out(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    inside_y, inside_x = (
        ((torch.arange(n, device=images.device) + 0.5) / n - centre[:, None]).abs() < 0.25
        for n, centre in zip(images.shape[2:], (y, x), strict=True)
    )
    return images * ~(inside_y[:, None, :, None] & inside_x[:, None, None, :])
