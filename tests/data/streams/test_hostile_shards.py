"""Shards that are broken or mean harm: refused in a line, or an image that is never read."""

import gzip
import io
import tarfile

import pytest

from shards import add, numbers_of, png, write_tar
from sparring.data.datasets import build_dataset
from sparring.data.streams import tar_index, tar_shards
from sparring.support.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))


def build(path, **fields):
    return build_dataset("webdataset", data_files=str(path), **fields)


HOSTILE = {
    "a symbolic link": {"type": tarfile.SYMTYPE, "linkname": "SECRET"},
    "a hard link": {"type": tarfile.LNKTYPE, "linkname": "SECRET"},
    "a device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "a pipe": {"type": tarfile.FIFOTYPE},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_file_is_never_read(tmp_path, kind):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    fields = {key: str(secret) if one == "SECRET" else one for key, one in HOSTILE[kind].items()}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", png(0))
        add(tar, "1.png", **fields)
        add(tar, "2.png", png(2))
    dataset = build(tmp_path / "a.tar")
    batch = dataset.__getitems__([0, 1, 2])
    assert numbers_of(batch["x0"]) == [0, 2, 2]
    assert batch["index"].tolist() == [0, 2, 2]
    assert batch["unreadable"] == [f"{tmp_path}/a.tar: 1.png (a link, device or sparse file)"]


@pytest.mark.parametrize("name", ["../1.png", "/etc/1.png", "a/../../1.png"])
def test_names_that_lead_out_are_listed(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, name, png(1))
        add(tar, "2.png", png(2))
    before = sorted(tmp_path.rglob("*"))
    dataset = build(tmp_path / "a.tar")
    batch = dataset.__getitems__([0, 1])
    assert numbers_of(batch["x0"]) == [2, 2]
    assert batch["unreadable"] == [f"{tmp_path}/a.tar: {name} (a name that leads out of the shard)"]
    made = set(tmp_path.rglob("*")) - set(before)
    assert {path.relative_to(tmp_path).parts[0] for path in made} == {"cache"}


def test_a_large_member_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_index, "MAX_IMAGE_BYTES", 500)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.png", png(1) + b"\0" * 500)
        add(tar, "2.png", png(2))
    asked = []
    real = tar_shards.read_range
    monkeypatch.setattr(tar_shards, "read_range", lambda *span: asked.append(span) or real(*span))
    dataset = build(tmp_path / "a.tar")
    batch = dataset.__getitems__([0, 1])
    assert numbers_of(batch["x0"]) == [2, 2]
    assert all(end - start <= 500 for _, start, end in asked)
    assert "the limit is" in batch["unreadable"][0]


def test_a_broken_image_is_replaced_and_listed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", png(0))
        add(tar, "1.png", b"no image")
        add(tar, "2.png", png(2)[:30])
        add(tar, "3.png", png(3))
    batch = build(tmp_path / "a.tar").__getitems__([1, 2, 3, 0])
    assert numbers_of(batch["x0"]) == [3, 3, 3, 0]
    assert [line.rpartition(" ")[2] for line in batch["unreadable"]] == ["1.png", "2.png", "2.png"]


def _whole(tmp_path):
    write_tar(tmp_path / "whole.tar", range(4))
    return (tmp_path / "whole.tar").read_bytes()


@pytest.mark.parametrize("length", [100, 512, 600, 1024, 1500, 2 * 1024, 4 * 1024, 4 * 1024 + 512])
def test_a_shard_that_was_cut_anywhere_is_refused(tmp_path, length):
    """Four members of a header and an image block each: 4 kB, then the end mark."""
    raw = _whole(tmp_path)
    assert raw[3 * 1024 : 3 * 1024 + 6] == b"photos"
    assert not any(raw[4 * 1024 :])
    (tmp_path / "a.tar").write_bytes(raw[:length])
    with pytest.raises(UserError, match=r"a.tar (is cut short or damaged|is no tar file)"):
        build(tmp_path / "a.tar")


def test_damage_in_the_middle_is_no_end(tmp_path):
    raw = bytearray(_whole(tmp_path))
    raw[2 * 1024 + 20] ^= 255  # in the third header: tarfile alone would stop here in silence
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(UserError, match="cut short or damaged"):
        build(tmp_path / "a.tar")


def test_two_shards_in_one_file_are_refused(tmp_path):
    raw = _whole(tmp_path)
    (tmp_path / "a.tar").write_bytes(raw + raw)
    with pytest.raises(UserError, match="its end mark is missing, or more follows it"):
        build(tmp_path / "a.tar")


def test_a_header_that_leads_back_does_not_loop(tmp_path):
    """A negative size in base 256 made older versions of tarfile read the same member for ever."""
    raw = bytearray(_whole(tmp_path))
    header = raw[1024:1536]
    header[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    raw[1024:1536] = header
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(UserError, match=r"cut short or damaged|no tar file, or damaged"):
        build(tmp_path / "a.tar")


def test_packed_shards_are_refused(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(_whole(tmp_path)))
    with pytest.raises(UserError, match=r"a.tar.gz is packed with gzip.*: unpack it"):
        build(tmp_path / "a.tar.gz")
    (tmp_path / "a.tar").write_bytes(b"not a tar file at all" * 100)
    with pytest.raises(UserError, match="no tar file"):
        build(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"no file 'pipe:echo"):
        build("pipe:echo a.tar")


def test_texts_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_index, "MAX_TEXT_BYTES", 1000)
    write_tar(tmp_path / "a.tar", [1], lambda i: {"txt": b"x" * 1001})
    with pytest.raises(UserError, match=r"photos/0001.txt is no text of at most"):
        build(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", [1], lambda i: {"txt": b"\xff\xfe\xfd"})
    with pytest.raises(UserError, match="is not text in UTF-8"):
        build(tmp_path / "b.tar")
    write_tar(tmp_path / "c.tar", [1], lambda i: {"json": b"[" * 900})
    with pytest.raises(UserError, match=r"json of photos/0001.png cannot be read"):
        build(tmp_path / "c.tar", caption_column="text")
    monkeypatch.setattr(tar_index, "MAX_TEXTS_BYTES", 1500)
    write_tar(tmp_path / "d.tar", [1, 2], lambda i: {"txt": b"x" * 900})
    with pytest.raises(UserError, match="GiB of text"):
        build(tmp_path / "d.tar")


def test_a_link_as_text_is_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.png", png(1))
        add(tar, "1.txt", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.txt"))
    with pytest.raises(UserError, match=r"1.txt is no text"):
        build(tmp_path / "a.tar")


def test_a_sample_of_two_equal_members_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.png", png(1))
        add(tar, "1.png", png(2))
    with pytest.raises(UserError, match=r"sample '1.png' comes twice in a row"):
        build(tmp_path / "a.tar")


def test_a_shard_without_images_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.txt", b"text")
    with pytest.raises(UserError, match=r"no sample of .*a.tar holds an image"):
        build(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"holds a '.left.png' member"):
        build(tmp_path / "a.tar", image_column="left.png")


def test_a_sparse_member_is_not_read(tmp_path):
    """Its bytes in the shard are not its content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "1.png", png(1))
        add(tar, "2.png", png(2))
    raw = bytearray(out.getvalue())
    header = raw[:512]
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (0, len(png(1)))
    header[483:495] = b"%011o\0" % 10**6
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    raw[:512] = header
    (tmp_path / "a.tar").write_bytes(raw)
    batch = build(tmp_path / "a.tar").__getitems__([0, 1])
    assert numbers_of(batch["x0"]) == [2, 2]
    assert "sparse" in batch["unreadable"][0]
