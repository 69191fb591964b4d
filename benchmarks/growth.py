"""How the cost of training grows with the number and the size of images: `make bench-growth`.

    python benchmarks/growth.py --steps 20

Each cell is `sparring train` as a whole process, plain, from a folder of 8-bit PNG files that is
made for it: 1,000, 10,000 and 100,000 images of 32x32 pixels, and 1,000 images of 16, 32, 64 and
128 pixels. Start-up is the process's time less what the updates took; images a second are those of
the updates; memory is the peak of the largest process. Cells that results/growth.json has are not
run again; docs/images/growth.png is drawn from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from peers import write_images

from sparring.evaluation.protocol import versions

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "results" / "growth.json"
PICTURE = HERE.parent / "docs" / "images" / "growth.png"
COUNTS, SIDES = (1_000, 10_000, 100_000), (16, 32, 64, 128)
CELLS = [(n, 32) for n in COUNTS] + [(COUNTS[0], side) for side in SIDES if side != 32]
N_BATCH = 32


def config(images: Path, run: Path, n_steps: int) -> dict[str, Any]:
    return {
        "model": {
            "network": {
                "_class_name": "UNet2DModel", "block_out_channels": [32, 64], "layers_per_block": 1,
                "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
                "norm_num_groups": 8, "add_attention": False,  # attention grows with pixels squared
            },
        },
        "data": {"name": "image_folder", "train_data_dir": str(images)},
        "objective": "plain",
        "training": {
            "output_dir": str(run), "max_train_steps": n_steps, "train_batch_size": N_BATCH,
            "validation_steps": None, "checkpointing_steps": None, "report_to": "none",
        },
    }  # fmt: skip


def measured(n_images: int, side: int, n_steps: int) -> dict[str, float]:
    """One cell."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        images = write_images(place / "images", n_images, side)
        file = place / "config.yaml"
        file.write_text(yaml.safe_dump(config(images, place / "run", n_steps)), encoding="utf-8")
        words = [sys.executable, "-m", "sparring", "train", str(file)]
        began = time.perf_counter()
        with (place / "log.txt").open("w") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status != 0:
            raise SystemExit((place / "log.txt").read_text()[-2000:])
        told = json.loads((place / "run" / "training.json").read_text(encoding="utf-8"))
    return {
        "n_images": n_images,
        "side": side,
        "start_up_seconds": seconds - told["train_seconds"],
        "images_per_second": told["n_images"] / told["train_seconds"],
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def draw(cells: list[dict[str, Any]], place: Path) -> None:
    """Start-up and memory by the number of images; seconds an image and memory by the pixels."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 3), layout="constrained")
    by_count = sorted((one for one in cells if one["side"] == 32), key=lambda one: one["n_images"])
    by_side = sorted(
        (one for one in cells if one["n_images"] == COUNTS[0]), key=lambda c: c["side"]
    )
    panels = [
        ("start-up, s", "images", [(c["n_images"], c["start_up_seconds"]) for c in by_count]),
        ("memory, GB", "images", [(c["n_images"], c["peak_bytes"] / 1e9) for c in by_count]),
        (
            "ms an image",
            "pixels",
            [(c["side"] ** 2, 1e3 / c["images_per_second"]) for c in by_side],
        ),
    ]
    for axis, (title, unit, points) in zip(figure.subplots(1, 3), panels, strict=True):
        x, y = zip(*points, strict=True)
        axis.loglog(x, y, "o-", color="tab:blue")
        axis.loglog(x, [y[-1] * one / x[-1] for one in x], ":", color="grey", label="linear")
        axis.set(title=title, xlabel=unit, ylim=(min(y) / 2, max(y) * 2))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.legend(frameon=False)
    figure.savefig(place, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("-o", "--out", type=Path, default=OUTPUT)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    words = parser.parse_args()
    found: dict[str, Any] = {"cells": []}
    if words.out.exists():
        found = json.loads(words.out.read_text())
    found |= {"command": f"python benchmarks/growth.py --steps {words.steps}"}
    found |= {"versions": versions()}
    for n_images, side in CELLS:
        if any((one["n_images"], one["side"]) == (n_images, side) for one in found["cells"]):
            continue
        found["cells"].append(cell := measured(n_images, side, words.steps))
        print(cell, flush=True)
        words.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    draw(found["cells"], words.picture)


if __name__ == "__main__":
    main()
