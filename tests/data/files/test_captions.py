"""Captions: of a table or texts beside images, of columns; one drawn of several."""

import json
import unicodedata

import pytest
from PIL import Image

from sparring.commands.contaminate.copies import contaminate
from sparring.data.captions import caption_of
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import training_data
from sparring.support.errors import UserError


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "a.png", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(tmp_path / name)
    return tmp_path


def read(folder, **fields):
    return build_dataset("image_folder", train_data_dir=str(folder), **fields)


def captions(folder, **fields):
    return read(folder, **fields).captions


def remarks(folder, **fields):
    return "\n".join(read(folder, **fields).remarks)


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
    assert "1 row(s) of" in remarks(photos)
    assert "'gone.png'" in remarks(photos)


def test_metadata_as_csv_and_captions_through_the_wrappers(photos):
    (photos / "metadata.csv").write_text(
        'file_name,text\na.png,"a, or an a"\nb.png,bee\ndeep/c.png,sea\n'
    )
    fields = {"name": "image_folder", "train_data_dir": str(photos)}
    dataset = training_data(fields, {"kind": "gaussian"})
    assert dataset.captions == ["a, or an a", "bee", "sea"]
    assert dataset.__getitems__([2, 0])["caption"] == ["sea", "a, or an a"]
    assert not dataset.remarks


ENDS = "a\u2028b\u0085c\x0cd\x1ce\u2029f"
"""All that Python's splitlines takes for the end of a line, and no file format does."""


def test_lines_end_at_line_feeds_only(photos):
    rows = [{"file_name": name, "text": f"{name} {ENDS}"} for name in ("a.png", "b.png")]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (photos / "metadata.jsonl").write_bytes(text.encode())
    assert captions(photos) == [f"a.png {ENDS}", f"b.png {ENDS}", None]
    (photos / "metadata.jsonl").unlink()
    quoted = f'file_name,text\r\na.png,{ENDS}\r\nb.png,"one\r\ntwo\nthree ""four"""\r\n'
    (photos / "metadata.csv").write_bytes(quoted.encode())
    assert captions(photos) == [ENDS, 'one\r\ntwo\nthree "four"', None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
def test_encodings_and_separators(photos, encoding, separator):
    rows = [("file_name", "text"), ("a.png", "été 🦊"), ("b.png", "bee"), ("deep/c.png", "sea")]
    text = "\n".join(separator.join(row) for row in rows)
    (photos / "metadata.csv").write_bytes(text.encode(encoding))
    assert captions(photos) == ["été 🦊", "bee", "sea"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,text\na.png,a barn, red\n", "line 2 has 3 fields and the header 2"),
        ("file_name,text\na.png,one\nb.png\n", "line 3 has 1 fields"),
        ('file_name,text\na.png,"one" two\n', "from line 2 on"),
        ('file_name,text\nb.png,"x\ny"\na.png,"one\n', "from line 4 on"),
        ("file_name,text,text\na.png,one,two\n", "two columns 'text'"),
        ("file_name,text,,\na.png,one,two,\n", "line 2 has more fields than the header has names"),
        ("file,text\na.png,one\n", "no file_name.*it has file, text"),
        ("file_name,text\n,one\n", "line 2 has no file_name"),
        ("", "no file_name"),
    ],
)
def test_a_csv_table_that_says_something_else_than_it_seems_is_refused(photos, table, message):
    (photos / "metadata.csv").write_text(table)
    with pytest.raises(UserError, match=message) as caught:
        captions(photos)
    assert "\n" not in str(caught.value)
    assert "metadata.csv" in str(caught.value)


def test_a_table_of_another_encoding_is_refused(photos):
    for content in ("file_name,text\na.png,é\n".encode("latin-1"), "file_name".encode("utf-16-le")):
        (photos / "metadata.csv").write_bytes(content)
        with pytest.raises(UserError, match=r"metadata.csv cannot be read as text"):
            captions(photos)


def test_two_tables_are_refused(photos):
    (photos / "metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "new"}))
    (photos / "Metadata.csv").write_text("file_name,text\na.png,old\n")
    with pytest.raises(UserError, match=r"holds Metadata.csv and metadata.jsonl"):
        captions(photos)
    (photos / "Metadata.csv").unlink()
    (photos / "deep" / "metadata.csv").write_text("file_name,text\nc.png,sea\n")
    assert captions(photos) == ["new", None, "sea"]
    (photos / "metadata.jsonl").write_text(lines({"file_name": "deep/c.png", "text": "see"}))
    with pytest.raises(UserError, match=r"c.png is described in .*jsonl, line 1 and in .*csv, "):
        captions(photos)


def test_blank_lines_are_no_rows(photos):
    (photos / "metadata.csv").write_text("\nfile_name,text\na.png,one\n\n  \n,\nb.png,two\n\n")
    assert captions(photos) == ["one", "two", None]
    (photos / "metadata.csv").write_text("file_name,text\na.png,\nb.png,nan\n")
    assert captions(photos) == [None, "nan", None]


def test_columns_without_a_name(photos):
    """An index in front, as pandas writes it; empty columns behind, as spreadsheets do."""
    (photos / "metadata.csv").write_text(",file_name,text,,\n0,a.png,one,,\n1,b.png,two,,\n")
    assert captions(photos) == ["one", "two", None]


@pytest.mark.parametrize(
    ("file", "row"),
    [
        (unicodedata.normalize("NFD", "été.png"), unicodedata.normalize("NFC", "été.png")),
        (unicodedata.normalize("NFC", "été.png"), unicodedata.normalize("NFD", "été.png")),
        ("deep/x.png", "deep\\x.png"),
        ("IMG_1.JPG", "img_1.jpg"),
        ("x.png", "x.png "),
    ],
)
def test_names_in_another_spelling_are_matched_and_said(photos, file, row):
    Image.new("RGB", (4, 4)).save(photos / file)
    (photos / "metadata.jsonl").write_text(lines({"file_name": row, "text": "x"}))
    assert captions(photos).count("x") == 1
    assert "1 row(s) of" in remarks(photos)
    assert "another spelling" in remarks(photos)


def test_a_name_that_may_be_two_files_is_refused_and_exact_names_come_first(photos):
    for name in ("x.png", "X.png"):
        Image.new("RGB", (4, 4)).save(photos / name)
    exact = [{"file_name": name, "text": name} for name in ("x.png", "X.png")]
    (photos / "metadata.jsonl").write_text(lines(*exact))
    assert captions(photos) == ["X.png", None, None, None, "x.png"]
    (photos / "metadata.jsonl").write_text(lines({"file_name": "x.PNG", "text": "which"}))
    with pytest.raises(UserError, match=r"line 1: no image has the name .* are spelt alike"):
        captions(photos)


def test_several_captions_of_an_image_are_drawn_by_seed_and_position(photos):
    rows = [{"file_name": "a.png", "text": f"a {i}"} for i in range(3)]
    more = [{"file_name": "b.png", "text": ["b 0", None, "b 1"]}, {"file_name": "b.png"}]
    (photos / "metadata.jsonl").write_text(lines(*rows, *more))
    dataset = read(photos, seed=5)
    assert dataset.captions == [("a 0", "a 1", "a 2"), ("b 0", "b 1"), None]
    assert "2 of 3 images have several captions" in remarks(photos)
    assert "1 of 3 images have no caption" in remarks(photos)

    keys = [(0, position) for position in range(60)]
    drawn = dataset.__getitems__(keys)["caption"]
    assert set(drawn) == {"a 0", "a 1", "a 2"}
    parts = [dataset.__getitems__(keys[start : start + 7])["caption"] for start in (0, 7, 14)]
    assert [*parts[0], *parts[1], *parts[2]] == drawn[
        :21
    ]  # whoever reads a position, and in which company
    other = read(photos, seed=6)
    assert other.__getitems__(keys)["caption"] != drawn
    assert other.fingerprint() != dataset.fingerprint()


@pytest.mark.parametrize(
    ("value", "caption"),
    [
        ("a barn", "a barn"),
        (b"a caf\xc3\xa9", "a café"),
        (None, None),
        (float("nan"), None),
        ([], None),
        ([None], None),
        (["one"], "one"),
        ([b"one", "two"], ("one", "two")),
        ("", ""),
    ],
)
def test_what_a_cell_means(value, caption):
    assert caption_of(value, "row 3") == caption


@pytest.mark.parametrize(
    "value", [3, 2.5, True, {"en": "a barn"}, [["a"], ["b"]], ["a", 3], b"\xff"]
)
def test_what_is_no_caption_is_refused_and_its_place_is_named(value):
    with pytest.raises(UserError, match=r"^row 3 "):
        caption_of(value, "row 3")


def test_text_files_beside_the_images(photos):
    assert captions(photos) is None
    for name in ("a", "b", "deep/c"):
        (photos / f"{name}.txt").write_text(f"shows {name}\n")
    assert captions(photos) == ["shows a", "shows b", "shows deep/c"]
    assert not remarks(photos)
    (photos / "b.txt").unlink()
    (photos / "licence.txt").write_text("all rights")
    assert captions(photos) == ["shows a", None, "shows deep/c"]
    assert "1 text file(s) lie beside no image of that name" in remarks(photos)
    assert "1 of 3 images have no caption" in remarks(photos)
    (photos / "a.txt").rename(photos / "a.TXT")
    assert captions(photos)[0] == "shows a"


def test_texts_beside_a_table_are_said_to_be_left_out(photos):
    (photos / "metadata.csv").write_text("file_name,text\na.png,table\n")
    (photos / "a.txt").write_text("text")
    assert captions(photos)[0] == "table"
    assert "text files beside the images are not read" in remarks(photos)
    (photos / "metadata.csv").write_text("file_name,bird\na.png,3\n")
    assert captions(photos)[0] == "text"
    assert "has no column 'text'" in remarks(photos)


def test_tables_of_other_tools_are_said_not_to_be_read(photos):
    (photos / "metadata.parquet").write_bytes(b"")
    (photos / "captions.tsv").write_text("c")
    assert "2 file(s) are not read" in remarks(photos)


@pytest.mark.parametrize("ending", [".caption", ".png.txt", ".png.caption"])
def test_texts_named_as_other_tools_name_them(photos, ending):
    for name in ("a", "b", "deep/c"):
        (photos / f"{name}{ending}").write_text(f"shows {name}\n")
    assert captions(photos) == ["shows a", "shows b", "shows deep/c"]
    (photos / "b.txt").write_text("and again")
    with pytest.raises(UserError, match=r"b\.png has the captions b.* and b.*: keep the one"):
        captions(photos)


def test_texts_in_other_capitals_are_matched_and_said(photos):
    (photos / "A.txt").write_text("shows a")
    (photos / "b.txt").write_text("shows b")
    assert captions(photos) == ["shows a", "shows b", None]
    assert "1 text file(s) name their image in another spelling" in remarks(photos)


def test_boxes_of_objects_are_no_captions(photos):
    (photos / "a.txt").write_text("0 0.5 0.5 0.25 1e-2\n12 .1 0.2 0.3 0.4\n")
    (photos / "b.txt").write_text("")
    assert captions(photos) is None
    assert "1 text file(s) hold numbers of objects' boxes" in remarks(photos)
    (photos / "b.txt").write_text("2 0 2 4 to go")
    assert captions(photos) == [None, "2 0 2 4 to go", None]


@pytest.mark.parametrize("name", ["words/a.txt", "labels/a.txt", "words/metadata.jsonl"])
def test_texts_in_folders_without_images_are_said_not_to_be_read(photos, name):
    (photos / name).parent.mkdir()
    (photos / name).write_text("{}")
    assert captions(photos) is None
    assert "1 text(s) or table(s) in folders without images are not read" in remarks(photos)


def test_texts_that_name_no_image_are_said(photos):
    for i in range(3):
        (photos / f"text{i}.txt").write_text("whose")
    assert captions(photos) is None
    assert "3 text file(s) lie beside no image of that name" in remarks(photos)


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
    for split in ("train", "test"):
        (tmp_path / split / "metadata.jsonl").unlink()
    both = [{"file_name": f"{split}/x.png", "text": split} for split in ("train", "test")]
    (tmp_path / "metadata.jsonl").write_text(lines(*both))
    assert captions(tmp_path) == ["train"]
    assert not remarks(tmp_path)  # the row of the other split is no news


def test_the_fingerprint_knows_the_captions(photos):
    before = build_dataset("image_folder", train_data_dir=str(photos)).fingerprint()
    (photos / "a.txt").write_text("new")
    assert build_dataset("image_folder", train_data_dir=str(photos)).fingerprint() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{oh", "is not JSON lines"),
        ("[1]", "must be an object"),
        ('{"text": "a"}', "no file_name"),
        ('\n{"file_name": "a.png", "text": 3}', "line 2: 'text' holds 3"),
        ('{"file_name": "a.png", "text": "a", "text": "b"}', "line 1 says 'text' twice"),
        ('{"file_name": "a.png\\u0000", "text": "a"}', "line 1 has no file_name"),
    ],
)
def test_broken_metadata_is_one_clear_error(photos, text, message):
    (photos / "metadata.jsonl").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        captions(photos)
    assert "\n" not in str(caught.value)


def test_a_column_without_metadata_is_an_error(photos):
    with pytest.raises(UserError, match="caption_column"):
        captions(photos, caption_column="text")


NOISE = {"kind": "gaussian", "rate": 1.0, "sigma": 0.1, "seed": 0, "clip": False, "eps": None}


@pytest.mark.parametrize("where", ["texts", "table", "classes"])
def test_a_contaminated_copy_has_the_captions(tmp_path, where):
    photos = tmp_path / "photos"
    for i in range(3):
        place = photos / f"class {i % 2}" if where == "classes" else photos
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(place / f"{i}.png")
        if where != "table" and i != 1:
            (place / f"{i}.txt").write_text(f"{ENDS} {i}")
    if where == "table":
        rows = [{"file_name": f"{i}.png", "text": [f"{ENDS} {i}", "two"]} for i in (0, 2)]
        rows += [{"file_name": "1.png", "text": "one alone"}]
        (photos / "metadata.jsonl").write_text(lines(*rows))
    contaminate({"name": "image_folder", "train_data_dir": str(photos)}, NOISE, tmp_path / "copy")
    before, after = read(photos), read(tmp_path / "copy")
    assert after.captions == before.captions
    assert len(set(map(str, before.captions))) == 3
    assert after.class_names == before.class_names
    contaminate({"name": "digits", "split": "held_out"}, NOISE, tmp_path / "digits")
    assert not (tmp_path / "digits" / "metadata.jsonl").exists()


def test_half_an_emoji_is_read_as_a_lost_character(tmp_path):
    """JSON may write an emoji as two halves; one alone is no text."""
    lines = ["whole \\ud83d\\ude00", "half \\ud83d", "\\ude00 other half", "plain"]
    for i, caption in enumerate(lines):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
        with (tmp_path / "metadata.jsonl").open("a") as file:
            file.write(f'{{"file_name": "{i}.png", "text": "{caption}"}}\n')
    data = build_dataset("image_folder", train_data_dir=str(tmp_path))
    assert data.captions == ["whole \U0001f600", "half \ufffd", "\ufffd other half", "plain"]
    (remark,) = data.remarks
    assert remark.startswith("2 of 4 images have a caption with half a character")
    assert remark.endswith("1.png")
