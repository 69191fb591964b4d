"""How well does `sparring inspect` estimate known noise? Five seeds, written beside the results.

    python benchmarks/inspect_noise.py 'fashion_mnist/train-*.parquet'

Each seed decides which images are noisy, their noise, and the division in halves of the estimate.
Without an argument only the digits are measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparring import __version__
from sparring.data.audit.audit import audit_images
from sparring.data.base import Dataset, InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate

N_CLOTHES = 10_000  # as in configs/fashion_mnist.yaml
CASES: tuple[dict[str, Any], ...] = (
    {"kind": "gaussian", "rate": 0.9, "sigma": 0.1},
    {"kind": "gaussian", "rate": 0.9, "sigma": 0.2},
    {"kind": "gaussian", "rate": 0.9, "sigma": 0.05},
    {"kind": "gaussian", "rate": 0.5, "sigma": 0.1},
    {"kind": "gaussian", "rate": 0.1, "sigma": 0.1},
    {"kind": "gaussian", "rate": 1.0, "sigma": 0.1},
    {"kind": "gaussian", "rate": 0.9, "sigma": 0.1, "clip": True},
    {"kind": "gaussian", "rate": 0.9, "sigma": 0.2, "clip": True},
    {"kind": "none"},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {"kind": "salt_and_pepper"},
    {"kind": "outlier"},
    {"kind": "outlier", "outlier": "uniform"},
    {"kind": "missing_blocks"},
    {"kind": "blur"},
    {"kind": "jpeg"},
)
"""At their defaults, at a rate of 0.9: what inspect says of dirt that is not Gaussian noise."""


def main(files: str | None, output: Path, n_seeds: int) -> None:
    """Measure, print a table and write it with every figure of every seed."""
    sets = {"digits": build_dataset("digits")}
    if files is not None:
        for side in (16, 28):
            read = build_dataset("parquet", data_files=files, resolution=side, n_channels=1,
                                 max_train_samples=N_CLOTHES)  # fmt: skip
            sets[f"Fashion-MNIST {side}x{side}"] = InMemory(read.name, read.read_all()["x0"])
    found = []
    for name, dataset in sets.items():
        for case in (*CASES, *OTHERS):
            seeds = range(n_seeds if case in CASES else 1)
            figures = [measure(dataset, {**case, "seed": seed}, seed) for seed in seeds]
            found.append({"data": name, "n_images": len(dataset), **case, "seeds": figures})
            print(row(found[-1]), flush=True)
    result = {"version": __version__, "measured": found}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    head = "| data | dirt | sigma | rate | found | largest error of sigma | of the rate | AUC |"
    lines = [head, "|" + "---|" * 8, *map(row, found)]
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")


def measure(dataset: Dataset, contamination: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The estimates of one seed; of floats that were never clipped where a case does not say it."""
    from sparring.commands.inspect import known, noise_of

    start = time.perf_counter()
    audit = audit_images(contaminate(dataset, {"clip": False, **contamination}), seed)
    noise, done = noise_of(audit), known(audit) or {}
    assert noise is not None
    return {
        "seed": seed,
        **{key: noise[key] for key in ("sigma", "rate", "found", "gain_per_image", "whiteness")},
        "ranking_auc": done.get("ranking_auc"),
        "seconds": round(time.perf_counter() - start, 1),
    }


def row(case: Mapping[str, Any]) -> str:
    """A line of the table: mean over the seeds, and the largest error."""
    seeds = case["seeds"]
    sigma, rate = (np.array([one[key] for one in seeds]) for key in ("sigma", "rate"))
    auc = [one["ranking_auc"] for one in seeds if one["ranking_auc"] is not None]
    dirt = ", ".join(
        str(value) if key == "kind" else f"{key} {value}"
        for key, value in case.items()
        if key not in ("data", "n_images", "seeds")
    )
    errors = ["", ""]
    if case["kind"] == "gaussian":
        errors = [f"{100 * np.abs(sigma / case['sigma'] - 1).max():.1f} %",
                  f"{100 * np.abs(rate - case['rate']).max():.1f} points"]  # fmt: skip
    cells = [case["data"], dirt, f"{sigma.mean():.4f}", f"{rate.mean():.3f}",
             f"{sum(one['found'] for one in seeds)} of {len(seeds)}", *errors,
             f"{np.mean(auc):.3f}" if auc else ""]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="?", help="Fashion-MNIST's training images, parquet")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/inspect"))
    parser.add_argument("--seeds", type=int, default=5)
    words = parser.parse_args()
    main(words.files, words.output, words.seeds)
