"""Tar files as webdataset writes them, on the disk or behind a URL, and their index.

    source = webdataset("shards/train-{000..019}.tar", Columns())

The index (name, place and size of each image, label, caption; see `tar_index`) is made once from
the tar headers and kept in the cache folder; with it, samples that lie together are read by one
request for a range of bytes.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from ...support.errors import UserError
from ..captions import caption_of
from ..classes import named
from ..files.folder import split_name
from ..files.hub import TRAIN, listed
from ..files.listing import EXTENSIONS
from ..files.source import Columns, Source
from .addresses import attempt, found, read_range
from .shards import ShardFiles, kept_in, remembered
from .tar_index import ENTRY, UNREADABLE, make_index

log = logging.getLogger(__name__)

VERSION = 2  # of the index: a change of what it holds must raise it
GAP_BYTES = 2**18  # samples so far apart or closer are read by one request


class TarFiles(ShardFiles):
    """The images of tar files, of which `index` is what `make_index` says of each shard."""

    def __init__(self, origin: str, shards: Sequence[str], index: Sequence[dict[str, Any]]) -> None:
        super().__init__(origin, shards, [len(one["names"]) for one in index])
        self.names, self.offsets, self.lengths = (
            [value for one in index for value in one[key]] for key in ENTRY[:3]
        )

    def where(self, index: int) -> str:
        return f"{self.shards[self.shard_of(index)]}: {self.names[int(self.kept[index])]}"

    def table(self) -> list[Any]:
        return [(self.names[row], self.lengths[row]) for row in self.kept.tolist()]

    def read(self, shard: int, first: int, last: int) -> dict[int, bytes]:
        spans = []
        read: dict[int, bytes] = {}
        for index, row in zip(range(first, last), self.kept[first:last].tolist(), strict=True):
            if self.offsets[row] == UNREADABLE:
                read[index] = b""
            else:
                spans.append((index, self.offsets[row], self.offsets[row] + self.lengths[row]))
        while spans:
            n = 1
            while n < len(spans) and 0 <= spans[n][1] - spans[n - 1][2] <= GAP_BYTES:
                n += 1
            near, spans = spans[:n], spans[n:]
            start = near[0][1]
            content = read_range(self.shards[shard], start, near[-1][2])
            read |= {index: content[a - start : b - start] for index, a, b in near}
        return read


def webdataset(data_files: str | Sequence[str] | None, columns: Columns) -> Source:
    """The samples of tar files, in the order in which the files are listed.

    Args:
        data_files: Paths or URLs (any that fsspec knows), with `{000..019}`, `{a,b}` and `*`.
        columns: The ending of the images' names (`jpg`, `left.png`; None: the first member of a
            sample that is an image by its ending), a key of the sample's `json` with an integer
            from 0 (None: the member `cls`), and one with a caption (None: the member `txt`).
    """
    patterns = listed(data_files, "the shards, for example shards/{000..019}.tar")
    shards = [shard for pattern in patterns for shard in found(pattern)]
    origin = ", ".join(patterns)
    started, n = itertools.count(), len(shards)

    def say() -> None:
        if next(started) == 0:
            log.warning("reading the headers of %d shard(s), once; kept in %s", n, kept_in())

    with ThreadPoolExecutor(8) as pool:
        index = list(pool.map(lambda shard: _index(shard, columns, say), shards))
    files = TarFiles(origin, shards, index)
    if len(files) == 0:
        ending = "an image" if columns.image is None else f"a '.{columns.image}' member"
        raise UserError(f"no sample of {origin} holds {ending}")
    labels, captions = ([value for one in index for value in one[key]] for key in ENTRY[3:])
    for key, values in (("label", labels), ("caption", captions)):
        column = getattr(columns, key)
        if column is not None and all(value is None for value in values):
            raise UserError(
                f"data.{key}_column: no sample of {origin} has '{column}' in its json member"
            )
    tensor, names = _labels(files, labels)
    captions = [caption_of(caption, origin) for caption in captions]  # JSON has lists for tuples
    has_captions = any(caption is not None for caption in captions)
    remarks = _remarks(shards, index) + _remark_on_splits(files)
    return Source(files, tensor, names, captions if has_captions else None, remarks=remarks)


def _index(shard: str, columns: Columns, say: Callable[[], None]) -> dict[str, Any]:
    info = attempt(shard, lambda fs, path: fs.info(path))
    stamp = map(str, map(info.get, ("ETag", "Last-Modified", "LastModified", "mtime", "created")))
    key = ["tar", VERSION, sorted(EXTENSIONS), shard, info.get("size"), *stamp, *columns]

    def read(fs: Any, path: str) -> dict[str, Any]:
        if info.get("partial") is False:
            raise UserError(f"{shard}: the server sends no ranges of bytes (HTTP Range)")
        with fs.open(path, "rb") as file:
            return make_index(shard, file, columns)

    def make() -> dict[str, Any]:
        say()
        return attempt(shard, read)

    return remembered(key, make)


def _remarks(shards: Sequence[str], index: Sequence[dict[str, Any]]) -> list[str]:
    """What is said of members that are part of no sample."""
    counts: dict[str, tuple[int, str]] = {}
    for shard, one in zip(shards, index, strict=True):
        for words, (n, name) in one["left_out"].items():
            before, first = counts.get(words, (0, f"{shard}: {name}"))
            counts[words] = before + n, first
    return [f"{n} {words}, the first is {first}" for words, (n, first) in counts.items()]


def _remark_on_splits(files: TarFiles) -> list[str]:
    """What is said of samples whose folders in the shards are of train and of another split."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in files.names)
    firsts: dict[str, str] = {}
    for folder in folders:
        for part in folder.split("/"):
            if (split := split_name(part)) is not None:
                firsts.setdefault("train" if split in TRAIN else split, folder)
    if "train" not in firsts or len(firsts) < 2:
        return []
    return [
        f"the shards hold folders of several splits ({', '.join(firsts.values())}), and all are "
        "read: write shards of their own for each split"
    ]


def _labels(files: TarFiles, labels: list[int | None]) -> tuple[Tensor | None, list[str]]:
    missing = next((i for i, label in enumerate(labels) if label is None), None)
    if missing is None:
        return named(labels)
    if any(label is not None for label in labels):
        raise UserError(f"{files.where(missing)} has no label, and other samples have one")
    return None, []
