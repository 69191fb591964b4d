"""From a data set to what the objective sees of a batch, and the randomness that goes with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Loader, make_loader, rows_of
from ..diffusion.parametrization import column
from ..diffusion.randomness import StepRandom

ConditionFn = Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
"""The conditions of a batch from the data set, by the network's argument names: as training tells
them, and as sampling does ({} where nothing is sampled)."""
EncodeFn = Callable[[dict[str, Any], StepRandom], Tensor]
"""x0 as the model is to see it, such as latents, of a batch and the step's random numbers; the
batch's x0 is mirrored already, where `mirrored` (B,) says so."""


@dataclass(frozen=True)
class BatchAddress:
    """The place of a batch in a run: all that decides the random numbers of a step."""

    seed: int
    step: int  # updates of the model before the batch
    n_batches: int  # global batches before it
    turn: int  # of a batch that failed: in which turn, from 0
    n_global: int  # how the global batch is dealt
    n_own: int
    n_micro: int
    n_processes: int

    def random(self, process: int, micro: int, device: torch.device) -> StepRandom:
        """The random numbers of one micro-batch of one process."""
        rows = rows_of(micro, process, self.n_processes, self.n_own)
        return StepRandom(self.seed, self.n_batches, self.n_global, rows, device, micro=micro)


@dataclass(frozen=True)
class Feed:
    """The data set, and what is made of its samples on the device that trains."""

    dataset: Any  # samples, as in `sparring.data`
    random_flip: bool = False  # mirror each image with probability 1/2
    encode_fn: EncodeFn | None = None
    condition_fn: ConditionFn | None = None
    numbers: Tensor | None = None  # of the samples of an epoch, (n,); None: each of them once
    n_workers: int = 0  # processes that read data, per training process; 0 reads in this one

    def loader(self, start: BatchAddress, process: int, device: torch.device) -> Loader:
        """The micro-batches of one process, from a batch of the run on, without end."""
        return make_loader(
            self.dataset,
            start.seed,
            start.n_global,
            n_micro=start.n_micro,
            rank=process,
            world_size=start.n_processes,
            first_batch=start.n_batches,
            numbers=self.numbers,
            n_workers=self.n_workers,
            pin_memory=device.type == "cuda",
        )

    def prepared(
        self, read: Mapping[str, Any], rng: StepRandom, dtype: torch.dtype
    ) -> dict[str, Any]:
        """A micro-batch as the objective sees it: mirrored, encoded, with its conditions."""
        batch = {**read, "x0": read["x0"].to(dtype)}
        if self.random_flip:
            u = rng.uniform("flip")
            batch |= {"x0": mirror(batch["x0"], u), "mirrored": u < 0.5}
            if "trust" in batch:
                batch["trust"] = batch["trust"].mirrored(batch["mirrored"])
        if self.encode_fn is not None:
            batch |= {"image": batch["x0"], "x0": self.encode_fn(batch, rng)}
        if self.condition_fn is not None:
            batch["cond"], batch["sampling_cond"] = self.condition_fn(batch)
        return batch


def mirror(x0: Tensor, u: Tensor) -> Tensor:
    """Images (B, C, H, W) mirrored left to right where u (B,) < 1/2."""
    return torch.where(column(u < 0.5, x0), x0.flip(-1), x0)
