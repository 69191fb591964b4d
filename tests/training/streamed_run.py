"""Training on shards for `torchrun --nproc_per_node 2 streamed_run.py FOLDER FIELDS N_STEPS`.

It trains 7 steps, resumes, and writes the samples of its batches to FOLDER/indices-<rank>.json:
their numbers, and how noisy each is judged to be when it is read.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from tiny_runs import run

from simple_detectors import Bright
from sparring.data.audit import judging, registry
from sparring.data.audit.audit import audit_images
from sparring.data.base import Dataset, Wrapper
from sparring.data.datasets import build_dataset
from sparring.data.trust.trusted import ByJudge, Trusted
from sparring.support import shared_errors
from sparring.support.errors import UserError


class Colours(Wrapper):
    """Images of one pixel as vectors, so that the smallest network learns from them."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.sample_shape, self.is_image = (3,), False

    def rows(self, indices, positions):
        batch = self.dataset.rows(indices, positions)
        trust = batch["trust"]._replace(clipped=torch.zeros(len(indices)) > 0)  # for images alone
        return {**batch, "x0": 2 * batch["x0"].flatten(1) - 1, "trust": trust}

    def fingerprint(self):
        return self.dataset.fingerprint()


def judged(dataset: Dataset) -> Trusted:
    """A stream of which a sample fixed what noise is; `Bright` is the one detector here."""
    registry.all_detectors = lambda: {"bright": Bright()}
    judging.LEAST_SIDE = 1
    audit = audit_images(dataset, n_sample=20)
    assert not audit.is_whole
    return Trusted(dataset, ByJudge(audit.judge, audit.table))


def streamed_run(folder, fields, n_steps, *, n_workers=0, n_processes=1, resume=False):
    """Train on global batches of 16; of the rows of this process, index and judged noise."""
    seen = []

    def look(batch):
        noise = batch["trust"].sigma.tolist()
        seen.append([list(row) for row in zip(batch["index"].tolist(), noise, strict=True)])
        return {}, {}

    torch.manual_seed(0)
    data = Colours(judged(build_dataset(**fields)))
    run(
        folder, data=data, n_workers=n_workers, condition_fn=look,
        train_batch_size=16 // n_processes, max_train_steps=n_steps, log_every_steps=1,
        **({"resume_from_checkpoint": "latest"} if resume else {}),
    )  # fmt: skip
    return seen


def for_long():
    """What each process hears of the main one, for which it has to ask several times."""
    shared_errors.SLICE_SECONDS = 0.05

    def work():
        time.sleep(0.3)
        return os.environ["RANK"]

    def refuse():
        time.sleep(0.1)
        raise UserError("refused")

    heard = [shared_errors.on_main_for_long(work)]
    try:
        shared_errors.on_main_for_long(refuse)
    except UserError as error:
        heard.append(str(error))
    return heard


def main() -> None:
    folder, fields, n_steps = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    options = {"n_workers": 2, "n_processes": 2}
    seen = streamed_run(folder, fields, 7, **options)
    seen += streamed_run(folder, fields, n_steps, **options, resume=True)
    (folder / f"indices-{os.environ['RANK']}.json").write_text(json.dumps(seen))
    (folder / f"long-{os.environ['RANK']}.json").write_text(json.dumps(for_long()))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
