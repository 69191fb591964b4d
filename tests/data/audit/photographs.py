"""Small images cut from the two photographs that ship with scikit-learn."""

from functools import cache

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from sparring.data import transforms
from sparring.data.dirt.registry import make


@cache
def tiles(n: int, side: int, shrunk: int = 2, n_channels: int = 3) -> Tensor:
    """n images (n, C, side, side) of 8 bits in [0, 1], from photographs shrunk by a factor.

    Those of most detail: pieces of sky say little of their dirt. The photographs themselves are
    JPEG files; shrinking leaves nothing of their grid.
    """
    cut = []
    for pixels in load_sample_images().images:
        whole = torch.tensor(pixels).permute(2, 0, 1).float() / 255
        small = F.avg_pool2d(whole, shrunk)
        pieces = small.unfold(1, side, side).unfold(2, side, side)
        cut.append(pieces.permute(1, 2, 0, 3, 4).flatten(0, 1))
    x = torch.cat(cut)
    assert len(x) >= n, f"there are {len(x)} tiles"
    x = x[x.diff(dim=3).abs().mean((1, 2, 3)).topk(n).indices]
    return eight_bits(x if n_channels == 3 else x.mean(1, keepdim=True))


def drawn_tiles(n: int = 96, side: int = 32) -> Tensor:
    """n images (n, 3, side, side) of 8 bits in [0, 1], from anywhere in the photographs."""
    out = []
    for photo in load_sample_images().images:
        x = torch.tensor(photo).permute(2, 0, 1).float() / 255
        cut = x.unfold(1, side, side).unfold(2, side, side)
        out.append(cut.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side))
    x = torch.cat(out)
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]]


def eight_bits(x: Tensor) -> Tensor:
    """As a file would hold it."""
    return transforms.to_float(transforms.to_uint8(x))


def dirty(x: Tensor, kind: str, **options) -> Tensor:
    """Each image with dirt of its own, 8 bits."""
    dirt = make(kind, options)
    return eight_bits(torch.stack([
        dirt.of(i).apply(image, torch.Generator().manual_seed(i), None)
        for i, image in enumerate(x)
    ]))  # fmt: skip
