"""The table of dirt: written and read back alike, and whatever is wrong in it has its place."""

import csv

import numpy as np
import pytest
import torch

from sparring.data.audit.table import (
    NUMBERS,
    Table,
    as_record,
    clean_table,
    read_table,
    rounded,
    write_table,
)
from sparring.data.base import InMemory
from sparring.support.errors import UserError

N = 6


class Named(InMemory):
    """Images that come from files of two folders."""

    def where(self, index):
        return f"photos/{'ab'[index % 2]}/{index}, it's.png"


@pytest.fixture
def images():
    return Named("photos", torch.zeros(N, 1, 2, 2))


def some_table(n: int = N) -> Table:
    rng = np.random.RandomState(0)
    table = clean_table(n, ["gaussian", "correlated", "jpeg", "missing_blocks"])
    for name, p in table.kinds.items():
        p[:] = rounded(name, rng.rand(n))
    noisy = table.has("gaussian") | table.has("correlated")
    table.sigma[:] = np.where(noisy, rounded("sigma", 0.01 + rng.rand(n)), 0)
    table.correlation[:] = np.where(table.has("correlated"), rounded("correlation", rng.rand(n)), 0)
    table.quality[:] = np.where(table.has("jpeg"), rounded("quality", 1 + 99 * rng.rand(n)), 0)
    table.weight[::2] = rounded("weight", rng.rand(len(table.weight[::2])))
    table.clipped[1] = False
    return table


def same(a: Table, b: Table) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("index", *NUMBERS, "clipped")]
    pairs += [(p, b.kinds[kind]) for kind, p in a.kinds.items()]
    return list(a.kinds) == list(b.kinds) and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs
    )


def test_what_is_written_reads_back_to_the_bit(images, tmp_path):
    table = some_table()
    write_table(table, images, tmp_path / "dirt.csv")
    assert same(read_table(tmp_path / "dirt.csv", images), table)
    assert [path.name for path in tmp_path.iterdir()] == ["dirt.csv"]


def test_a_table_of_some_images_is_read_where_that_is_allowed(images, tmp_path):
    some = some_table().select(np.array([1, 4, 5]))
    write_table(some, images, tmp_path / "dirt.csv")
    assert same(read_table(tmp_path / "dirt.csv", images, whole=False), some)
    with pytest.raises(
        UserError, match="no row for 3 of the 6 images of photos, the first is imag"
    ):
        read_table(tmp_path / "dirt.csv", images)


def test_every_float32_has_a_text_of_its_own(tmp_path):
    rng = np.random.RandomState(1)
    n = 2000
    images, table = InMemory("x", torch.zeros(n, 1, 1, 1)), clean_table(n)
    table.level[:] = np.exp(rng.uniform(-40, 40, n)).astype(np.float32)
    table.sigma[:] = rng.rand(n)
    write_table(table, images, tmp_path / "t.csv")
    assert same(read_table(tmp_path / "t.csv", images), table)
    assert "e" not in (tmp_path / "t.csv").read_text().split("\n", 1)[1]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def save(path, rows, mark="", end="\r\n"):
    lines = [",".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows]
    path.write_bytes((mark + end.join(lines) + end).encode("utf-8"))


def test_a_spreadsheet_may_reorder_rows_and_columns(images, tmp_path):
    path, table = tmp_path / "dirt.csv", some_table()
    write_table(table, images, path)
    rows = rows_of(path)
    order = [0, 4, 2, 6, 1, 5, 3]
    shuffled = [[*rows[i][2:], rows[i][1], f" {rows[i][0]} "] for i in order]
    save(path, [*shuffled, [""] * len(rows[0]), []], mark="\ufeff")
    assert same(read_table(path, images), table)


def test_an_empty_cell_is_the_default(images, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "index,sigma,weight\n0,0.25,\n1,,0\n2\n".replace("2\n", "2,,\n") + "3,,\n4,,\n5,,\n"
    )
    table = read_table(path, images)
    assert table.sigma.tolist() == [0.25, 0, 0, 0, 0, 0]
    assert table.weight.tolist() == [1, 0, 1, 1, 1, 1]
    assert table.clipped.all()
    assert table.is_clean.tolist() == [False, False, True, True, True, True]


def test_whoever_finds_an_image_clean_sets_its_kind_alone(images, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "index,gaussian,jpeg,sigma,quality\n"
        "0,1,0,0.2,50\n1,0,1,0.2,50\n2,,,0.2,\n3,0.5,0.5,0.2,50\n4,1,1,0.1,30\n5,,,,\n"
    )
    table = read_table(path, images)
    assert table.sigma.tolist() == pytest.approx([0.2, 0, 0, 0, 0.1, 0])
    assert table.quality.tolist() == [0, 50, 0, 0, 30, 0]
    assert table.is_clean.tolist() == [False, False, True, True, False, True]


HEAD = "index,source,gaussian,jpeg,sigma,quality,weight,clipped\n"
REST = "".join(f"{i},,,,,,,\n" for i in range(1, N))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,,1.5,,0.1,,,", r"line 2, column gaussian: must be a number in \[0, 1\] or empty, got '1.5'"),  # noqa: E501
        ("0,,-0.1,,,,,", r"line 2, column gaussian: must be a number in \[0, 1\]"),
        ("0,,nan,,,,,", "line 2, column gaussian: .* got 'nan'"),
        ("0,,,,-1,,,", r"line 2, column sigma: must be a number in \[0, \.\.\.\)"),
        ("0,,,,1e39,,,", "line 2, column sigma"),
        ("0,,,,much,,,", "line 2, column sigma: .* got 'much'"),
        ('0,,,,"0,2",,,', "line 2, column sigma: .* decimals come after a point"),
        ("0,,,,,101,,", r"line 2, column quality: must be a number in \[0, 100\]"),
        ("0,,,,,,2,", "line 2, column weight"),
        ("0,,,,,,,maybe", "line 2, column clipped: must be 1, 0 or empty, got 'maybe'"),
        (",,,,,,,", "no row for 1 of the 6 images of photos, the first is image 0"),
        (",,1,,0.1,,,", "line 2, column index: must be the number of an image, 0 to 5, got ''"),
        ("6,,,,,,,", "line 2, column index: .* 0 to 5, got '6'"),
        ("-1,,,,,,,", "line 2, column index"),
        ("0.0,,,,,,,", "line 2, column index"),
        ("1,,,,,,,", "line 3, column index: image 1 has a row above"),
        ("0,,,,,,", "line 2: must have 8 cells, got 7"),
        ("0,photos/b/1.png,,,,,,", "line 2, column source: image 0 of photos is photos/a/0, it's.png, not 'photos/b/1.png'"),  # noqa: E501
        ("0,,1,,,,,", "line 2, column sigma: image 0 is said to be gaussian: set sigma too"),
        ("0,,,1,,,,", "line 2, column quality: image 0 is said to be jpeg: set quality too"),
        ('0,"unclosed,,,,,,', "line [0-9]+: unexpected end of data"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_refused_with_its_line_and_column(images, tmp_path, line, message):
    path = tmp_path / "mine.csv"
    path.write_text(f"{HEAD}{line}\n{REST}")
    with pytest.raises(UserError, match=message) as refused:
        read_table(path, images)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("index,gausian", "line 1: there is no column 'gausian' - did you mean 'gaussian'?"),
        ("index,mixture", "line 1: there is no column 'mixture'"),
        ("index,sigma,sigma", "line 1: column sigma is there 2 times"),
        ("sigma", "line 1: there is no column 'index'"),
        ("index;sigma", "save it with commas between the cells"),
        ("", "line 1: there is no column 'index'"),
    ],
)
def test_a_wrong_column_is_refused(images, tmp_path, head, message):
    path = tmp_path / "mine.csv"
    path.write_text(f"{head}\n0,1\n")
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        read_table(path, images)


def test_what_is_no_table_is_refused(images, tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv cannot be read: No such file"):
        read_table(tmp_path / "gone.csv", images)
    (tmp_path / "sheet.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\xff")
    with pytest.raises(UserError, match=r"sheet\.xlsx is no text .*: save it as CSV"):
        read_table(tmp_path / "sheet.xlsx", images)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="no column 'index'"):
        read_table(tmp_path / "empty.csv", images)


def test_a_source_counts_from_the_folder_that_all_images_lie_in(images, tmp_path):
    path, table = tmp_path / "dirt.csv", clean_table(N)
    write_table(table, images, path)
    moved = path.read_text().replace("photos/", "/mnt/disk/photos/")
    path.write_text(moved)
    assert same(read_table(path, images), table)
    path.write_text(moved.replace("/a/", "/b/", 1))
    with pytest.raises(UserError, match="line 2, column source"):
        read_table(path, images)


def test_any_name_of_a_file_can_be_written(tmp_path):
    class Odd(InMemory):
        def where(self, index):
            return ['d/\udce9,\n"=1+1.png ', "d/\u2028.png"][index]

    images, path = Odd("odd", torch.zeros(2, 1, 1, 1)), tmp_path / "dirt.csv"
    write_table(clean_table(2), images, path)
    assert same(read_table(path, images), clean_table(2))


def test_a_record_says_the_numbers_as_the_file_does(images):
    table = some_table()
    record = as_record(table, 0)
    assert record["kinds"]["gaussian"] == float(str(table.kinds["gaussian"][0]))
    assert set(record) == {"kinds", *NUMBERS}
    assert record["weight"] == float(str(table.weight[0]))


def test_rows_are_put_and_selected(images):
    table, other = some_table(), clean_table(np.array([1, 4]), list(some_table().kinds))
    other.level[:] = 3
    table.put(np.array([1, 4]), other)
    assert table.level.tolist() == [0, 3, 0, 0, 3, 0]
    assert same(table.select(np.array([1, 4])), other)
