"""Captions of the images of a folder: of a table above them, or of a text file beside each."""

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...support.errors import UserError
from ..captions import Caption, caption_of, several_of
from .allowed_files import read_text

METADATA = ("metadata.jsonl", "metadata.csv")
SEPARATORS = (",", ";", "\t")  # of csv: the first with which its header has a field file_name
TEXTS = (".txt", ".caption")  # endings of texts beside images
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".xlsx")
"""Endings of files that hold captions for other tools."""

BOXES = re.compile(r"(\s*\d+([ \t]+-?\d*\.?\d+(e-?\d+)?){4,}[ \t]*(\n|\r|$))+\s*")
"""Objects in an image, a line each: the number of a class, then numbers of its box or outline."""


class Row(NamedTuple):
    """What a line of a table says of an image."""

    table: Path
    line: int  # of the file, from 1
    path: str  # the image that it names, absolute
    caption: Caption

    @property
    def where(self) -> str:
        return f"{self.table}, line {self.line}"


def folder_captions(
    paths: Sequence[Path],
    root: Path,
    column: str | None,
    remarks: list[str],
    about: Sequence[Path] = (),
) -> list[Caption] | None:
    """The caption of each image below a folder, None if none has one.

    A table metadata.jsonl or metadata.csv describes the images of its folder and of those below, by
    `file_name` relative to it and `column` (None: text); without one, photo.txt or photo.caption
    describes photo.png (or photo.png.txt does). What names no image, or is not read, is said in the
    remarks; `about` are files below that `is_about_captions`. If one cannot be read, two tables
    describe one image, or no table has the column, that is a UserError.
    """
    listing = {folder: sorted(os.listdir(folder)) for folder in _folders(paths, root)}
    tables = [table for folder, names in listing.items() for table in _table_in(folder, names)]
    if not tables and column is not None:
        raise UserError(f"data.caption_column: folder '{root}' has no {' or '.join(METADATA)}")
    rows: list[Row] = []
    columns: set[str] = set()
    for table in tables:
        for line, row in read_table(table, root):
            columns |= row.keys()
            rows.append(_row(table, line, row, column or "text"))
    files = [(folder, name) for folder, names in listing.items() for name in names]
    if not_read := [folder / name for folder, name in files if _seems_a_table(name)]:
        remarks.append(
            f"{len(not_read)} file(s) are not read, the first is {not_read[0]}: captions lie in "
            f"{' or '.join(METADATA)}, or in a text file beside each image"
        )
    if apart := sorted(file for file in about if file.parent not in listing):
        remarks.append(
            f"{len(apart)} text(s) or table(s) in folders without images are not read, the first "
            f"is {apart[0]}: captions lie beside their images, or in a table above them"
        )
    texts = [folder / name for folder, name in files if name.lower().endswith(TEXTS)]
    texts = [file for file in texts if file.name[0] != "." and file.is_file()]  # no pipe
    if tables and (column or "text") in columns:
        if any(_texts_of_images(paths, texts, [])):
            remarks.append(
                f"text files beside the images are not read, as {tables[0]} holds the captions"
            )
        return _matched(paths, rows, root, remarks)
    if column is not None:
        raise UserError(
            f"data.caption_column: no column '{column}' in {tables[0]} "
            f"(it has {', '.join(sorted(columns))})"
        )
    if tables:
        remarks.append(
            f"{tables[0]} has no column 'text', so it holds no captions (it has "
            f"{', '.join(sorted(columns))}): data.caption_column names another one"
        )
    return _beside(paths, texts, root, remarks)


def read_table(file: Path, root: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the line and content of each row of metadata.jsonl or metadata.csv below `root`.

    Lines end at a line feed (or carriage return and line feed) and nowhere else; a caption in
    quotes may hold either. An empty field of a csv table is null. What is no such table is a
    UserError that names the line.
    """
    text = read_text(file, root)
    return _csv_rows(file, text) if file.suffix.lower() == ".csv" else _json_rows(file, text)


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip(" \t\r"):
            continue
        try:
            row = json.loads(line, object_pairs_hook=_Object)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise UserError(f"{file} is not JSON lines: line {number}: {reason}") from error
        if not isinstance(row, _Object):
            raise UserError(
                f"{file}, line {number}: every line must be an object with file_name and a caption"
            )
        if row.repeated:
            raise UserError(f"{file}, line {number} says '{row.repeated[0]}' twice")
        yield number, row


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys came twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = _repeated([key for key, _ in pairs])


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    last = 0
    hint = "put a caption that holds a comma or a line end in quotes"
    try:
        reader, header = _header(file, text)
        last = reader.line_num
        n_named = max(i for i, name in enumerate(header, start=1) if name)
        for cells in reader:
            line, last = last + 1, reader.line_num
            if not any(cells):
                continue
            if len(cells) != len(header):
                has = f"has {len(cells)} fields and the header {len(header)}"
                raise UserError(f"{file}, line {line} {has}: {hint}")
            if any(cells[n_named:]):
                has = "has more fields than the header has names"
                raise UserError(f"{file}, line {line} {has}: {hint}")
            yield line, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"{file} is no table: from line {last + 1} on: {error}") from error


def _header(file: Path, text: str) -> tuple[Any, list[str]]:
    """A reader behind the header, and the names of the columns."""
    names: list[str] = []
    for separator in SEPARATORS:
        lines = io.StringIO(text, newline="\n")  # else a lone carriage return would end a line
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            header = [name.strip() for name in next((cells for cells in reader if any(cells)), [])]
        except csv.Error:  # names in quotes, and another separator
            continue
        names = names or header
        if "file_name" in header:
            if twice := _repeated([name for name in header if name]):
                raise UserError(f"{file} has two columns '{twice[0]}'")
            return reader, header
    has = f"its first line must name the columns (it has {', '.join(names):.200})"
    raise UserError(f"{file} has no file_name: {has}")


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, n in Counter(names).items() if n > 1]


def _folders(paths: Sequence[Path], root: Path) -> list[Path]:
    """The folders of the images and those above them, up to the root."""
    found: dict[Path, None] = {root: None}
    for folder in dict.fromkeys(path.parent for path in paths):
        while folder not in found:
            found[folder] = None
            folder = folder.parent
    return sorted(found)


def _table_in(folder: Path, names: Sequence[str]) -> list[Path]:
    """The table of a folder, if it has one; two are refused."""
    tables = [name for name in names if name.lower() in METADATA and (folder / name).is_file()]
    if len(tables) > 1:
        raise UserError(f"{folder} holds {' and '.join(tables)}: keep the one that is right")
    return [folder / name for name in tables]


def _row(table: Path, line: int, row: dict[str, Any], column: str) -> Row:
    name, where = row.get("file_name"), f"{table}, line {line}"
    if not isinstance(name, str) or not name or "\0" in name:
        has = ", ".join(row)
        raise UserError(f"{where} has no file_name, which names the image (it has {has:.200})")
    path = os.path.abspath(table.parent / name)
    return Row(table, line, path, caption_of(row.get(column), f"{where}: '{column}'"))


def _matched(
    paths: Sequence[Path], rows: Sequence[Row], root: Path, remarks: list[str]
) -> list[Caption]:
    """The captions of the images; rows that name one in another spelling are matched and said."""
    number = {os.path.abspath(path): i for i, path in enumerate(paths)}
    said: dict[int, list[Row]] = defaultdict(list)
    left = []
    for row in rows:
        if row.path in number:
            said[number[row.path]].append(row)
        else:
            left.append(row)
    alike: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(paths if left else ()):
        if i not in said:
            alike[_spelling(os.path.abspath(path))].append(i)
    respelt, lost = [], []
    for row in left:
        found = alike.get(_spelling(row.path), [])
        if len(found) > 1:
            raise UserError(
                f"{row.where}: no image has the name '{row.path}', and {paths[found[0]]} and "
                f"{paths[found[1]]} are spelt alike: name one of them"
            )
        if found:
            said[found[0]].append(row)
            respelt.append(row)
        elif not os.path.exists(row.path):  # an image of another split is no news
            lost.append(row)
    for about, those in (
        ("name their image in another spelling (capitals, accents, backslashes)", respelt),
        ("name no image that is there", lost),
    ):
        if those:
            name = os.path.relpath(those[0].path, those[0].table.parent)
            named = " and ".join(str(table) for table in dict.fromkeys(row.table for row in those))
            remarks.append(f"{len(those)} row(s) of {named} {about}, the first '{name}'")
    return [_caption_of_rows(said.get(i, ())) for i in range(len(paths))]


def _caption_of_rows(rows: Sequence[Row]) -> Caption:
    """All that the rows of one image say; they are of one table."""
    texts: list[str] = []
    for row in rows:
        if row.table != rows[0].table:
            raise UserError(
                f"{row.path} is described in {rows[0].where} and in {row.where}: keep one of them"
            )
        if row.caption is not None:
            texts += [row.caption] if isinstance(row.caption, str) else row.caption
    return several_of(texts)


def _spelling(path: str) -> str:
    """What names have in common that differ in capitals, stored accents, or in / and backslash."""
    slashes = os.path.normpath(path.replace("\\", "/"))
    return unicodedata.normalize("NFC", slashes.casefold()).strip()


def is_about_captions(name: str) -> bool:
    """Whether a file of this name is read here, or spoken of."""
    return name.lower() in METADATA or name.lower().endswith(TEXTS) or _seems_a_table(name)


def _seems_a_table(name: str) -> bool:
    """Whether a file is one that other tools take captions from."""
    stem, ending = os.path.splitext(name.lower())
    is_other = stem == "captions" or (stem == "metadata" and name.lower() not in METADATA)
    return is_other and ending in TABLES


def _beside(
    paths: Sequence[Path], texts: Sequence[Path], root: Path, remarks: list[str]
) -> list[Caption] | None:
    """The captions in the text files of the images' names."""
    files = _texts_of_images(paths, texts, remarks)
    used = {file for file in files if file is not None}
    lost = sorted(file for file in texts if file not in used and not _seems_a_table(file.name))
    if (used and lost) or len(lost) > 1:  # one alone is a licence or a note
        remarks.append(f"{len(lost)} text file(s) lie beside no image of that name: {lost[0]}")
    said = {file: read_text(file, root).strip() for file in used}
    if boxes := sorted(file for file in used if BOXES.fullmatch(said[file])):
        remarks.append(
            f"{len(boxes)} text file(s) hold numbers of objects' boxes (YOLO) and no captions, the "
            f"first is {boxes[0]}"
        )
        if not any(said[file] for file in used - set(boxes)):  # empty: an image without objects
            return None
        said |= dict.fromkeys(boxes)
    return [None if file is None else said[file] for file in files] if used else None


def _texts_of_images(
    paths: Sequence[Path], texts: Sequence[Path], remarks: list[str]
) -> list[Path | None]:
    """The text file of each image: photo.txt, photo.caption or photo.png.txt of photo.png."""
    if not texts:
        return [None] * len(paths)
    found = _named_alike(paths, texts, lambda name: unicodedata.normalize("NFC", str(name)))
    used = {file for files in found for file in files}
    left = [file for file in texts if file not in used]
    bare = [i for i, files in enumerate(found) if not files]
    respelt = _named_alike([paths[i] for i in bare], left, lambda name: _spelling(str(name)))
    for i, files in zip(bare, respelt, strict=True):
        found[i] = files
    if others := sorted(file for files in respelt for file in files):
        remarks.append(
            f"{len(others)} text file(s) name their image in another spelling (capitals), the "
            f"first is {others[0]}"
        )
    for path, files in zip(paths, found, strict=True):
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise UserError(f"{path} has the captions {names}: keep the one that is right")
    return [files[0] if files else None for files in found]


def _named_alike(
    paths: Sequence[Path], texts: Sequence[Path], spelt: Callable[[Path], str]
) -> list[list[Path]]:
    """The texts with each image's name, with its ending or without, as `spelt` spells them."""
    known: dict[str, list[Path]] = defaultdict(list)
    for file in texts:
        known[spelt(file.with_suffix(""))].append(file)
    both = [(known[spelt(path.with_suffix(""))], known[spelt(path)]) for path in paths]
    return [list(dict.fromkeys(bare + whole)) for bare, whole in both]
