"""What an image teaches at which noise: the picture of docs/dirt_in_files.md.

python recipes/dirt_figure.py docs/images/dirt_levels.png

One photograph, with each kind of dirt in a row, as training sees it at each noise level; below it
the bar says what is learned there. Where a bar begins and ends is asked of the code that trains.
"""

import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from sparring.data.audit.filling import filled
from sparring.data.audit.table import Table, clean_table
from sparring.data.dirt.contract import Corruption
from sparring.data.dirt.kinds.correlated import Correlated
from sparring.data.dirt.kinds.gaussian import Gaussian
from sparring.data.dirt.kinds.jpeg import Jpeg
from sparring.data.dirt.kinds.missing_blocks import MissingBlocks
from sparring.data.dirt.kinds.outlier import Outlier
from sparring.data.transforms import to_float, to_model_range, to_uint8
from sparring.data.trusted import trust_of
from sparring.objectives.own_noise import Incomplete, own_noise
from sparring.randomness import generator

SIDE = 64
SEED = 5
LEVELS = np.geomspace(0.05, 3.2, 7)
FINE = np.geomspace(0.035, 4.5, 2001)
QUALITY = 12
FILE = -0.095
"""Where the file is shown, in widths of the axis."""
TEACHES, SMOOTH, NOTHING = "#2a9d58", "#e9a23b", "#c9c9c9"


def photograph() -> Tensor:
    """A flower, (1, 3, 64, 64) in [0, 1]."""
    pixels = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None]
    square = to_float(pixels)[..., 20:404, 120:504]
    return F.interpolate(square, (SIDE, SIDE), mode="area")


ROWS: list[tuple[str, str, Corruption | None, dict[str, float]]] = [
    ("clean", "", None, {}),
    ("noise", "0.1 of the range", Gaussian(0.1), {"sigma": 0.1}),
    (
        "correlated noise",
        "as after resizing",
        Correlated(0.1, 0.7),
        {"sigma": 0.1, "correlation": 0.7},
    ),
    (
        "JPEG",
        f"quality {QUALITY}",
        Jpeg(QUALITY),
        {"quality": QUALITY},
    ),
    ("hole", "a quarter of each side", MissingBlocks(block_size=0.25, fill="contrast"), {}),
    ("outlier", "", Outlier(), {"weight": 0.0}),
]


def table_of(known: dict[str, float]) -> Table:
    """One row that says this."""
    table = clean_table(1)
    for name, value in known.items():
        getattr(table, name)[:] = value
    return table


def main(output: Path) -> None:
    clean = photograph()
    figure = Figure(figsize=(10, 8))
    axes = figure.subplots(len(ROWS), 1, sharex=True)
    for axis, (name, detail, corruption, known) in zip(axes, ROWS, strict=True):
        rng = generator("cpu", SEED, name)
        dirty = clean if corruption is None else corruption.apply(clean[0], rng, None)[None]
        dirty = to_float(to_uint8(dirty))
        hidden = None
        if isinstance(corruption, MissingBlocks):
            hidden = (dirty - clean).abs().amax(1, keepdim=True) > 0.02
        draw(axis, name, detail, dirty, known, hidden)
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


def draw(
    axis: Axes, name: str, detail: str, dirty: Tensor, known: dict[str, float],
    hidden: Tensor | None,
) -> None:  # fmt: skip
    """A row: the file, what training sees at some levels, and the bar."""
    put(axis, to_model_range(dirty), None)
    x0 = to_model_range(dirty if hidden is None else filled(dirty, hidden))
    trust = trust_of(table_of(known), dirty, hidden, 2.0)
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
    if hidden is not None:
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
