"""What commands write: the place is tried first, and no reader sees half a file or folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.own_output import made_here
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


def folder_in(name: str, inner: str, output_dir: str | Path | None) -> Path | None:
    """Where a model's results go: output_dir, else a folder of the run; None for what is no run."""
    if output_dir is not None:
        return Path(output_dir)
    run = Path(name)
    return run / inner if (run / "config.yaml").is_file() else None


def as_file_name(name: str) -> str:
    """A model's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def lies_inside(out: Path, folder: Path) -> bool:
    """Whether `out`, once it is there, lies in the folder, whatever links lead to it."""
    return Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder))


def check_place(out: Path, data: Mapping[str, Any]) -> None:
    """Refuse a folder for a copy of data that is there with something in it, or inside the data."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another output folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"folder {out} is not empty: choose another output folder, or empty it first"
        )
    check_outside(out, data.get("train_data_dir"))


def check_outside(out: Path, train_data_dir: str | None) -> None:
    """Refuse to write among the images, but into a run that lies there: nobody reads that as data.

    Raises:
        UserError: if `out` lies in the folder of images.
    """
    folder = Path(train_data_dir or out).expanduser()
    if not train_data_dir or not lies_inside(out, folder):
        return
    between = [place for place in (out, *out.absolute().parents) if lies_inside(place, folder)]
    if not any(made_here(str(place)) == "run" and not place.samefile(folder) for place in between):
        raise UserError(f"{out} lies inside the data ({train_data_dir}): choose another place")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes `out` when it is complete, and is removed when it is not.

    Raises:
        UserError: where it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
