"""Tables that describe images: metadata.jsonl and metadata.csv, as other tools write them."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...support.errors import UserError
from .allowed_files import read_text

SEPARATORS = (",", ";", "\t")
"""Of a csv table: the first with which its header has a field file_name."""


def read_table(file: Path, root: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the line and content of each row of a table.

    Lines end at a line feed (or carriage return and line feed) and nowhere else; a caption in
    quotes may hold either. An empty field of a csv table is null.

    Args:
        file: metadata.jsonl or metadata.csv.
        root: The folder in which it must lie.

    Raises:
        UserError: if it is no such table; the line is named.
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
    try:
        reader, header = _header(file, text)
        last = reader.line_num
        n_named = max(i for i, name in enumerate(header, start=1) if name)
        for cells in reader:
            line, last = last + 1, reader.line_num
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file}, line {line} has {len(cells)} fields and the header {len(header)}: "
                    "put a caption that holds a comma or a line end in quotes"
                )
            if any(cells[n_named:]):
                raise UserError(
                    f"{file}, line {line} has more fields than the header has names: put a "
                    "caption that holds a comma or a line end in quotes"
                )
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
    raise UserError(
        f"{file} has no file_name: its first line must name the columns (it has "
        f"{', '.join(names):.200})"
    )


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, n in Counter(names).items() if n > 1]
