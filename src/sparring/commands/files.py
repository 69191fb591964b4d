"""Files that commands write: the place is tried first, and no reader sees half a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import UserError


def check_writable(folder: Path | None) -> None:
    """Make the folder, and fail now rather than after an hour of sampling."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another folder with -o"
        ) from error


def replace_file(path: Path, write: Any) -> None:
    """Write under another name and rename: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error
