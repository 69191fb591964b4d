"""Which members of a tar are a sample, and what is said of the others."""

import io
import tarfile

import pytest
from PIL import Image

from sparring.data.datasets import build_dataset
from sparring.support.errors import UserError


def png(value):
    out = io.BytesIO()
    Image.new("L", (4, 4), value).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def shard(tmp_path, monkeypatch):
    """Writes a tar: images by their place in the tar (grey levels), texts by their name."""
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))

    def write(*names, name="s.tar", **contents):
        with tarfile.open(tmp_path / name, "w") as tar:
            for i, member in enumerate(names):
                kind = member.rpartition(".")[2].lower()
                content = png(i) if kind in ("png", "bmp") else f"of {member}".encode()
                content = contents.get(kind, content)
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return str(tmp_path / name)

    return write


def read(path, **fields):
    return build_dataset("webdataset", data_files=path, **fields)


def samples(path, **fields):
    """By name of the image, its place in the tar and its caption."""
    data = read(path, **fields)
    batch = data.read_all()
    grey = (batch["x0"][:, 0, 0, 0] * 255).round().long().tolist()
    names = [data.where(i).partition(": ")[2] for i in range(len(data))]
    return dict(
        zip(names, zip(grey, batch.get("caption", [None] * len(data)), strict=True), strict=True)
    )


def test_names_with_dots_are_samples_of_their_own(shard):
    path = shard(
        "plain.png", "plain.txt", "v1.5_a.png", "v1.5_a.txt", "v1.6_b.png", "v1.6_b.txt",
        "St. Ives.png", "St. Ives.txt", "set.v2/c.png", "set.v2/c.txt",
    )  # fmt: skip
    assert samples(path) == {
        "plain.png": (0, "of plain.txt"),
        "v1.5_a.png": (2, "of v1.5_a.txt"),
        "v1.6_b.png": (4, "of v1.6_b.txt"),
        "St. Ives.png": (6, "of St. Ives.txt"),
        "set.v2/c.png": (8, "of set.v2/c.txt"),
    }
    assert "3 image(s) are samples of their own" in read(path).remarks[0]


def test_texts_may_lie_apart_from_their_images(shard):
    names = ["a.png", "b.png", "c.png"]
    texts = ["c.txt", "a.txt", "b.txt", "lost.txt"]
    assert samples(shard(*names, *texts)) == {
        f"{name}.png": (i, f"of {name}.txt") for i, name in enumerate("abc")
    }
    assert "1 text(s) have no image" in read(shard(*names, *texts)).remarks[0]
    dotted = ["v1.0.png", "v1.1.png", "v1.1.txt", "v1.0.txt"]
    assert samples(shard(*dotted)) == {
        "v1.0.png": (0, "of v1.0.txt"), "v1.1.png": (1, "of v1.1.txt")
    }  # fmt: skip


def test_labels_may_lie_apart_too_and_ids_with_gaps_are_classes(shard):
    path = shard("a.png", "b.png", "a.cls", "b.cls", cls=b"700")
    assert read(path).class_names == ["700"]
    assert read(path).labels.tolist() == [0, 0]


def test_the_images_name_itself_comes_first_and_others_are_counted(shard):
    path = shard("0.mask.png", "0.png", "0.txt", "1.mask.png", "1.PNG", "1.bmp", "1.TXT")
    assert samples(path) == {"0.png": (1, "of 0.txt"), "1.PNG": (4, "of 1.TXT")}
    assert "3 image(s) are not read" in read(path).remarks[0]
    assert list(samples(path, image_column="mask.png")) == ["0.mask.png", "1.mask.png"]
    assert list(samples(shard("0.rgb.png", "0.txt"))) == ["0.rgb.png"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0.left.png", "0.right.png", "1.left.png", "1.right.png"), "left.png, right.png"),
        (("0.left.png", "0.right.png", "0.txt"), "left.png, right.png"),
        (("0.png", "0.txt", "0.txt"), "'0.txt' comes twice"),
        (("0.png", "1.png", "0.png", "0.txt", "1.txt", "0.txt"), "'0' comes 2 times|apart from"),
    ],
)
def test_what_nobody_can_tell_is_refused(shard, names, message):
    with pytest.raises(UserError, match=message) as caught:
        read(shard(*names))
    assert "s.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_that_is_left_out_is_counted(shard):
    path = shard(
        "._0.png", "0.png", "._0.txt", "0.txt", "1.jxl", "1.txt", "2.jxl", "3.svg",
        "__MACOSX/4.png", "README", "./5.png", "./5.txt", jxl=b"?", svg=b"?",
    )  # fmt: skip
    assert samples(path) == {"0.png": (1, "of 0.txt"), "./5.png": (10, "of ./5.txt")}
    said = " ".join(read(path).remarks)
    for words in (
        "3 hidden file(s) are left out",
        "2 sample(s) are left out, without an image that is read: .jxl, the first is",
        "1 sample(s) are left out, without an image that is read: .svg",
        "1 file(s) are left out, whose names have no ending",
    ):
        assert words in said


def test_several_captions_in_json(shard):
    path = shard("0.png", "0.json", json=b'{"text": ["one", "two", null]}')
    assert read(path, caption_column="text").captions == [("one", "two")]
    assert read(path, caption_column="text").captions == [("one", "two")]  # from the cache
    bad = shard("0.png", "0.json", name="bad.tar", json=b'{"text": {"en": "one"}}')
    with pytest.raises(UserError, match=r"bad.tar: the caption of 0.png holds \{'en'"):
        read(bad, caption_column="text")


def test_folders_of_several_splits_in_shards_are_said(shard):
    path = shard("a/train2017/1.png", "a/train2017/2.png", "a/val2017/1.png")
    (remark,) = read(path).remarks
    assert "folders of several splits (a/train2017, a/val2017), and all are read" in remark
    assert not read(shard("train/1.png", "train/2.png", name="t.tar")).remarks
    assert not read(shard("test/1.png", "cat/2.png", name="c.tar")).remarks
