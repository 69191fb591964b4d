"""Images in shards: read window by window in the order of training, and anywhere else on request.

`ShardFiles` says which samples lie in which shard and reads some that lie together;
`ShardedImages` is the data set. Tar files are in `tar_shards`, Hugging Face's streams in
`table_shards`.
"""

import copy
import json
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...support.cache import cache_folder, key_of
from ...support.whole_files import whole_file
from ..base import Batch, digest
from ..files.images import ImageDataset
from ..files.source import Files, Source
from .shard_order import Sharding, ShardOrder, Window

READ_AHEAD = 32  # samples read at once where one after the other is asked for, outside training
N_PLACES = 8  # where the data are looked at before training


class ShardFiles(Files):
    """Encoded images in shards. Abstract.

    Held are a window for each lane of the order that is followed, and outside of training a few
    neighbours of the last sample that was asked for. `sizes` are the samples in each shard, `rows`
    those of all samples that are kept, rising (None: all).
    """

    def __init__(
        self, origin: str, shards: Sequence[str], sizes: Sequence[int], rows: Tensor | None = None
    ) -> None:
        self.origin, self.shards = origin, list(shards)
        self.ends = torch.tensor(list(accumulate(sizes)), dtype=torch.long)
        self.kept = torch.arange(sum(sizes)) if rows is None else rows
        number = torch.searchsorted(self.ends, self.kept, right=True)
        self.sizes: list[int] = number.bincount(minlength=len(self.shards)).tolist()
        self.starts = [0, *accumulate(self.sizes)]
        self.windows: dict[int, tuple[Window | None, dict[int, bytes]]] = {}
        self.last = -1

    def __len__(self) -> int:
        return len(self.kept)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "windows": {}}  # a copy holds nothing yet

    def select(self, rows: Sequence[int]) -> "ShardFiles":
        mine = copy.copy(self)
        sizes = self.ends.diff(prepend=torch.zeros(1, dtype=torch.long)).tolist()
        chosen = self.kept[torch.tensor(rows, dtype=torch.long)]
        if (chosen.diff() <= 0).any():
            raise ValueError("samples in shards keep their order")
        ShardFiles.__init__(mine, self.origin, self.shards, sizes, chosen)
        return mine

    def shard_of(self, index: int) -> int:
        """The number of the shard that holds a sample."""
        return bisect_right(self.starts, index) - 1

    @abstractmethod
    def table(self) -> list[Any]:
        """What is known of the samples without reading them, for the fingerprint."""

    def surveyed(self) -> list[int]:
        """A few neighbours in some places: the content has to be read for its header."""
        starts = self.probes()
        starts = starts[:: -(-len(starts) // N_PLACES)]
        n = 1 + READ_AHEAD  # as many as two requests bring, see `open`
        return sorted({i for start in starts for i in range(start, min(start + n, len(self)))})

    @abstractmethod
    def read(self, shard: int, first: int, last: int) -> dict[int, bytes]:
        """Samples `first` to `last` - 1, all of one shard: the encoded image by index, b"" where
        it cannot be read."""

    def hold(self, window: Window) -> None:
        """Read the window of a lane, which takes the place of the lane's window before."""
        if self.windows.get(window.lane, (None,))[0] != window:
            self.windows.pop(window.lane, None)
            read: dict[int, bytes] = {}
            for first, last in window.ranges:
                read |= self.read(self.shard_of(first), first, last)
            self.windows[window.lane] = window, read

    def open(self, index: int) -> bytes:
        for _, held in self.windows.values():
            if index in held:
                return held[index]
        shard = self.shard_of(index)
        n = READ_AHEAD if index == self.last + 1 else 1
        last = min(index + n, self.starts[shard + 1])
        self.last = last - 1
        read = self.read(shard, index, last)
        self.windows[-1] = None, read  # no lane's
        return read[index]


class ShardedImages(ImageDataset):
    """Images in shards: an `ImageDataset` that is read in the order of `shard_order`, see
    `Sharding`."""

    files: ShardFiles
    sharding: Sharding
    order: ShardOrder | None = None

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        n_lanes: int | None = None,
        buffer: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, source, **options)
        self.sharding = Sharding(self.files.sizes, n_lanes, buffer)

    def following(self, order: ShardOrder) -> "ShardedImages":
        mine = copy.copy(self)
        mine.order, mine.files = order, copy.copy(self.files)
        return mine

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        if self.order is not None:
            for position in positions.tolist():
                self.files.hold(self.order.window_of(position))
        return super().rows(indices, positions)

    def fingerprint(self) -> str:
        content = super().fingerprint(), self.files.sizes, self.files.table()
        return digest(*content, *self.sharding[1:])  # a run must not resume in another order

    def _hold(self) -> tuple[None, Tensor]:
        return None, torch.arange(len(self))  # shards are not read whole at the start


def kept_in() -> Path:
    """The folder of what is known about shards: $SPARRING_CACHE/shards."""
    return cache_folder() / "shards"


def remembered(key: Sequence[object], make: Callable[[], Any]) -> Any:
    """What `make` gives (as JSON), kept in the cache folder under a key. A folder that cannot be
    written, or a file that is not whole, costs the time to make it again."""
    path = kept_in() / f"{key_of(*key)}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = make()
    with suppress(OSError), whole_file(path) as half:
        half.write_text(json.dumps(made), encoding="utf-8")
    return made
