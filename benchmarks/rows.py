"""Rows of figures in a JSON file, each with its key: new ones are added, the others are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def key_of(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    """What tells a row from the others; a name that it lacks is None."""
    return tuple(row.get(name) for name in names)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of the file, none if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Put rows in the place of the file, in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def add_rows(path: Path, new: Iterable[Row], names: Sequence[str]) -> None:
    """Put rows into the file, in place of those of the same key, in the order of the keys."""
    rows = {key_of(row, names): row for row in read_rows(path)}
    before = dict(rows)
    rows |= {key_of(row, names): row for row in new}
    if rows != before:
        write_rows(path, [rows[key] for key in sorted(rows, key=_sortable)])


def _sortable(key: tuple[Any, ...]) -> list[tuple[str, Any]]:
    return [(type(value).__name__, "" if value is None else value) for value in key]
