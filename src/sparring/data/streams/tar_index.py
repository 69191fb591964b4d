"""What a tar file holds: the place of each image, and the labels and captions beside them.

Headers and texts are read; nothing is ever extracted to the disk. Which members are one sample is
webdataset's rule: those whose names agree up to the first dot of the base name. Two things are
added where that rule would lose images, and said:

- members of a sample may lie apart, as where all images come first;
- names with dots: if no member of `v1` is an image, but `v1.5_a.png` and `v1.6_b.png` are, then
  these are two samples, with the texts that agree up to the last dot.
"""

import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ...support.errors import UserError
from ..captions import Caption, caption_of
from ..files.allowed_files import as_text
from ..files.listing import EXTENSIONS, hidden
from ..files.source import Columns

MAX_IMAGE_BYTES, MAX_TEXT_BYTES, MAX_TEXTS_BYTES = 2**26, 2**20, 2**31
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
UNREADABLE = -1
ENTRY = ("names", "offsets", "lengths", "labels", "captions")  # what an index says of each sample
TEXTS = ("cls", "txt", "json")

LeftOut = dict[str, tuple[int, str]]
"""What of a shard is in no sample: how many, and the first, by what is said of them."""
DOTS = "image(s) are samples of their own, by their names up to the last dot"
EXTRA = "image(s) are not read, as their samples hold another one (data.image_column chooses)"
TEXT = "text(s) have no image"
AGAIN = "sample(s) have a name that came before in the shard"


class Member(NamedTuple):
    """A file in a tar."""

    name: str  # its path
    place: int  # its number among the members
    offset: int  # where its content begins
    size: int  # in bytes
    reason: str | None = None  # why it cannot be read, None if it can
    text: str | None = None  # its content, of a text that was asked for

    @property
    def base(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def key(self) -> str:
        """The name up to the first dot of the base name."""
        return self.name[: len(self.name) - len(self.base)] + self.base.partition(".")[0]

    @property
    def stem(self) -> str:
        """The name up to its last dot."""
        return self.name.rpartition(".")[0]

    @property
    def kind(self) -> str:
        """What is after the last dot."""
        return self.name.rpartition(".")[2].lower()

    @property
    def is_image(self) -> bool:
        return f".{self.kind}" in EXTENSIONS

    def ending(self, key: str) -> str:
        return self.name[len(key) + 1 :].lower()


Sample = tuple[Member, dict[str, Member]]
"""An image and its texts, by ending."""


def make_index(shard: str, file: io.IOBase, columns: Columns) -> dict[str, Any]:
    """What a tar file holds, from its headers; labels and captions are read.

    An image that is a link, a device or sparse, is larger than 64 MiB or has an absolute name or
    one with `..` keeps its place with offset -1: it is unreadable, and another one stands in. The
    file must be seekable; it is a UserError if it is packed, no tar, damaged or cut short.

    Returns:
        `ENTRY`: lists with an entry per sample that has an image (lengths in bytes, None where
        there is no label or caption); and `left_out`.
    """
    start = file.read(6)
    for magic, name in PACKED.items():
        if start.startswith(magic):
            raise UserError(
                f"{shard} is packed with {name}, so it cannot be read from the middle: unpack it"
            )
    needs_json = columns.label is not None or columns.caption is not None
    wanted = {"cls", "txt"} | ({"json"} if needs_json else set())
    left_out: LeftOut = {}
    members = _members(shard, file, wanted, left_out)
    entries = []
    for image, texts in samples_of(shard, members, columns.image, left_out):
        fields = {}
        for ending in wanted & texts.keys():
            text = texts[ending]
            if text.text is None:
                raise UserError(f"{shard}: {text.name} is {text.reason}")
            fields[ending] = text.text
        label, caption = _said(shard, image.name, fields, columns)
        is_read = image.reason is None
        name = image.name if is_read else f"{image.name} ({image.reason})"
        place = (image.offset, image.size) if is_read else (UNREADABLE, 0)
        entries.append((name, *place, label, caption))
    lists = zip(*entries, strict=True) if entries else [()] * len(ENTRY)
    index = {key: list(values) for key, values in zip(ENTRY, lists, strict=True)}
    return {**index, "left_out": left_out}


def _count(left_out: LeftOut, words: str, name: str) -> None:
    n, first = left_out.get(words, (0, name))
    left_out[words] = n + 1, first


def _members(
    shard: str, file: io.IOBase, wanted: Collection[str], left_out: LeftOut
) -> Iterator[Member]:
    """The members that may be part of a sample, with the content of texts of the wanted kinds. All
    headers up to the end mark are read, so nothing is lost in silence."""
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
                parts = member.name.split("/")
                if any(hidden(part) for part in parts if part not in (".", "..")):
                    _count(left_out, "hidden file(s) are left out", member.name)
                    continue
                if "." not in parts[-1]:
                    words = "file(s) are left out, whose names have no ending"
                    _count(left_out, words, member.name)
                    continue
                text = None
                if parts[-1].rpartition(".")[2].lower() in wanted:
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
    shard: str, name: str, fields: Mapping[str, str], columns: Columns
) -> tuple[int | None, Caption]:
    """Label and caption of a sample, of its members `cls`, `txt` and, where asked for, `json`."""
    known: Any = {}
    if "json" in fields:
        try:
            known = json.loads(fields["json"])
        except (ValueError, RecursionError) as error:
            raise UserError(f"{shard}: the json of {name} cannot be read ({error})") from error
        if not isinstance(known, dict):
            raise UserError(f"{shard}: the json of {name} must be an object")
    label = fields.get("cls") if columns.label is None else known.get(columns.label)
    caption = fields.get("txt") if columns.caption is None else known.get(columns.caption)
    if label is not None:
        if not re.fullmatch(r"\d{1,6}", str(label)):
            raise UserError(
                f"{shard}: the label of {name} must be an integer from 0 to 999999, "
                f"got {str(label)[:40]!r}"
            )
        label = int(label)
    return label, caption_of(caption, f"{shard}: the caption of {name}")


def samples_of(
    shard: str, members: Iterable[Member], column: str | None, left_out: LeftOut
) -> list[Sample]:
    """The samples of a shard that hold an image, in the order of their images.

    The members, in their order and none hidden, each have a dot in their base name; `column` is the
    ending of the images' names (None: any image). UserError if members come twice, or nobody can
    tell which of several images is meant.
    """
    keys: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        keys[member.key].append(member)
    dotted = {} if column is not None else _with_dots(shard, keys)
    samples: list[Sample] = []
    for key, group in keys.items():
        for stem, own in dotted.get(key, {key: group}).items():
            if stem != key:
                _count(left_out, DOTS, own[0].name)
            samples += _samples(shard, stem, own, column, left_out)
    return sorted(samples, key=lambda sample: sample[0].place)


def _with_dots(shard: str, keys: dict[str, list[Member]]) -> dict[str, dict[str, list[Member]]]:
    """By key, the members by their names up to the last dot, where these are the samples. So it is
    where no image has the key's own name and no text either. If all keys have images of the same
    several endings (left.png, right.png), nobody can tell which is meant."""
    found = {}
    roles: dict[str, frozenset[str]] = {}
    for key, group in keys.items():
        images = [member for member in group if member.is_image]
        if not images or any(member.stem == key for member in images):
            continue
        endings = frozenset(member.ending(key) for member in images)
        texts = [member for member in group if member.kind in TEXTS]
        if any(text.stem == key for text in texts):
            if len(endings) > 1:
                raise _unclear(shard, key, endings)
            continue  # one image, whatever its ending
        stems: dict[str, list[Member]] = defaultdict(list)
        for member in group:
            stems[member.stem].append(member)
        found[key] = stems
        if len(endings) > 1 and not texts:
            roles[key] = endings
    if len(roles) > 1 and len(set(roles.values())) == 1:
        raise _unclear(shard, *next(iter(roles.items())))
    return found


def _unclear(shard: str, key: str, endings: frozenset[str]) -> UserError:
    few = sorted(endings)[:3]
    return UserError(
        f"{shard}: sample '{key}' holds the images {', '.join(few)}: say which is meant, for "
        f"example data.image_column={few[0]}, or take the dots out of the names"
    )


def _samples(
    shard: str, key: str, group: Sequence[Member], column: str | None, left_out: LeftOut
) -> list[Sample]:
    """The samples of one name: one, but for names that come again with another image."""
    runs: list[list[Member]] = []
    for member in group:
        if runs and member.place == runs[-1][-1].place + 1:
            runs[-1].append(member)
        else:
            runs.append([member])
    found = [(run, image) for run in runs if (image := _image(run, key, column)) is not None]
    if not found:
        others = [member for member in group if member.kind not in TEXTS]
        words, name = TEXT, group[0].name
        if column is not None:
            words = f"sample(s) are left out, without a member '.{column}'"
        elif others:
            name = others[0].name
            words = f"sample(s) are left out, without an image that is read: .{others[0].kind}"
        _count(left_out, words, name)
        return []
    if len(found) == 1:
        found = [(group, found[0][1])]
    elif len(found) < len(runs):
        raise UserError(
            f"{shard}: sample '{key}' comes {len(found)} times, with texts apart from its "
            "images: nobody can tell whose they are"
        )
    samples = []
    for run, image in found:
        members: dict[str, Member] = {}
        for member in run:
            if member.ending(key) in members:
                raise UserError(f"{shard}: sample '{member.name}' comes twice in a row")
            members[member.ending(key)] = member
            if column is None and member.is_image and member is not image:
                _count(left_out, EXTRA, member.name)
        samples.append((image, {one: members[one] for one in TEXTS if one in members}))
    for image, _ in samples[1:]:
        _count(left_out, AGAIN, image.name)
    return samples


def _image(run: Sequence[Member], key: str, column: str | None) -> Member | None:
    """The image of a sample: the ending that was asked for; the name itself before others."""
    if column is not None:
        return next((one for one in run if one.ending(key) == column.lower()), None)
    images = [member for member in run if member.is_image]
    own = [member for member in images if member.stem == key]
    return next(iter(own or images), None)
