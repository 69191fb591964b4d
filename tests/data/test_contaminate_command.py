"""A contaminated copy on disk: what is in the files, the manifest, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.commands.contaminate.copies import contaminate
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import Contaminated
from sparring.data.dirt.manifest import manifest, read_manifest
from sparring.support.errors import UserError
from support import EVERY_DIRT

NOISE = {"kind": "gaussian", "rate": 0.5, "sigma": 0.3, "seed": 4, "clip": False, "eps": None}


def _pixels(path):
    return np.asarray(Image.open(path))


def test_the_copy_holds_the_clipped_rounded_images_in_their_class_folders(tmp_path):
    said = []
    out = tmp_path / "new" / "copy"
    data = {"name": "digits", "split": "held_out", "resolution": None}
    summary = contaminate(data, NOISE, out, said.append)
    source = build_dataset("digits", "held_out")
    dirty = Contaminated(source, "gaussian", 0.5, 4, clip=False, sigma=0.3)
    expected = dirty.read_all()
    for i in range(297):
        x = (expected["x0"][i, 0].clamp(0, 1) * 255).round().numpy()
        path = out / str(int(expected["label"][i])) / f"{i:03d}.png"
        np.testing.assert_array_equal(_pixels(path), x)
    assert len(list(out.rglob("*.png"))) == summary["n_images"] == 297
    assert (summary["n_dirty"], summary["clip"]) == (149, True)
    values = expected["x0"][dirty.dirty]
    outside = ((values < 0) | (values > 1)).double().mean()
    assert summary["clipped_values_share"] == pytest.approx(float(outside))
    assert any("outside [0, 1] are clipped" in line for line in said)

    header, entries = read_manifest(summary["manifest"])
    said = {"kind": "gaussian", "rate": 0.5, "sigma": 0.3, "seed": 4, "clip": True, "n_dirty": 149}
    assert said.items() <= header.items()
    assert {entry["index"] for entry in entries} == set(dirty.dirty.nonzero().flatten().tolist())
    for entry in entries:
        assert (out / entry["file"]).is_file()

    # It is an image folder like any other, with the same classes.
    copy = build_dataset("image_folder", train_data_dir=str(out))
    assert copy.class_names == source.class_names
    assert copy.read_all()["label"].bincount().tolist() == source.labels.bincount().tolist()


def test_a_folder_keeps_its_tree_and_leaves_unreadable_files_out(folder, tmp_path, write_image):
    write_image(folder / "cat" / "deep" / "x.jpg", mode="L")
    write_image(folder / "cat" / "0.bmp", seed=7, mode="L")
    (folder / "dog" / "8.png").write_bytes(b"broken")
    before = sorted(path.as_posix() for path in folder.rglob("*"))
    out, said = tmp_path / "copy", []
    data = {"name": "image_folder", "train_data_dir": str(folder)}
    summary = contaminate(data, {**NOISE, "rate": 1.0}, out, said.append)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert {"cat/deep/x.png", "cat/0.png", "dog/9.png"} <= names
    assert "dog/8.png" not in names
    assert len(names) == 11  # 0.bmp and 0.png both have a place
    assert (summary["n_unreadable"], summary["n_dirty"]) == (1, 11)
    header, entries = read_manifest(out / "manifest.jsonl")
    assert header["unreadable"] == [str(folder / "dog" / "8.png")]
    assert {entry["file"] for entry in entries} == names
    assert any("left out 1 unreadable" in line for line in said)
    assert sorted(path.as_posix() for path in folder.rglob("*")) == before


def test_colour_images_stay_in_colour(tmp_path, write_image):
    pixels = write_image(tmp_path / "in" / "a.png", size=(6, 9))
    data = {"name": "image_folder", "train_data_dir": str(tmp_path / "in")}
    inverted = {"kind": "outlier", "outlier": "inverted", "rate": 1.0, "seed": 0}
    contaminate(data, inverted, tmp_path / "out", print)
    np.testing.assert_array_equal(_pixels(tmp_path / "out" / "a.png"), 255 - pixels)


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path, folder, monkeypatch):
    data = {"name": "digits", "split": "held_out"}
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=f"folder {full} is not empty"):
        contaminate(data, NOISE, full)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="is a file"):
        contaminate(data, NOISE, full / "mine.txt")
    inside = {"name": "image_folder", "train_data_dir": str(folder)}
    with pytest.raises(UserError, match="lies inside the data"):
        contaminate(inside, NOISE, folder / "copy")

    empty = tmp_path / "empty"
    empty.mkdir()
    saved = Image.Image.save

    def fail_later(image, path, *args):
        if path.name == "100.png":
            raise OSError(28, "No space left on device")
        saved(image, path, *args)

    monkeypatch.setattr(Image.Image, "save", fail_later)
    with pytest.raises(UserError, match=f"cannot write {empty}: No space left on device"):
        contaminate(data, NOISE, empty)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "photos"]
    assert contaminate(data, NOISE, empty)["n_images"] == 297


def test_only_images_and_only_with_a_kind(tmp_path):
    with pytest.raises(UserError, match="plane holds vectors"):
        contaminate({"name": "plane"}, NOISE, tmp_path / "copy")
    with pytest.raises(UserError, match=r"contamination.kind=gaussian, for example"):
        contaminate({"name": "digits"}, {"kind": "none"}, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        contaminate({"name": "digits"}, NOISE, tmp_path / "file" / "copy")


MIXED = {"kind": "mixture", "rate": 0.7, "seed": 2, "parts": EVERY_DIRT}


def test_a_copy_read_back_is_what_training_in_memory_sees(tmp_path):
    summary = contaminate({"name": "digits", "split": "held_out"}, MIXED, tmp_path / "copy")
    words = {key: value for key, value in MIXED.items() if key != "kind"}
    dirty = Contaminated(build_dataset("digits", "held_out"), "mixture", **words)
    copy = build_dataset("image_folder", train_data_dir=str(tmp_path / "copy"))
    by_number = {Path(copy.where(i)).stem: copy[i]["x0"] for i in range(len(copy))}
    read_back = torch.stack([by_number[f"{i:03d}"] for i in range(297)])
    assert torch.equal(read_back, dirty.read_all()["x0"])

    header, entries = read_manifest(summary["manifest"])
    assert [part["kind"] for part in header["parts"]] == [part["kind"] for part in MIXED["parts"]]
    assert [dict(entry, file=None) for entry in entries] == [
        dict(entry, file=None) for entry in manifest(dirty)
    ]
