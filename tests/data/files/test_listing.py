"""Which files of a folder are read, and how those that are not are counted."""

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data.datasets import build_dataset
from sparring.data.files import listing
from sparring.data.files.folder_captions import is_about_captions
from sparring.support.errors import UserError


def images_below(root):
    return listing.images_below(root, root, is_about_captions)


def test_what_is_left_out_is_counted_by_kind_in_one_line(folder):
    for i in range(3):
        (folder / f"clip{i}.MP4").write_bytes(b"")
    (folder / "cat" / "page.svg").write_text("<svg/>")
    (folder / "README").write_text("words")
    (folder / ".hidden.png").unlink()
    data = build_dataset("image_folder", train_data_dir=str(folder))
    assert data.remarks == [
        "5 files are left out, of kinds that are not read: .mp4 3, .svg 1, without an ending 1"
    ]
    assert len(data) == 10
    assert data.class_names == ["cat", "dog"]


def test_images_that_are_not_yet_fetched_are_counted(folder):
    (folder / ".hidden.png").unlink()
    (folder / "cat" / ".photo.jpg.icloud").write_bytes(b"bplist00")
    (remark,) = build_dataset("image_folder", train_data_dir=str(folder)).remarks
    assert ".icloud (not yet fetched) 1" in remark


def test_a_plain_folder_says_nothing(folder):
    (folder / ".hidden.png").unlink()
    assert build_dataset("image_folder", train_data_dir=str(folder)).remarks == []


@pytest.mark.parametrize(
    "place", ["@eaDir/a.jpg", "__MACOSX", ".thumbnails", "#recycle", "@Recycle", "$RECYCLE.BIN"]
)
def test_thumbnails_and_hidden_images_are_no_data_and_said(folder, write_image, place):
    write_image(folder / place / "small.png", size=(3, 3))
    write_image(folder / "cat" / place / "small.png", size=(3, 3))
    (folder / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    data = build_dataset("image_folder", train_data_dir=str(folder))
    assert len(data) == 10
    assert data.class_names == ["cat", "dog"]
    top = place.split("/")[0]
    assert data.remarks == [
        f"4 images are left out as hidden or as a system's thumbnails: {top} 2, .* 1, ._* 1"
    ]


@pytest.mark.parametrize("ending", sorted(listing.EXTENSIONS - listing.HEIF - listing.AVIF))
def test_every_ending_is_read_in_any_case(tmp_path, ending):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for i, name in enumerate((ending, ending.upper())):
        Image.fromarray(values).save(tmp_path / f"{i}{name}", "PNG")
    batch = build_dataset("image_folder", train_data_dir=str(tmp_path)).read_all()
    assert torch.equal(batch["x0"], (torch.tensor(values) / 255).expand(2, 1, 3, 4))


def test_images_whose_names_do_not_say_so_are_said(folder, write_image):
    (folder / ".hidden.png").unlink()
    write_image(folder / "0.png", mode="L").tobytes()
    (folder / "0.png").rename(folder / "download")
    (folder / "cat" / "0.part").write_bytes(b"\x89PN")
    found = images_below(folder)
    assert found.misnamed == [str(folder / "download")]
    assert found.remarks() == [
        "2 files are left out, of kinds that are not read: .part 1, without an ending 1",
        "1 of the files left out is an image by content: to have it read, give it the ending of "
        f"an image ({folder / 'download'})",
    ]


def test_heic_names_its_package_or_is_read(tmp_path, write_image, monkeypatch):
    write_image(tmp_path / "a.png")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(listing, "EXTENSIONS", listing.EXTENSIONS - listing.HEIF)
    found = images_below(tmp_path)
    assert [path.name for path in found.paths] == ["a.png"]
    assert found.remarks() == [
        "1 file is left out, of kinds that are not read: .heic 1 "
        "(HEIC: pip install 'sparring[heif]')"
    ]
    monkeypatch.setattr(listing, "EXTENSIONS", listing.EXTENSIONS | listing.HEIF)
    assert len(images_below(tmp_path).paths) == 2


def test_a_folder_of_other_kinds_alone_is_refused_with_their_count(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.mov").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image in folder .*; 2 files are left out.*\.mov 2"):
        build_dataset("image_folder", train_data_dir=str(tmp_path))


def test_many_kinds_are_cut_short():
    kinds = {f".k{i:02}": 1 for i in range(20)} | {".svg": 7}
    told = listing.counted(kinds)
    assert told.startswith(".svg 7, .k00 1, ")
    assert told.endswith("9 other kinds 9")


def test_names_that_a_terminal_would_obey_are_written_out(folder):
    (folder / "a.\x1b[31m\n").write_bytes(b"")
    assert all(remark.isprintable() for remark in images_below(folder).remarks())
