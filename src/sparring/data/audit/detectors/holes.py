r"""Rectangles that hold one value, exactly, which their surroundings contradict.

A quad is 2 x 2 pixels of one value, a corner a quad that has none to its left and none above. A
rectangle begins there, as wide as quads follow to the right and as deep as rows of this width
follow below. (Of two blocks that overlap at least one is found so, and both are hidden.) What
speaks for a hole is the line of pixels around it, as far as it lies in the image. Over its pixels,

    evidence = sum of (1 - ENOUGH if it differs by STEP or more, -ENOUGH if by less,
                       -(1 - ENOUGH) / 2 if it is equal, for blocks may overlap)

Camera noise, texture and even a clear sky are not exactly flat, or not with straight edges on all
sides. Black and white backgrounds are at times, so there a rectangle of black or white says
nothing: the set tells, by the flat black or white that lies in no such rectangle.

`hidden` is every pixel of a quad that has the value of a hole found, so that blocks that overlap
are hidden whole. A hole of the background's colour is not found, on the background or beside it.

Source: ours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contract import Columns, Detector, Rule, Statistics

STEP, ENOUGH = 0.06, 0.7
LEAST_SHARE = 1 / 12  # of each side of the image that a hole takes at least; and two pixels
LOOSE, MOST_LOOSE = 0.005, 0.1
"""Black or white quads outside rectangles, as a share of the image's, that make a background of
these; and the share of images with one from which on a black or white rectangle says nothing."""
CERTAIN = 1.0
"""Evidence at which a hole is as likely as none: 2 x 2 pixels in a corner of the image whose four
neighbours all differ have 1.2."""
DOUBT = 3.0  # what a black or white rectangle needs beyond that: nothing smaller than 3 x 3 counts
N_POINTS = 8  # points of each side of the line around that are looked at


class Rectangles(NamedTuple):
    """Flat rectangles: image, top, left, height, width, (n,) each, and value, (n, C)."""

    image: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    value: Tensor

    def at_end(self) -> Tensor:
        """Whether it is black or white, (n,)."""
        return (self.value == 0).all(1) | (self.value == 1).all(1)


@dataclass(frozen=True)
class HoleRule(Rule):
    """p = sigmoid(evidence - CERTAIN), of the strongest rectangle that counts."""

    ends_count: bool  # whether black and white ones do

    def __call__(self, seen: Statistics) -> Columns:
        evidence, at_ends, _ = seen["holes.evidence"].unbind(1)
        strongest = torch.maximum(evidence, at_ends - DOUBT) if self.ends_count else evidence
        return {"missing_blocks": (strongest - CERTAIN).sigmoid()}


class Holes(Detector):
    """Finds missing blocks."""

    kinds = ("missing_blocks",)

    def look(self, x: Tensor) -> dict[str, Tensor]:
        """evidence, (B, 3): of the strongest grey or coloured rectangle, of the strongest black or
        white one, 0 where there is none; and the share of loose black or white quads."""
        found, evidence = holes(x)
        at_end = found.at_end()
        none = x.new_zeros(len(x))
        inner, ends = (
            none.scatter_reduce(0, found.image[which], evidence[which], "amax")
            for which in (~at_end, at_end)
        )
        return {"evidence": torch.stack([inner, ends, _loose(x, found)], 1)}

    def fit(self, seen: Statistics) -> HoleRule:
        has_background = seen["holes.evidence"][:, 2] > LOOSE
        return HoleRule(ends_count=bool(has_background.float().mean() <= MOST_LOOSE))

    def hidden(self, x: Tensor, kind: str) -> Tensor:
        found, evidence = holes(x)
        at_end = found.at_end()
        strong = evidence - DOUBT * at_end > CERTAIN
        has_grey = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        has_grey[found.image[strong & ~at_end]] = True
        strong &= ~(at_end & has_grey[found.image])  # the background of an image with a grey hole
        image, value = found.image[strong], found.value[strong]
        like_hole = flat_quads(x)[image] & (x[image, :, :-1, :-1] == value[..., None, None]).all(1)
        quads = x.new_zeros(len(x), *like_hole.shape[1:]).index_add(0, image, like_hole.to(x.dtype))
        return F.max_pool2d(quads[:, None], 2, stride=1, padding=1) > 0


def holes(x: Tensor) -> tuple[Rectangles, Tensor]:
    """The flat rectangles of images (B, C, H, W) that may be holes, and the evidence for each."""
    found = _flat_rectangles(x)
    step, length = _steps_around(x, found)
    per_point = torch.where(step >= STEP, 1 - ENOUGH, -ENOUGH)
    per_point = torch.where(step > 0, per_point, (ENOUGH - 1) / 2)
    return found, (per_point.mean(2) * length).sum(1)


def flat_quads(x: Tensor) -> Tensor:
    """Whether a pixel, that to its right and the two below are equal, (B, H - 1, W - 1)."""
    across = (x[..., 1:] == x[..., :-1]).all(1)
    down = (x[..., 1:, :] == x[..., :-1, :]).all(1)
    return across[:, :-1] & across[:, 1:] & down[..., :-1]


def _flat_rectangles(x: Tensor) -> Rectangles:
    """From each corner of what is flat the widest, without those too small for a hole."""
    flat = flat_quads(x)
    corner = flat & ~F.pad(flat, (0, 0, 1, 0))[:, :-1] & ~F.pad(flat, (1, 0))[..., :-1]
    right = _following(flat)
    corner &= right + 1 >= max(2, LEAST_SHARE * x.shape[3])
    image, top, left = corner.nonzero().unbind(1)
    width = right[image, top, left]
    before = torch.arange(flat.shape[1], device=x.device) < top[:, None]
    as_wide = (right[image, :, left] >= width[:, None]) | before
    height = as_wide.long().cumprod(1).sum(1) - top
    found = Rectangles(image, top, left, height + 1, width + 1, x[image, :, top, left])
    deep = found.height >= max(2, LEAST_SHARE * x.shape[2])
    return Rectangles(*(each[deep] for each in found))


def _following(flat: Tensor) -> Tensor:
    """How many places in a row are flat from each on to the right, (B, h, w)."""
    place = torch.arange(flat.shape[2], device=flat.device).expand_as(flat)
    gap = place.masked_fill(flat, flat.shape[2]).flip(2).cummin(2).values.flip(2)
    return gap - place


def _loose(x: Tensor, found: Rectangles) -> Tensor:
    """Quads of black or white beyond those in the widest rectangle, as a share of all, (B,)."""
    flat, first = flat_quads(x), x[..., :-1, :-1]
    loose = x.new_zeros(len(x))
    for end in (0.0, 1.0):
        quads = (flat & (first == end).all(1)).sum((1, 2))
        own = (found.value == end).all(1)
        inside = ((found.height - 1) * (found.width - 1))[own]
        widest = torch.zeros_like(quads).scatter_reduce(0, found.image[own], inside, "amax")
        loose = loose + (quads - widest).to(x.dtype) / flat[0].numel()
    return loose


def _steps_around(x: Tensor, found: Rectangles) -> tuple[Tensor, Tensor]:
    """What the line of pixels around differs by, in the channel that differs most. At N_POINTS
    evenly along each side, (n, 4, N_POINTS); and the sides' lengths in pixels, (n, 4), 0 for a side
    outside the image."""
    image, top, left, height, width = (each[:, None] for each in found[:5])
    rows, columns = x.shape[2:]
    along = (torch.arange(N_POINTS, device=x.device) + 0.5) / N_POINTS
    across, down = left + (along * width).long(), top + (along * height).long()
    i = torch.stack([(top - 1).expand_as(down), (top + height).expand_as(down), down, down], 1)
    j = torch.stack([across, across, (left - 1).expand_as(down), (left + width).expand_as(down)], 1)
    inside = ((i >= 0) & (i < rows) & (j >= 0) & (j < columns)).all(2)
    around = x[image[..., None], :, i.clamp(0, rows - 1), j.clamp(0, columns - 1)]
    step = (around - found.value[:, None, None]).abs().amax(-1)
    return step, torch.cat([width, width, height, height], 1) * inside
