"""Folders of images: formats, modes, orientation, transparency, names, sizes, channels.

What an image shows is known from the numbers that its file was made of. PNG, EXIF and TIFF are
written here byte by byte where Pillow writes no such file.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_answers import Verdict, refuses, right, wrong
from PIL import Image, features

from sparring.data.base import Dataset
from sparring.data.datasets import build_dataset

Array = np.ndarray
MOST = 89_478_485
"""Pixels of the largest image that is read, in its file or after resizing."""
LOSSLESS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "PNG": ((".png", ".PNG", ".apng"), {}),
    "BMP": ((".bmp", ".dib", ".BMP"), {}),
    "TIFF": ((".tif", ".tiff", ".TIF"), {}),
    "PPM": ((".ppm", ".pnm", ".pgm"), {}),
    "TGA": ((".tga", ".TGA"), {}),
    "WEBP": ((".webp", ".WebP"), {"lossless": True, "exact": True}),
    "JPEG2000": ((".jp2", ".jpx", ".JP2"), {}),
}
LOSSY: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "JPEG": ((".jpg", ".JPG", ".jpeg", ".jpe", ".JPE", ".jfif", ".jif"), {"quality": 95}),
    "WEBP": ((".webp",), {"quality": 95}),
}
if features.check("avif"):
    LOSSY["AVIF"] = (".avif", ".AVIF"), {"quality": 95}


def pixels(rng: random.Random, height: int, width: int, channels: int = 3) -> Array:
    """Random numbers 0..255, (H, W) or (H, W, channels), uint8."""
    values = np.frombuffer(rng.randbytes(height * width * channels), np.uint8)
    return values.reshape((height, width) if channels == 1 else (height, width, channels))


def smooth(rng: random.Random, height: int, width: int, channels: int = 3) -> Array:
    """A picture that lossy formats keep: a plane in every channel."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        a, b = rng.uniform(-1, 1), rng.uniform(-1, 1)
        plane = a * y / max(height - 1, 1) + b * x / max(width - 1, 1)
        planes.append(128 + 50 * plane)
    values = np.stack(planes, -1).round().astype(np.uint8)
    return values[..., 0] if channels == 1 else values


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def shown(values: Array) -> Array:
    """(H, W) or (H, W, 3), 0..255, as (C, H, W) in [0, 1]."""
    values = values[..., None] if values.ndim == 2 else values
    return values.transpose(2, 0, 1).astype(np.float64) / 255


def upright(stored: Array, orientation: int) -> Array:
    """What EXIF's definition shows of stored rows: which side is the first row, the first column"""
    return {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x[::-1].swapaxes(0, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: x[:, ::-1].swapaxes(0, 1),
    }.get(orientation, lambda x: x)(stored)


def read(folder: Path, **fields: Any) -> Dataset:
    return build_dataset("image_folder", train_data_dir=str(folder), **fields)


def same(x: torch.Tensor, expected: Array, off: float = 1e-6) -> str:
    """ "" where they agree, else how they differ."""
    if tuple(x.shape) != expected.shape:
        return f"shape {tuple(x.shape)}, should be {expected.shape}"
    far = float(np.abs(x.numpy().astype(np.float64) - expected).max())
    return "" if far <= off else f"differs by {far:.5f}"


def verdict(*differences: str, outcome: str = "read") -> Verdict:
    found = [one for one in differences if one]
    return wrong("; ".join(found)) if found else right(outcome)


def one_image(
    folder: Path, name: str, content: bytes, expected: Array, off: float = 1e-6, **fields: Any
) -> Verdict:
    """Write a file alone in a folder and compare what is read."""
    (folder / name).write_bytes(content)
    data = read(folder, **fields)
    batch = data.read_all()
    if batch["unreadable"] or len(data) != 1:
        return wrong(f"{name} was not read: {batch['unreadable']}, {len(data)} images")
    return verdict(same(batch["x0"][0], expected, off), said(data, None))


def said(data: Dataset, *words: str | None) -> str:
    """ "" where one remark holds all these words (None: where there is no remark at all)."""
    if words == (None,):
        return f"said {data.remarks}" if data.remarks else ""
    if any(all(str(word) in remark for word in words) for remark in data.remarks):
        return ""
    return f"no remark with {words} in {list(data.remarks)}"


def size(rng: random.Random, least: int = 1, most: int = 24) -> tuple[int, int]:
    return rng.randint(least, most), rng.randint(least, most)


# Formats and modes


def exact_formats(rng: random.Random, folder: Path) -> Verdict:
    """Every format that keeps its numbers, in grey or colour, under its endings."""
    kind = rng.choice(list(LOSSLESS))
    endings, options = LOSSLESS[kind]
    grey = kind != "WEBP" and rng.random() < 0.4
    values = pixels(rng, *size(rng, 3), 1 if grey else 3)
    if kind == "TIFF":
        options = {"compression": rng.choice([None, "tiff_lzw", "tiff_deflate", "packbits"])}
    if kind == "TGA" and rng.random() < 0.5:
        options = {"compression": "tga_rle"}
    content = saved(Image.fromarray(values), kind, **options)
    name = rng.choice(["a", "ö b", "x.y", "1", "IMG_0001 (2)"]) + rng.choice(endings)
    return one_image(folder, name, content, shown(values))


def lossy_formats(rng: random.Random, folder: Path) -> Verdict:
    kind = rng.choice(list(LOSSY))
    endings, options = LOSSY[kind]
    grey = kind == "JPEG" and rng.random() < 0.4
    values = smooth(rng, *size(rng, 8), 1 if grey else 3)
    if kind == "JPEG" and rng.random() < 0.4:
        options = {**options, "progressive": True}
    content = saved(Image.fromarray(values), kind, **options)
    return one_image(folder, "a" + rng.choice(endings), content, shown(values), 0.06)


def wrong_endings(rng: random.Random, folder: Path) -> Verdict:
    """An image under another format's ending is told by its content."""
    kind = rng.choice([one for one in LOSSLESS if one != "TGA"])
    values = pixels(rng, *size(rng, 3))
    content = saved(Image.fromarray(values), kind, **LOSSLESS[kind][1])
    every = [ending for endings, _ in (LOSSLESS | LOSSY).values() for ending in endings]
    return one_image(folder, "a" + rng.choice(every), content, shown(values))


def other_modes(rng: random.Random, folder: Path) -> Verdict:
    """Two colours, palettes, CMYK and animations show what they show."""
    values = pixels(rng, *size(rng, 2))
    image = Image.fromarray(values)
    how = rng.choice(["1", "palette", "gif", "cmyk", "animation"])
    if how == "1":
        bits = pixels(rng, *size(rng), 1) > 127
        kind, ending = rng.choice([("PNG", ".png"), ("TIFF", ".tif"), ("PPM", ".pbm")])
        content = saved(Image.fromarray(bits), kind)
        return one_image(folder, "a" + ending, content, shown(bits.astype(np.uint8) * 255))
    if how in ("palette", "gif"):
        index, table = pixels(rng, *size(rng), 1) % 16, pixels(rng, 16, 3, 1).reshape(16, 3)
        table = table.copy()
        table[0] = [200, 10, 10]  # so that it is no grey palette
        paletted = Image.fromarray(index)
        paletted.putpalette(table.tobytes())
        kind, ending = (
            ("GIF", ".gif")
            if how == "gif"
            else rng.choice([("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")])
        )
        return one_image(folder, "a" + ending, saved(paletted, kind), shown(table[index]))
    if how == "cmyk":
        inks = np.concatenate([255 - values, np.zeros((*values.shape[:2], 1), np.uint8)], -1)
        content = saved(Image.fromarray(inks, "CMYK"), "TIFF")
        return one_image(folder, "a.tif", content, shown(values))
    more = [Image.fromarray(pixels(rng, *values.shape[:2])) for _ in range(rng.randint(1, 3))]
    kind, ending = rng.choice([("PNG", ".png"), ("TIFF", ".tif")])
    (folder / ("a" + ending)).write_bytes(saved(image, kind, save_all=True, append_images=more))
    data = read(folder)
    first = same(data.read_all()["x0"][0], shown(values))
    return verdict(first, said(data, "1 of 1 images is made of several frames or pages"))


def alpha_that_is_none(rng: random.Random, folder: Path) -> Verdict:
    """A fourth byte that means nothing: TGA without bits of alpha, BMP with 0 everywhere."""
    height, width = size(rng)
    values = pixels(rng, height, width)
    fourth = rng.choice((0, 1, 128, 255))
    bgra = np.full((height, width, 4), fourth, np.uint8)
    bgra[..., :3] = values[..., ::-1]
    if rng.random() < 0.5:
        sizes = (width, height, 32, 0x20)
        head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, *sizes)
        return one_image(folder, "a.tga", head + bgra.tobytes(), shown(values))
    if fourth in (1, 128):
        bgra[..., 3] = 0
    body = bgra[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    place = struct.pack("<IHHI", 122 + len(body), 0, 0, 122)
    content = b"BM" + place + head + masks + b"BGRs" + bytes(48) + body
    return one_image(folder, "a.bmp", content, shown(values))


def deep_grey(rng: random.Random, folder: Path) -> Verdict:
    """More than 8 bits of grey keep their precision, whatever value is white."""
    height, width = size(rng)
    bits = rng.choice([16, 16, 12, 32])
    ending, expected = ".tif", None
    if bits == 32:
        values = np.array([rng.random() for _ in range(height * width)], np.float32)
        content = saved(Image.fromarray(values.reshape(height, width)), "TIFF")
        expected = values.reshape(height, width)
    else:
        top = 2**bits - 1
        values = np.array([rng.randint(0, top) for _ in range(height * width)], np.uint16)
        values = values.reshape(height, width)
        expected = values / top
        how = rng.choice(["tiff", "tiff", "png", "pgm"])
        if how == "tiff":
            # Pillow reads white-is-zero in little-endian files alone, and 12 bits likewise
            order = "<" if bits == 12 else rng.choice("<>")
            inverted = bits == 16 and order == "<" and rng.random() < 0.4
            content = tiff(values, order, bits, inverted=inverted)
            expected = 1 - expected if inverted else expected
        elif how == "png" and bits == 16:
            content, ending = png(values, 16, 0), ".png"
        else:
            rows = values.astype(">u2").tobytes()
            content, ending = f"P5\n{width} {height}\n{top}\n".encode() + rows, ".pgm"
    return one_image(folder, "a" + ending, content, expected[None].astype(np.float64), 2e-5)


def out_of_range(rng: random.Random, folder: Path) -> Verdict:
    """Floating point beyond [0, 1], or integers without a white: listed, the others are read."""
    if rng.random() < 0.3:
        numbers = np.array([[rng.randrange(2**31) for _ in range(3)]], np.int32)
        return _listed(rng, folder, "bad.tif", saved(Image.fromarray(numbers), "TIFF"))
    values = np.zeros(size(rng, 4), np.float32)
    values[0, 0] = rng.choice([1.5, -0.25, float("nan"), float("inf"), 255.0])
    return _listed(rng, folder, "bad.tif", saved(Image.fromarray(values), "TIFF"))


def _listed(rng: random.Random, folder: Path, name: str, content: bytes) -> Verdict:
    """A file beside a good image is unreadable and listed, and the good one is as it was."""
    good = pixels(rng, 6, 6)
    Image.fromarray(good).save(folder / "good.png")
    (folder / name).write_bytes(content)
    data = read(folder, resolution=6)
    batch = data.read_all()
    if batch["unreadable"] != [str(folder / name)]:
        return wrong(f"listed {batch['unreadable']}, should be {name} alone")
    return verdict(same(batch["x0"][0], shown(good)), outcome="left out")


# Orientation


ENTRIES = {1: "B", 2: "s", 3: "H", 4: "I"}


def exif(rng: random.Random, orientation: int, order: str | None = None) -> tuple[bytes, int, str]:
    """A block, what it still says of the orientation, and how it is broken."""
    order = order or rng.choice("<>")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    make = struct.pack(f"{order}HHII", 0x010F, 2, 20, rng.choice([10**6, 2**32 - 1, 40]))
    turned = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    date = struct.pack(f"{order}HHII", 0x0132, 2, 20, 10**7)
    table = struct.pack(f"{order}HHII", 0x8769, 4, 1, rng.choice([3, 10**6, 2**32 - 1]))
    odd = struct.pack(f"{order}HHII", 0x0128, rng.choice([0, 13, 99]), 2**31, 5)
    after = struct.pack(f"{order}I", rng.choice([0, 8, 10**8]))

    def block(*entries: bytes, n: int | None = None) -> bytes:
        count = struct.pack(f"{order}H", len(entries) if n is None else n)
        return head + count + b"".join(entries) + after

    how, content, says = rng.choice([
        ("whole", block(turned), orientation),
        ("with other tags", block(make, turned, date, table), orientation),
        ("tags of no known type", block(odd, turned), orientation),
        ("more entries than there are", block(turned, n=500), orientation),
        ("cut behind it", block(turned, date)[: 8 + 2 + 12 + rng.randrange(12)], orientation),
        ("cut in it", block(turned)[: 8 + 2 + rng.randrange(12)], 1),
        ("cut in the head", head[: rng.randrange(8)], 1),
        ("garbage", b"hello world" * rng.randint(1, 9), 1),
        ("random bytes", b"\1" + rng.randbytes(rng.randint(1, 60)), 1),
        ("empty", b"", 1),
        ("no entry", block(), 1),
        ("points nowhere", head[:4] + struct.pack(f"{order}I", 10**6) + block(turned)[8:], 1),
        ("only other tags", block(make, date), 1),
    ])  # fmt: skip
    return content, says, how


def broken_exif(rng: random.Random, folder: Path) -> Verdict:
    """The pixels count, and an orientation that can be read."""
    orientation = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535])
    block, says, how = exif(rng, orientation)
    kind, ending = rng.choice([("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")])
    grey = kind != "WEBP" and rng.random() < 0.3
    stored = smooth(rng, *size(rng, 8), 1 if grey else 3)
    if kind == "JPEG":  # some phones write the marker twice
        block = b"Exif\0\0" * rng.choice([1, 1, 2]) + block
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    content = saved(Image.fromarray(stored), kind, exif=block, **options)
    if kind == "PNG" and rng.random() < 0.3:
        content = png(stored, 8, 0 if grey else 2, after=[(b"eXIf", block)])
    off = 0.06 if kind == "JPEG" else 1e-6
    found = one_image(folder, "a" + ending, content, shown(upright(stored, says)), off)
    return found if found.outcome == "read" else wrong(f"{kind}, EXIF {how}: {found.reason}")


def tiff_orientation(rng: random.Random, folder: Path) -> Verdict:
    """A TIFF's own orientation, with tables of EXIF that lead nowhere."""
    orientation = rng.choice([1, 2, 3, 4, 5, 6, 7, 8])
    stored = pixels(rng, *size(rng, 2), 1)
    tables = [(tag, 4, 1, rng.choice([0, 3, 10**6, 2**32 - 1])) for tag in (0x8769, 0x8825)]
    tags = [(0x0112, 3, 1, orientation), *rng.sample(tables, rng.randint(0, 2))]
    content = tiff(stored, rng.choice("<>"), 8, tags=tags)
    return one_image(folder, "a.tif", content, shown(upright(stored, orientation)))


# Transparency


def png(
    values: Array,
    depth: int,
    colour: int,
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of these numbers, (H, W) or (H, W, C), with further chunks."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    height, width = values.shape[:2]
    flat = values.reshape(height, -1)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    elif depth == 8:
        rows = [row.astype(np.uint8).tobytes() for row in flat]
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *before, (b"IDAT", data), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def tiff(
    values: Array,
    order: str,
    bits: int,
    *,
    inverted: bool = False,
    tags: Sequence[tuple[int, int, int, int]] = (),
) -> bytes:
    """A TIFF of one strip without compression; tags are (tag, type, count, value)."""
    height, width = values.shape
    if bits == 16:
        strip = values.astype(f"{order}u2").tobytes()
    elif bits == 8:
        strip = values.astype(np.uint8).tobytes()
    else:  # 12: three bytes hold two pixels, rows end at a byte
        planes = (values[..., None] >> np.arange(11, -1, -1)) & 1
        strip = b"".join(np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in planes)
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, bits), (259, 3, 1, 1),
        (262, 3, 1, 0 if inverted else 1), (273, 4, 1, 0), (277, 3, 1, 1), (278, 3, 1, height),
        (279, 4, 1, len(strip)), *tags,
    ]  # fmt: skip
    entries.sort()
    place = 8 + 2 + 12 * len(entries) + 4
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        value = place if tag == 273 else value
        packed = (
            struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        )
        table += struct.pack(f"{order}HHI", tag, kind, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + table + struct.pack(f"{order}I", 0) + strip


def transparent_colour(rng: random.Random, folder: Path) -> Verdict:
    """PNG's one transparent value, in every depth: its pixels are white, and no others."""
    height, width = size(rng)
    if rng.random() < 0.7:
        depth = rng.choice([1, 2, 4, 8, 16])
        top = 2**depth - 1
        choices = [rng.randint(0, top) for _ in range(4)]
        if depth == 16:  # the same upper byte, which must not be enough
            choices.append(choices[0] ^ rng.randint(1, 255))
        values = np.array(rng.choices(choices, k=height * width)).reshape(height, width)
        clear = rng.choice([*choices, rng.randint(0, top)])
        content = png(values, depth, 0, [(b"tRNS", struct.pack(">H", clear))])
        expected = np.where(values == clear, 1, values / top)[None]
        return one_image(folder, "a.png", content, expected, 2e-5)
    table = [rng.randbytes(3) for _ in range(3)]
    index = np.array(rng.choices(range(3), k=height * width)).reshape(height, width)
    values = np.array([list(one) for one in table], np.uint8)[index]
    clear = rng.choice([*table, rng.randbytes(3)])
    chunk = b"tRNS", struct.pack(">HHH", *clear)
    if rng.random() < 0.2:  # 16 bits per channel, of which only the upper ones are read
        content = png(values.astype(np.uint16) * 257, 16, 2, [chunk])
        return _listed(rng, folder, "h.png", content)
    values = np.where((values == list(clear)).all(-1, keepdims=True), 255, values)
    content = png(np.array([list(one) for one in table], np.uint8)[index], 8, 2, [chunk])
    return one_image(folder, "a.png", content, shown(values))


def transparent_palette(rng: random.Random, folder: Path) -> Verdict:
    """A palette with a transparency for some of its colours, in PNG and GIF."""
    n, (height, width) = rng.randint(2, 16), size(rng)
    table = np.frombuffer(rng.randbytes(3 * n), np.uint8).reshape(n, 3).copy()
    table[0] = [250, 20, 10]
    index = np.array(rng.choices(range(n), k=height * width)).reshape(height, width)
    if rng.random() < 0.4:
        image = Image.fromarray(index.astype(np.uint8))
        image.putpalette(table.tobytes())
        clear = rng.randrange(n)
        content, ending = saved(image, "GIF", transparency=clear), ".gif"
        opacity = np.array([0.0 if i == clear else 1.0 for i in range(n)])
    else:
        alpha = [rng.choice([0, 255, rng.randrange(256)]) for _ in range(rng.randint(1, n))]
        content = png(index, 8, 3, [(b"PLTE", table.tobytes()), (b"tRNS", bytes(alpha))])
        opacity, ending = np.array([*alpha, *[255] * (n - len(alpha))]) / 255, ".png"
    over = table / 255 * opacity[:, None] + (1 - opacity[:, None])
    return one_image(folder, "a" + ending, content, over[index].transpose(2, 0, 1), 1.01 / 255)


def alpha_channel(rng: random.Random, folder: Path) -> Verdict:
    """Pixels behind their opacity, over white."""
    height, width = size(rng, 2)
    grey = rng.random() < 0.3
    values = pixels(rng, height, width, 2 if grey else 4).copy()
    values[rng.random() < 0.5 and values[..., -1] > 128, -1] = 255
    kind, ending = ("PNG", ".png") if grey else rng.choice([
        ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif"), ("TGA", ".tga"), ("JPEG2000", ".jp2")
    ])  # fmt: skip
    content = saved(Image.fromarray(values), kind, **LOSSLESS[kind][1])
    opacity = values[..., -1:] / 255
    over = values[..., :-1] / 255 * opacity + 1 - opacity
    return one_image(folder, "a" + ending, content, over.transpose(2, 0, 1), 1.01 / 255)


# Names


NO_IMAGES = (".mp4", ".mov", ".svg", ".jxl", ".psd", ".cr2", ".pdf", ".json", ".xml", ".html",
             ".npy", ".db", ".zip", ".exr", "", ".jpg_large", ".jpg~", ".part")  # fmt: skip
ASIDE = ("@eaDir", "__MACOSX", ".thumbnails", "@eaDir/a.jpg", ".@__thumb", "#recycle", "@Recycle",
         "$RECYCLE.BIN", ".AppleDouble", "lost+found", "sub/@eaDir", ".git/x")  # fmt: skip


def left_out_by_name(rng: random.Random, folder: Path) -> Verdict:
    """Only images are read; the rest is counted by kind in one line, thumbnails in another."""
    expected: dict[str, Array] = {}
    classes = rng.choice([[""], ["cat", "dog"]])
    for number in range(rng.randint(2, 6)):
        kind = rng.choice(["PNG", "BMP", "TIFF", "PPM"])
        name = f"{number}{rng.choice(LOSSLESS[kind][0])}"
        place = folder / classes[number % len(classes)]
        place.mkdir(exist_ok=True)
        values = pixels(rng, 5, 7)
        (place / name).write_bytes(saved(Image.fromarray(values), kind))
        expected[str(place / name)] = shown(values)
    kinds: dict[str, int] = {}
    for number in range(rng.choice([0, 1, 5])):
        ending = rng.choice(NO_IMAGES)
        kinds[ending or "without an ending"] = kinds.get(ending or "without an ending", 0) + 1
        (folder / f"x{number}{rng.choice([ending, ending.upper()])}").write_bytes(b"\0 no image")
    aside: dict[str, int] = {}
    for number in range(rng.choice([0, 1, 4])):
        place = rng.choice(ASIDE)
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3)).save(folder / place / f"t{number}.jpg")
        (folder / place / "notes").write_text("no image")
        top = next(part for part in place.split("/") if part != "sub")
        aside[top] = aside.get(top, 0) + 1
    for number in range(rng.choice([0, 2])):
        (folder / f"._{number}.jpg").write_bytes(b"\0\5\x16\7")
        aside["._*"] = aside.get("._*", 0) + 1
    data = read(folder, n_channels=3)
    batch = data.read_all()
    names = [str(data.where(i)) for i in range(len(data))]
    if sorted(names) != sorted(expected) or batch["unreadable"]:
        return wrong(f"read {names}, should be {sorted(expected)}")
    found = [same(x, expected[name]) for name, x in zip(names, batch["x0"], strict=True)]
    if len(data.remarks) != bool(kinds) + bool(aside):
        found.append(f"said {data.remarks} for {kinds} and {aside}")
    for counts, words in ((kinds, "of kinds that are not read"), (aside, "left out as hidden")):
        if counts:
            found.append(said(data, words, *(f"{kind} {n}" for kind, n in counts.items())))
    class_names = [] if classes == [""] else classes
    if list(data.class_names) != class_names:
        found.append(f"classes {data.class_names}, should be {class_names}")
    return verdict(*found, outcome="left out" if kinds or aside else "read")


def images_without_an_ending(rng: random.Random, folder: Path) -> Verdict:
    """An image whose name does not say so is counted, and said to be one."""
    values = pixels(rng, 5, 7)
    (folder / "a.png").write_bytes(png(values, 8, 2))
    kind = rng.choice(["PNG", "JPEG", "GIF", "WEBP"])
    n = rng.randint(1, 4)
    for number in range(n):
        ending = rng.choice(["", ".tmp", ".jpg!d", ".jpg_large", ".jpg?w=300", ".png.1"])
        (folder / f"b{number}{ending}").write_bytes(saved(Image.fromarray(values), kind))
    (folder / "c.part").write_bytes(rng.randbytes(30) if rng.random() < 0.5 else b"")
    data = read(folder)
    return verdict(
        same(data.read_all()["x0"][0], shown(values)),
        "" if len(data) == 1 else f"{len(data)} images",
        said(data, f"{n + 1} files are left out"),
        said(data, f"{n} of the files left out", "by content"),
        outcome="left out",
    )


def nothing_but_others(rng: random.Random, folder: Path) -> Verdict:
    """A folder without an image that is read is refused, and what lies there is counted."""
    ending = rng.choice([one for one in NO_IMAGES if one])
    n = rng.randint(1, 4)
    for number in range(n):
        (folder / f"{number}{ending}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    return refuses(lambda: read(folder), str(folder), f"{ending} {n}")


def heic(rng: random.Random, folder: Path) -> Verdict:
    """HEIC needs a package: without it such files are counted, and the package is named."""
    import importlib.util

    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
        values = smooth(rng, *size(rng, 16, 40))
        content = saved(Image.fromarray(values), "HEIF", quality=95)
        name = rng.choice(["a.heic", "a.HEIC", "a.heif", "a.jpg"])
        return one_image(folder, name, content, shown(values), 0.08)
    content = b"\0\0\0\x18ftyp" + rng.choice([b"heic", b"mif1", b"heix"]) + bytes(60)
    if rng.random() < 0.5:
        verdict_ = _listed(rng, folder, "IMG_1.jpg", content)
        data = read(folder, resolution=6)
    else:
        verdict_ = _listed(rng, folder, "bad.png", b"broken")
        (folder / "bad.png").unlink()
        (folder / rng.choice(["IMG_1.HEIC", "b.heif", "c.hif"])).write_bytes(content)
        data = read(folder, resolution=6)
    hint = said(data, "pip install 'sparring[heif]'")
    return wrong(hint) if hint else verdict_


# Sizes


def taps(n_in: int, n_out: int, first: int, last: int) -> Array:
    """Weights (last - first, n_in) of Pillow's bilinear filter: a triangle as wide as the step."""
    step = n_in / n_out
    reach = max(step, 1.0)
    middle = (np.arange(first, last) + 0.5) * step
    near = 1 - np.abs(np.arange(n_in) + 0.5 - middle[:, None]) / reach
    near = near.clip(0)
    return near / near.sum(1, keepdims=True)


def framed(x: Array, resolution: int) -> Array:
    """(C, H, W) resized to its shorter side and cropped in the middle, in float64."""
    _, height, width = x.shape
    shorter = min(height, width)
    tall, wide = round(height * resolution / shorter), round(width * resolution / shorter)
    top, left = (tall - resolution) // 2, (wide - resolution) // 2
    rows = taps(height, tall, top, top + resolution)
    columns = taps(width, wide, left, left + resolution)
    return np.stack([rows @ channel @ columns.T for channel in x])


def resized_and_cropped(rng: random.Random, folder: Path) -> Verdict:
    """Shrunk or enlarged to data.resolution and cropped; how many are enlarged is said."""
    resolution = rng.choice([1, 4, 8, 16, 31])
    n = rng.randint(1, 5)
    expected, n_small = [], 0
    for number in range(n):
        values = pixels(rng, *size(rng, 1, 40))
        n_small += min(values.shape[:2]) < resolution
        Image.fromarray(values).save(folder / f"{number}.png")
        expected.append(framed(shown(values), resolution))
    data = read(folder, resolution=resolution)
    batch = data.read_all()
    found = [same(x, one, 2e-5) for x, one in zip(batch["x0"], expected, strict=True)]
    words = (f"{n_small} of {n} images", f"data.resolution={resolution}") if n_small else (None,)
    return verdict(*found, said(data, *words))


def long_images(rng: random.Random, folder: Path) -> Verdict:
    """Thousands of pixels long: read through its middle, or left out if it were too large."""
    good = pixels(rng, 40, 40)
    Image.fromarray(good).save(folder / "good.png")
    length = rng.choice([300, 2000, 8000, 20000])
    short = rng.randint(1, 3)
    tall = rng.random() < 0.5
    values = pixels(rng, *((length, short) if tall else (short, length)))
    Image.fromarray(values).save(folder / "long.png")
    resolution = rng.choice([8, 32, 100, 256])
    n_pixels = resolution * round(length * resolution / short)
    data = read(folder, resolution=resolution)
    batch = data.read_all()
    found = [same(batch["x0"][0], framed(shown(good), resolution), 2e-5)]
    if n_pixels > MOST:
        if batch["unreadable"] != [str(folder / "long.png")]:
            found.append(f"listed {batch['unreadable']}")
        width, height = values.shape[1], values.shape[0]
        found.append(said(data, "1 of 2 images is left out", f"({width}x{height})"))
        return verdict(*found, outcome="left out")
    found.append(same(batch["x0"][1], framed(shown(values), resolution), 1e-4))
    return verdict(*found)


def one_size_not_square(rng: random.Random, folder: Path) -> Verdict:
    """Without a resolution images of one size keep it."""
    height, width = size(rng)
    expected = [pixels(rng, height, width) for _ in range(rng.randint(1, 4))]
    for number, values in enumerate(expected):
        Image.fromarray(values).save(folder / f"{number}.{rng.choice(['png', 'bmp', 'tif'])}")
    data = read(folder)
    if data.sample_shape != (3, height, width):
        return wrong(f"shape {data.sample_shape}, should be {(3, height, width)}")
    batch = data.read_all()["x0"]
    return verdict(*(same(x, shown(y)) for x, y in zip(batch, expected, strict=True)))


def sizes_differ(rng: random.Random, folder: Path) -> Verdict:
    """Without a resolution another size is refused, by name."""
    height, width = size(rng)
    Image.fromarray(pixels(rng, height, width)).save(folder / "a.png")
    Image.fromarray(pixels(rng, height + 1, width)).save(folder / "b.png")
    return refuses(
        lambda: read(folder).read_all(), "b.png", f"{width}x{height + 1}", "data.resolution"
    )


# Channels


def grey_and_colour(rng: random.Random, folder: Path) -> Verdict:
    """The channels do not follow from the order of names."""
    n = rng.randint(2, 7)
    names = [f"{number}.png" for number in range(n)]
    colour = set(rng.sample(names, rng.choice([0, 1, 1, rng.randint(1, n)])))
    asked = rng.choice([None, None, 1, 3])
    expected = {}
    for name in names:
        values = pixels(rng, 6, 5, 3 if name in colour else 1)
        Image.fromarray(values).save(folder / name)
        expected[name] = shown(values)
    channels = asked or (3 if colour else 1)
    data = read(folder, n_channels=asked)
    if data.sample_shape != (channels, 6, 5):
        return wrong(f"shape {data.sample_shape}, should have {channels} channels")
    found = []
    for name, x in zip(names, data.read_all()["x0"], strict=True):
        wanted = expected[name]
        if len(wanted) == 1:
            wanted = wanted.repeat(channels, 0)
        elif channels == 1:
            wanted = (wanted * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdims=True)
        found.append(same(x, wanted, 1e-5))
    mixed = asked is None and 0 < len(colour) < n
    words = (f"{n - len(colour)} of {n} images", "3 channels") if mixed else (None,)
    return verdict(*found, said(data, *words))


def colour_that_was_not_looked_at(rng: random.Random, folder: Path) -> Verdict:
    """Of many images some are looked at: that is said, and colour elsewhere is never lost."""
    from sparring.data.files import source

    kept, source.N_SURVEYED = source.N_SURVEYED, 3
    try:
        n = rng.randint(7, 12)
        looked_at = {i * n // 3 for i in range(3)}
        at = rng.randrange(n)
        expected = []
        for number in range(n):
            values = pixels(rng, 5, 5, 3 if number == at else 1)
            Image.fromarray(values).save(folder / f"{number:02}.png")
            expected.append(shown(values))
        data = read(folder)
        batch = data.read_all()
    finally:
        source.N_SURVEYED = kept
    if at in looked_at:
        found = [
            same(x, one.repeat(3 // len(one), 0))
            for x, one in zip(batch["x0"], expected, strict=True)
        ]
        return verdict(*found, said(data, "of 3 images looked at", f"there are {n}"))
    del expected[at]
    found = [same(x, one) for x, one in zip(batch["x0"], expected, strict=True)]
    if batch["unreadable"] != [str(folder / f"{at:02}.png")]:
        found.append(f"listed {batch['unreadable']}")
    return verdict(*found, said(data, "grey", "data.n_channels"), outcome="left out")


# Other readers


def parquet(rng: random.Random, folder: Path) -> Verdict:
    """The same files as cells of a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import config, disable_progress_bars

    disable_progress_bars()
    cells, expected = [], []
    for number in range(rng.randint(2, 5)):
        grey = rng.random() < 0.3
        stored = pixels(rng, 7, 7, 1 if grey else 3)
        block, says, _ = exif(rng, rng.randint(1, 8))
        content = saved(Image.fromarray(stored), "PNG", exif=block)
        cells.append({"bytes": content, "path": rng.choice([None, f"{number}.jpg"])})
        expected.append(shown(upright(stored, says)))
    pq.write_table(pa.table({"image": cells}), folder / "t.parquet")
    kept = config.HF_DATASETS_CACHE
    config.HF_DATASETS_CACHE = folder / "cache"
    try:
        data = build_dataset("parquet", data_files=str(folder / "t.parquet"))
        batch = data.read_all()
    finally:
        config.HF_DATASETS_CACHE = kept
    channels = max(len(one) for one in expected)
    found = [
        same(x, one.repeat(channels // len(one), 0))
        for x, one in zip(batch["x0"], expected, strict=True)
    ]
    mixed = len({len(one) for one in expected}) > 1
    return verdict(*found, said(data, *(("3 channels",) if mixed else (None,))))


def copied(rng: random.Random, folder: Path) -> Verdict:
    """`contaminate` without dirt writes what is read, of any size and shape."""
    from sparring.commands.contaminate.copies import contaminate

    (folder / "in").mkdir()
    height, width = rng.choice([(1, 1), (1, 90), (70, 1), size(rng), size(rng)])
    resolution = rng.choice([None, None, 4])
    expected = {}
    for number in range(rng.randint(1, 4)):
        values = pixels(rng, height, width)
        kind = rng.choice(["PNG", "BMP", "TIFF"])
        (folder / "in" / f"{number}{LOSSLESS[kind][0][0]}").write_bytes(
            saved(Image.fromarray(values), kind)
        )
        wanted = shown(values) if resolution is None else framed(shown(values), resolution)
        expected[f"{number}.png"] = wanted
    (folder / "in" / "x.svg").write_text("<svg/>")
    data = {"name": "image_folder", "train_data_dir": str(folder / "in"), "resolution": resolution}
    lines: list[str] = []
    done = contaminate(
        data, {"kind": "gaussian", "rate": 0.0}, folder / "out", lambda line: lines.append(line)
    )
    names = sorted(path.name for path in (folder / "out").glob("*.png"))
    if names != sorted(expected) or done["unreadable"]:
        return wrong(f"wrote {names} and left out {done['unreadable']}")
    found = []
    for name, wanted in expected.items():
        with Image.open(folder / "out" / name) as image:
            got = shown(np.asarray(image))
        found.append(same(torch.from_numpy(got), wanted, 0.51 / 255))
    return verdict(*found)


def inspected(rng: random.Random, folder: Path) -> Verdict:
    """`inspect` counts sizes and files, of any shape, and is not led by one odd image."""
    from sparring.commands.inspect.findings import as_text, inspect_command

    n, side = rng.randint(4, 9), rng.randint(17, 25)
    shapes = [(side, side + rng.randint(0, 9)) for _ in range(n)]
    shapes.append(rng.choice([(1, 8000), (8000, 1), (1, 1), (2, 700), (side, side + 1)]))
    for number, (height, width) in enumerate(shapes):
        Image.fromarray(pixels(rng, height, width)).save(folder / f"{number}.png")
    for number in range(n_heic := rng.choice([0, 3])):
        (folder / f"{number}.mp4").write_bytes(b"\0")
    lines: list[str] = []
    data = {"name": "image_folder", "train_data_dir": str(folder)}
    result = inspect_command(data, {"kind": "none"}, None, lines.append)
    counts: dict[tuple[int, int], int] = {}
    for height, width in shapes:
        counts[width, height] = counts.get((width, height), 0) + 1
    told = {(one["width"], one["height"]): one["n_images"] for one in result["sizes"]}
    found = ["" if told == counts else f"sizes {told}, should be {counts}"]
    if (result["n_images"], result["n_readable"]) != (n + 1, n + 1):
        found.append(f"{result['n_readable']} of {result['n_images']} readable")
    looked = result["looked_at"]["width"], result["looked_at"]["height"]
    if len(counts) > 1 and looked != (side, side):
        found.append(f"looked at as {looked}, should be {side}")
    if n_heic and not any(".mp4 3" in remark for remark in result["remarks"]):
        found.append(f"remarks {result['remarks']}")
    json.dumps(result)
    as_text(result)
    return verdict(*found)


def links_and_odd_files(rng: random.Random, folder: Path) -> Verdict:
    """Links, empty and cut files: listed, or read where a link stays inside."""
    how = rng.choice(["empty", "cut", "outside", "nowhere", "inside"])
    good = pixels(rng, 6, 6)
    if how == "inside":
        Image.fromarray(good).save(folder / "good.png")
        (folder / "h.png").symlink_to("good.png")
        batch = read(folder).read_all()["x0"]
        return verdict(*(same(x, shown(good)) for x in batch), "" if len(batch) == 2 else "lost")
    content = b"" if how == "empty" else png(good, 8, 2)[: rng.randint(8, 60)]
    if how in ("empty", "cut"):
        return _listed(rng, folder, "h.png", content)
    (folder / "in").mkdir()
    Image.fromarray(good).save(folder / "far.png")
    os.symlink(folder / ("far.png" if how == "outside" else "none.png"), folder / "in" / "h.png")
    Image.fromarray(good).save(folder / "in" / "good.png")
    batch = read(folder / "in").read_all()
    listed = batch["unreadable"] == [str(folder / "in" / "h.png")]
    return verdict(
        same(batch["x0"][0], shown(good)),
        "" if listed else f"listed {batch['unreadable']}",
        outcome="left out",
    )


KINDS: dict[str, Callable[[random.Random, Path], Verdict]] = {
    "formats that keep their numbers": exact_formats,
    "lossy formats": lossy_formats,
    "another format's ending": wrong_endings,
    "two colours, palettes, CMYK, animations": other_modes,
    "alpha that is none": alpha_that_is_none,
    "deep grey": deep_grey,
    "beyond an image's range": out_of_range,
    "EXIF, whole and broken": broken_exif,
    "a TIFF's orientation": tiff_orientation,
    "a transparent colour": transparent_colour,
    "a palette with transparency": transparent_palette,
    "alpha": alpha_channel,
    "files that are no images, thumbnails": left_out_by_name,
    "images without an ending": images_without_an_ending,
    "no image at all": nothing_but_others,
    "HEIC": heic,
    "resized and cropped": resized_and_cropped,
    "long images": long_images,
    "one size, not square": one_size_not_square,
    "sizes that differ": sizes_differ,
    "grey and colour": grey_and_colour,
    "colour that was not looked at": colour_that_was_not_looked_at,
    "cells of a table": parquet,
    "contaminate": copied,
    "inspect": inspected,
    "links and odd files": links_and_odd_files,
}
