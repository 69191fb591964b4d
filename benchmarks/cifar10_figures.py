"""What a Frechet distance on CIFAR-10 means: real against real, against noisy, against blurred.

    python benchmarks/cifar10_figures.py 'cifar10/train-*.parquet' \\
        --inception inception.safetensors --resnet cifar10_resnet56.safetensors

Two disjoint random halves of 2 n images: one is the reference, the other is measured as it is and
with each kind of dirt. Features are kept in runs/cifar10_figures, so a stopped command goes on.
Writes benchmarks/results/cifar10_figures.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from sparring import __version__
from sparring.data.base import Dataset, InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.diffusion.randomness import generator
from sparring.evaluation.metrics.frechet_distance import frechet_distance, frechet_distance_infinity
from sparring.evaluation.metrics.kernel_distance import kernel_distance
from sparring.evaluation.metrics.neighbours import precision_recall_density_coverage
from sparring.evaluation.networks.extractors import Extractor, make_extractor

RESNET = Path(__file__).parents[1] / "recipes" / "cifar10_resnet.py"
OUTPUT = Path(__file__).parent / "results" / "cifar10_figures"
FEATURES = Path("runs") / "cifar10_figures"
DIRT: dict[str, dict[str, Any]] = {
    "as it is": {"kind": "none"},
    "90 % Gaussian 0.05": {"kind": "gaussian", "rate": 0.9, "sigma": 0.05},
    "90 % Gaussian 0.1": {"kind": "gaussian", "rate": 0.9, "sigma": 0.1},
    "90 % Gaussian 0.2": {"kind": "gaussian", "rate": 0.9, "sigma": 0.2},
    "all blurred, 1 pixel": {"kind": "blur", "rate": 1.0, "blur_sigma": 1.0},
}
"""On the [0, 1] scale: what a model gets that has learned such data perfectly."""


def main(files: str, inception: str, resnet: str, n: int, seed: int) -> None:
    os.environ["SPARRING_CIFAR10_RESNET"] = resnet
    everything = build_dataset("parquet", data_files=files, image_column="image", split="all")
    chosen = torch.randperm(len(everything), generator=generator("cpu", seed, "halves"))[: 2 * n]
    real, other = (part(everything, rows.tolist()) for rows in chosen.split(n))
    extractors = {
        "FID-768": make_extractor("inception-768", everything, weights=inception),
        "ResNet-56": make_extractor(f"{RESNET}:features", everything),
    }
    rows = []
    for title, extractor in extractors.items():
        reference = features(extractor, real, f"{title}-real-{n}-{seed}")
        for dirt, contamination in DIRT.items():
            dirty = contaminate(other, {**contamination, "clip": False, "seed": seed})
            fake = features(extractor, dirty, f"{title}-{dirt}-{n}-{seed}")
            rows.append({"features": title, "other half": dirt} | figures(reference, fake, seed))
            print(json.dumps(rows[-1]), flush=True)
    said = {
        "version": __version__, "torch": torch.__version__, "n_real": n, "n_fake": n, "seed": seed,
        "checksums": {title: one.checksum for title, one in extractors.items()}, "rows": rows,
    }  # fmt: skip
    OUTPUT.with_suffix(".json").write_text(json.dumps(said, indent=1) + "\n")
    OUTPUT.with_suffix(".md").write_text(table(rows) + "\n")


def part(dataset: Dataset, rows: list[int]) -> Dataset:
    """Those rows, in memory."""
    return InMemory(dataset.name, dataset.__getitems__(rows)["x0"])


def features(extractor: Extractor, dataset: Dataset, name: str) -> Tensor:
    """Features (N, D) of images cut to [0, 1], as evaluation cuts samples; kept batch by batch."""
    folder = FEATURES / f"{name}-{extractor.checksum}".replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for batch in tqdm(torch.arange(len(dataset)).split(100), desc=name, disable=None):
        file = folder / f"{int(batch[0])}.safetensors"
        if not file.is_file():
            images = dataset.__getitems__(batch.tolist())["x0"].clamp(0, 1)
            save_file({"features": extractor(images)}, f"{file}.tmp")
            os.replace(f"{file}.tmp", file)
        found.append(load_file(file)["features"])
    return torch.cat(found)


def figures(real: Tensor, fake: Tensor, seed: int) -> dict[str, float]:
    """The distances of all images, and precision to coverage at k = 5."""
    found: Mapping[str, float] = {
        "frechet_distance": frechet_distance(real, fake),
        "frechet_distance_infinity": frechet_distance_infinity(real, fake, seed=seed),
        "kernel_distance": kernel_distance(real, fake),
        **precision_recall_density_coverage(real, fake),
    }
    return {name: float(f"{value:.5g}") for name, value in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|" + "---|" * len(names))
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.4g}" for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", help="parquet files with a column `image`, quoted if a pattern")
    parser.add_argument("--inception", required=True, help="Inception weights, safetensors")
    parser.add_argument("--resnet", required=True, help="ResNet-56 weights, safetensors")
    parser.add_argument("--n", type=int, default=5000, help="images in each half")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    main(told.files, told.inception, told.resnet, told.n, told.seed)
