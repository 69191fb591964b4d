"""What the bytes of an image file show: its pixels upright, its transparent places white."""

import io
import logging
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError, features
from PIL.ImageFile import ImageFile
from torch import Tensor

from .. import transforms
from .allowed_files import Unreadable

MAX_PIXELS = 89_478_485
"""Of an image, in its file and after resizing; beyond that Pillow suspects a bomb. Larger ones are
not decoded."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a Pillow that has not heard of AVIF
    READS_AVIF = bool(features.check("avif"))

AVIF = ("AVIF",) if READS_AVIF else ()
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "TGA", *AVIF)
"""Those of `listing.EXTENSIONS`. Pillow knows more, and runs other programs for some (EPS)."""

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIF_NEEDS = "HEIC: pip install 'sparring[heif]'"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # a broken file is listed, not shouted

LUMA = (0.299, 0.587, 0.114)
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by the camera's orientation."""


class Header(NamedTuple):
    """What the head of an image file says."""

    height: int  # as stored, before the camera's orientation
    width: int
    in_colour: bool  # has three channels
    is_several: bool  # an animation's frames or a TIFF's pages, but no second picture for depth
    quantization: Mapping[int, Sequence[int]] | None  # a JPEG's tables by number, 64 steps each


def decode(file: str | bytes, n_channels: int | None = None) -> Tensor:
    """Read an image file of the FORMATS (HEIC with pillow-heif), told by its content alone.

    Of an animation the first frame counts; the camera's orientation is applied; transparent pixels
    show white; CMYK, palette and other colour spaces become RGB; 16 bits per pixel keep their
    precision when grey (65535 is 1), floating-point pixels must lie in [0, 1].

    Returns:
        The image in [0, 1], (n_channels, H, W), float32: 1 is luma of RGB, 3 repeats grey; None: as
        the file has it. Unreadable if it is no image, or has more than MAX_PIXELS.
    """
    return with_channels(transforms.to_float(pixels(file)), n_channels)


def pixels(file: str | bytes) -> Tensor:
    """An image file as `decode` reads it, with its own channels (1 or 3, H, W): 0..255 (uint8) of
    the kinds that have 8 bits for each channel, else float32 in [0, 1]; Unreadable as there."""
    with _opened(file) as image:
        values = torch.from_numpy(_pixels(image))
    return values.permute(2, 0, 1) if values.ndim == 3 else values[None]


def header(file: str | bytes) -> Header:
    """What the head of an image file says; nothing is decoded, so it may still prove broken."""
    with _opened(file) as image:
        is_several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        tables = getattr(image, "quantization", None)
        in_colour = image.mode not in GREY_MODES
        return Header(image.height, image.width, in_colour, is_several, tables)


def with_channels(x: Tensor, n_channels: int | None) -> Tensor:
    """An image (C, H, W) in grey (1), by its luma, or in colour (3); None: as it is. Pixels of 8
    bits stay so, but for the luma, which is float."""
    if n_channels == 1 and len(x) == 3:
        return torch.einsum("chw,c->hw", transforms.to_float(x), torch.tensor(LUMA))[None]
    if n_channels == 3 and len(x) == 1:
        return x.repeat(3, 1, 1)
    return x


@contextmanager
def _opened(file: str | bytes) -> Iterator[ImageFile]:
    """The image by its header, not yet decoded; Pillow's warnings about odd files are dropped.
    Whatever is raised here or by who decodes it becomes Unreadable, in words that do not change."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _by_its_kind(file) as image:
                n = image.width * image.height
                if not 0 < n <= MAX_PIXELS:
                    what = f"more than {MAX_PIXELS:,}" if n else "none"
                    raise ValueError(f"{image.width} x {image.height} pixels are {what}")
                yield image
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("no image of a kind that is read") from error
    except Exception as error:  # a broken file can raise anything in a decoder
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _by_its_kind(file: str | bytes) -> ImageFile:
    def content() -> Any:
        return io.BytesIO(file) if isinstance(file, bytes) else file

    try:
        return Image.open(content(), formats=FORMATS)
    except UnidentifiedImageError:
        with open(file, "rb") if isinstance(file, str) else content() as stream:
            head = stream.read(12)
        if head[4:8] != b"ftyp" or head[8:] not in HEIF_BRANDS:
            raise
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"a file in {HEIF_NEEDS}") from None
    pillow_heif.register_heif_opener()
    return Image.open(content(), formats=("HEIF",))


def _pixels(file: ImageFile) -> np.ndarray:
    """The upright pixels, see `pixels`: (H, W) of a grey image, else (H, W, 3)."""
    packing = str(file.tile[0][3]) if file.format == "PNG" and file.tile else ""
    white = _white(file)
    is_opaque = _has_no_alpha(file)
    image = _upright(file)
    if file.format == "BMP" and image.mode == "RGBA":
        # programs write 0 where nothing is meant, and all readers take such an alpha for none
        is_opaque = image.getchannel("A").getextrema() == (0, 0)
    if is_opaque:
        image = image.convert(image.mode.removesuffix("A"))
    if image.mode not in GREY_MODES:
        return _colours(image, packing)
    shown = image
    if image.mode in ("LA", "La"):
        shown = _on_white(image).convert("L")
    elif image.mode == "1":
        shown = image.convert("L")
    return _grey(image, np.array(shown), packing, white)


def _on_white(image: Image.Image) -> Image.Image:
    shown = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)


def _has_no_alpha(image: ImageFile) -> bool:
    """Whether the fourth byte of a pixel is no alpha: a TGA that says it has 0 bits of alpha."""
    if image.format != "TGA" or image.mode not in ("RGBA", "LA"):
        return False
    stream: Any = image.fp
    place = stream.tell()
    stream.seek(17)
    (descriptor,) = stream.read(1)
    stream.seek(place)
    return descriptor & 15 == 0


def _white(image: ImageFile) -> float:
    """The value that is white, for pixels of more than 8 bits; negative where 0 is white."""
    if image.mode == "F":
        return 1
    if image.format != "TIFF" or not image.mode.startswith("I"):
        return 65535
    if image.mode == "I":
        raise ValueError("integers of 32 bits or with a sign, of which none is said to be white")
    tags: Any = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    bits, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
    return (-1 if white_is_zero else 1) * (2.0**bits - 1)


def _grey(image: Image.Image, values: np.ndarray, packing: str, white: float) -> np.ndarray:
    """Grey pixels (H, W), see `pixels`; those of the transparent value are white."""
    if image.mode in ("1", "L", "LA", "La"):
        grey, brightest = values.copy(), 255
    else:
        grey, brightest = values.astype(np.float32) / abs(white), 1
        if not (grey.min() >= 0 and grey.max() <= 1):
            raise ValueError(f"pixels of mode {image.mode} beyond the range of an image")
        if white < 0:
            grey = 1 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        most = {"1": 1, "L;2": 3, "L;4": 15, "L": 255}.get(packing)
        if most is not None:  # a PNG says it in its own bits, and Pillow spreads pixels to 0..255
            clear = 255 // most * (clear & most)
        grey[values == clear] = brightest
    return grey


def _colours(image: Image.Image, packing: str) -> np.ndarray:
    """Colour pixels (H, W, 3), uint8; transparent ones are white."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and clear is not None:
        if packing == "RGB;16B":  # Pillow keeps the upper halves alone, so which one is not known
            raise ValueError("a transparent colour of 16 bits for each channel")
        values = np.array(image)
        values[(values == [one & 255 for one in clear]).all(-1)] = 255
        return values
    if image.mode in ("PA", "RGBA", "RGBa") or clear is not None:
        image = _on_white(image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _upright(image: ImageFile) -> Image.Image:
    """The image decoded, and turned as its camera held it. Only the orientation of the EXIF block
    is read, so that nothing else in it needs to be whole."""
    if image.format == "TIFF":  # Pillow turns it while it decodes, and reads these tables as well
        exif = image.getexif()
        for table in (0x8769, 0x8825, 0xA005):
            if table in exif:
                del exif[table]
        image.filename = ""  # else it maps the file, with rows as long as those of the turned image
        image.load()
        return image
    image.load()  # before a look at `info`: a PNG may have its EXIF behind its pixels
    turn = TURNS.get(_orientation(image.info))
    return image if turn is None else image.transpose(turn)


def _orientation(info: dict[Any, Any]) -> int:
    """What the EXIF block says, else the XMP block, else 1 (upright)."""
    block = info.get("exif")
    if block is None:
        lines = str(info.get("Raw profile type exif", "")).split("\n")[3:]
        try:
            block = bytes.fromhex("".join(lines))
        except ValueError:
            block = b""
    found = exif_orientation(block)
    if found is not None:
        return found
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
    return int(match[1]) if match else 1


def exif_orientation(block: bytes) -> int | None:
    """The orientation in an EXIF block, None where there is none to be read.

    The block is a small TIFF file behind "Exif\\0\\0" (some phones write that twice): byte order,
    42, the place of a table; the table is a count and entries of 12 bytes: tag, type, number of
    values, value. Entries are looked at one by one, so one that is broken hides no other.
    """
    tiff = re.sub(rb"^(?:Exif\0\0)+", b"", block)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or tiff[2:4] not in (b"*\0", b"\0*"):
        return None
    try:
        (table,) = struct.unpack_from(f"{order}I", tiff, 4)
        (n,) = struct.unpack_from(f"{order}H", tiff, table)
        for entry in range(n):
            tag, kind, _, value = struct.unpack_from(f"{order}HHI4s", tiff, table + 2 + 12 * entry)
            if tag == ORIENTATION:
                letter = {1: "B", 3: "H", 4: "I"}.get(kind)
                return None if letter is None else struct.unpack_from(order + letter, value)[0]
    except struct.error:  # it ends before
        pass
    return None
