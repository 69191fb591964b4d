r"""Inception-v3 of 2015-12-05, whose features FID, KID and the Inception Score are defined on.

| extractor | features | spatial mean after | what its Frechet distance is called |
|---|---|---|---|
| `inception` | 2048 | `Mixed_7c` | FID |
| `inception-768` | 768 | `Mixed_6e` | FID-768 |
| `inception-192` | 192 | the second max pool | FID-192 |
| `inception-64` | 64 | the first max pool | FID-64 |

Only FID compares with published numbers. Images are rounded to 8 bits, as if read from PNG files,
and resized to 299 x 299 as TensorFlow 1 did: other resizes give other numbers.

Source: Szegedy et al., "Rethinking the Inception architecture", 2016; the graph is that of
TensorFlow's classify_image_graph_def.pb as ported by pytorch-fid (Seitzer, 2020) and
torch-fidelity (Obukhov et al., 2020), with its two differences from the paper: average pools do
not count padding, and Mixed_7c pools by the maximum. Differs from the ports in: batch norm is
folded (a relative 1e-6).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 299
N_LOGITS = 1008
BATCH_SIZE = 32  # 299 x 299 needs about 10 MiB an image


class Conv(nn.Conv2d):
    """ReLU(convolution + bias) with a filter of these sides: height, and width if it is another.
    Stride 1 keeps the size by padding unless `keeps_size` is false, 2 halves it without padding."""

    def __init__(
        self, n_in: int, n_out: int, *sides: int, stride: int = 1, keeps_size: bool = True
    ) -> None:
        height, width = sides[0], sides[-1]
        padding = (height // 2, width // 2) if keeps_size and stride == 1 else (0, 0)
        super().__init__(n_in, n_out, (height, width), stride, padding)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return F.relu(super().forward(x))


class Mixed(nn.Module):
    """Paths of layers side by side, whose results are concatenated over channels.

    Each `Conv` has its name in the public file and is given by channels in and out, height, width
    (as the height) and stride (1). A path names its layers and `POOLS`; a common beginning is
    computed once.
    """

    def __init__(self, layers: Mapping[str, tuple[int, ...]], *paths: str) -> None:
        super().__init__()
        for name, (n_in, n_out, height, *rest) in layers.items():
            width, stride = (*rest, *(height, 1)[len(rest) :])
            self.add_module(f"branch{name}", Conv(n_in, n_out, height, width, stride=stride))
        self.paths = [tuple(path.split()) for path in paths]

    def forward(self, x: Tensor) -> Tensor:
        known: dict[tuple[str, ...], Tensor] = {(): x}
        for path in self.paths:
            for i, name in enumerate(path):
                if path[: i + 1] not in known:
                    layer = POOLS.get(name) or self.get_submodule(f"branch{name}")
                    known[path[: i + 1]] = layer(known[path[:i]])
        return torch.cat([known[path] for path in self.paths], 1)


POOLS = {
    # the mean over 3 x 3 of those pixels that exist
    "mean": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "maximum": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "halved": lambda x: F.max_pool2d(x, 3, stride=2),
}


def mixed5(n_in: int, n_pool: int) -> Mixed:
    """35 x 35, n_in -> 224 + n_pool channels."""
    layers = {
        "1x1": (n_in, 64, 1), "5x5_1": (n_in, 48, 1), "5x5_2": (48, 64, 5),
        "3x3dbl_1": (n_in, 64, 1), "3x3dbl_2": (64, 96, 3), "3x3dbl_3": (96, 96, 3),
        "_pool": (n_in, n_pool, 1),
    }  # fmt: skip
    return Mixed(layers, "1x1", "5x5_1 5x5_2", "3x3dbl_1 3x3dbl_2 3x3dbl_3", "mean _pool")


def mixed6a() -> Mixed:
    """35 x 35 to 17 x 17, 288 -> 768 channels."""
    layers = {
        "3x3": (288, 384, 3, 3, 2), "3x3dbl_1": (288, 64, 1), "3x3dbl_2": (64, 96, 3),
        "3x3dbl_3": (96, 96, 3, 3, 2),
    }  # fmt: skip
    return Mixed(layers, "3x3", "3x3dbl_1 3x3dbl_2 3x3dbl_3", "halved")


def mixed6(c: int) -> Mixed:
    """17 x 17, 768 -> 768 channels, with 7 x 7 filters as rows and columns of width c."""
    layers = {
        "1x1": (768, 192, 1), "7x7_1": (768, c, 1), "7x7_2": (c, c, 1, 7), "7x7_3": (c, 192, 7, 1),
        "7x7dbl_1": (768, c, 1), "7x7dbl_2": (c, c, 7, 1), "7x7dbl_3": (c, c, 1, 7),
        "7x7dbl_4": (c, c, 7, 1), "7x7dbl_5": (c, 192, 1, 7), "_pool": (768, 192, 1),
    }  # fmt: skip
    double = " ".join(f"7x7dbl_{i}" for i in range(1, 6))
    return Mixed(layers, "1x1", "7x7_1 7x7_2 7x7_3", double, "mean _pool")


def mixed7a() -> Mixed:
    """17 x 17 to 8 x 8, 768 -> 1280 channels."""
    layers = {
        "3x3_1": (768, 192, 1), "3x3_2": (192, 320, 3, 3, 2), "7x7x3_1": (768, 192, 1),
        "7x7x3_2": (192, 192, 1, 7), "7x7x3_3": (192, 192, 7, 1), "7x7x3_4": (192, 192, 3, 3, 2),
    }  # fmt: skip
    return Mixed(layers, "3x3_1 3x3_2", "7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4", "halved")


def mixed7(n_in: int, pool: str) -> Mixed:
    """8 x 8, n_in -> 2048 channels."""
    layers = {
        "1x1": (n_in, 320, 1), "3x3_1": (n_in, 384, 1), "3x3_2a": (384, 384, 1, 3),
        "3x3_2b": (384, 384, 3, 1), "3x3dbl_1": (n_in, 448, 1), "3x3dbl_2": (448, 384, 3),
        "3x3dbl_3a": (384, 384, 1, 3), "3x3dbl_3b": (384, 384, 3, 1), "_pool": (n_in, 192, 1),
    }  # fmt: skip
    double = "3x3dbl_1 3x3dbl_2"
    return Mixed(
        layers, "1x1", "3x3_1 3x3_2a", "3x3_1 3x3_2b", f"{double} 3x3dbl_3a",
        f"{double} 3x3dbl_3b", f"{pool} _pool",
    )  # fmt: skip


STAGES = {  # name: what makes it
    "Conv2d_1a_3x3": lambda: Conv(3, 32, 3, stride=2),
    "Conv2d_2a_3x3": lambda: Conv(32, 32, 3, keeps_size=False),
    "Conv2d_2b_3x3": lambda: Conv(32, 64, 3),
    "MaxPool_1": lambda: nn.MaxPool2d(3, stride=2),
    "Conv2d_3b_1x1": lambda: Conv(64, 80, 1),
    "Conv2d_4a_3x3": lambda: Conv(80, 192, 3, keeps_size=False),
    "MaxPool_2": lambda: nn.MaxPool2d(3, stride=2),
    "Mixed_5b": lambda: mixed5(192, n_pool=32),
    "Mixed_5c": lambda: mixed5(256, n_pool=64),
    "Mixed_5d": lambda: mixed5(288, n_pool=64),
    "Mixed_6a": mixed6a,
    "Mixed_6b": lambda: mixed6(128),
    "Mixed_6c": lambda: mixed6(160),
    "Mixed_6d": lambda: mixed6(160),
    "Mixed_6e": lambda: mixed6(192),
    "Mixed_7a": mixed7a,
    "Mixed_7b": lambda: mixed7(1280, "mean"),
    "Mixed_7c": lambda: mixed7(2048, "maximum"),
}
LAST_STAGE = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "Mixed_7c"}
EXTRACTORS = {"inception": 2048} | {f"inception-{n}": n for n in (768, 192, 64)}
"""Number of features by the extractor's name."""


class InceptionV3(nn.Module):
    """The network up to the stage whose spatial mean has that many features: 64, 192, 768 or 2048.
    Only with 2048 there are classes (`logits_unbiased`)."""

    def __init__(self, n_features: int = 2048) -> None:
        super().__init__()
        if n_features not in LAST_STAGE:
            raise ValueError(f"n_features must be one of {list(LAST_STAGE)}, got {n_features}")
        names = list(STAGES)
        self.n_features = n_features
        self.stages = names[: names.index(LAST_STAGE[n_features]) + 1]
        for name in self.stages:
            self.add_module(name, STAGES[name]())
        self.fc = nn.Linear(2048, N_LOGITS) if n_features == 2048 else None

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, n_features) of images (B, 1 or 3, H, W) in [0, 1]; grey becomes RGB."""
        if images.shape[1] not in (1, 3):
            raise ValueError(f"Inception takes 1 or 3 channels, got {images.shape[1]}")
        images = images.expand(-1, 3, -1, -1)
        x = (resize_tf1((255 * images).round(), SIDE) - 128) / 128
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))

    def logits_unbiased(self, features: Tensor) -> Tensor:
        """Logits (B, 1008), float64, of features (B, 2048), without bias as for Inception Score."""
        if self.fc is None:
            raise ValueError(f"{self.n_features} features have no classes: use 2048")
        weight = self.fc.weight.to(features.device, torch.float64)
        return torch.cat([chunk.double() @ weight.T for chunk in features.split(4096)])


def resize_tf1(images: Tensor, side: int = SIDE) -> Tensor:
    r"""Bilinear resize to (side, side) as TensorFlow 1 does it with align_corners=False.

    out[i] = x[lo] + (x[hi] - x[lo]) (p - lo)
    p = i n / side,   lo = floor p,   hi = min(lo + 1, n - 1)

    Output pixel i is read at i n / side, not at (i + 1/2) n / side - 1/2: pictures (B, C, H, W)
    move by up to half a pixel. There is no smoothing before shrinking, so large ones alias.

    Source: tf.image.resize_bilinear of TensorFlow 1, resize_bilinear_op.cc. Equal to the bit to
    torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x`.
    """
    for dim in (3, 2):
        n = images.shape[dim]
        scale = torch.tensor(n / side, dtype=torch.float32)
        place = torch.arange(side, dtype=torch.float32).mul(scale).to(images)
        lo = place.long().clamp(max=n - 1)
        hi = (lo + 1).clamp(max=n - 1)
        weight = (place - lo).view([-1 if d == dim else 1 for d in range(4)])
        first, second = images.index_select(dim, lo), images.index_select(dim, hi)
        images = first + (second - first) * weight
    return images
