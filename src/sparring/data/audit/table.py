r"""What is known of each image of a set, a row per image: read by people, corrected, handed back.

    write_table(table, dataset, "dirt.csv")     # a person opens it in a spreadsheet and corrects it
    table = read_table("dirt.csv", dataset)     # the same to the bit, where nothing was corrected

    index,source,gaussian,jpeg,sigma,slope,correlation,quality,blur_sigma,lost,level,weight,clipped
    0,photos/a.png,0.99,0,0.21,,,,,,,1,1

**Kinds** are probabilities; an image has a kind where it is above 1/2. **Sizes** say how much, and
count where the image has a kind of that size (`SIZES`): so whoever finds an image clean sets its
kind to 0 and leaves the rest. An empty cell or a column that is not there is the default: no dirt,
weight 1. Where `level` is 0 it follows from what the image `lost` to JPEG and blur, or, where that
is 0 too, from its quality and blur; an outlier has no weight whatever `weight` says
(`data.trusted`). A table without any kind that has a size needs no probability for it: index and
sigma are enough to say what noise there is.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...support.errors import UserError, did_you_mean
from ...support.text_files import decoded
from ...support.whole_files import whole_file
from ..base import Dataset
from ..dirt import kinds as known_kinds
from .contract import HAS

SIZES: dict[str, tuple[str, ...]] = {
    "sigma": ("gaussian", "poisson_gaussian", "correlated"),
    "slope": ("poisson_gaussian",),
    "correlation": ("correlated",),
    "quality": ("jpeg",),
    "blur_sigma": ("blur", "enlarged"),
}
"""How much of a kind there is, and the kinds that it is a size of; see `Table` for the units."""


@dataclass(frozen=True)
class Number:
    """What a cell may hold: a finite number in [0, high]; `default` where it is empty."""

    high: float = math.inf
    default: float = 0.0
    decimals: int = 5

    def allows(self, values: Any) -> bool:
        """Whether all of these values may stand in a cell."""
        return bool(np.all(np.isfinite(values) & (values >= 0) & (values <= self.high)))

    def words(self) -> str:
        return f"a number in [0, {self.high:g}]".replace(", inf]", ", ...)")


PROBABILITY = Number(high=1)
NUMBERS: dict[str, Number] = {
    "sigma": Number(),
    "slope": Number(decimals=7),
    "correlation": Number(decimals=3),
    "quality": Number(high=100, decimals=1),
    "blur_sigma": Number(decimals=3),
    "lost": Number(decimals=3),
    "level": Number(decimals=4),
    "weight": Number(high=1, default=1),
}
"""The columns beside index, source, the kinds and clipped."""
YES, NO = ("1", "true", "yes"), ("0", "false", "no", "")


@dataclass(frozen=True, eq=False)
class Table:
    """What is known of n images. Arrays are (n,), float32 unless said otherwise."""

    index: np.ndarray  # number of each image in its data set, int64, ascending
    kinds: dict[str, np.ndarray]  # probabilities, by the kind's name in `contamination.kind`
    sigma: np.ndarray  # standard deviation of the noise where the image is black, [0, 1] scale
    slope: np.ndarray  # the noise's variance is sigma^2 + slope * brightness, [0, 1] scale
    correlation: np.ndarray  # of neighbouring pixels' noise, as of the kind correlated, pixels
    quality: np.ndarray  # of a JPEG, 1 to 100; 0: no JPEG
    blur_sigma: np.ndarray  # standard deviation of the blur, pixels
    # what a JPEG or a blur like its own takes from clean images of the set: root of the sum of the
    # squares, images in [-1, 1]; 0: nobody measured it
    lost: np.ndarray
    # noise level s = sigma_t / alpha_t, images in [-1, 1], from which the image may be used for all
    # but its noise: what compression or blur took away; 0: as these ask
    level: np.ndarray
    weight: np.ndarray  # of the image in training, in [0, 1]; 0 for one that teaches nothing
    clipped: np.ndarray  # whether no value leaves [0, 1], so that noise was cut off, bool

    def __len__(self) -> int:
        return len(self.index)

    def has(self, kind: str) -> np.ndarray:
        """Whether each image has this kind of dirt, (n,), bool."""
        return self.kinds[kind] > HAS if kind in self.kinds else np.zeros(len(self), bool)

    @property
    def is_clean(self) -> np.ndarray:
        """Whether nothing is said against each image: no kind, no size, full weight; (n,), bool."""
        clean = (self.sigma == 0) & (self.slope == 0) & (self.level == 0) & (self.weight == 1)
        for kind in self.kinds:
            clean &= ~self.has(kind)
        return clean

    def put(self, rows: np.ndarray, other: "Table") -> None:
        """Write the rows of another table of the same kinds in these places."""
        for kind, p in other.kinds.items():
            self.kinds[kind][rows] = p
        for name in (*NUMBERS, "clipped"):
            getattr(self, name)[rows] = getattr(other, name)

    def select(self, rows: np.ndarray) -> "Table":
        """These rows alone."""
        kinds = {kind: p[rows] for kind, p in self.kinds.items()}
        numbers = {name: getattr(self, name)[rows] for name in NUMBERS}
        return Table(self.index[rows], kinds, **numbers, clipped=self.clipped[rows])


def clean_table(index: np.ndarray | int, kinds: Iterable[str] = ()) -> Table:
    """A table to be filled in, of these images (n,), or so many, all of them clean."""
    index = np.arange(index) if isinstance(index, int) else np.asarray(index, np.int64)
    n = len(index)
    numbers = {name: np.full(n, one.default, np.float32) for name, one in NUMBERS.items()}
    none = {kind: np.zeros(n, np.float32) for kind in kinds}
    return Table(index, none, **numbers, clipped=np.ones(n, bool))


def rounded(name: str, values: np.ndarray) -> np.ndarray:
    """Values of a column as a table holds them, float32: few decimals, for people."""
    decimals = NUMBERS.get(name, PROBABILITY).decimals
    return np.round(np.asarray(values, np.float64), decimals).astype(np.float32) + np.float32(0)


def consistent(table: Table) -> Table:
    """The table with every size at 0 where the image has no kind of that size. A size for whose
    kinds the table has no column stays."""
    sizes = {}
    for name, kinds in SIZES.items():
        has = [table.has(kind) for kind in kinds if kind in table.kinds]
        if has:
            sizes[name] = np.where(np.any(has, 0), getattr(table, name), np.float32(0))
    return replace(table, **sizes)


def write_table(table: Table, dataset: Dataset, path: str | Path) -> None:
    """Write a table of images of a data set as comma-separated values, UTF-8, whole or never."""
    with whole_file(Path(path)) as half, half.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["index", "source", *table.kinds, *NUMBERS, "clipped"])
        for row, index in enumerate(table.index.tolist()):
            cells = [index, source_of(dataset, index)]
            cells += [_text(p[row]) for p in table.kinds.values()]
            for name, known in NUMBERS.items():  # sizes of 0 stay empty: the eye finds the others
                value = getattr(table, name)[row]
                cells.append("" if value == known.default == 0 else _text(value))
            out.writerow([*cells, int(table.clipped[row])])


def source_of(dataset: Dataset, index: int) -> str:
    """Where an image comes from, as text that any file can hold; empty where it has no name."""
    return (dataset.where(index) or "").encode("utf-8", "replace").decode().strip()


def _text(value: np.float32) -> str:
    """The shortest decimal that reads back as this float32, without an exponent."""
    return np.format_float_positional(value, trim="-")


@dataclass
class _Reader:
    """Reads cells and knows where it is, for what it refuses."""

    path: Path
    columns: Sequence[str] = ()  # in the order of the file
    line: int = 1  # of the row at hand, as an editor numbers it
    cells: Mapping[str, str] = field(default_factory=dict)  # of that row, without spaces around

    def refuse(self, what: str, column: str | None = None) -> UserError:
        place = f"{self.path}, line {self.line}"
        return UserError(f"{place}{f', column {column}' if column else ''}: {what}")

    def number(self, column: str, allowed: Number) -> np.float32:
        text = self.cells.get(column, "")
        if text == "":
            return np.float32(allowed.default)
        try:
            with np.errstate(over="ignore"):
                value = np.float32(float(text))
        except (ValueError, OverflowError):
            value = np.float32(math.nan)
        if not allowed.allows(value):
            comma = "" if "," not in text else ": decimals come after a point"
            what = f"must be {allowed.words()} or empty, got {text!r:.60}{comma}"
            raise self.refuse(what, column)
        return value + np.float32(0)  # -0 is 0

    def flag(self, column: str, default: bool) -> bool:
        text = self.cells.get(column, "").lower()
        if text not in YES + NO:
            raise self.refuse(f"must be 1, 0 or empty, got {self.cells[column]!r:.60}", column)
        return default if text == "" else text in YES


def read_table(path: str | Path, dataset: Dataset, *, whole: bool = True) -> Table:
    """A table of every image of a data set, as `write_table` or a person wrote it, in UTF-8.

    Rows may come in any order; columns too, and all but `index` may be left out. A source, where
    one is given, has to be the image's own; the folder that all of them lie in may be another one.
    Unless `whole`, the table is of those images that have a row. Whatever is wrong is a UserError
    with its line and column.
    """
    path, n = Path(path), len(dataset)
    lines = _rows(path)
    reader = _Reader(path)
    kinds = _header(reader, next(lines, (1, []))[1])
    table, seen = clean_table(n, kinds), np.zeros(n, bool)
    inside = _common_folder(dataset)
    for reader.line, cells in lines:
        if not any(cells):
            continue
        if len(cells) != len(reader.columns):
            raise reader.refuse(f"must have {len(reader.columns)} cells, got {len(cells)}")
        reader.cells = dict(zip(reader.columns, cells, strict=True))
        number = reader.cells["index"]
        if not (number.isdecimal() and number.isascii() and int(number) < n):
            what = f"must be the number of an image, 0 to {n - 1}, got {number!r:.60}"
            raise reader.refuse(what, "index")
        row = int(number)
        if seen[row]:
            raise reader.refuse(f"image {row} has a row above", "index")
        seen[row] = True
        source, own = reader.cells.get("source", ""), source_of(dataset, row)
        tail = own[len(inside) :]
        if source and not (own and (source == tail or source.endswith(f"/{tail}"))):
            raise reader.refuse(
                f"image {row} of {dataset.name} is {own or 'without a name'}, not {source!r:.200}: "
                "the table is of other data, or its rows were shifted", "source",
            )  # fmt: skip
        for kind in kinds:
            table.kinds[kind][row] = reader.number(kind, PROBABILITY)
        for name, allowed in NUMBERS.items():
            getattr(table, name)[row] = reader.number(name, allowed)
        table.clipped[row] = reader.flag("clipped", True)
        _check_sizes(reader, table, row)
    if whole and not seen.all():
        missing = np.flatnonzero(~seen)
        raise UserError(
            f"{path}: no row for {len(missing)} of the {n} images of {dataset.name}, the first is "
            f"image {missing[0]}: every image needs one, a clean one with nothing but its index"
        )
    return consistent(table if whole else table.select(np.flatnonzero(seen)))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file, cells without the spaces around them, and the line each ends on."""
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is no text ({error}): save it as CSV in UTF-8") from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in rows:
            yield rows.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error


def _header(reader: _Reader, columns: list[str]) -> list[str]:
    """Takes the names of the columns; those that are kinds of dirt."""
    reader.columns = columns
    dirt = [kind for kind in known_kinds.names() if kind != "mixture"]
    known = ["index", "source", *dirt, *NUMBERS, "clipped"]
    for name in columns:
        if name not in known:
            hint = did_you_mean(name, known)
            if ";" in name or "\t" in name:
                hint = ": save it with commas between the cells"
            raise reader.refuse(f"there is no column {name!r:.60}{hint}")
        if columns.count(name) > 1:
            raise reader.refuse(f"column {name} is there {columns.count(name)} times")
    if "index" not in columns:
        raise reader.refuse("there is no column 'index', the number of each image")
    return [name for name in columns if name in dirt]


def _check_sizes(reader: _Reader, table: Table, row: int) -> None:
    """Refuse a kind without its size: nobody knows how much that is."""
    for name, kinds in (("sigma", ("gaussian", "correlated")), ("quality", ("jpeg",)),
                        ("blur_sigma", ("blur", "enlarged"))):  # fmt: skip
        for kind in kinds:
            has = kind in table.kinds and table.kinds[kind][row] > HAS
            if has and getattr(table, name)[row] == 0 and table.level[row] == 0:
                raise reader.refuse(f"image {row} is said to be {kind}: set {name} too", name)


def _common_folder(dataset: Dataset) -> str:
    """What the places of all images begin with, up to a slash."""
    places = (source_of(dataset, row) for row in range(len(dataset)))
    common = next(places, "")
    common = common[: common.rfind("/") + 1]
    for place in places:
        while not place.startswith(common):
            common = common[: common.rfind("/", 0, -1) + 1]
    return common


def as_record(table: Table, row: int) -> dict[str, Any]:
    """A row as JSON says it: kinds, sigma, level and weight."""
    numbers = {name: float(_text(getattr(table, name)[row])) for name in NUMBERS}
    kinds = {kind: float(_text(p[row])) for kind, p in table.kinds.items()}
    return {"kinds": kinds, **numbers}
