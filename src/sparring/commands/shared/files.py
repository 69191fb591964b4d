"""What commands write: the place is tried first, and no reader sees half a file or folder.

Results are named after all that decides them, so the same command given again replaces its own, and
no others. Files that have one name whatever is in them (a page, samples in a folder) carry a key of
what made them; where it is another one, the command is refused unless --overwrite is given.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...data.files.own_output import made_here
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ...support.whole_files import whole_file, written


def check_writable(folder: Path) -> None:
    """Make the folder, and fail now rather than after an hour of sampling."""
    with written(folder, ": choose another folder with -o"):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write under another name and rename: a reader never sees half a file."""
    with written(path), whole_file(path) as half:
        write(half)


def replace_text(path: Path, text: str) -> None:
    """The same of a text; odd bytes of a file's name become question marks."""
    replace_file(path, lambda half: half.write_bytes(text.encode("utf-8", "replace")))


def replace_json(path: Path, result: Mapping[str, Any]) -> None:
    """The same of a JSON object; a number that is not finite is an error."""
    replace_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


def replace_png(path: Path, picture: Any) -> None:
    """The same of an image of PIL."""
    replace_file(path, lambda half: picture.save(half, "PNG"))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes `out` when it is complete, and is removed when it is not."""
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


def results_folder(
    name: str, inner: str, output_dir: str | Path | None, train_data_dir: str | None
) -> Path | None:
    """Where a model's results go: output_dir, else a folder of the run; None for what is no run."""
    folder = Path(name) / inner if output_dir is None else Path(output_dir)
    if output_dir is None and not (Path(name) / "config.yaml").is_file():
        return None
    check_outside(folder, train_data_dir)
    check_writable(folder)
    return folder


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
    Links are followed."""
    if not train_data_dir:
        return
    folder = os.path.realpath(expanded_path(train_data_dir))
    between = [
        place
        for place in (out, *out.absolute().parents)
        if Path(os.path.realpath(place)).is_relative_to(folder)
    ]
    is_in_run = any(
        made_here(str(place)) == "run" and not place.samefile(folder) for place in between
    )
    if out in between and not is_in_run:
        raise UserError(f"{out} lies inside the data ({train_data_dir}): choose another place")


def digest(*parts: Any) -> str:
    """Eight hex digits of whatever JSON can say: what sets one name apart from others."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def as_word(text: str, n_bytes: int = 60) -> str:
    """A text as part of a file's name: readable, and not unique."""
    word = re.sub(r"[^\w.]+", "-", text).strip("-.")
    return os.fsencode(word)[:n_bytes].decode("utf-8", "ignore")


def which(model: str) -> str:
    """What a model's name stands for: a real path, or the name on the hub."""
    return os.path.realpath(model) if os.path.exists(model) else model


def as_file_name(model: str) -> str:
    """A model's name as part of a file's: its last two parts, and a digest of its place."""
    place = which(model)
    return f"{as_word('-'.join(Path(place).parts[-2:]))}-{digest(place)}"


def told_in_words(told: Mapping[str, Any]) -> str:
    """Settings by dotted key as part of a file's name, `-n_samples-20-1a2b3c4d`, in any order;
    empty where there are none."""
    if not told:
        return ""
    words = (f"{key.rpartition('.')[2]}-{told[key]}" for key in sorted(told))
    return f"-{as_word('-'.join(words))}-{digest(dict(told))}"


KEY = "made_by"
"""In a JSON file, the key of the command and settings that made it and the files beside it."""


def claim(
    folder: Path, key: str, names: Iterable[str], record: str, *, overwrite: bool = False
) -> None:
    """Refuse a folder in which files of these names or patterns are another command's.
    The JSON file `record` among them holds the key of the command and settings that made them."""
    there = sorted(path for name in (*names, record) for path in folder.glob(name))
    if there and not overwrite and made_by(folder / record) != key:
        _refuse(there[0])


def made_by(record: Path) -> str | None:
    """The key that a JSON file holds; None if it is not there, or somebody else's."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    key = content.get(KEY) if isinstance(content, dict) else None
    return key if isinstance(key, str) else None


def claim_page(page: Path, key: str, *, overwrite: bool = False) -> None:
    """The same of a page by itself, in which `with_key` put the key."""
    if overwrite or not page.is_file():
        return
    try:
        is_own = _comment(key) in page.read_text(encoding="utf-8", errors="replace")
    except OSError:
        is_own = False
    if not is_own:
        _refuse(page)


def with_key(html: str, key: str) -> str:
    """A page that says, unseen, what made it."""
    return f"{html.rstrip()}\n{_comment(key)}\n"


def _comment(key: str) -> str:
    return f"<!-- {KEY} {key} -->"


def _refuse(path: Path) -> None:
    raise UserError(
        f"{path} is there and was made by another command or with other settings: choose another "
        "-o, or replace it with --overwrite"
    )
