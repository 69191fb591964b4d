"""Encoded images by number, wherever they lie, and what is known of each beside its pixels."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from ..captions import Caption
from .allowed_files import Unreadable, check_file, is_in

N_HASHED_FILES = 64
N_SURVEYED = 4096
"""Headers that are looked at before anything is decoded; of more files some, evenly spread."""


class Columns(NamedTuple):
    """Which columns of a table, or members of a tar sample, are read; None: see the reader."""

    image: str | None = None
    label: str | None = None
    caption: str | None = None


class Files(ABC):
    """Where encoded images come from. Abstract."""

    origin: str  # what an error message calls the whole
    items: Sequence[Any] = ()  # what leads to each file

    def __len__(self) -> int:
        return len(self.items)

    @abstractmethod
    def open(self, index: int) -> str | bytes:
        """The path or the content of one file; Unreadable if it must not be opened."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The name of one file in reports."""

    def select(self, rows: Sequence[int]) -> "Files":
        """Some of the files, in this order."""
        mine = copy(self)
        mine.items = [self.items[row] for row in rows]
        return mine

    def probes(self) -> list[int]:
        """Those whose content is part of a fingerprint."""
        n = len(self)
        return sorted({i * n // N_HASHED_FILES for i in range(N_HASHED_FILES)})

    def surveyed(self) -> list[int]:
        """Those that tell what the others are like, and whose headers are cheap to look at."""
        n = min(len(self), N_SURVEYED)
        return [i * len(self) // n for i in range(n)]


class FolderFiles(Files):
    """Files of a folder, by path; those that links lead out of `root` are not opened."""

    def __init__(self, origin: str, paths: Sequence[str], root: str | None = None) -> None:
        self.origin, self.items = origin, paths
        self.root = None if root is None else os.path.realpath(root)

    def open(self, index: int) -> str:
        return check_file(self.items[index], self.root)

    def where(self, index: int) -> str:
        return self.items[index]


class TableFiles(Files):
    """The image column of a Hugging Face table; a row is an image struct (bytes, path). A path
    counts from one of the folders `roots` and must not lead out of it."""

    def __init__(self, origin: str, table: Any, column: str, roots: Sequence[str]) -> None:
        self.origin, self.table, self.column = origin, table, column
        self.roots = [os.path.realpath(root) for root in roots]
        self.items = range(len(table))

    def open(self, index: int) -> str | bytes:
        cell = self.table[self.items[index]][self.column] or {}
        if cell.get("bytes") or not cell.get("path"):
            return cell.get("bytes") or b""
        for root in self.roots:
            path = os.path.join(root, cell["path"])
            if is_in(path, root) and os.path.lexists(path):
                return check_file(path, root)
        raise Unreadable(f"{cell['path']!r} is no file beside the data")

    def where(self, index: int) -> str:
        return f"{self.origin}, row {self.items[index]}"


@dataclass
class Source:
    """Files of one split with what is known of each."""

    files: Files  # the images
    labels: Tensor | None = None  # classes, shape (n,), or None
    class_names: Sequence[str] = ()  # their names
    captions: list[Caption] | None = None  # of each image, see `captions`; or None
    is_split: bool = False  # whether these are already the split that was asked for
    remarks: list[str] = field(default_factory=list)  # see `Dataset.remarks`

    def select(self, rows: Tensor) -> "Source":
        """Some of the files, in this order."""
        return replace(
            self,
            files=self.files.select(rows.tolist()),
            labels=None if self.labels is None else self.labels[rows],
            captions=self.captions and [self.captions[row] for row in rows.tolist()],
        )
