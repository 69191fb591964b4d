r"""Which sample stands where: the order of training, the same for every number of processes.

The samples of all epochs form one stream; with n samples, its position k holds

    epoch k // n,   index perm(seed, epoch)[k mod n]

Global batch b takes positions [b B, (b + 1) B), so a batch may reach into the next epoch and none
is short. Its rows are dealt to micro-batches and processes: micro-batch m of process r takes rows
[(m W + r) b, (m W + r + 1) b), with W processes and b = B / (M W) rows each. Nothing depends on
what was read before: a run resumes at any batch at the cost of one permutation. Data in shards
have another order with the same properties: `shard_order`.

Where samples are to come more often than others, or never, `numbers` names those of an epoch; n is
how many these are, and the index is numbers[perm(seed, epoch)[k mod n]].
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..diffusion.randomness import generator
from ..support.errors import UserError
from ..support.terminal import echo
from .base import Batch, Dataset, joined
from .streams.shard_order import ShardOrder
from .workers import Waiting, WorkerLost, worker_init

MAX_LOST = 3  # workers that are replaced in a run; the next one ends it


def rows_of(micro: int, rank: int, world_size: int, n_local: int) -> slice:
    """The rows of the global batch that micro-batch `micro` (from 0) of process `rank` takes."""
    first = (micro * world_size + rank) * n_local
    return slice(first, first + n_local)


@dataclass
class BatchOrder:
    """The (index, position) lists of one process's micro-batches, in order; a batch sampler. B is a
    multiple of M W (ValueError)."""

    n_samples: int  # samples n of an epoch, the size of the data set where each comes once
    seed: int  # of the permutations
    n_global: int  # size B of the global batch
    n_micro: int = 1  # micro-batches M of a process in a global batch
    rank: int = 0  # this process
    world_size: int = 1  # number W of processes
    first_batch: int = 0  # the global batch to start at (resuming)
    n_batches: int | None = None  # how many global batches; None: without end
    shards: ShardOrder | None = None  # the order of samples in shards; None: a permutation of all
    n_parts: int = 1  # each micro-batch comes in so many parts, of consecutive rows
    numbers: Tensor | None = None  # those of an epoch's samples, (n,); None: 0 to n - 1

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise ValueError("the data set is empty")
        if self.n_global < 1 or self.n_global % (self.n_micro * self.world_size):
            raise ValueError(
                f"the global batch of {self.n_global} does not divide into {self.n_micro} "
                f"micro-batch(es) of {self.world_size} process(es)"
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch = self.first_batch
        while self.n_batches is None or batch < self.first_batch + self.n_batches:
            for micro in range(self.n_micro):
                keys = self.keys(batch, micro)
                for part in range(self.n_parts):
                    yield keys[self.part(part) : self.part(part + 1)]
            batch += 1

    @property
    def n_local(self) -> int:
        """Rows of a micro-batch of one process."""
        return self.n_global // (self.n_micro * self.world_size)

    def keys(self, batch: int, micro: int = 0) -> list[tuple[int, int]]:
        """(index, position in the stream) of each row of a micro-batch."""
        rows = rows_of(micro, self.rank, self.world_size, self.n_local)
        start = batch * self.n_global
        return [(self.index(k), k) for k in range(start + rows.start, start + rows.stop)]

    def part(self, number: int) -> int:
        """The first row of a part of a micro-batch; rows of one lane stay together."""
        together = 1 if self.shards is None else self.shards.per_lane
        n_lanes = -(-self.n_local // together)
        return min(n_lanes * number // self.n_parts * together, self.n_local)

    def index(self, position: int) -> int:
        """The sample at a position of the stream."""
        if self.shards is not None:
            return self.shards.index(position)
        epoch, place = divmod(position, self.n_samples)
        number = _permutation(self.n_samples, self.seed, epoch)[place]
        return int(number if self.numbers is None else self.numbers[number])


@lru_cache(maxsize=4)  # a batch may reach into the next epoch
def _permutation(n_samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n_samples, generator=generator("cpu", seed, "epoch", epoch))


class Loader:
    """Iterates over the micro-batches of one process; see `make_loader`.

    The loader below deals out its batches to the workers in turn, so part w of every micro-batch
    is read by worker w, and a window of a lane is read by one worker. If a worker dies, all are
    replaced and go on at the same micro-batch, a few times.
    """

    def __init__(self, order: BatchOrder, make: "Callable[[BatchOrder], DataLoader[Any]]") -> None:
        self.order, self.make = order, make

    def __iter__(self) -> Iterator[Batch]:
        n_read = n_lost = 0
        while True:
            try:
                for batch in self._from(n_read):
                    yield batch
                    n_read += 1
                return
            except WorkerLost as lost:
                n_lost += 1
                if n_lost > MAX_LOST:
                    raise UserError(
                        f"{n_lost} times a worker that reads data is gone ({lost}): it may have "
                        "run out of memory; lower data.dataloader_num_workers"
                    ) from lost
                echo(f"\nsparring: {lost}; the workers are replaced, no batch is lost", err=True)
            except UserError as error:
                raise UserError(last_line(error)) from None

    def _from(self, n_read: int) -> Iterator[Batch]:
        """The micro-batches after the first `n_read`."""
        n_batches, n_micros = divmod(n_read, self.order.n_micro)
        left = None if self.order.n_batches is None else self.order.n_batches - n_batches
        order = replace(self.order, first_batch=self.order.first_batch + n_batches, n_batches=left)
        parts = Waiting(self.make(order))
        for number in count():
            batch = list(islice(parts, order.n_parts))
            if not batch:
                return
            if number >= n_micros:
                yield batch[0] if len(batch) == 1 else joined(batch)


def make_loader(
    dataset: Dataset,
    seed: int,
    n_global: int,
    *,
    numbers: Tensor | None = None,
    n_workers: int = 0,
    pin_memory: bool = False,
    **deal: Any,
) -> Loader:
    """The micro-batches of one process: those of `first_batch`, then of the next, without end.

    Workers, processes and micro-batches change who reads a sample, never which; a loader draws
    nothing from the global random state. It has rows of all processes and micro-batches in each
    global batch, the samples of `numbers` in an epoch (None: each once), `n_workers` processes that
    read ahead (0: this one reads), page-locked tensors with `pin_memory`, and takes n_micro, rank,
    world_size, first_batch and n_batches of `BatchOrder`.
    """
    n_samples = len(dataset) if numbers is None else len(numbers)
    order = BatchOrder(n_samples, seed, n_global, numbers=numbers, **deal)
    sharding = getattr(dataset, "sharding", None)
    if sharding is not None:
        order.shards = ShardOrder(sharding, seed, n_global)
        n_workers = min(n_workers, max(1, order.n_local // order.shards.per_lane))
        order.n_parts = max(1, n_workers)
        dataset = dataset.following(order.shards)

    ahead = 4 * order.n_parts if n_workers else None
    reading = {"pin_memory": pin_memory, "prefetch_factor": ahead}
    return Loader(order, lambda order: reader(dataset, order, n_workers, seed, **reading))


def reader(
    dataset: Dataset, batches: Iterable[Any], n_workers: int, seed: int = 0, **reading: Any
) -> "DataLoader[Any]":
    """torch's loader of these batches of keys, which a data set answers whole."""
    return DataLoader(
        dataset,
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        collate_fn=_as_it_is,
        num_workers=n_workers,
        worker_init_fn=worker_init() if n_workers else None,
        generator=generator("cpu", seed, "workers"),
        **reading,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def last_line(error: UserError) -> str:
    """The message alone: a worker's error arrives with its traceback as text."""
    line = str(error).strip().splitlines()[-1]
    return line.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
