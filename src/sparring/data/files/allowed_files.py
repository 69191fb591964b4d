"""What of a data set may be opened: plain files that lie in its folder, wherever links point."""

import os
import stat
from pathlib import Path

from ...support.errors import UserError
from ...support.text_files import decoded

MAX_FILE_BYTES = 2**30
"""Of an image file; as large as the most pixels that are decoded, at 8 bytes each, and some."""


class Unreadable(Exception):  # noqa: N818 - the state of a file
    """A file that is not an image, or a broken one. Internal: the next readable image stands in."""


def is_within(path: str | Path, root: str | Path) -> bool:
    """Whether the file or folder that `path` leads to, through all links, lies in the folder."""
    return is_in(path, os.path.realpath(root))


def is_in(path: str | Path, real_root: str) -> bool:
    """`is_within` of a folder whose own links are followed already."""
    real, above = os.path.normcase(os.path.realpath(path)), os.path.normcase(real_root)
    return real == above or real.startswith(above.rstrip(os.sep) + os.sep)


def check_file(path: str, real_root: str | None = None) -> str:
    """The path, if it may be opened; looked at before opening, which a pipe would not survive. It
    is Unreadable if it leads out of the folder `real_root` (see `is_in`), is no plain file, or is
    too large."""
    try:
        if real_root is not None and not is_in(path, real_root):
            raise Unreadable("it leads out of the folder")
        found = os.stat(path)
    except (OSError, ValueError) as error:  # gone, a loop of links, a name with a NUL byte
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("it is no file")
    if found.st_size > MAX_FILE_BYTES:
        raise Unreadable(f"{found.st_size:,} bytes are no image")
    return path


def read_text(file: Path, root: Path) -> str:
    """A text that belongs to the data, with the line ends that it has; UserError if it leads out of
    the folder, or is no text."""
    if not is_within(file, root):
        raise UserError(f"{file} is a link that leads out of '{root}': put a copy there instead")
    try:
        return as_text(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as text: {error}") from error


def as_text(content: bytes) -> str:
    """The text of a file, see `decoded`; ValueError if it is none."""
    text = decoded(content)
    if "\0" in text:
        raise ValueError("it holds NUL bytes: save it in UTF-8")
    return text
