"""Time and peak memory of every metric on stored features, each in a fresh process.

    python benchmarks/metric_cost.py                            # 50,000 x 2048: 0.8 GiB of features
    python benchmarks/metric_cost.py --n 5000 --only precision_recall_density_coverage
    python benchmarks/metric_cost.py --products                 # on all cores, in one process

Prints a table: what a metric needs besides reading its features does not grow with their number, so
the peak is that of two sets of features and a constant. Memory is the process's largest resident
set, Python and torch included; time is that of one core, waiting not counted.

With `--products`, the metrics of all pairs of points beside the matrix products that they are made
of, in turn within one process, on all cores: what a metric costs beyond its products. The ratios go
to results/metric_cost.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file, save_file

from sparring.evaluation.feature_sets import Gaussian, block_pairs, nearest
from sparring.evaluation.metrics.frechet_distance import (
    frechet_distance,
    frechet_distance_infinity,
    frechet_distance_of_halves,
    frechet_distance_of_resamples,
)
from sparring.evaluation.metrics.inception_score import inception_score
from sparring.evaluation.metrics.kernel_distance import (
    gaussian_mmd,
    kernel_distance,
    kernel_distance_of_subsets,
)
from sparring.evaluation.metrics.neighbours import precision_recall_density_coverage
from sparring.evaluation.metrics.sliced_wasserstein import sliced_wasserstein

N_CLASSES = 1008  # of Inception
OUTPUT = Path(__file__).resolve().parent / "results" / "metric_cost.json"
OF_ALL_PAIRS = {  # metric -> whether it takes each pair of one set twice
    "precision_recall_density_coverage": True,
    "kernel_distance": False,
    "gaussian_mmd": False,
}

METRICS = {
    "frechet_distance": frechet_distance,
    "inception_score": lambda _, fake: inception_score(fake[:, :N_CLASSES]),
    "kernel_distance_of_subsets": kernel_distance_of_subsets,
    "sliced_wasserstein": sliced_wasserstein,
    "precision_recall_density_coverage": precision_recall_density_coverage,
    "nearest_distances": lambda real, fake: nearest(fake, real, 1),
    "frechet_distance_of_resamples": lambda real, fake: frechet_distance_of_resamples(
        real, len(fake)
    ),
    "frechet_distance_of_halves": lambda real, _: frechet_distance_of_halves(real),
    "frechet_distance_infinity": lambda real, fake: frechet_distance_infinity(
        Gaussian.of(real), fake
    ),
    "kernel_distance": kernel_distance,
    "gaussian_mmd": gaussian_mmd,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50_000, help="features in each set")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--only", nargs="*", default=list(METRICS), choices=list(METRICS))
    parser.add_argument("--products", action="store_true", help="ratios to matrix products")
    parser.add_argument("--rounds", type=int, default=3, help="of --products")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--features", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.products:
        beside_products(words.n, words.dim, words.rounds)
        return
    torch.set_num_threads(1)
    if words.measure:
        print(json.dumps(measure(words.measure, Path(words.features))))
        return
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features.safetensors"
        write(features, words.n, words.dim)
        print(f"{words.n:,} x {words.dim} features of each set, float32, torch {torch.__version__}")
        print("\n| metric | seconds | peak memory, GiB |\n|---|---|---|", flush=True)
        for name in ["none", *words.only]:
            command = [sys.executable, __file__, "--measure", name, "--features", str(features)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            cost = json.loads(done.stdout)
            label = "the features alone" if name == "none" else f"`{name}`"
            print(f"| {label} | {cost['seconds']:.1f} | {cost['gib']:.2f} |", flush=True)


def two_sets(n: int, dim: int) -> dict[str, torch.Tensor]:
    """Two sets like Inception's features: not negative, few of them large."""
    random = torch.Generator().manual_seed(0)
    sets = {}
    for name, shift in (("real", -0.2), ("fake", -0.1)):
        x = torch.randn(n, dim, generator=random)
        sets[name] = x.add_(shift).relu_()
    return sets


def write(path: Path, n: int, dim: int) -> None:
    save_file(two_sets(n, dim), path)


def beside_products(n: int, dim: int, rounds: int) -> None:
    """Writes how many times as long as its matrix products each metric of all pairs takes."""
    sets = two_sets(n, dim)
    real, fake = sets["real"], sets["fake"]

    def products(twice: bool) -> None:
        for x, y in ((real, real), (fake, fake), (real, fake)):
            for i, j in block_pairs(len(x), len(y)):
                if twice or x is not y or i.start <= j.start:
                    torch.matmul(x[i].double(), y[j].double().T)

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    found = {}
    for name, twice in OF_ALL_PAIRS.items():
        pairs = [
            (timed(lambda: METRICS[name](real, fake)), timed(lambda: products(twice)))  # noqa: B023
            for _ in range(rounds)
        ]
        found[name] = {
            "seconds": round(median(one for one, _ in pairs), 2),
            "seconds_of_products": round(median(other for _, other in pairs), 2),
            "ratio": round(median(one / other for one, other in pairs), 3),
        }
        print(f"{name:<36}{found[name]}", flush=True)
    about = {
        "command": f"python benchmarks/metric_cost.py --products --n {n} --dim {dim} "
        f"--rounds {rounds}",
        "torch": torch.__version__,
        "n_threads": torch.get_num_threads(),
    }
    known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    text = json.dumps({**known, f"{n} x {dim}": {**about, "metrics": found}}, indent=2) + "\n"
    OUTPUT.write_text(text, encoding="utf-8")


def measure(name: str, path: Path) -> dict[str, float]:
    """Seconds and GiB of one metric in this process."""
    sets = load_file(path)
    started = time.process_time()
    if name != "none":
        METRICS[name](sets["real"], sets["fake"])
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    return {"seconds": seconds, "gib": peak}


if __name__ == "__main__":
    main()
