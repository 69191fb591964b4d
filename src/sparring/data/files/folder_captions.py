"""Captions of the images of a folder: of a table above them, or of a text file beside each."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...support.errors import UserError
from ..captions import Caption, caption_of, several_of
from .allowed_files import read_text
from .caption_tables import read_table

METADATA = ("metadata.jsonl", "metadata.csv")
TEXTS = (".txt", ".caption")
"""Endings of texts beside images."""
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".xlsx")
"""Endings of files that hold captions for other tools."""

BOXES = re.compile(r"(\s*\d+([ \t]+-?\d*\.?\d+(e-?\d+)?){4,}[ \t]*(\n|\r|$))+\s*")
"""Objects in an image, a line each: the number of a class, then numbers of its box or outline."""


class Row(NamedTuple):
    """What a line of a table says of an image.

    Attributes:
        table: The file.
        line: Of the file, from 1.
        path: The image that it names, absolute.
        caption: In the column of captions.
    """

    table: Path
    line: int
    path: str
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
    """The caption of each image of a folder, None if none has one.

    A table metadata.jsonl or metadata.csv describes the images of its folder and of those below;
    without one, photo.txt or photo.caption describes photo.png (or photo.png.txt does).

    Args:
        paths: The images, below `root`.
        root: The folder.
        column: Of the tables; None: text.
        remarks: What of tables and texts names no image, or is not read, is said here.
        about: Files below that `is_about_captions`, wherever they lie.

    Raises:
        UserError: if a table or text cannot be read, two tables describe one image, or no table has
            the column.
    """
    listing = {folder: _names_in(folder) for folder in _folders(paths, root)}
    tables = [_table_in(folder, names) for folder, names in listing.items()]
    tables = [table for table in tables if table is not None]
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


def _folders(paths: Sequence[Path], root: Path) -> list[Path]:
    """The folders of the images and those above them, up to the root."""
    found: dict[Path, None] = {root: None}
    for folder in dict.fromkeys(path.parent for path in paths):
        while folder not in found:
            found[folder] = None
            folder = folder.parent
    return sorted(found)


def _names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def _table_in(folder: Path, names: Sequence[str]) -> Path | None:
    """The table of a folder.

    Raises:
        UserError: if it has two.
    """
    tables = [name for name in names if name.lower() in METADATA and (folder / name).is_file()]
    if len(tables) > 1:
        raise UserError(f"{folder} holds {' and '.join(tables)}: keep the one that is right")
    return folder / tables[0] if tables else None


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
            remarks.append(f"{len(those)} row(s) of {_named(those)} {about}, the first '{name}'")
    return [_caption_of_rows(said.get(i, ())) for i in range(len(paths))]


def _named(rows: Sequence[Row]) -> str:
    return " and ".join(str(table) for table in dict.fromkeys(row.table for row in rows))


def _caption_of_rows(rows: Sequence[Row]) -> Caption:
    """All that the rows of one image say.

    Raises:
        UserError: if they are of two tables.
    """
    for row in rows[1:]:
        if row.table != rows[0].table:
            raise UserError(
                f"{row.path} is described in {rows[0].where} and in {row.where}: keep one of them"
            )
    return several_of([text for row in rows for text in _texts_of(row.caption)])


def _texts_of(caption: Caption) -> tuple[str, ...]:
    if isinstance(caption, tuple):
        return caption
    return () if caption is None else (caption,)


def _spelling(path: str) -> str:
    """What names have in common that differ in capitals, in how accents are stored, or in / and
    backslash."""
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
    """The text file of each image: photo.txt, photo.caption or photo.png.txt of photo.png.

    Raises:
        UserError: if an image has several.
    """
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
    return [
        list(dict.fromkeys(
            file for name in (path.with_suffix(""), path) for file in known.get(spelt(name), ())
        ))
        for path in paths
    ]  # fmt: skip
