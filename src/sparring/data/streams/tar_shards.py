"""Tar files as webdataset writes them, on the disk or behind a URL, and their index.

    source = webdataset("shards/train-{000..019}.tar")

A sample is the members whose names agree up to the first dot of the base name: `0001.jpg`,
`0001.cls`, `0001.txt`; more on this in `tar_samples`. The index (name, place and size of each
image, label, caption) is made once from the tar headers and kept in the cache folder; with it,
samples that lie together are read by one request for a range of bytes. Nothing is ever extracted to
the disk.
"""

import io
import itertools
import json
import logging
import re
import tarfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, TypeVar

import fsspec
from torch import Tensor

from ...support.errors import UserError
from ..captions import Caption, caption_of
from ..classes import named
from ..files.allowed_files import as_text
from ..files.hub import TRAIN, check_one_split, listed
from ..files.listing import EXTENSIONS, hidden
from ..files.sources import Source
from ..files.splits import split_name
from .shards import ShardFiles, kept_in, remembered
from .tar_samples import LeftOut, Member, samples_of

log = logging.getLogger(__name__)

VERSION = 2  # of the index: a change of what it holds must raise it
MAX_IMAGE_BYTES = 2**26
MAX_TEXT_BYTES = 2**20
MAX_TEXTS_BYTES = 2**31
GAP_BYTES = 2**18
"""Samples so far apart or closer are read by one request."""
N_TRIES = 3
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
UNREADABLE = -1

T = TypeVar("T")


class TarFiles(ShardFiles):
    """The images of tar files.

    Args:
        origin: What an error message calls the whole.
        shards: URLs or paths.
        index: Of each shard, see `make_index`.
    """

    def __init__(self, origin: str, shards: Sequence[str], index: Sequence[dict[str, Any]]) -> None:
        super().__init__(origin, shards, [len(one["names"]) for one in index])
        self.names = [name for one in index for name in one["names"]]
        self.offsets = [offset for one in index for offset in one["offsets"]]
        self.lengths = [length for one in index for length in one["lengths"]]

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


def webdataset(
    data_files: str | Sequence[str] | None,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
) -> Source:
    """The samples of tar files, in the order in which the files are listed.

    Args:
        data_files: Paths or URLs (any that fsspec knows), with `{000..019}`, `{a,b}` and `*`.
        image_column: The ending of the images' names (`jpg`, `left.png`); None: the first member of
            a sample that is an image by its ending.
        label_column: A key of the sample's `json` with an integer from 0; None: the member `cls`.
        caption_column: A key of the sample's `json`; None: the member `txt`.

    Raises:
        UserError: if a shard cannot be read, is packed, cut short or damaged, if no sample holds an
            image, or only some hold a label.
    """
    patterns = listed(data_files, "the shards, for example shards/{000..019}.tar")
    shards = [shard for pattern in patterns for shard in found(pattern)]
    origin = ", ".join(patterns)
    columns = (image_column, label_column, caption_column)
    started = itertools.count()

    def say() -> None:
        if next(started) == 0:
            log.warning(
                "reading the headers of %d shard(s), once; kept in %s", len(shards), kept_in()
            )

    with ThreadPoolExecutor(8) as pool:
        index = list(pool.map(lambda shard: _index(shard, columns, say), shards))
    files = TarFiles(origin, shards, index)
    if len(files) == 0:
        ending = "image" if image_column is None else f"'.{image_column}' member"
        raise UserError(f"no sample of {origin} holds an {ending}".replace("an '", "a '"))
    labels, captions = (
        [value for one in index for value in one[name]] for name in ("labels", "captions")
    )
    for key, column, values in (
        ("label_column", label_column, labels), ("caption_column", caption_column, captions)
    ):  # fmt: skip
        if column is not None and not any(value is not None for value in values):
            raise UserError(f"data.{key}: no sample of {origin} has '{column}' in its json member")
    tensor, names = _labels(files, labels)
    captions = [caption_of(caption, origin) for caption in captions]  # JSON has lists for tuples
    has_captions = any(caption is not None for caption in captions)
    remarks = _remarks(shards, index) + _remark_on_splits(files)
    return Source(files, tensor, names, captions if has_captions else None, remarks=remarks)


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


def found(pattern: str) -> list[str]:
    """The shards that a path or URL with braces and stars stands for, in order.

    Raises:
        UserError: if there is none.
    """
    shards = []
    for one in expand_braces(pattern):
        if not re.search(r"\*" if "://" in one else r"[*?\[]", one):  # a URL may hold a query
            shards.append(one)
            continue
        matches = sorted(
            attempt(one, lambda fs, path: [fs.unstrip_protocol(p) for p in fs.glob(path)])
        )
        if not matches:
            raise UserError(f"data.data_files: no file fits '{one}'")
        check_one_split(one, [match.removeprefix("file://") for match in matches])
        shards += [match.removeprefix("file://") for match in matches]
    return shards


def expand_braces(pattern: str) -> Iterator[str]:
    """The names that `{000..019}` and `{a,b}` stand for, as in a shell."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is not None:
        chosen = words.split(",")
    else:
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        step = 1 if int(last) >= int(first) else -1
        chosen = [str(i).zfill(width) for i in range(int(first), int(last) + step, step)]
    for word in chosen:
        yield from expand_braces(pattern[: match.start()] + word + pattern[match.end() :])


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` - 1 of a file.

    Raises:
        UserError: if it is not there, is shorter, or its server sends no ranges.
    """
    content = attempt(url, lambda fs, path: fs.cat_file(path, start=start, end=end))
    if len(content) == end - start:
        return content
    if len(content) > end - start:
        raise UserError(
            f"{url}: the server sends whole files instead of ranges of bytes (HTTP Range)"
        )
    raise UserError(f"{url} has changed: it ends before byte {end}, which its index names")


def attempt(url: str, work: Callable[[Any, str], T]) -> T:
    """What `work` makes of the file system and the path; a network gets three chances.

    Raises:
        UserError: if the file is not there or cannot be read, or a package is missing.
    """
    for trial in range(N_TRIES):
        try:
            return work(*fsspec.core.url_to_fs(url))
        except (UserError, MemoryError):
            raise
        except FileNotFoundError:
            raise UserError(f"data.data_files: no file '{url}'") from None
        except ImportError as error:
            raise UserError(
                f"{url}: {error.name or 'a package'} is missing: pip install 'sparring[streaming]'"
            ) from error
        except Exception as error:  # each file system has its own kinds
            if trial == N_TRIES - 1 or isinstance(error, (PermissionError, IsADirectoryError)):
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"cannot read {url}: {reason}") from error
            time.sleep(0.5 * 4**trial)
    raise AssertionError


def _index(shard: str, columns: tuple[str | None, ...], say: Callable[[], None]) -> dict[str, Any]:
    info = attempt(shard, lambda fs, path: fs.info(path))
    stamp = [
        info.get(name) for name in ("ETag", "Last-Modified", "LastModified", "mtime", "created")
    ]
    known = ["tar", VERSION, sorted(EXTENSIONS)]
    key = [*known, shard, info.get("size"), *map(str, stamp), *columns]

    def make() -> dict[str, Any]:
        say()

        def read(fs: Any, path: str) -> dict[str, Any]:
            if info.get("partial") is False:
                raise UserError(f"{shard}: the server sends no ranges of bytes (HTTP Range)")
            with fs.open(path, "rb") as file:
                return make_index(shard, file, *columns)

        return attempt(shard, read)

    return remembered(key, make)


def make_index(
    shard: str,
    file: io.IOBase,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
) -> dict[str, Any]:
    """What a tar file holds, from its headers; labels and captions are read.

    An image that is a link, a device or sparse, is larger than 64 MiB or has an absolute name or
    one with `..` keeps its place with offset -1: it is unreadable, and another one stands in.

    Args:
        shard: What errors call it.
        file: It must be seekable.
        image_column: See `webdataset`.
        label_column: See `webdataset`.
        caption_column: See `webdataset`.

    Returns:
        Lists with an entry per sample that has an image: names, offsets, lengths in bytes, labels
        and captions (None where there is none); and left_out, see `tar_samples.LeftOut`.

    Raises:
        UserError: if it is packed, no tar file, damaged or cut short.
    """
    start = file.read(6)
    for magic, name in PACKED.items():
        if start.startswith(magic):
            raise UserError(
                f"{shard} is packed with {name}, so it cannot be read from the middle: unpack it"
            )
    wanted = {"cls", "txt"}
    if label_column is not None or caption_column is not None:
        wanted.add("json")
    left_out = LeftOut()
    members = _members(shard, file, wanted, left_out)
    index: dict[str, list[Any]] = {
        name: [] for name in ("names", "offsets", "lengths", "labels", "captions")
    }
    for image, texts in samples_of(shard, members, image_column, left_out):
        fields = {}
        for ending in wanted & texts.keys():
            text = texts[ending]
            if text.text is None:
                raise UserError(f"{shard}: {text.name} is {text.reason}")
            fields[ending] = text.text
        label, caption = _said(shard, image.name, fields, label_column, caption_column)
        is_read = image.reason is None
        index["names"].append(image.name if is_read else f"{image.name} ({image.reason})")
        index["offsets"].append(image.offset if is_read else UNREADABLE)
        index["lengths"].append(image.size if is_read else 0)
        index["labels"].append(label)
        index["captions"].append(caption)
    return {**index, "left_out": left_out.counts}


def _members(
    shard: str, file: io.IOBase, wanted: Collection[str], left_out: LeftOut
) -> Iterator[Member]:
    """The members that may be part of a sample, with the content of texts of the wanted kinds.

    All headers up to the end mark are read, so nothing is lost in silence.
    """
    n_text = place = 0
    damaged = f"{shard} is cut short or damaged: fetch it again"
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:  # pyright: ignore[reportArgumentType]
            last = -1
            while (member := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else it keeps all
                if member.offset <= last or member.size < 0:
                    raise UserError(damaged)
                last = member.offset
                if member.isdir():
                    continue
                base = member.name.rpartition("/")[2]
                if any(_is_hidden(part) for part in member.name.split("/")):
                    left_out.add("hidden file(s) are left out", member.name)
                    continue
                if "." not in base:
                    left_out.add("file(s) are left out, whose names have no ending", member.name)
                    continue
                text = None
                if base.rpartition(".")[2].lower() in wanted:
                    text, reason = _text(file, member)
                    n_text += len(text or "")
                else:
                    reason = _refused(member)
                if n_text > MAX_TEXTS_BYTES:
                    raise UserError(f"{shard} holds more than {MAX_TEXTS_BYTES >> 30} GiB of text")
                yield Member(member.name, place, member.offset_data, member.size, reason, text)
                place += 1
            end = tar.offset
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        raise UserError(f"{shard} is no tar file, or damaged ({error})") from error
    file.seek(end)
    tail = file.read(2 * tarfile.RECORDSIZE)
    if len(tail) < 2 * tarfile.BLOCKSIZE or any(tail):
        raise UserError(f"{damaged} (its end mark is missing, or more follows it)")


def _is_hidden(part: str) -> bool:
    return part not in (".", "..") and hidden(part)


def _refused(member: tarfile.TarInfo) -> str | None:
    """Why a member is not read as an image, None if it is."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "a name that leads out of the shard"
    if not member.isreg() or member.issparse():
        return "a link, device or sparse file"
    if member.size > MAX_IMAGE_BYTES:
        return f"{member.size >> 20} MiB, the limit is {MAX_IMAGE_BYTES >> 20}"
    return None


def _text(file: io.IOBase, member: tarfile.TarInfo) -> tuple[str | None, str | None]:
    """A text, or what keeps it from being one, which matters if it belongs to an image."""
    if not member.isreg() or member.issparse() or member.size > MAX_TEXT_BYTES:
        return None, f"no text of at most {MAX_TEXT_BYTES >> 20} MiB"
    place = file.tell()
    file.seek(member.offset_data)
    try:
        return as_text(file.read(member.size)).strip(), None
    except ValueError:
        return None, "not text in UTF-8"
    finally:
        file.seek(place)


def _said(
    shard: str,
    name: str,
    fields: dict[str, str],
    label_column: str | None,
    caption_column: str | None,
) -> tuple[int | None, Caption]:
    """Label and caption of a sample."""
    known: Any = {}
    if "json" in fields and (label_column is not None or caption_column is not None):
        try:
            known = json.loads(fields["json"])
        except (ValueError, RecursionError) as error:
            raise UserError(f"{shard}: the json of {name} cannot be read ({error})") from error
        if not isinstance(known, dict):
            raise UserError(f"{shard}: the json of {name} must be an object")
    where = f"{shard}: the caption of {name}"
    label = fields.get("cls") if label_column is None else known.get(label_column)
    caption = fields.get("txt") if caption_column is None else known.get(caption_column)
    if label is not None:
        if not re.fullmatch(r"\d{1,6}", str(label)):
            raise UserError(
                f"{shard}: the label of {name} must be an integer from 0 to 999999, "
                f"got {str(label)[:40]!r}"
            )
        label = int(label)
    return label, caption_of(caption, where)
