"""Captions of a folder of images: a table, or a text file beside each image."""

import json

import pytest
from PIL import Image

from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import training_data
from sparring.errors import UserError


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "a.png", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(tmp_path / name)
    return tmp_path


def captions(folder, **fields):
    return build_dataset("image_folder", train_data_dir=str(folder), **fields).captions


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n\n"


def test_metadata_as_json_lines(photos):
    (photos / "metadata.jsonl").write_text(
        lines(
            {"file_name": "b.png", "text": "a bee", "title": "B"},
            {"file_name": "deep/c.png", "text": "the sea", "title": "C"},
            {"file_name": "a.png", "text": "an a", "title": "A"},
            {"file_name": "gone.png", "text": "not there"},
        )
    )
    assert captions(photos) == ["an a", "a bee", "the sea"]
    assert captions(photos, caption_column="title") == ["A", "B", "C"]
    with pytest.raises(UserError, match=r"no column 'texts' .*it has file_name, text, title"):
        captions(photos, caption_column="texts")


def test_metadata_as_csv_and_captions_through_the_wrappers(photos):
    (photos / "metadata.csv").write_text(
        'file_name,text\na.png,"a, or an a"\nb.png,bee\ndeep/c.png,sea\n'
    )
    fields = {"name": "image_folder", "train_data_dir": str(photos)}
    dataset = training_data(fields, {"kind": "gaussian"})
    assert dataset.captions == ["a, or an a", "bee", "sea"]
    assert dataset.__getitems__([2, 0])["caption"] == ["sea", "a, or an a"]


def test_text_files_beside_the_images(photos):
    assert captions(photos) is None
    for name in ("a", "b", "deep/c"):
        (photos / f"{name}.txt").write_text(f"shows {name}\n")
    assert captions(photos) == ["shows a", "shows b", "shows deep/c"]
    (photos / "b.txt").unlink()
    assert captions(photos) == ["shows a", None, "shows deep/c"]


def test_a_row_that_is_missing_is_none_and_metadata_about_something_else_is_no_caption(photos):
    (photos / "metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "an a"}))
    assert captions(photos) == ["an a", None, None]
    (photos / "metadata.jsonl").write_text(lines({"file_name": "a.png", "bird": 3}))
    assert captions(photos) is None


def test_metadata_in_the_folders_of_splits(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / split / "x.png")
        (tmp_path / split / "metadata.jsonl").write_text(
            lines({"file_name": "x.png", "text": f"one of {split}"})
        )
    assert captions(tmp_path) == ["one of train"]
    assert captions(tmp_path, split="held_out") == ["one of test"]


def test_the_fingerprint_knows_the_captions(photos):
    before = build_dataset("image_folder", train_data_dir=str(photos)).fingerprint()
    (photos / "a.txt").write_text("new")
    assert build_dataset("image_folder", train_data_dir=str(photos)).fingerprint() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [("{oh", "is not JSON lines"), ("[1]", "must be an object"), ('{"text": "a"}', "no file_name")],
)
def test_broken_metadata_is_one_clear_error(photos, text, message):
    (photos / "metadata.jsonl").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        captions(photos)
    assert "\n" not in str(caught.value)


def test_a_column_without_metadata_is_an_error(photos):
    with pytest.raises(UserError, match="caption_column"):
        captions(photos, caption_column="text")
