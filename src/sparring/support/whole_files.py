"""Files that are whole or not there, and their digests."""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


@contextmanager
def written(place: object, advice: str = "") -> Iterator[None]:
    """What a disk refuses becomes one line that names the place, and says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror or error}){advice}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under; at the end the file takes the name `path`.

    A reader finds the file from before or the new one. Processes and threads may write one file at
    the same time: the last one stays. What a failed write has begun goes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".half-{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        yield half
        os.replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's contents, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
