"""How well does `sparring inspect` tell dirty images from clean ones, and how? `make bench-audit`.

    python benchmarks/audit.py --fashion 'fashion_mnist/train-*.parquet' --cifar 'cifar10/train-*' \
        --real polyu

Sets are looked at as 8-bit files, dirt and rates as in `CASES`; each seed decides which images are
dirty and what they get. Digits and tiles of scikit-learn's photographs need no files: no threshold
was chosen on the tiles. An image counts as dirty if at least two pixels differ from its clean file.

    auc            a dirty image's likeliest kind is likelier than a clean one's, probability
    found          share of the dirty images that have their kind
    clean          share of the clean images that are called dirty
    confused       share of those called dirty that have other kinds only
    rmse           of each noisy image's own sigma, [0, 1] scale

`--real` names a folder of camera crops NAME_real.JPG with their clean twins NAME_mean.JPG, looked
at whole and as 64x64 tiles; their true sigma is the deviation of the difference. Cost is the
audit's time for a 32x32 image against a training step's time over its batch (the network of
configs/fashion_mnist.yaml, one thread of one process, processor time); memory is the peak of a
process that audits so many images made on the fly.

Results are merged into results/audit.json; --only takes words that a row's name must contain, and
--docs puts the tables into docs/results/audit.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score
from step_cost import Bench

from sparring import __version__
from sparring.data.audit.audit import audit_images
from sparring.data.audit.judging import fit, fit_hiding, look
from sparring.data.audit.known import compare
from sparring.data.audit.table import Table
from sparring.data.base import Batch, Dataset, InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.data.files.decoding import decode
from sparring.data.transforms import to_float, to_uint8

CASES: dict[str, dict[str, Any]] = {
    "clean": {"kind": "none"},
    "gaussian 0.1": {"kind": "gaussian", "rate": 0.5, "sigma": 0.1},
    "gaussian 0.2": {"kind": "gaussian", "rate": 0.9, "sigma": 0.2},
    "sizes": {"kind": "gaussian", "rate": 0.9, "sigma": [0.05, 0.35]},
    "sizes, few": {"kind": "gaussian", "rate": 0.1, "sigma": [0.05, 0.35]},
    "sizes, all": {"kind": "gaussian", "rate": 1.0, "sigma": [0.05, 0.35]},
    "poisson": {"kind": "poisson_gaussian", "rate": 0.5, "photons": 12, "sigma": 0.1},
    "correlated": {"kind": "correlated", "rate": 0.5, "sigma": 0.2, "correlation": 0.7},
    "jpeg 10 to 40": {"kind": "jpeg", "rate": 0.5, "quality": [10, 40]},
    "jpeg 75": {"kind": "jpeg", "rate": 0.5, "quality": 75},
    "blur 1": {"kind": "blur", "rate": 0.5, "blur_sigma": 1.0},
    "impulses 5 %": {"kind": "salt_and_pepper", "rate": 0.5, "share": 0.05},
    "blocks": {"kind": "missing_blocks", "rate": 0.5, "block_size": 0.25, "fill": "contrast"},
    "outliers": {"kind": "outlier", "rate": 0.05},
}
"""The name of a row, and its contamination."""
TOGETHER = ("sizes", "poisson", "correlated", "jpeg 10 to 40", "impulses 5 %", "blocks")
CASES["together"] = {
    "kind": "mixture",
    "rate": 0.9,
    "parts": [{k: v for k, v in CASES[name].items() if k != "rate"} for name in TOGETHER],
}

GREY = {"gaussian": 0.97, "jpeg": 0.97, "salt_and_pepper": 0.95, "missing_blocks": 0.95,
        "blur": 0.93, "rmse": 0.025}  # fmt: skip
COLOUR = {**GREY, "gaussian": 0.99, "blur": 0.95, "rmse": 0.015}
GOALS: dict[str, Mapping[str, float]] = {
    "Fashion-MNIST 16x16": GREY, "Fashion-MNIST 28x28": GREY, "CIFAR-10": COLOUR,
}  # fmt: skip
"""Least AUC by kind and largest rmse of sigma where the sizes are mixed."""
MOST_CALLED, MOST_CONFUSED = 0.03, 0.08
REAL_AUC, REAL_FACTOR, REAL_SHARE = 0.85, 1.5, 0.8
TILE, EVERY = 64, 4
BATCH, N_ROUNDS, N_TIMED = 64, 5, 256
NETWORK = {
    "block_out_channels": "[32,64,96]",
    "down_block_types": "[DownBlock2D,DownBlock2D,DownBlock2D]",
    "up_block_types": "[UpBlock2D,UpBlock2D,UpBlock2D]",
}
"""That of configs/fashion_mnist.yaml."""
HERE = Path(__file__).resolve().parent
OUTPUT, PAGE = HERE / "results" / "audit", HERE.parent / "docs/results/audit.md"
MARKS = "<!-- audit -->\n", "<!-- /audit -->"


def sets(fashion: str | None, cifar: str | None, n_images: int) -> Iterator[tuple[str, Dataset]]:
    """The clean sets by name, in memory."""
    yield "digits", build_dataset("digits")
    tiles = photograph_tiles()
    yield "photographs 32x32", InMemory("photographs", tiles)
    for files, side, name in (
        (fashion, 16, "Fashion-MNIST 16x16"), (fashion, 28, "Fashion-MNIST 28x28"),
        (cifar, 32, "CIFAR-10"),
    ):  # fmt: skip
        if files is not None:
            read = build_dataset(
                "parquet", data_files=files, resolution=side, max_train_samples=n_images,
                n_channels=1 if side < 32 else 3,
            )  # fmt: skip
            yield name, InMemory(read.name, read.read_all()["x0"])


def photograph_tiles(side: int = 32) -> torch.Tensor:
    """scikit-learn's two photographs at half their size, in tiles, (n, 3, side, side)."""
    found = []
    for photo in load_sample_images().images:
        x = torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255
        half = torch.nn.functional.avg_pool2d(x, 2)
        half = (half * 255).round() / 255
        found.append(tiles_of(half[None], side))
    return torch.cat(found)


def tiles_of(x: torch.Tensor, side: int) -> torch.Tensor:
    """Tiles side by side, (B n, C, side, side), of images (B, C, H, W)."""
    tiles = x.unfold(2, side, side).unfold(3, side, side)
    return tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1], side, side)


def measured(dataset: Dataset, contamination: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the audit says of one seed, against the truth."""
    dirty = contaminate(dataset, {**contamination, "seed": seed})
    start = time.perf_counter()
    audit = audit_images(dirty, seed=seed)
    seconds = time.perf_counter() - start
    found = compare(audit.table, dirty)
    if found is None:
        return {"seed": seed, "called_dirty": 1 - float(audit.table.is_clean.mean()), "kinds": {},
                "called": {kind: float(audit.table.has(kind).mean()) for kind in audit.table.kinds},
                "seconds": round(seconds, 2)}  # fmt: skip
    return {"seed": seed, **found, "seconds": round(seconds, 2)}


def mean_of(seeds: Sequence[Mapping[str, Any]], kind: str | None, key: str) -> float | None:
    """The mean over the seeds of a figure, of a kind or of the set."""
    values = [one[key] if kind is None else one["kinds"].get(kind, {}).get(key) for one in seeds]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def lines_of(row: Mapping[str, Any]) -> list[str]:
    """Lines of the table for a set and its dirt: one per kind."""
    seeds, goals = row["seeds"], GOALS.get(row["data"], {})
    kinds = sorted({kind for one in seeds for kind in one["kinds"]}) or [None]
    lines = []
    for kind in kinds:
        auc, found, confused, rmse = (
            None if kind is None else mean_of(seeds, kind, key)
            for key in ("auc", "found", "confused", "sigma_rmse")
        )
        clean = mean_of(seeds, None, "called_dirty")
        goal_auc = (
            None if row["dirt"] in ("together", "sizes", "sizes, few") else goals.get(kind or "")
        )
        goal_rmse = goals.get("rmse") if kind == "gaussian" and "sizes" in row["dirt"] else None
        cells = [
            row["data"], row["dirt"], kind or "",
            against(auc, goal_auc, is_least=True), percent(found),
            percent(clean, MOST_CALLED), percent(confused, MOST_CONFUSED),
            against(rmse, goal_rmse, is_least=False), f"{len(seeds)}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def against(value: float | None, goal: float | None, *, is_least: bool) -> str:
    """A figure beside its goal, with a cross where it is missed."""
    if value is None:
        return ""
    if goal is None:
        return f"{value:.3f}"
    is_met = value >= goal if is_least else value <= goal
    return f"{value:.3f} ({'>=' if is_least else '<='} {goal:g}{'' if is_met else ' ✗'})"


def percent(value: float | None, most: float | None = None) -> str:
    """A share in percent, with a cross where it is above what is allowed."""
    if value is None:
        return ""
    return f"{100 * value:.1f} %{' ✗' if most is not None and value > most else ''}"


def real_noise(folder: str, side: int | None) -> dict[str, Any]:
    """Camera crops and their clean twins, audited as one set, blind.

    Args:
        folder: Holds NAME_real.JPG and NAME_mean.JPG.
        side: Cut into tiles of this side, of which every `EVERY`th is taken; None: whole.
    """
    pairs = [(path, path.with_name(path.name.replace("_real", "_mean")))
             for path in sorted(Path(folder).glob("*_real.*"))]  # fmt: skip
    images, is_noisy, sigma = [], [], []
    for pair in pairs:
        real, mean = (
            image if side is None else tiles_of(image, side)[::EVERY]
            for image in (decode(str(path))[None] for path in pair)
        )
        true = (real - mean).flatten(1).std(1)
        images += [to_uint8(real), to_uint8(mean)]
        is_noisy += [True] * len(real) + [False] * len(mean)
        sigma += [*true.tolist(), *[0.0] * len(mean)]
    table = audit_images(Bytes("crops", torch.cat(images))).table
    noisy, true = np.array(is_noisy), np.array(sigma)
    return {"n_images": len(noisy), "side": side} | of_real(table, noisy, true)


class Bytes(InMemory):
    """Images held as uint8."""

    def rows(self, indices: torch.Tensor, positions: torch.Tensor) -> dict[str, Any]:
        batch = super().rows(indices, positions)
        return {**batch, "x0": to_float(batch["x0"])}


def of_real(table: Table, noisy: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """AUC of noisy crops against their twins, and how near each one's sigma is."""
    p = np.max(list(table.kinds.values()), 0)
    noise = ("gaussian", "poisson_gaussian", "correlated")
    own = np.max([table.kinds[kind] for kind in noise if kind in table.kinds] or [0 * p], 0)
    factor = np.abs(np.log(np.maximum(table.sigma, 1e-6) / np.maximum(true, 1e-6)))
    return {
        "auc": float(roc_auc_score(noisy, p)),
        "auc_noise": float(roc_auc_score(noisy, own)),
        "called_noisy": float((own[noisy] > 0.5).mean()),
        "clean_called_noisy": float((own[~noisy] > 0.5).mean()),
        "within_factor": float((factor[noisy] <= np.log(REAL_FACTOR)).mean()),
        "called": {kind: [float(table.has(kind)[rows].mean()) for rows in (noisy, ~noisy)]
                   for kind in table.kinds},
    }  # fmt: skip


def cost(n_rounds: int) -> dict[str, Any]:
    """Seconds of the audit for an image of 32x32 pixels, and of a training step for one."""
    words = [f"model.network.{key}={value}" for key, value in NETWORK.items()]
    words += ["data.resolution=32", f"training.train_batch_size={BATCH}"]
    bench = Bench("plain", *words)
    found: dict[str, Any] = {}
    grey = build_dataset("digits", resolution=32)
    dirt = CASES["together"] | {"rate": 0.5}
    for name, clean in (("grey", InMemory("digits", grey.read_all(N_TIMED)["x0"])),
                        ("colour", InMemory("photographs", photograph_tiles()))):  # fmt: skip
        x = contaminate(clean, dirt).read_all()["x0"]
        x = x.repeat(-(-N_TIMED // len(x)), 1, 1, 1)[:N_TIMED]
        hiding = fit_hiding(look(x))
        judge = fit(hiding.look(x), hiding)
        ratios, seconds = [], []
        for number in range(n_rounds):
            start = time.process_time()
            judge(x, np.arange(len(x)))
            between = time.process_time()
            bench.seconds(number)
            seconds.append((between - start) / len(x))
            ratios.append(seconds[-1] / ((time.process_time() - between) / BATCH))
        found[name] = {
            "audit_milliseconds": 1e3 * float(np.median(seconds)),
            "share_of_a_step": float(np.median(ratios)),
        }
    return found


class Made(Dataset):
    """Images made on the fly: blobs, half of them with noise, 8 bits."""

    is_image, sample_shape = True, (1, 8, 8)

    def __init__(self, n: int) -> None:
        self.name, self.n = f"{n} made images", n
        rng = torch.Generator().manual_seed(0)
        coarse = torch.rand(4096, 1, 4, 4, generator=rng)
        self.blobs = torch.nn.functional.interpolate(coarse, (8, 8), mode="bicubic")
        self.noise = torch.randn(1009, 1, 8, 8, generator=rng)

    def __len__(self) -> int:
        return self.n

    def rows(self, indices: torch.Tensor, positions: torch.Tensor) -> Batch:
        sigma = 0.2 * (indices % 2)[:, None, None, None]
        x = self.blobs[indices % 4096] + sigma * self.noise[indices % 1009]
        return {"x0": to_float(to_uint8(x)), "index": indices, "unreadable": []}

    def fingerprint(self) -> str:
        return self.name


def peak_of(n: int) -> tuple[float, float]:
    """Peak memory (MB) and seconds of a process that audits so many images."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    audit_images(Made(n))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return peak, time.perf_counter() - start


def memory(counts: Sequence[int] = (1000, 10_000, 100_000)) -> list[dict[str, float]]:
    """The peak by the number of images, each in a process of its own."""
    found = []
    for n in counts:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, seconds = pool.apply(peak_of, (n,))
        found.append({"n_images": n, "peak_mb": round(peak), "seconds": round(seconds, 1)})
    return found


def as_text(result: Mapping[str, Any]) -> str:
    """The tables, in Markdown."""
    head = ["data", "dirt", "kind", "AUC", "found", "clean called dirty", "confused",
            "rmse of sigma", "seeds"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in result.get("rows", []):
        lines += lines_of(row)
    if "real" in result:
        head = ["camera noise", "images", "AUC of noise", "called noisy", "clean called noisy",
                f"sigma within {REAL_FACTOR:g}"]  # fmt: skip
        lines += ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for one in result["real"]:
            is_near = one["within_factor"] >= REAL_SHARE
            cells = [
                "whole" if one["side"] is None else f"tiles of {one['side']}x{one['side']}",
                str(one["n_images"]), against(one["auc_noise"], REAL_AUC, is_least=True),
                percent(one["called_noisy"]), percent(one["clean_called_noisy"]),
                f"{percent(one['within_factor'])}{'' if is_near else ' ✗'}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    if "cost" in result:
        lines += ["", "| 32x32 image | audit, ms | share of a training step's time for it |", "|---|---|---|"]  # noqa: E501  # fmt: skip
        lines += [f"| {name} | {one['audit_milliseconds']:.2f} | {one['share_of_a_step']:.3f} |"
                  for name, one in result["cost"].items()]  # fmt: skip
    if "memory" in result:
        lines += ["", "| images of 8x8 | peak memory, MB | seconds |", "|---|---|---|"]
        lines += [f"| {one['n_images']} | {one['peak_mb']} | {one['seconds']} |"
                  for one in result["memory"]]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what was asked for, print it, and merge it into the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fashion", help="Fashion-MNIST's training images, parquet files")
    parser.add_argument("--cifar", help="CIFAR-10's training images, parquet files")
    parser.add_argument("--real", help="a folder of camera crops and their clean twins")
    parser.add_argument("--only", nargs="*", default=[], help="words of 'DATA: DIRT', or real, cost, memory")  # noqa: E501  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-images", type=int, default=4000, help="at most, of a set")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument(
        "--docs", action="store_true", help="put the tables into docs/results/audit.md"
    )
    words = parser.parse_args()

    def wanted(name: str) -> bool:
        return not words.only or any(word in name for word in words.only)

    path = words.output.with_suffix(".json")
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"version": __version__}

    def keep() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text(as_text(result))

    for data, dataset in sets(words.fashion, words.cifar, words.n_images):
        for dirt, contamination in CASES.items():
            if wanted(f"{data}: {dirt}"):
                seeds = [measured(dataset, contamination, seed) for seed in range(words.seeds)]
                row = {"data": data, "n_images": len(dataset), "dirt": dirt,
                       "contamination": contamination, "seeds": seeds}  # fmt: skip
                others = [one for one in result.get("rows", [])
                          if (one["data"], one["dirt"]) != (data, dirt)]  # fmt: skip
                result["rows"] = sorted([*others, row], key=place_of)
                print("\n".join(lines_of(row)), flush=True)
                keep()
    if words.real is not None and wanted("real"):
        result["real"] = [real_noise(words.real, side) for side in (None, TILE)]
        keep()
    if wanted("cost"):
        result["cost"] = cost(N_ROUNDS)
        keep()
    if wanted("memory"):
        result["memory"] = memory()
        keep()
    print(as_text({key: value for key, value in result.items() if key != "rows"}))
    if words.docs:
        before, rest = PAGE.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(before + MARKS[0] + as_text(result) + MARKS[1] + after)


def place_of(row: Mapping[str, Any]) -> tuple[str, int]:
    """Where a row stands in the table."""
    return row["data"], list(CASES).index(row["dirt"])


if __name__ == "__main__":
    main()
