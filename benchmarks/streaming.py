"""Reading images from tar shards against a folder of files, and how often each byte is read.

    python benchmarks/streaming.py [N_IMAGES]

Writes N_IMAGES (4,000) JPEG files of 128x128 pixels to a temporary folder and to 20 shards, then
reads one epoch of each at 64x64 in batches of 64, from the page cache, in turns. The bytes are
those of the requests that all processes and workers make in an epoch, over the bytes of the shards.
"""

import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from sparring.data.base import Dataset
from sparring.data.batches import make_loader
from sparring.data.datasets import build_dataset
from sparring.data.streams import tar_shards

N_SHARDS, BATCH, N_ROUNDS = 20, 64, 5
read_range = tar_shards.read_range


def jpegs(n: int) -> Iterator[tuple[str, bytes]]:
    """Smooth random pictures, about 4 kB each."""
    rng = np.random.RandomState(0)
    for i in range(n):
        small = Image.fromarray(rng.randint(0, 256, (16, 16, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((128, 128), Image.Resampling.BICUBIC).save(out, "jpeg", quality=90)
        yield f"{i:06d}.jpg", out.getvalue()


def write(root: Path, n: int) -> tuple[Path, str]:
    """The folder, and the shards' name with braces."""
    folder = root / "files"
    folder.mkdir()
    per_shard = -(-n // N_SHARDS)
    tar = None
    for i, (name, content) in enumerate(jpegs(n)):
        (folder / name).write_bytes(content)
        if i % per_shard == 0:
            if tar is not None:
                tar.close()
            tar = tarfile.open(root / f"shard-{i // per_shard:03d}.tar", "w")  # noqa: SIM115
        assert tar is not None
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    assert tar is not None
    tar.close()
    return folder, str(root / f"shard-{{000..{(n - 1) // per_shard:03d}}}.tar")


def images_per_second(dataset: Dataset, n_workers: int) -> tuple[float, float]:
    """Over an epoch after the first batch, which starts the workers: by the clock, and by the
    processor time of this process."""
    n_batches = len(dataset) // BATCH
    batches = iter(make_loader(dataset, 0, BATCH, n_batches=n_batches, n_workers=n_workers))
    next(batches)
    started, worked = time.perf_counter(), time.process_time()
    n = sum(len(batch["x0"]) for batch in batches)
    return n / (time.perf_counter() - started), n / (time.process_time() - worked)


def bytes_read(dataset: Dataset, root: Path, world_size: int, n_workers: int) -> tuple[int, int]:
    """Requests and their bytes in an epoch, of all processes and workers."""
    log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC)

    def logged(url: str, start: int, end: int) -> bytes:
        os.write(log, f"{end - start}\n".encode())
        return read_range(url, start, end)

    tar_shards.read_range = logged
    for rank in range(world_size):
        loader = make_loader(
            dataset, 0, BATCH, rank=rank, world_size=world_size,
            n_batches=len(dataset) // BATCH, n_workers=n_workers,
        )  # fmt: skip
        for _ in loader:
            pass
    tar_shards.read_range = read_range
    os.close(log)
    sizes = [int(line) for line in (root / "log").read_text().splitlines()]
    return len(sizes), sum(sizes)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    n -= n % BATCH  # whole batches: an epoch is an epoch
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["SPARRING_CACHE"] = str(root / "cache")
        folder, shards = write(root, n)
        files = build_dataset("image_folder", train_data_dir=str(folder), resolution=64)
        started = time.perf_counter()
        tars = build_dataset("webdataset", data_files=shards, resolution=64)
        indexed = time.perf_counter() - started
        started = time.perf_counter()
        build_dataset("webdataset", data_files=shards, resolution=64)
        opened = time.perf_counter() - started
        total = sum(path.stat().st_size for path in root.glob("*.tar"))
        print(json.dumps({"n_images": n, "bytes_of_shards": total, "first_open_seconds": indexed,
                          "next_open_seconds": opened}))  # fmt: skip
        for n_workers in (0, 2):
            speeds: dict[str, list[tuple[float, float]]] = {"folder": [], "shards": []}
            for _ in range(N_ROUNDS):
                for label, dataset in (("folder", files), ("shards", tars)):
                    speeds[label].append(images_per_second(dataset, n_workers))
            for label, rounds in speeds.items():
                clock, worked = (sorted(map(round, one)) for one in zip(*rounds, strict=True))
                said: dict[str, object] = {"data": label, "n_workers": n_workers}
                said["images_per_second"] = {"median": median(clock), "all": clock}
                if n_workers == 0:
                    said["per_second_of_processor"] = {"median": median(worked), "all": worked}
                print(json.dumps(said), flush=True)
        for world_size, n_workers in ((1, 0), (1, 2), (2, 0), (2, 2)):
            n_requests, n_bytes = bytes_read(tars, root, world_size, n_workers)
            print(json.dumps({"n_processes": world_size, "n_workers": n_workers,
                              "requests": n_requests,
                              "bytes_over_shards": round(n_bytes / total, 4)}))  # fmt: skip


if __name__ == "__main__":
    main()
