"""sparring export: what other trainers find in the folders and in the table."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from datasets import load_dataset
from PIL import Image

import sparring
from sparring.cli import main
from sparring.commands.export.folders import NEVER, as_text, export_command
from sparring.commands.inspect.findings import inspect_command
from sparring.data.audit.table import read_table
from sparring.data.base import ModelRange
from sparring.data.datasets import build_dataset
from sparring.data.trust.trusted import ByTable, Trusted
from sparring.objectives.own_noise import teaching_levels
from sparring.support.errors import UserError

NONE = {"kind": "none"}


@pytest.fixture
def photos(tmp_path, write_image):
    """Six grey images of 8x8 in a folder and one below it, one that is broken, and captions."""
    root = tmp_path / "photos"
    for i in range(6):
        write_image(root / ("sub" if i > 3 else "") / f"{i}.png", seed=i, mode="L")
    (root / "7.png").write_bytes(b"broken")
    (root / "0.txt").write_text("a grey\nsquare\n")
    (root / "sub/4.txt").write_text("another")
    return root


@pytest.fixture
def table(tmp_path):
    """A corrected table of these: the folder's order is 0 to 3, the broken one, 4 and 5."""
    path = tmp_path / "dirt.csv"
    path.write_text(
        "index,gaussian,jpeg,outlier,sigma,quality,level,weight\n"
        "0,0,0,0,,,,1\n"
        "1,1,0,0,0.1,,,1\n"
        "2,0,0,0,,,0.5,0.25\n"
        "3,0,0,1,,,,1\n"
        "4,0,0,0,,,,0\n"
        "5,0,1,0,,50,,1\n"
        "6,0,0,0,,,,1\n"
    )
    return path


def exported(photos, table, out, **words):
    data = {"name": "image_folder", "train_data_dir": str(photos)}
    return export_command(data, NONE, out, str(table), **words)


def lines_of(out):
    text = (out / "images/metadata.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_every_readable_image_has_its_file_and_its_line(photos, table, tmp_path):
    out = tmp_path / "out"
    result = exported(photos, table, out)
    lines = {line["file_name"]: line for line in lines_of(out)}
    assert list(lines) == ["0.png", "1.png", "2.png", "3.png", "sub/4.png", "sub/5.png"]
    for name in lines:
        assert (out / "images" / name).read_bytes() == (photos / name).read_bytes()
        assert (out / "images" / name).is_symlink()
    jpeg_of_64 = 1.03 * (64 / 3072) ** 0.5
    levels = [line["least_level"] for line in lines.values()]
    assert levels == pytest.approx([0, 0.2, 0.5, NEVER, jpeg_of_64, 0], abs=1e-4)
    assert [line["weight"] for line in lines.values()] == [1, 1, 0.25, 0, 1, 1]
    assert [line["is_clean"] for line in lines.values()] == [1, 0, 0, 0, 0, 1]
    assert [line["text"] for line in lines.values()] == ["a grey square", "", "", "", "another", ""]
    assert (result["n_images"], result["n_clean"], result["n_of_weight"]) == (6, 2, 5)
    assert "1 images have weight 0" in as_text(result)


def test_the_folder_of_the_clean_ones_has_captions_beside(photos, table, tmp_path):
    exported(photos, table, tmp_path / "out", copy=True)
    clean = tmp_path / "out/clean"
    assert names_in(clean) == ["0.png", "0.txt", "sub/5.png"]
    assert (clean / "0.txt").read_text() == "a grey square\n"
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_level_chooses_those_that_may_be_used_from_it_on(photos, table, tmp_path):
    result = exported(photos, table, tmp_path / "out", from_level=0.2)
    assert [name for name in names_in(tmp_path / "out/from-0.2") if name.endswith("png")] == [
        "0.png", "1.png", "sub/4.png", "sub/5.png",
    ]  # fmt: skip
    assert result["n_from_level"] == 4
    assert "4 images that may be used from noise level 0.2 on" in as_text(result)


def test_no_level_hides_holes_from_a_trainer_that_cannot_leave_them_out(photos, tmp_path):
    table = tmp_path / "dirt.csv"
    rows = [f"{i},{0.9 * (i == 1)},{0.4 * (i == 2)}" for i in range(7)]
    table.write_text("\n".join(["index,missing_blocks,salt_and_pepper", *rows]) + "\n")
    result = exported(photos, table, tmp_path / "out", from_level=2.0)
    levels = [line["least_level"] for line in lines_of(tmp_path / "out")]
    assert levels == [0, NEVER, 0, 0, 0, 0]
    assert result["n_from_level"] == 5


def test_hugging_face_reads_it_and_training_is_told_what_ours_is(photos, table, tmp_path):
    """And the least levels are those from which the library's own training uses them."""
    exported(photos, table, tmp_path / "out")
    theirs = load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out/images"), split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    columns = {name: theirs[name] for name in theirs.column_names if name != "image"}
    pixels = np.stack([np.asarray(image) for image in theirs["image"]])
    x0 = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
    images, trust = sparring.trusted(x0, columns)

    dataset = build_dataset("image_folder", train_data_dir=str(photos))
    ours = ModelRange(Trusted(dataset, ByTable(read_table(table, dataset))))
    batch = ours.__getitems__([0, 1, 2, 3, 5, 6])
    torch.testing.assert_close(images, batch["x0"])
    for name in ("sigma", "clipped", "level", "weight"):
        torch.testing.assert_close(
            getattr(trust, name), getattr(batch["trust"], name), atol=1e-4, rtol=0
        )
    levels = teaching_levels(batch["trust"], 8, 8)
    told = torch.tensor([line["least_level"] for line in lines_of(tmp_path / "out")])
    is_used = levels.isfinite()
    torch.testing.assert_close(told[is_used], levels[is_used], atol=1e-4, rtol=0)


def test_without_a_table_the_images_are_looked_at(photos, tmp_path):
    data = {"name": "image_folder", "train_data_dir": str(photos)}
    inspect_command(data, NONE, tmp_path / "report")
    exported(photos, tmp_path / "report/dirt.csv", tmp_path / "told")
    export_command(data, NONE, tmp_path / "found")
    assert lines_of(tmp_path / "told") == lines_of(tmp_path / "found")
    assert names_in(tmp_path / "told/clean") == names_in(tmp_path / "found/clean")


def test_images_that_are_no_files_are_written_as_they_are_read(tmp_path):
    data = {"name": "digits", "split": "held_out"}
    result = export_command(data, {"kind": "gaussian", "sigma": 0.3}, tmp_path / "out")
    assert not result["is_linked"]
    (line, *_) = lines_of(tmp_path / "out")
    image = np.asarray(Image.open(tmp_path / "out/images" / line["file_name"]))
    assert image.shape == (8, 8)
    assert (tmp_path / "out/clean").is_dir()


def test_without_the_right_to_link_files_are_copied(photos, table, tmp_path, monkeypatch):
    def refused(self, target):
        raise OSError("a privilege is missing")

    monkeypatch.setattr("pathlib.Path.symlink_to", refused)
    result = exported(photos, table, tmp_path / "out")
    assert not result["is_linked"]
    assert (tmp_path / "out/images/0.png").is_file()
    assert (tmp_path / "out/clean/0.png").is_file()


def test_several_captions_of_an_image_are_several_lines(photos, table, tmp_path):
    for text in photos.rglob("*.txt"):
        text.unlink()
    rows = [{"file_name": "0.png", "text": ["one", "two"]}, {"file_name": "1.png", "text": "three"}]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    exported(photos, table, tmp_path / "out")
    assert [line["text"] for line in lines_of(tmp_path / "out")][:3] == [
        ["one", "two"], ["three"], [],
    ]  # fmt: skip
    assert (tmp_path / "out/clean/0.txt").read_text() == "one\ntwo\n"


def test_what_cannot_be_exported_is_said(photos, table, tmp_path):
    with pytest.raises(UserError, match="lies inside the data"):
        exported(photos, table, photos / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    with pytest.raises(UserError, match="is not empty"):
        exported(photos, table, tmp_path / "full")
    told = CliRunner().invoke(main, ["export", str(photos)])
    assert told.exit_code == 2
    assert "name the folder to write with -o" in told.output
