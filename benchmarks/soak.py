"""Half an hour of training that logs, samples and evaluates every minute: does anything grow?

    make bench-soak                                # 30 minutes
    python benchmarks/soak.py --minutes 5

A U-Net learns from dirty images in a folder with `detail`, read by a worker process, logged to
tensorboard. Every minute it writes a line, a checkpoint and a grid of samples, and measures the
Frechet distance of 256 samples to the clean images. Another process looks at it from outside every
ten seconds: resident memory (with the worker's), open files, threads. Growth is the slope of a
straight line through the second half.

Writes benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "soak.json"
EVERY_SECONDS = 10
CONFIG = """
data: {{name: image_folder, train_data_dir: {photos}, dataloader_num_workers: 1}}
contamination: {{kind: gaussian, rate: 0.9, sigma: 0.2}}
model:
  prediction_type: v_prediction
  network:
    {{_class_name: UNet2DModel, block_out_channels: [32, 64], layers_per_block: 1,
     down_block_types: [DownBlock2D, DownBlock2D], up_block_types: [UpBlock2D, UpBlock2D]}}
objective: {{name: detail, start_step: 100}}
training:
  {{train_batch_size: 64, max_train_steps: {n_steps}, n_threads: 1, learning_rate: 2.0e-4,
   log_every_steps: {every}, validation_steps: {every}, checkpointing_steps: {every}}}
sampling: {{n_images: 64, num_inference_steps: 10}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.train:
        folder, n_steps, every = words.train
        train_and_evaluate(Path(folder), int(n_steps), int(every))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "photos")
        start = [sys.executable, __file__, "--train", folder]
        # a short run first: how many steps a minute has
        subprocess.run([*start, "100", "1000"], check=True, stderr=subprocess.DEVNULL)
        said = json.loads((Path(folder) / "out" / "training.json").read_text())
        every = max(1, round(60 / said["seconds_per_step"]))
        n_steps = round(every * words.minutes)
        child = subprocess.Popen([*start, str(n_steps), str(every)], stderr=subprocess.DEVNULL)
        seen, started = [], time.monotonic()
        while child.poll() is None:
            seen.append({"seconds": time.monotonic() - started, **look_at(child.pid)})
            time.sleep(EVERY_SECONDS)
        if child.returncode != 0:
            raise SystemExit(f"the training ended with {child.returncode}")
        lines = (Path(folder) / "out" / "metrics.jsonl").read_text().splitlines()
        looked = [json.loads(line) for line in lines if "frechet" in line]
    report(seen[:-1], looked, n_steps, every)


def write_photos(folder: Path) -> None:
    """The digits as files."""
    from PIL import Image

    from sparring.data.sets.digits import digits_arrays

    folder.mkdir()
    for number, one in enumerate((digits_arrays()[0][:, 0] * 255).byte().numpy()):
        Image.fromarray(one).resize((16, 16)).save(folder / f"{number:04d}.png")


def train_and_evaluate(folder: Path, n_steps: int, every: int) -> None:
    """The run, with an evaluation beside its samples."""
    import torch

    from sparring.assembly.build import build_dataset
    from sparring.commands.train.run import trained_of
    from sparring.config.read import resolve
    from sparring.data.datasets import build_dataset as clean_data
    from sparring.evaluation.metrics.frechet_distance import frechet_distance
    from sparring.sampling.images import grid
    from sparring.sampling.sample import sample
    from sparring.training import Feed, Hooks, train

    torch.set_num_threads(1)
    (folder / "run.yaml").write_text(
        CONFIG.format(photos=folder / "photos", n_steps=n_steps, every=every)
    )
    config = resolve(folder / "run.yaml", ["training.overwrite_output_dir=true"])
    data = build_dataset(config)
    model, trained = trained_of(config, data, folder)
    clean = clean_data("image_folder", train_data_dir=str(folder / "photos")).read_all()["x0"]

    def evaluate(denoiser: Any) -> dict[str, float]:
        drawn = sample(model, 256, num_inference_steps=10, seed=1)
        features = [x.flatten(1).double() for x in (clean, (drawn + 1) / 2)]
        return {"frechet_distance": frechet_distance(*features)}

    hooks = Hooks(
        sample_fn=lambda _, path: grid(sample(model, 64, num_inference_steps=10)).save(path),
        evaluate_fn=evaluate,
    )
    words = config.model_dump(mode="json")
    train(trained, Feed(data, n_workers=1), config.training, folder / "out", hooks, words)


def look_at(number: int) -> dict[str, float]:
    """Memory in MiB, open files and threads of a process, and the memory of its children."""
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return {
        "memory": resident(number),
        "memory_of_workers": sum(resident(int(child)) for child in children),
        "files": len(list(Path(f"/proc/{number}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{number}/task").iterdir())),
    }


def resident(number: int) -> float:
    """MiB that a process holds; 0 if it is gone."""
    try:
        status = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found[0]) / 1024 if found else 0.0


def report(
    seen: list[dict[str, float]], looked: list[dict[str, float]], n_steps: int, every: int
) -> None:
    """Print a table by the minute, and the growth over the second half; keep both."""
    names = ("memory", "memory_of_workers", "files", "threads")
    print("| minute | memory, MiB | of workers | open files | threads |\n|---|---|---|---|---|")
    for minute in range(0, int(seen[-1]["seconds"] // 60) + 1, 3):
        near = [one for one in seen if 60 * minute <= one["seconds"] < 60 * minute + 60]
        means = [np.mean([one[name] for one in near]) for name in names]
        print(f"| {minute} | " + " | ".join(f"{mean:.0f}" for mean in means) + " |")
    half = [one for one in seen if one["seconds"] > seen[-1]["seconds"] / 2]
    hours = np.array([one["seconds"] / 3600 for one in half])
    growth = {name: float(np.polyfit(hours, [one[name] for one in half], 1)[0]) for name in names}
    spread = {name: float(np.ptp([one[name] for one in half])) for name in names}
    minutes = seen[-1]["seconds"] / 60
    for name in names:
        print(f"{name}: {growth[name]:+.1f} per hour, largest less smallest {spread[name]:.1f}")
    print(f"{n_steps} steps, {len(looked)} evaluations, one in {every} steps, {minutes:.0f} min")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {
                "minutes": minutes, "n_steps": n_steps, "every": every,
                "n_evaluations": len(looked), "growth_per_hour": growth,
                "spread_of_second_half": spread, "seen": seen,
            },
            indent=1,
        )
        + "\n"
    )  # fmt: skip


if __name__ == "__main__":
    main()
