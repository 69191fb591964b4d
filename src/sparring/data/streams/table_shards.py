"""Parquet files and hub data sets as streams: Hugging Face's `IterableDataset`, exactly resumed.

A stream has no places to jump to: what is read is what comes next. So each lane of the order goes
on with a stream of its own shard, and a stream that is not there is opened at the shard's start
and read up to the place. A parquet file counts as many shards, one per row group (datasets >= 5).
One pass finds how many rows each shard has, their classes and captions, kept in the cache folder.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from ...support.errors import UserError
from ..files.hub import call_datasets, parquet_files, split_of
from ..files.source import Columns, Source
from ..files.tables import chosen, column_captions, described, encoded_images
from .addresses import attempt, found
from .shards import ShardFiles, kept_in, remembered

log = logging.getLogger(__name__)

VERSION = 2  # of what is kept: a change must raise it
CHUNK, COUNT_CHUNK = 32, 1000


class StreamFiles(ShardFiles):
    """The image column of a Hugging Face `IterableDataset`, alone and in Arrow's format. `sizes`
    are the rows of each of its shards; with `has_paths` a cell may name a file instead of holding
    the image."""

    def __init__(
        self, origin: str, stream: Any, column: str, sizes: Sequence[int], has_paths: bool = False
    ) -> None:
        shards = [f"{origin}, shard {number}" for number in range(len(sizes))]
        super().__init__(origin, shards, sizes)
        self.stream, self.column, self.has_paths = stream, column, has_paths
        # By (shard, the index that is read next): the rows from `row` of the shard on.
        self.cursors: OrderedDict[tuple[int, int], tuple[int, Iterator[Any]]] = OrderedDict()
        self.process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "cursors": OrderedDict()}

    def where(self, index: int) -> str:
        shard, row = self._row(index)
        return f"{self.shards[shard]}, row {row}"

    def table(self) -> list[Any]:
        return self.kept.tolist()

    def probes(self) -> list[int]:
        """First samples of some shards, where streams start."""
        starts = [i for i, n in zip(self.starts, self.sizes, strict=False) if n]
        return sorted({starts[i * len(starts) // 8] for i in range(8)})

    def read(self, shard: int, first: int, last: int) -> dict[int, bytes]:
        if self.process != os.getpid():  # open files must not be shared with a forked process
            self.cursors, self.process = OrderedDict(), os.getpid()
        start = self._row(first)[1]
        row, cells = self.cursors.pop((shard, first), (0, None))
        if cells is None:
            cells = self._open(shard)
        read = {}
        try:
            for index in range(first, last):
                wanted = start if index == first else self._row(index)[1]
                for _ in range(wanted - row):
                    next(cells)
                read[index] = self._content(next(cells).as_py())
                row = wanted + 1
        except StopIteration:
            changed = f"{self.shards[shard]} has changed: it has less than {row} rows"
            raise UserError(changed) from None
        if last < self.starts[shard + 1]:
            self.cursors[shard, last] = row, cells
        while len(self.cursors) > 2 * len(self.windows) + 2:  # left where other lanes go on
            self.cursors.popitem(last=False)
        return read

    def _row(self, index: int) -> tuple[int, int]:
        shard, row = self.shard_of(index), int(self.kept[index])
        return shard, row - (int(self.ends[shard - 1]) if shard else 0)

    def _content(self, cell: dict[str, Any] | None) -> bytes:
        cell = cell or {}
        if cell.get("bytes") or not (self.has_paths and cell.get("path")):
            return cell.get("bytes") or b""
        try:
            return attempt(cell["path"], lambda fs, path: fs.cat_file(path))
        except UserError:
            return b""

    def _open(self, shard: int) -> Iterator[Any]:
        """The cells of a shard. `iter`, as `__iter__` would divide them among loader workers."""
        one = self.stream.shard(num_shards=self.stream.num_shards, index=shard)
        for chunk in one.iter(batch_size=CHUNK):
            yield from chunk[self.column]


def parquet_stream(data_files: str | Sequence[str] | None, columns: Columns) -> Source:
    """Parquet files as `tables.parquet` reads them, without reading them whole at the start."""
    patterns = parquet_files(data_files)
    files = [file for pattern in patterns for file in found(pattern)]
    origin = ", ".join(patterns)
    builder = call_datasets(origin, "load_dataset_builder", "parquet", data_files=files)
    return _source(origin, builder, "train", columns)


def huggingface_stream(
    name: str, config_name: str | None, split: str, columns: Columns, own_held_out: bool = False
) -> Source:
    """A hub data set as `tables.huggingface` reads it, without fetching it at the start."""
    builder = call_datasets(name, "load_dataset_builder", name, config_name)
    splits = call_datasets(name, builder.as_streaming_dataset)
    which = split_of(name, splits, split, own_held_out)
    source = _source(f"data set '{name}'", builder, which, columns)
    source.is_split = which != "train"
    return source


def _source(origin: str, builder: Any, split: str, asked: Columns) -> Source:
    stream = _stream(origin, builder, split)
    remarks: list[str] = []
    image, label = chosen(origin, stream.features, asked, remarks)

    def count(split: str, stream: Any, columns: Columns) -> dict[str, Any]:
        key = ["stream", VERSION, builder.cache_dir, split, columns.label, columns.caption]
        return remembered(key, lambda: call_datasets(origin, _count, origin, stream, columns))

    def train() -> list[Any]:
        return count("train", _stream(origin, builder, "train"), Columns(image, label))["labels"]

    counted = count(split, stream, Columns(image, label, asked.caption))
    if sum(counted["sizes"]) == 0:
        raise UserError(f"{origin} has no rows")
    cells = encoded_images(origin, stream, image).with_format("arrow")
    # Only a folder's images are files of their own: a table must not name files of this machine.
    has_paths = builder.name == "imagefolder"
    files = StreamFiles(origin, cells, image, counted["sizes"], has_paths)
    has_train = split != "train" and "train" in (builder.info.splits or ())
    of_train = train if has_train else None
    return described(files, stream.features, asked, label, counted.__getitem__, of_train, remarks)


def _stream(origin: str, builder: Any, split: str) -> Any:
    stream = call_datasets(origin, builder.as_streaming_dataset, split=split)
    if hasattr(stream, "reshard"):  # datasets >= 5: a shard per row group
        stream = call_datasets(origin, stream.reshard)
    if stream.features is None:
        raise UserError(f"{origin} does not say its columns, so it cannot be streamed")
    return stream


def _count(origin: str, stream: Any, columns: Columns) -> dict[str, Any]:
    """Rows of each shard, and the labels and captions of all, as JSON keeps them."""
    log.warning("counting the rows of %d shard(s), once; kept in %s", stream.num_shards, kept_in())
    _, label, caption = columns
    read = list(dict.fromkeys(one for one in (label, caption) if one is not None))
    narrow = stream.select_columns(read or [columns.image]).with_format("arrow")
    kept: dict[str, list[Any]] = {"sizes": [], "labels": [], "captions": []}
    for number in range(stream.num_shards):
        kept["sizes"].append(0)
        shard = narrow.shard(num_shards=stream.num_shards, index=number)
        for chunk in shard.iter(batch_size=COUNT_CHUNK):
            kept["sizes"][-1] += len(chunk)
            if label is not None:
                kept["labels"] += map(_kept, chunk[label].to_pylist())
            if caption is not None:
                values, first = chunk[caption].to_pylist(), len(kept["captions"])
                kept["captions"] += column_captions(origin, caption, values, first)
    return kept


def _kept(label: Any) -> Any:
    """A label as JSON keeps it; what is none stays none."""
    if isinstance(label, bytes):
        try:
            return label.decode("utf-8")
        except UnicodeDecodeError:
            return [repr(label)]
    return label if isinstance(label, (bool, int, float, str, type(None))) else [repr(label)]
