"""Training on shards for `torchrun --nproc_per_node 2 streamed_run.py FOLDER FIELDS N_STEPS`.

It trains 7 steps, resumes, and writes the samples of its batches to FOLDER/indices-<rank>.json.
"""

import json
import os
import sys
from pathlib import Path

import torch
from tiny_runs import run

from sparring.data.base import Wrapper
from sparring.data.datasets import build_dataset


class Colours(Wrapper):
    """Images of one pixel as vectors, so that the smallest network learns from them."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.sample_shape, self.is_image = (3,), False

    def rows(self, indices, positions):
        batch = self.dataset.rows(indices, positions)
        return {**batch, "x0": 2 * batch["x0"].flatten(1) - 1}

    def fingerprint(self):
        return self.dataset.fingerprint()


def streamed_run(folder, fields, n_steps, *, n_workers=0, n_processes=1, resume=False):
    """Train on global batches of 16; the indices of each batch's rows of this process."""
    seen = []

    def look(batch):
        seen.append(batch["index"].tolist())
        return {}, {}

    torch.manual_seed(0)
    run(
        folder, data=Colours(build_dataset(**fields)), n_workers=n_workers, condition_fn=look,
        train_batch_size=16 // n_processes, max_train_steps=n_steps, log_every_steps=1,
        **({"resume_from_checkpoint": "latest"} if resume else {}),
    )  # fmt: skip
    return seen


def main() -> None:
    folder, fields, n_steps = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    options = {"n_workers": 2, "n_processes": 2}
    seen = streamed_run(folder, fields, 7, **options)
    seen += streamed_run(folder, fields, n_steps, **options, resume=True)
    (folder / f"indices-{os.environ['RANK']}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
