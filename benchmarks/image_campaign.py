"""Hundreds of malformed images, links and tables: is each read rightly, or listed, or refused?

    python benchmarks/image_campaign.py --n 600 --seed 0

Case i follows from (seed, i). A folder holds three good images and what the case puts beside them;
it is read as `data.name=image_folder` is (tables as parquet). The good images must come out as they
are. The other one must be what Pillow itself decodes, or be listed as unreadable, or the whole be
refused in one line. Nothing outside the folder may be opened, nothing printed, and neither time nor
memory may run on.
"""

# ruff: noqa: E501 - the table of kinds

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps

from sparring import __version__
from sparring.data.datasets import build_dataset
from sparring.data.files.decoding import decode
from sparring.support.errors import UserError

SECONDS = 15
MEGABYTES = 400
"""A case may take so long, and so much memory above what was held before."""
GOOD = ("0good.png", "m.png", "z.png")
SIDE = 12


@dataclass
class Case:
    """What lies beside the good images.

    Attributes:
        files: Content by name, below the folder.
        build: What else is done to the folder; its second argument is the folder outside.
        name: The image in question; None where there is none.
        wanted: read, listed or refused; None: any of them.
        fields: Of the data set, beside its folder.
        late: What is done between listing the files and reading them.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    build: Callable[[Path, Path], None] | None = None
    name: str | None = "h.png"
    wanted: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    late: Callable[[Path], None] | None = None
    kind: str = ""


def _pixels(
    rng: random.Random, channels: int = 3, size: tuple[int, int] = (SIDE, SIDE)
) -> np.ndarray:
    state = np.random.RandomState(rng.randrange(2**31))
    shape = size if channels == 1 else (*size, channels)
    return state.randint(0, 256, shape, dtype=np.uint8)


def _image(rng: random.Random, mode: str = "RGB") -> Image.Image:
    size = (rng.randrange(3, 40), rng.randrange(3, 40))
    if mode == "I;16":
        values = _pixels(rng, 1, size).astype(np.uint16) * 257
        return Image.fromarray(values)
    if mode == "F":
        return Image.fromarray(_pixels(rng, 1, size).astype(np.float32) / 255)
    rgba = Image.fromarray(_pixels(rng, 4, size))
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


WRITTEN: tuple[tuple[str, str, tuple[str, ...], tuple[dict[str, Any], ...]], ...] = (
    ("PNG", ".png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), ({}, {"interlace": 1}, {"compress_level": 0})),
    ("JPEG", ".jpg", ("L", "RGB", "CMYK"), ({}, {"progressive": True}, {"quality": 5}, {"subsampling": 0})),
    ("WEBP", ".webp", ("L", "RGB", "RGBA"), ({}, {"lossless": True})),
    ("GIF", ".gif", ("1", "L", "P", "RGB"), ({}, {"interlace": 0})),
    ("BMP", ".bmp", ("1", "L", "P", "RGB", "RGBA"), ({},)),
    ("TIFF", ".tif", ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"), ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "packbits"})),
    ("PPM", ".ppm", ("1", "L", "RGB"), ({},)),
    ("JPEG2000", ".jp2", ("L", "RGB", "RGBA"), ({}, {"irreversible": True})),
    ("TGA", ".tga", ("L", "LA", "P", "RGB", "RGBA"), ({}, {"compression": "tga_rle"})),
)  # fmt: skip
"""Format, extension, modes, options of every kind of file that is read."""


def _written(rng: random.Random) -> tuple[bytes, str]:
    kind, extension, modes, options = rng.choice(WRITTEN)
    mode, option = rng.choice(modes), dict(rng.choice(options))
    if option.get("interlace") == 1:
        option = {}
    return _save(_image(rng, mode), kind, **option), extension


def good(rng: random.Random) -> Case:
    content, extension = _written(rng)
    return Case({f"h{extension}": content}, name=f"h{extension}", wanted="read")


def truncated(rng: random.Random) -> Case:
    content, extension = _written(rng)
    return Case({f"h{extension}": content[: rng.randrange(len(content))]}, name=f"h{extension}")


def flipped(rng: random.Random) -> Case:
    content, extension = _written(rng)
    changed = bytearray(content)
    limit = rng.choice([40, 200, len(changed)])  # headers hold the sizes
    for _ in range(rng.choice([1, 2, 5, 30])):
        changed[rng.randrange(min(limit, len(changed)))] = rng.randrange(256)
    return Case({f"h{extension}": bytes(changed)}, name=f"h{extension}")


def wrong_name(rng: random.Random) -> Case:
    content, _ = _written(rng)
    name = f"h{rng.choice([one[1] for one in WRITTEN] + ['.JPEG', '.PnG'])}"
    return Case(
        {name: content},
        name=name,
        wanted=None if content[:2] not in (b"\x89P", b"\xff\xd8", b"GI", b"BM", b"RI") else "read",
    )


def no_image(rng: random.Random) -> Case:
    content = rng.choice([
        b"", b"\0" * rng.randrange(1, 3000), rng.randbytes(rng.randrange(1, 3000)), b"text\n" * 9,
        b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"II*\0\x08\0\0\0", b"P6\n9 9\n255\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n", b"%PDF-1.4\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"8BPS\0\1" + b"\0" * 200, b"\0\0\1\0\1\0\x10\x10" + b"\0" * 60, b"\x1f\x8b\x08" + b"\0" * 40, b"PK\3\4" + b"\0" * 40,
        b"\x80\x04cos\nsystem\n(S'id'\ntR.", b"\xd7\xcd\xc6\x9a" + b"\0" * 60, b"qoif" + b"\0" * 60, b"\x76\x2f\x31\x01" + b"\0" * 60,
    ])  # fmt: skip
    return Case({"h.png": content}, wanted="listed")


def other_format(rng: random.Random) -> Case:
    """A whole image in a format that is not read, under a name that is."""
    kind = rng.choice(["EPS", "ICO", "PCX", "PDF", "SGI", "DDS", "IM", "QOI"])
    return Case({"h.png": _save(_image(rng), kind)}, wanted="listed")


def animated(rng: random.Random) -> Case:
    frames = [_image(rng).resize((9, 9)) for _ in range(rng.randrange(2, 6))]
    kind, extension = rng.choice(
        [("GIF", ".gif"), ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif")]
    )
    content = _save(frames[0], kind, save_all=True, append_images=frames[1:])
    wanted: str | None = "read"
    if rng.random() < 0.4:
        content, wanted = content[: rng.randrange(len(content))], None
    return Case({f"h{extension}": content}, name=f"h{extension}", wanted=wanted)


def oriented(rng: random.Random) -> Case:
    exif = Image.Exif()
    exif[0x0112] = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535])
    kind, extension = rng.choice(
        [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif")]
    )
    content = bytearray(_save(_image(rng), kind, exif=exif))
    if rng.random() < 0.3 and (at := content.find(b"Exif\0\0")) > 0:
        content[at + 6 + rng.randrange(12)] = rng.randrange(256)
        return Case({f"h{extension}": bytes(content)}, name=f"h{extension}")
    return Case({f"h{extension}": bytes(content)}, name=f"h{extension}", wanted="read")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _png(
    width: int, height: int, data: bytes, *chunks: bytes, depth: int = 8, colour: int = 2
) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def _zeros(n: int) -> bytes:
    """n zero bytes, compressed."""
    work = zlib.compressobj(9)
    return b"".join([*(work.compress(b"\0" * 2**20) for _ in range(n >> 20)), work.flush()])


def bomb(rng: random.Random) -> Case:
    """Small in the file, large in memory."""
    whole = (SIDE * 3 + 1) * SIDE
    small = zlib.compress(b"\0" * whole)
    big = rng.choice([20_000, 65_000, 2**24, 2**31 - 1])
    short = min(big, 65_500)
    how = rng.randrange(12)
    text, wanted = _zeros(300 * 2**20) if how in (2, 3, 4) else b"", "listed"
    if how == 0:
        content, extension = _png(big, big, small), ".png"
    elif how == 1:  # whole and valid: 100 megapixels in 20 kB
        content, extension = (
            _png(10_000, 10_000, _zeros(12_510_000 + 2**20), depth=1, colour=0),
            ".png",
        )
    elif how == 2:
        content, extension, wanted = (
            _png(SIDE, SIDE, small, _chunk(b"zTXt", b"a\0\0" + text)),
            ".png",
            None,
        )
    elif how == 3:
        content, extension, wanted = (
            _png(SIDE, SIDE, small, _chunk(b"iCCP", b"a\0\0" + text)),
            ".png",
            None,
        )
    elif how == 4:
        content, extension, wanted = (
            _png(SIDE, SIDE, small, _chunk(b"iTXt", b"a\0\1\0\0\0" + text)),
            ".png",
            None,
        )
    elif how == 5:
        screen = bytearray(_save(_image(rng), "GIF"))
        screen[6:10] = struct.pack("<HH", 65_535, 65_535)
        content, extension = bytes(screen), ".gif"
    elif how == 6:
        tiff = Image.new("L", (9, 9))
        content = _save(tiff, "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, 9), struct.pack("<HHII", 256, 4, 1, big)
        )
        content = content.replace(
            struct.pack("<HHIHH", 256, 3, 1, 9, 0), struct.pack("<HHII", 256, 4, 1, big)
        )
        content = content.replace(
            struct.pack("<HHIHH", 257, 3, 1, 9, 0), struct.pack("<HHII", 257, 4, 1, big)
        )
        content, extension, wanted = (
            content.replace(
                struct.pack("<HHII", 257, 4, 1, 9), struct.pack("<HHII", 257, 4, 1, big)
            ),
            ".tif",
            None,
        )
    elif how == 7:
        bmp = bytearray(_save(_image(rng), "BMP"))
        bmp[18:26] = struct.pack("<ii", short, short)
        content, extension = bytes(bmp), ".bmp"
    elif how == 8:
        content, extension = (
            f"P{rng.choice('123456')}\n{big} {big}\n255\n".encode() + b"0 " * 99,
            ".ppm",
        )
    elif how == 9:  # an extended webp says its canvas alone
        side = (16_383).to_bytes(3, "little")
        body = (
            b"VP8X"
            + struct.pack("<I", 10)
            + b"\x10\0\0\0"
            + side
            + side
            + _save(_image(rng), "WEBP")[12:]
        )
        content, extension = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, ".webp"
    elif how == 10:
        jpeg = bytearray(_save(_image(rng), "JPEG"))
        at = jpeg.find(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = struct.pack(">HH", short, short)
        content, extension = bytes(jpeg), ".jpg"
    else:
        tga = bytearray(_save(_image(rng), "TGA", compression="tga_rle"))
        tga[12:16] = struct.pack("<HH", 65_535, 65_535)
        content, extension = bytes(tga), ".tga"
    return Case({f"h{extension}": content}, name=f"h{extension}", wanted=wanted)


def links(rng: random.Random) -> Case:
    """Links out of the folder, in circles, to nothing; and those that are fine."""

    def link(name: str, target: str) -> Callable[[Path, Path], None]:
        def build(root: Path, outside: Path) -> None:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).symlink_to(target.format(outside=outside, root=root))

        return build

    return rng.choice([
        Case(build=link("h.png", "{outside}/far.png"), wanted="listed"),
        Case(build=link("h.png", "../outside/far.png"), wanted="listed"),
        Case(build=link("h.png", "../../../../../../../etc/passwd"), wanted="listed"),
        Case(build=link("h.png", "h.png"), wanted="listed"),
        Case(build=link("h.png", "nowhere.png"), wanted="listed"),
        Case(build=link("h.png", "/dev/zero"), wanted="listed"),
        Case(build=link("h.png", "/proc/self/environ"), wanted="listed"),
        Case(build=link("h.png", "m.png"), wanted="read"),
        Case(build=link("sub", "{outside}"), name=None, wanted="refused"),
        Case(build=link("sub", "../outside"), name=None, wanted="refused"),
        Case(build=link("sub", "/"), name=None, wanted="refused"),
        Case(build=link("sub", "."), name=None),
        Case(build=link("sub.png", "sub.png"), name="sub.png", wanted="listed"),
        Case(build=link("metadata.jsonl", "../outside/secret.jsonl"), name=None, wanted="refused"),
        Case(build=link("m.txt", "../outside/secret.txt"), name=None, wanted="refused"),
    ])  # fmt: skip


def metadata(rng: random.Random) -> Case:
    """What a metadata file says about files and captions."""
    name = rng.choice(
        ["../outside/far.png", "/etc/passwd", "nowhere.png", "m.png\\u0000", "..", ""]
    )
    rows = rng.choice([
        f'{{"file_name": "{name}", "text": "x"}}\n', "[" * 100_000, "{}\n", "null\n", '{"file_name": 3}\n',
        '{"file_name": ["m.png"], "text": 1}\n', '{"file_name": "m.png", "text": {"a": []}}\n', "{", "\xff",
        f'{{"file_name": "m.png", "text": "{"a" * 10**6}"}}\n', '{"file_name": "m.png", "text": "\\u001b[31m"}\n',
    ])  # fmt: skip
    if rng.random() < 0.3:
        rows = rng.choice(["file_name,text\n../outside/far.png,x\n", "file_name\n", "a,b\n1,2\n", "file_name,text\nm.png,x,y,z\nm.png\n",
                           "file_name,text\nm.png," + "a" * 200_000 + "\n", 'file_name,text\n"open', "\0,\0\n"])  # fmt: skip
        return Case({"metadata.csv": rows.encode()}, name=None)
    return Case({"metadata.jsonl": rows.encode("latin-1")}, name=None)


def odd_files(rng: random.Random) -> Case:
    """What has an image's name and is no file, or has a name that no image has."""
    image = _save(_image(rng), "PNG")

    def fifo(root: Path, _: Path) -> None:
        os.mkfifo(root / "h.png")

    def sock(root: Path, _: Path) -> None:
        with _inside(root):
            socket.socket(socket.AF_UNIX).bind("h.png")

    def folder(root: Path, _: Path) -> None:
        (root / "h.png").mkdir()

    def sparse(root: Path, _: Path) -> None:
        with (root / "h.png").open("wb") as file:
            file.truncate(2**36)

    def pipe_text(root: Path, _: Path) -> None:
        os.mkfifo(root / "m.txt")

    def gone(root: Path) -> None:
        (root / "h.png").unlink()

    def replaced(root: Path) -> None:
        (root / "h.png").unlink()
        (root / "h.png").symlink_to("../outside/far.png")

    big = {"resolution": 16}  # nothing is held: read when asked for
    names = [
        "h\n.png",
        "h\x1b[31m.png",
        "h\u202e.png",
        "h\udce9.png",
        f"{'h' * 250}.png",
        "h .png",
        "h'\"<b>.png",
        "-h.png",
    ]
    name = rng.choice(names)
    return rng.choice([
        Case(build=fifo, wanted="listed"), Case(build=sock, wanted="listed"), Case(build=folder, name=None),
        Case(build=sparse, wanted="listed"), Case(build=pipe_text, name=None),
        Case({"h.png": image}, late=gone, fields=big, wanted="listed"),
        Case({"h.png": image}, late=replaced, fields=big, wanted="listed"),
        Case({name: image}, name=name, wanted="read"), Case({name: b"broken"}, name=name, wanted="listed"),
        Case({f"{name[:-4]}/x.png": image, "a/0.png": image}, name=None),
    ])  # fmt: skip


def tables(rng: random.Random) -> Case:
    """Parquet files: cut, flipped, an archive, cells that point elsewhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = [{"bytes": _save(Image.fromarray(_pixels(rng)), "PNG"), "path": None} for _ in range(3)]
    outside = rng.choice(
        [
            "../outside/far.png",
            "/etc/passwd",
            "{outside}/far.png",
            "/dev/zero",
            "a\0b",
            "nowhere.png",
            "",
        ]
    )
    cell = rng.choice([
        {"bytes": None, "path": outside}, {"bytes": b"broken", "path": outside}, {"bytes": b"", "path": None},
        {"bytes": None, "path": None}, {"bytes": good[0]["bytes"][:50], "path": "x.png"},
        {"bytes": _png(2**20, 2**20, b""), "path": None}, {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n", "path": "x.eps"},
    ])  # fmt: skip
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../escaped.parquet", b"\0" * 10**6)
    how = rng.randrange(4)

    def build(root: Path, outside: Path) -> None:
        if cell["path"]:
            cell["path"] = cell["path"].replace("{outside}", str(outside))
        sink = io.BytesIO()
        pq.write_table(pa.table({"image": [*good, cell]}), sink)
        content = bytearray(sink.getvalue())
        if how == 1:
            content = content[: rng.randrange(len(content))]
        elif how == 2:
            for _ in range(rng.choice([1, 5, 50])):
                content[rng.randrange(len(content))] = rng.randrange(256)
        elif how == 3:
            content = bytearray(archive.getvalue())
        (root / "t.parquet").write_bytes(content)

    wanted = ("listed", "refused", None, "refused")[how]
    return Case(build=build, name="t.parquet", wanted=wanted, fields={"name": "parquet"})


KINDS: dict[str, tuple[int, Callable[[random.Random], Case]]] = {
    "good, all formats and modes": (3, good),
    "truncated": (4, truncated),
    "flipped bytes": (5, flipped),
    "wrong extension": (2, wrong_name),
    "no image, or its first bytes": (2, no_image),
    "format that is not read": (1, other_format),
    "animated": (2, animated),
    "EXIF orientation": (2, oriented),
    "decompression bomb": (2, bomb),
    "link": (2, links),
    "metadata": (2, metadata),
    "odd file or name": (2, odd_files),
    "parquet": (1, tables),
}
"""Name -> (how often, the grammar)."""
TURNS = [name for name, (often, _) in KINDS.items() for _ in range(often)]


def case_of(seed: int, i: int) -> Case:
    """Case i; the kinds take turns."""
    kind = TURNS[i % len(TURNS)]
    case = KINDS[kind][1](random.Random(f"{seed} {i}"))
    case.kind = kind
    return case


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Hangs(BaseException):
    """Longer than SECONDS."""


def _alarm(*_: Any) -> None:
    raise Hangs


OPENED: list[str] = []
"""Every file that Python opened, while WATCHED is not empty."""
WATCHED: list[str] = []


def _watch(event: str, arguments: Any) -> None:
    if WATCHED and event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.path.realpath(os.fsdecode(arguments[0])))


def _peak_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def run_case(case: Case, scratch: Path) -> tuple[str, str]:
    """("read" or "listed" or "refused" or "FAILED", what was said)."""
    shutil.rmtree(scratch, ignore_errors=True)
    root, outside = scratch / "root", scratch / "outside"
    for folder in (root, outside):
        folder.mkdir(parents=True)
    expected = {}
    for i, name in enumerate(GOOD):
        pixels = _pixels(random.Random(f"good {i}"))
        Image.fromarray(pixels).save(root / name)
        expected[str(root / name)] = torch.tensor(pixels).permute(2, 0, 1) / 255
    Image.new("RGB", (SIDE, SIDE), (255, 0, 255)).save(outside / "far.png")
    (outside / "secret.txt").write_text("a secret")
    (outside / "secret.jsonl").write_text('{"file_name": "m.png", "text": "a secret"}\n')
    for name, content in case.files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    if case.build is not None:
        case.build(root, outside)
    before = signal.signal(signal.SIGALRM, _alarm)
    stderr, noise = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115
    os.dup2(noise.fileno(), 2)
    _forget_peak()
    held = _peak_megabytes()
    OPENED.clear()
    WATCHED.append("on")
    signal.alarm(SECONDS)
    try:
        outcome, said = _outcome(case, root, expected)
    except Hangs:
        outcome, said = "FAILED", "hangs"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome, said = "FAILED", f"{type(error).__name__}: {error!s:.200}"
    finally:
        signal.alarm(0)
        WATCHED.clear()
        signal.signal(signal.SIGALRM, before)
        os.dup2(stderr, 2)
        os.close(stderr)
    used = _peak_megabytes() - held
    noise.seek(0)
    printed = noise.read()
    if printed and not (printed.isascii() and _is_tiff(case)):  # libtiff itself speaks to stderr
        return "FAILED", f"printed {printed[:200]!r}"
    if used > MEGABYTES:
        return "FAILED", f"took {used:.0f} MB"
    if escaped := [
        path
        for path in OPENED
        if path.startswith(f"{outside}/")
        or path in ("/etc/passwd", "/dev/zero", "/proc/self/environ")
    ]:
        return "FAILED", f"opened {escaped[0]}"
    if outcome != "FAILED" and case.wanted not in (None, outcome):
        return "FAILED", f"{outcome}, should be {case.wanted} {said}"
    return outcome, said


def _is_tiff(case: Case) -> bool:
    return case.files.get(str(case.name), b"")[:2] in (b"II", b"MM")


def _outcome(case: Case, root: Path, expected: dict[str, torch.Tensor]) -> tuple[str, str]:
    """What became of the case's image, with the good ones compared to what they are."""
    fields: dict[str, Any] = {"resolution": SIDE, "n_channels": 3, **case.fields}
    name = fields.pop("name", "image_folder")
    where: dict[str, Any] = {"train_data_dir": str(root)}
    if name == "parquet":
        where = {"data_files": str(root / "t.parquet")}
    try:
        data = build_dataset(name, **where, **fields)
        if case.late is not None:
            case.late(root)
        batch = data.read_all()
        data.fingerprint()
    except UserError as error:
        line = str(error)
        one = "\n" not in line or case.name is None or "\n" in case.name
        return ("refused", line) if one else ("FAILED", f"several lines: {line!r}")
    if name == "parquet":
        n = len(batch["index"])
        return ("listed", "") if n == 3 and len(batch["unreadable"]) == 1 else ("read", "")
    shown = {data.where(int(i)): x for i, x in zip(batch["index"], batch["x0"], strict=True)}
    if fields["resolution"] == SIDE:
        for path, x in expected.items():
            if path not in shown or not torch.equal(shown[path], x):
                return "FAILED", f"{path} came out differently"
    if any("secret" in str(caption) for caption in batch.get("caption") or ()):
        return "FAILED", "a caption from outside"
    if case.name is None:
        return "read", ""
    path = str(root / case.name)
    if path in batch["unreadable"]:
        return ("listed", "") if path not in shown else ("FAILED", "listed and shown")
    if path not in shown:
        return "FAILED", "neither shown nor listed"
    return _as_pillow_reads(path)


def _as_pillow_reads(path: str) -> tuple[str, str]:
    """The image at its own size, against Pillow's conversion to RGB."""
    x = decode(path, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    if image.mode in ("I", "F", "I;16", "I;16B", "I;16L"):
        grey = np.asarray(image).astype(np.float64) / (1 if image.mode == "F" else 65535)
        wanted = np.repeat(grey[None], 3, 0)
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        values = np.asarray(image.convert("RGBA")).astype(np.float64) / 255
        wanted = (values[..., :3] * values[..., 3:] + 1 - values[..., 3:]).transpose(2, 0, 1)
    else:
        wanted = np.asarray(image.convert("RGB")).astype(np.float64).transpose(2, 0, 1) / 255
    if x.shape != wanted.shape:
        return "FAILED", f"shape {tuple(x.shape)}, Pillow has {wanted.shape}"
    off = float(np.abs(x.numpy() - wanted).max())
    return ("read", "") if off <= 1.01 / 255 else ("FAILED", f"differs from Pillow by {off:.4f}")


def campaign(
    n: int, seed: int, first: int = 0, say: Callable[[str], None] = print
) -> dict[str, Counter[str]]:
    """Runs n cases; the counts of each kind. What fails is said at once."""
    from datasets import config as datasets_config
    from datasets import disable_progress_bars

    disable_progress_bars()
    sys.addaudithook(_watch)
    logger = logging.getLogger("sparring.data")  # remarks are known_answers.py's, not noise
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        scratch, kept = Path(folder).resolve() / "case", datasets_config.HF_DATASETS_CACHE
        datasets_config.HF_DATASETS_CACHE = Path(folder) / "cache"
        try:
            for i in range(first, first + n):
                case = case_of(seed, i)
                began = time.monotonic()
                outcome, said = run_case(case, scratch)
                counts[case.kind][outcome] += 1
                took = int(1000 * (time.monotonic() - began))
                counts[case.kind]["slowest"] = max(counts[case.kind]["slowest"], took)
                if outcome == "FAILED":
                    say(f"case {i} ({case.kind}, {case.name!r}): {said}")
        finally:
            datasets_config.HF_DATASETS_CACHE = kept
            logger.setLevel(level)
    return counts


def table(counts: dict[str, Counter[str]]) -> str:
    """Markdown: a row for each kind."""
    lines = [
        "| kind | cases | read | listed | refused | failed | slowest |",
        "|---|---|---|---|---|---|---|",
    ]
    total: Counter[str] = Counter()
    for kind, each in counts.items():
        lines.append(_row(kind, each))
        total += Counter({key: value for key, value in each.items() if key != "slowest"})
    total["slowest"] = max(each["slowest"] for each in counts.values())
    return "\n".join([*lines, _row("**all**", total)])


def _row(kind: str, each: Counter[str]) -> str:
    found: Sequence[int] = [each[key] for key in ("read", "listed", "refused", "FAILED")]
    cells = " | ".join(map(str, found))
    return f"| {kind} | {sum(found)} | {cells} | {each['slowest'] / 1000:.1f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    args = parser.parse_args()
    began = time.monotonic()
    counts = campaign(args.n, args.seed, args.first)
    print(table(counts))
    took = time.monotonic() - began
    print(f"\nsparring {__version__}, Pillow {PIL.__version__}, seed {args.seed}, {took:.0f} s")
    sys.exit(any(each["FAILED"] for each in counts.values()))


if __name__ == "__main__":
    main()
