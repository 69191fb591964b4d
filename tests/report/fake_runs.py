"""Run folders as `sparring train` and `sparring evaluate` leave them, made from real digits."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from sklearn.datasets import load_digits

PROTOCOL = {
    "data": "digits", "data_fingerprint": "5f0c", "split": "all", "n_real": 1797, "n_fake": 1797,
    "resize": "none", "range": "[0, 1], clipped, not rounded", "extractor": "classifier",
    "extractor_checksum": "9b1f", "k": 5, "n_resamples": 10, "sampler": "ddim", "steps": 50,
    "seeds": {"evaluation": 0, "sampling": 0},
    "versions": {"python": "3.11.9", "sparring": "0.1.0", "torch": "2.13.0"},
}  # fmt: skip
DETAIL = {"name": "detail", "lam": 10.0, "radius_low": 0.05, "radius_high": 0.2, "n_iterations": 1,
          "noise": "auto", "window": "auto", "weight": 0.2, "fraction": 0.125, "start_step": 2000,
          "snr_gamma": None}  # fmt: skip
GAUSSIAN = {"kind": "gaussian", "rate": 0.9, "sigma": 0.2, "seed": 0, "clip": False}


@cache
def digits() -> np.ndarray:
    return load_digits().images / 16


def digits_grid(path: Path, noise: float, seed: int = 0, n_side: int = 8) -> None:
    """An 8-bit grid of scikit-learn's digits under Gaussian noise, as the sample grids are."""
    images = digits()[seed : seed + n_side**2]
    images = images + noise * np.random.default_rng(seed).normal(size=images.shape)
    rows = images.reshape(n_side, n_side, 8, 8).transpose(0, 2, 1, 3).reshape(8 * n_side, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rows.clip(0, 1) * 255).round().astype(np.uint8)).save(path)


def figures(frechet: float, noise: float, protocol: dict | None = None, **more: object) -> dict:
    """An evaluation of images, with the keys that `sparring evaluate --json` promises."""
    return {
        "frechet_distance": frechet, "frechet_distance_interval": [frechet * 0.95, frechet * 1.05],
        "frechet_distance_of_reference": 2.13, "kernel_distance": frechet / 400, "precision": 0.71,
        "recall": 0.62, "density": 0.93, "coverage": 0.81, "empty_pixel_rms": noise,
        "frechet_distance_of_halves": 4.4, "n_empty_pixels": 11, "nearest_training_distance": {
            "mean": 4.4, "median": 4.2, "calibration": "held-out images", "calibration_mean": 4.1,
            "calibration_median": 4.0, "n_train": 1437,
        }, "command": "sparring evaluate runs/x evaluation.seed=0 --json",
        "model": "runs/x", "sampling_seconds": 31.4, "evaluation_seconds": 2.2,
        "protocol": protocol or PROTOCOL,
    } | more  # fmt: skip


def mismatch_curve(distances: dict[float, float], steps: int = 10, **protocol: object) -> dict:
    """A curve by sigma/alpha, with a floor of 0.02 whose interval ends at 0.03."""
    rows = [
        {"t": 100.0, "alpha": 1.0, "sigma": ratio, "ratio": ratio, "sliced_wasserstein": distance,
         "sliced_wasserstein_of_reference": 0.02,
         "sliced_wasserstein_of_reference_interval": [0.01, 0.03]}
        for ratio, distance in distances.items()
    ]  # fmt: skip
    return {"times": rows, "mean": {}, "protocol": PROTOCOL | {"steps": steps} | protocol}


def write_run(
    folder: Path, objective: dict | None = None, contamination: dict | None = None, *,
    evaluation: dict | None = None, terms: tuple[str, ...] = ("denoise",), seconds: float = 292.0,
    noise: float = 0.2, data: dict | None = None, images: bool = True, finished: bool = True,
    command: str | list[str] = "sparring train configs/digits.yaml",
) -> Path:  # fmt: skip
    """A run; `noise` is what its samples show, `evaluation` one file of figures or none."""
    folder.mkdir(parents=True)
    contamination = contamination or {"kind": "none", "rate": 0.9, "seed": 0, "clip": False}
    config = {
        "model": {"network": {"_class_name": "UNet2DModel", "sample_size": 8}},
        "data": data or {"name": "digits", "split": "train", "seed": 0},
        "contamination": contamination, "objective": objective or {"name": "plain"},
        "training": {"output_dir": str(folder), "seed": 0, "max_train_steps": 3000},
        "sampling": {"scheduler": "ddim", "num_inference_steps": 50, "n_images": 64, "seed": 0},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    info = {"version": "0.1.0", "command": command, "device": "cpu", "n_processes": 1,
            "versions": {"sparring": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1"},
            "started": "2030-01-02T03:04:05"}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    training = {"train_seconds": seconds, "n_steps": 3000, "n_images": 384000,
                "n_parameters": 512345, "finished": True, "n_processes": 1,
                "seconds_per_step": seconds / 3000}  # fmt: skip
    if finished:
        (folder / "training.json").write_text(json.dumps(training))
    random = np.random.default_rng(0)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(10, 3001, 10):
            row = {"step": step, "lr": 1e-3, "grad_norm": 0.3}
            for i, term in enumerate(terms):
                scale = (0.9 * np.exp(-step / 200) + 0.05) / (1 + 3 * i)
                row[f"loss/{term}"] = float(scale * np.exp(0.15 * random.normal()))
            row["loss"] = sum(row[f"loss/{term}"] for term in terms)
            file.write(json.dumps(row) + "\n")
    if images:
        digits_grid(
            folder / "data" / "training_samples.png", contamination.get("sigma", 0), seed=64
        )
        digits_grid(folder / "samples" / "step-500.png", 0.4)
        digits_grid(folder / "samples" / "step-3000.png", noise)
    if contamination["kind"] != "none":
        (folder / "data").mkdir(exist_ok=True)
        header = {
            "record": "protocol",
            "data": "digits",
            "fingerprint": "77aa",
            "n_samples": 1437,
            **contamination,
            "n_dirty": 1293,
            "scale": "[0, 1]",
            "below": [],
        }
        lines = [header, {"index": 0, "kind": "gaussian"}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "data" / "manifest.jsonl").write_text(text)
    if evaluation is not None:
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "figures.json").write_text(json.dumps(evaluation))
        if images:
            digits_grid(folder / "evaluation" / "figures-grid.png", noise)
    return folder


def make_demo_runs(folder: Path) -> list[str]:
    """Plain and robust on the same dirty digits, and plain on clean ones: the demo's three runs."""
    write_run(folder / "plain", None, GAUSSIAN, evaluation=figures(88.0, 0.125), noise=0.13)
    write_run(folder / "robust", DETAIL, GAUSSIAN, evaluation=figures(31.2, 0.05125), noise=0.06,
              terms=("denoise", "detail"), seconds=520.0)  # fmt: skip
    write_run(folder / "clean", None, None, evaluation=figures(4.9, 0.0165), noise=0.01)
    return [str(folder / name) for name in ("plain", "robust", "clean")]
