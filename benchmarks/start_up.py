"""Seconds before a training learns: to its first step, and to read and hold images.

    python benchmarks/start_up.py

**first_step**: from the command `sparring train digits objective=plain` to the first update of the
weights, each in a fresh process; `n_modules` are those imported by then. **reading**: 10,000 PNG
files of 32x32 pixels, and as many rows of a parquet file, from `build_dataset` to the data set. The
least of `--rounds` counts: it is the one that other work disturbed least.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from peers import N_IMAGES, write_images

OUTPUT = Path(__file__).resolve().parent / "results" / "start_up.json"
FIRST_STEP = """
import json, sys, time
began = float(sys.argv[1])
from torch.optim import AdamW
def step(*_, **__):
    print(json.dumps({"seconds": time.time() - began, "n_modules": len(sys.modules)}))
    raise SystemExit
AdamW.step = step
from sparring.cli import main
main(["train", "digits", "objective=plain", f"training.output_dir={sys.argv[2]}"])
"""
READING = """
import json, sys, time
from sparring.data.datasets import build_dataset
if sys.argv[1] == "parquet":
    import datasets  # a second of its own, which is no reading
began = time.time()
data = build_dataset(sys.argv[1], **{sys.argv[2]: sys.argv[3]})
print(json.dumps({"seconds": time.time() - began, "is_held": data.held is not None}))
"""


def told(script: str, *words: str) -> dict[str, float]:
    """What a script says in its last line of JSON."""
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{words} failed: {done.stderr[-2000:]}")
    return json.loads(lines[-1])


def write_table(images: Path, file: Path) -> None:
    import datasets

    cells = [{"bytes": path.read_bytes(), "path": None} for path in sorted(images.iterdir())]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(str(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n-images", type=int, default=N_IMAGES)
    words = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    with TemporaryDirectory() as place:
        os.environ["HF_DATASETS_CACHE"] = str(Path(place) / "cache")
        folder = write_images(Path(place) / "images", words.n_images)
        table = Path(place) / "images.parquet"
        write_table(folder, table)
        for number in range(words.rounds):
            run = str(Path(place) / f"run{number}")
            for name, result in (
                ("first_step", told(FIRST_STEP, repr(time.time()), run)),
                ("reading_folder", told(READING, "image_folder", "train_data_dir", str(folder))),
                ("reading_parquet", told(READING, "parquet", "data_files", str(table))),
            ):
                found.setdefault(name, []).append(result)
    least = {name: min(rows, key=lambda row: row["seconds"]) for name, rows in found.items()}
    about = {
        "command": f"python benchmarks/start_up.py --rounds {words.rounds}",
        "n_images": words.n_images,
    }
    OUTPUT.write_text(json.dumps({**about, **least}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(least, indent=2))


if __name__ == "__main__":
    main()
