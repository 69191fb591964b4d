"""What an image file shows: every mode and depth, transparency, orientation beside broken EXIF."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from sparring.data.datasets import build_dataset
from sparring.data.files import decoding
from sparring.data.files.allowed_files import Unreadable


def _save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_sixteen_bits_keep_their_precision():
    values = np.array([[0, 1, 256], [30000, 65534, 65535]], dtype=np.uint16)
    x = decoding.decode(_save(Image.fromarray(values), "PNG"))
    np.testing.assert_allclose(x[0].numpy(), values / 65535, atol=1e-7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_pixels_of_eight_bits_stay_so(mode):
    rgb = np.random.RandomState(0).randint(0, 256, (6, 5, 3), dtype=np.uint8)
    image = Image.fromarray(rgb).convert(mode)
    file = _save(image, "TIFF")
    x = decoding.pixels(file)
    assert x.dtype == torch.uint8
    shown = np.array(image.convert("RGB" if len(x) == 3 else "L"))
    assert torch.equal(x, torch.tensor(shown).reshape(6, 5, -1).permute(2, 0, 1))
    assert torch.equal(decoding.decode(file), x / 255)


def test_palette_cmyk_and_grey_become_what_they_show():
    rgb = np.random.RandomState(0).randint(0, 256, (6, 5, 3), dtype=np.uint8)
    exact = torch.tensor(rgb).permute(2, 0, 1) / 255
    image = Image.fromarray(rgb)
    palette = image.quantize(256)
    shown = torch.tensor(np.array(palette.convert("RGB"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(decoding.decode(_save(palette, "PNG")), shown)
    torch.testing.assert_close(decoding.decode(_save(image.convert("CMYK"), "TIFF")), exact)
    luma = decoding.decode(_save(image, "PNG"), n_channels=1)
    expected = torch.tensor(np.array(image.convert("L")), dtype=torch.float32)[None] / 255
    torch.testing.assert_close(luma, expected, atol=1 / 255, rtol=0)
    grey = Image.fromarray(rgb[..., 0])
    assert decoding.decode(_save(grey, "PNG")).shape == (1, 6, 5)
    repeated = decoding.decode(_save(grey, "PNG"), n_channels=3)
    assert torch.equal(repeated, exact[:1].expand(3, -1, -1))


def test_transparent_pixels_show_white():
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0] = [255, 0, 0, 255]
    rgba[1] = [7, 7, 7, 0]
    x = decoding.decode(_save(Image.fromarray(rgba), "PNG"))
    assert x[:, 0, 0].tolist() == [1, 0, 0]
    assert x[:, 1, 0].tolist() == [1, 1, 1]


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    x = decoding.decode(_save(frames[0], "GIF", save_all=True, append_images=frames[1:]), 1)
    torch.testing.assert_close(x, torch.full((1, 4, 4), 50 / 255))


def test_the_camera_orientation_is_applied():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    x = decoding.decode(_save(Image.fromarray(pixels), "PNG", exif=exif))
    expected = torch.tensor(np.rot90(pixels, -1).copy()) / 255
    torch.testing.assert_close(x[0], expected)


def test_pixels_beyond_an_images_range_are_unreadable():
    for values in ([[0.0, 2.0]], [[float("nan"), 0.0]]):
        tiff = _save(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF")
        with pytest.raises(Unreadable, match="beyond the range"):
            decoding.decode(tiff)


# Depth and transparency


def png(rows, depth, colour, *chunks):
    """A PNG of packed rows, with chunks before the pixels."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    size = len(rows[0]) * 8 // (depth * {0: 1, 2: 3}[colour]), len(rows)
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("depth", "row", "clear", "shown"),
    [
        (1, b"\x55", 0, [1.0] * 8),
        (1, b"\x55", 1, [0, 1.0] * 4),
        (2, b"\x1b", 1, [0, 1.0, 2 / 3, 1]),
        (2, b"\x1b", 2, [0, 1 / 3, 1.0, 1]),
        (4, b"\x03\x5f", 3, [0, 1.0, 1 / 3, 1]),
        (8, b"\x03\x10\xff", 16, [3 / 255, 1.0, 1]),
        (16, b"\x12\x34\x12\x35", 0x1234, [1.0, 0x1235 / 65535]),
        (16, b"\x12\x34\x12\x35", 0x1236, [0x1234 / 65535, 0x1235 / 65535]),
    ],
)
def test_a_transparent_grey_shows_white_in_every_depth(depth, row, clear, shown):
    x = decoding.decode(png([row], depth, 0, (b"tRNS", struct.pack(">H", clear))))
    np.testing.assert_allclose(x[0, 0].numpy(), shown, atol=1e-6)


def test_a_transparent_colour_shows_white_or_is_refused():
    clear = b"tRNS", struct.pack(">HHH", 1, 2, 3)
    x = decoding.decode(png([bytes([1, 2, 3, 1, 2, 4])], 8, 2, clear))
    np.testing.assert_allclose(x[:, 0].T.numpy() * 255, [[255] * 3, [1, 2, 4]], atol=1e-4)
    deep = png([bytes([0, 1, 0, 2, 0, 3])], 16, 2, clear)
    with pytest.raises(Unreadable, match="a transparent colour of 16 bits for each channel"):
        decoding.decode(deep)


def test_grey_and_alpha_stay_grey():
    x = decoding.decode(_save(Image.fromarray(np.array([[[0, 255], [0, 51]]], np.uint8)), "PNG"))
    assert x.shape == (1, 1, 2)
    np.testing.assert_allclose(x[0, 0].numpy(), [0, 0.8], atol=1 / 255)


def tiff(values, order="<", bits=16, white_is_zero=False, tags=()):
    """A TIFF of one grey strip; tags are (tag, value), all of them long."""
    height, width = values.shape
    if bits == 12:
        planes = (values[..., None] >> np.arange(11, -1, -1)) & 1
        strip = b"".join(np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in planes)
    else:
        strip = values.astype(f"{order}u{bits // 8}").tobytes()
    entries = sorted([
        (256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1),
        (273, 0), (277, 1), (278, height), (279, len(strip)), *tags,
    ])  # fmt: skip
    place = 8 + 2 + 12 * len(entries) + 4
    table = struct.pack(f"{order}H", len(entries))
    for tag, value in entries:
        table += struct.pack(f"{order}HHII", tag, 4, 1, place if tag == 273 else value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + table + struct.pack(f"{order}I", 0) + strip


def test_white_is_what_the_file_calls_white():
    values = np.array([[0, 5, 4095], [1, 2048, 7]])
    for content, expected in (
        (tiff(values, bits=12), values / 4095),
        (tiff(values, white_is_zero=True), 1 - values / 65535),
        (tiff(values, ">"), values / 65535),
        (b"P5\n3 2\n4095\n" + values.astype(">u2").tobytes(), values / 4095),
    ):
        x = decoding.decode(content)
        np.testing.assert_allclose(x[0].numpy(), expected, atol=2e-5)


def test_integers_of_which_none_is_white_are_unreadable():
    with pytest.raises(Unreadable, match="none is said to be white"):
        decoding.decode(tiff(np.array([[0, 7, 255]]), bits=32))


# Orientation


def entry(tag, kind, count, value):
    return struct.pack("<HHII", tag, kind, count, value)


HEAD = b"II*\0\x08\0\0\0"
TURNED = entry(0x0112, 3, 1, 6)
BLOCKS = {
    "whole": (HEAD + b"\1\0" + TURNED + b"\0\0\0\0", 6),
    "behind a tag that leads nowhere": (
        HEAD + b"\2\0" + entry(0x010F, 2, 99, 10**6) + TURNED + b"\0\0\0\0", 6,
    ),
    "behind a tag of no known type": (HEAD + b"\2\0" + entry(5, 77, 2**31, 0) + TURNED, 6),
    "with fewer entries than it says": (HEAD + b"\x63\0" + TURNED, 6),
    "turned by a number that means nothing": (HEAD + b"\1\0" + entry(0x0112, 3, 1, 9), 9),
    "cut in the orientation": (HEAD + b"\1\0" + TURNED[:7], None),
    "cut in its head": (HEAD[:6], None),
    "garbage": (b"hello world", None),
    "empty": (b"", None),
    "leading nowhere": (HEAD[:4] + b"\xff\xff\0\0" + b"\1\0" + TURNED, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("broken", BLOCKS)
def test_pixels_count_whatever_the_exif_block_is(kind, broken):
    block, orientation = BLOCKS[broken]
    values = np.repeat(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)[..., None], 3, -1)
    values = values.repeat(8, 0).repeat(8, 1)
    prefix = b"Exif\0\0" * 2 if kind == "JPEG" else b""
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True}
    content = _save(Image.fromarray(values), kind, exif=prefix + block, **options)
    x = decoding.decode(content, 3)
    assert decoding.exif_orientation(prefix + block) == orientation
    expected = np.rot90(values, -1) if orientation == 6 else values
    assert x.shape == (3, *expected.shape[:2])
    np.testing.assert_allclose(
        x.numpy(), expected.transpose(2, 0, 1) / 255, atol=0.05 if kind == "JPEG" else 1e-6
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once_read_from_a_file_or_from_bytes(tmp_path, orientation):
    """Pillow turns it by itself; from a file it would also cut rows at the wrong places."""
    values = np.arange(15).reshape(3, 5)
    upright = {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T,
        6: np.rot90(values, -1), 7: values[::-1, ::-1].T, 8: np.rot90(values),
    }[orientation]  # fmt: skip
    tables = [(0x8769, 3), (0x8825, 10**6)]  # tables of EXIF that are none
    content = tiff(values, bits=8, tags=[(0x0112, orientation), *tables])
    (tmp_path / "a.tif").write_bytes(content)
    for file in (content, str(tmp_path / "a.tif")):
        x = decoding.decode(file)
        np.testing.assert_allclose(x[0].numpy() * 255, upright, atol=1e-4)


# Kinds


@pytest.mark.skipif(not features.check("avif"), reason="a Pillow without AVIF")
def test_avif_is_read_by_pillow_itself(tmp_path):
    Image.new("RGB", (16, 9), (200, 30, 40)).save(tmp_path / "a.AVIF", quality=95)
    data = build_dataset("image_folder", train_data_dir=str(tmp_path))
    assert data.sample_shape == (3, 9, 16)
    np.testing.assert_allclose(data[0]["x0"][:, 4, 8].numpy() * 255, [200, 30, 40], atol=8)


HEIC = b"\0\0\0\x18ftypheic" + bytes(64)


def test_heic_names_its_package_where_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(Unreadable, match=r"pip install 'sparring\[heif\]'"):
        decoding.decode(HEIC)
    (tmp_path / "phone.jpg").write_bytes(HEIC)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    data = build_dataset("image_folder", train_data_dir=str(tmp_path))
    assert data.read_all()["unreadable"] == [str(tmp_path / "phone.jpg")]
    (remark,) = data.remarks
    assert "1 of 2 images cannot be read" in remark
    assert "phone.jpg (ValueError: a file in HEIC: pip install 'sparring[heif]')" in remark


def test_heic_is_read_with_its_package(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    y, x = np.mgrid[0:24, 0:40]
    values = np.stack([5 * x, 8 * y, 100 + 0 * x], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.HEIC", "b.jpg"):
        (tmp_path / name).write_bytes(
            _save(Image.fromarray(values), "HEIF", quality=95, exif=exif.tobytes())
        )
    data = build_dataset("image_folder", train_data_dir=str(tmp_path), resolution=24)
    assert len(data) == 2
    shown = decoding.decode(str(tmp_path / "b.jpg"))
    np.testing.assert_allclose(
        shown.numpy(), np.rot90(values, -1).transpose(2, 0, 1) / 255, atol=0.08
    )


def test_a_header_tells_size_and_colour_without_decoding():
    whole = _save(Image.new("RGB", (31, 17)), "PNG")
    assert decoding.header(whole[:46]) == (17, 31, True, False, None)
    jpeg = decoding.header(_save(Image.new("L", (5, 6)), "JPEG", quality=50)).quantization
    assert jpeg is not None
    assert jpeg[0][0] == 16  # the standard table's first step, at quality 50
    assert decoding.header(_save(Image.new("L", (5, 6)), "PNG"))[2] is False
    with pytest.raises(Unreadable, match="no image of a kind that is read"):
        decoding.header(b"text")
    with pytest.raises(Unreadable):
        decoding.decode(whole[:46])


@pytest.mark.parametrize(("bits", "alpha", "value"), [(0, 0, 30), (0, 200, 30), (8, 0, 255)])
def test_a_tga_without_bits_of_alpha_has_none(bits, alpha, value):
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 2, 2, 32, bits | 0x20)
    x = decoding.decode(head + bytes([10, 20, 30, alpha]) * 4)
    assert (x[0] * 255).round().tolist() == [[value] * 2] * 2


@pytest.mark.parametrize(("alphas", "value"), [((0, 0), 30), ((0, 255), 255)])
def test_a_bmp_whose_alpha_is_zero_everywhere_has_none(alphas, value):
    pixels = b"".join(bytes([10, 20, 30, alpha]) for alpha in alphas)
    head = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    whole = b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + head + pixels
    assert (decoding.decode(whole)[0] * 255).round().tolist() == [[value, 30]]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_frames_and_pages_are_known_by_the_header(kind):
    one, other = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    out = io.BytesIO()
    one.save(out, kind, save_all=True, append_images=[other])
    assert decoding.header(out.getvalue()).is_several
    assert not decoding.header(_save(one, kind)).is_several
