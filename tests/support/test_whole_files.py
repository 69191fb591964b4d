"""A reader finds the file from before or the new one, and no leftover."""

import pytest

from sparring.support.whole_files import whole_file


def test_the_file_appears_when_it_is_written(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as half:
        half.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with whole_file(path) as half:
        half.write_text("two")
        assert path.read_text() == "one"
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "two"


def test_what_fails_leaves_the_file_from_before(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("one")

    def write():
        with whole_file(path) as half:
            half.write_text("tw")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write()
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]
