"""What a tar file holds: the place of each image, and the labels and captions beside them.

Headers and texts are read; nothing is ever extracted to the disk.
"""

import io
import json
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ...support.errors import UserError
from ..captions import Caption, caption_of
from ..files.allowed_files import as_text
from ..files.listing import hidden
from ..files.source import Columns
from .tar_samples import LeftOut, Member, samples_of

MAX_IMAGE_BYTES = 2**26
MAX_TEXT_BYTES = 2**20
MAX_TEXTS_BYTES = 2**31
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
UNREADABLE = -1
ENTRY = ("names", "offsets", "lengths", "labels", "captions")
"""What an index says of each sample."""


def make_index(shard: str, file: io.IOBase, columns: Columns) -> dict[str, Any]:
    """What a tar file holds, from its headers; labels and captions are read.

    An image that is a link, a device or sparse, is larger than 64 MiB or has an absolute name or
    one with `..` keeps its place with offset -1: it is unreadable, and another one stands in.

    Args:
        shard: What errors call it.
        file: It must be seekable.
        columns: See `tar_shards.webdataset`.

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
    needs_json = columns.label is not None or columns.caption is not None
    wanted = {"cls", "txt"} | ({"json"} if needs_json else set())
    left_out = LeftOut()
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
