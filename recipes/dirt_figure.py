"""What an image teaches at which noise: the picture of docs/explanation/dirt.md.

python recipes/dirt_figure.py docs/images/dirt_levels.png

One photograph, with each kind of dirt in a row, as training sees it at each noise level; below it
the bar says what is learned there. Where a bar begins and ends is asked of the code that trains.
"""

import io
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from sparring.data.base import Dataset, InMemory, ModelRange
from sparring.data.dirt.contaminated import contaminate
from sparring.data.transforms import to_float
from sparring.data.trust.trusted import ByTruth, Trusted
from sparring.diffusion.randomness import generator
from sparring.objectives.own_noise import Incomplete, own_noise

SIDE = 64
SEED = 6
LEVELS = np.geomspace(0.05, 3.2, 7)
FINE = np.geomspace(0.035, 4.5, 2001)
FILE = -0.095
"""Where the file is shown, in widths of the axis."""
TEACHES, SMOOTH, NOTHING = "#2a9d58", "#e9a23b", "#c9c9c9"


def photograph() -> Tensor:
    """A flower, (1, 3, 64, 64) in [0, 1]."""
    pixels = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None]
    square = to_float(pixels)[..., 20:404, 120:504]
    return F.interpolate(square, (SIDE, SIDE), mode="area")


ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("clean", "", {}),
    ("noise", "0.1 of the range", {"kind": "gaussian", "sigma": 0.1}),
    (
        "correlated noise",
        "as after resizing",
        {"kind": "correlated", "sigma": 0.1, "correlation": 0.7},
    ),
    ("JPEG", "quality 12", {"kind": "jpeg", "quality": 12}),
    (
        "hole",
        "a quarter of each side",
        {"kind": "missing_blocks", "block_size": 0.25, "fill": "contrast"},
    ),
    ("outlier", "", {"kind": "outlier"}),
]  # fmt: skip


def main(output: Path) -> None:
    clean = InMemory("flower", photograph())
    figure = Figure(figsize=(10, 8))
    axes = figure.subplots(len(ROWS), 1, sharex=True)
    for axis, (name, detail, dirt) in zip(axes, ROWS, strict=True):
        dirty = contaminate(clean, {"rate": 1.0, "seed": SEED, **dirt})
        draw(axis, name, detail, dirty)
        axis.tick_params(which="both", length=0)
    axes[-1].set_xlabel("noise level of the training step (images in [-1, 1])")
    axes[-1].set_xticks(LEVELS, [f"{level:.2g}" for level in LEVELS])
    axes[-1].xaxis.set_minor_formatter("")
    axes[0].text(
        0.5, 1.03, "as training sees it", transform=axes[0].transAxes, ha="center", fontsize=10,
        color="#555555",
    )  # fmt: skip
    axes[0].text(
        FILE, 1.03, "the file", transform=axes[0].transAxes, ha="center", fontsize=10,
        color="#555555",
    )  # fmt: skip
    figure.legend(
        handles=[
            Patch(color=TEACHES, label="teaches what clean images look like"),
            Patch(color=SMOOTH, label="too dirty for this level: smoothness decides"),
            Patch(color=NOTHING, label="teaches nothing"),
        ],
        loc="lower center", ncol=3, frameon=False,
    )  # fmt: skip
    figure.subplots_adjust(left=0.26, right=0.99, top=0.97, bottom=0.11, hspace=0.04)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    colours = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(output, optimize=True)


def draw(axis: Axes, name: str, detail: str, dirty: Dataset) -> None:
    """A row: the file, what training sees at some levels, and the bar."""
    put(axis, ModelRange(dirty).read_all()["x0"], None)
    batch = ModelRange(Trusted(dirty, ByTruth(dirty))).read_all()
    x0, trust = batch["x0"], batch["trust"]
    noise = own_noise(trust, x0)
    eps = torch.randn(x0.shape, generator=generator("cpu", SEED, "eps"))

    def at(s: float) -> Incomplete:
        return Incomplete.at(torch.full((1, 1, 1, 1), s), noise, trust, below=0.0)

    axis.set(xscale="log", xlim=(FINE[0], FINE[-1]), ylim=(0, 1), yticks=[])
    for side in ("top", "bottom", "left", "right"):
        axis.spines[side].set_visible(False)
    for s in LEVELS:
        seen = x0 + s * noise.apply(at(float(s)).gain, eps)
        put(axis, seen, s)
    axis.text(-0.345, 0.62, name, transform=axis.transAxes, fontsize=10, weight="bold")
    axis.text(-0.345, 0.42, detail, transform=axis.transAxes, fontsize=8, color="#555555")

    shares = np.array([at(float(s)).factor.mean().item() for s in FINE])
    smooth = at(1.0).level.item() * (trust.weight.item() > 0) > FINE
    colours = np.where(shares > 0, TEACHES, np.where(smooth, SMOOTH, NOTHING))
    edges = [0, *(np.flatnonzero(colours[1:] != colours[:-1]) + 1), len(FINE) - 1]
    for start, stop in pairwise(edges):
        ends = [FINE[start], FINE[stop]]
        axis.fill_between(ends, 0.03, 0.15, color=str(colours[start]), linewidth=0)
    if trust.seen is not None:
        axis.text(
            LEVELS[3], 0.09, "all but the hole, at every level", ha="center", va="center",
            color="white", fontsize=8,
        )  # fmt: skip


def put(axis: Axes, image: Tensor, s: float | None) -> None:
    """An image at a level, or in front of the axis."""
    pixels = ((image[0].permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy()
    place = FILE if s is None else np.log(s / FINE[0]) / np.log(FINE[-1] / FINE[0])
    inset = axis.inset_axes((place - 0.06, 0.19, 0.12, 0.8))
    inset.imshow(pixels, interpolation="nearest")
    inset.set_axis_off()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
