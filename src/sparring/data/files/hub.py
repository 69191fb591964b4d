"""The `datasets` library at the border: quiet, without remote code, and nothing is unpacked."""

import logging
import os
import re
import stat
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ...support.errors import UserError
from ...support.home_folder import expanded, expanded_path

ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".rar"))
TRAIN = ("train", "training")
TEST_SPLITS = (
    "held_out", "test", "validation", "valid", "val", "testing", "eval", "evaluation", "dev",
)  # fmt: skip
"""Names of splits that are not trained on; which of several is held_out."""


def held_out_rank(split: str) -> int:
    """The split of the least rank is held_out: the one that is called so, else see TEST_SPLITS."""
    return -1 if split == "held_out" else TEST_SPLITS.index(split)


def call_datasets(origin: str, work: Any, *args: Any, **options: Any) -> Any:
    """Call one of the library's functions, by name or itself; what it says is said by us. Whatever
    it raises becomes a UserError; `origin` is what its message calls the data."""
    import datasets  # slow to import, needed for tables only
    from datasets import config

    spoken = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)
    config.__dict__["HF_DATASETS_TRUST_REMOTE_CODE"] = False  # of versions with scripts
    try:
        return (getattr(datasets, work) if isinstance(work, str) else work)(*args, **options)
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds, from network to schema
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load {origin}: {reason}") from error
    finally:
        datasets.logging.set_verbosity(spoken)


def listed(data_files: str | Sequence[str] | None, what: str) -> list[str]:
    """data.data_files as a list; if there are none, UserError says to name `what`."""
    if not data_files:
        raise UserError(f"data.data_files is missing: name {what}")
    return [data_files] if isinstance(data_files, str) else list(data_files)


def check_one_split(pattern: str, files: Sequence[str]) -> None:
    """Refuse a pattern that stands for files of train and of another split: `data/*.parquet`. Files
    that are named one by one are meant. What tells are their names, or those of folders that they
    do not share."""
    fixed = len(os.path.commonpath(files)) if files else 0
    known: dict[str, str] = {}
    for file in files:
        for word in re.findall(r"[a-z_]+", file[fixed:].lower()):
            found = [one for one in (word, *word.split("_")) if one in (*TRAIN, *TEST_SPLITS)]
            if found:
                known.setdefault("train" if found[0] in TRAIN else found[0], file)
                break
    if "train" in known and len(known) > 1:
        other = next(split for split in known if split != "train")
        raise UserError(
            f"data.data_files: '{pattern}' stands for files of train and of {other} "
            f"({known['train']}, {known[other]}): name the files of one split, or each that is "
            "meant"
        )


def parquet_files(data_files: str | Sequence[str] | None) -> list[str]:
    """The paths and patterns of data.data_files; those of this machine must be parquet files."""
    given = listed(data_files, "the parquet files, for example data/*.parquet")
    patterns = [expanded(pattern) for pattern in given]
    for pattern in patterns:
        paths = sorted(glob(pattern, recursive=True))
        if has_magic(pattern):
            check_one_split(pattern, paths)
        for path in paths:
            check_parquet(path)
    return patterns


def check_parquet(path: str) -> None:
    """Refuse what only calls itself parquet: the library would unpack an archive, of any size."""
    try:
        if Path(path).is_dir() or not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is no file: name parquet files")
        with open(path, "rb") as file:
            begins = file.read(4)
            file.seek(-4, os.SEEK_END)
            ends = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if (begins, ends) != (b"PAR1", b"PAR1"):
        raise UserError(f"{path} is no parquet file, or not a whole one")


def checked_name(dataset_name: str | None) -> str:
    """The name of a hub data set, or of a local folder in its format that holds no archive."""
    if not dataset_name:
        raise UserError("data.dataset_name is missing: name a data set of the Hugging Face hub")
    folder = expanded_path(dataset_name)
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix.lower() in ARCHIVES:
            raise UserError(f"{path} is an archive, which sparring does not open: unpack it first")
    return str(folder) if folder.is_dir() else dataset_name


def split_of(dataset_name: str, splits: Iterable[str], split: str, own_held_out: bool) -> str:
    """Which of a hub data set's splits is meant, see `huggingface`."""
    name = "train" if split in ("train", "all") or own_held_out else split
    if name == "held_out":
        known = [one for one in splits if one in TEST_SPLITS]
        name = min(known, key=held_out_rank, default=name)
    if name not in splits:
        raise UserError(
            f"data set '{dataset_name}' has no split '{name}' (it has {', '.join(splits)})"
            + ("; data.held_out_share cuts one from train" if split == "held_out" else "")
        )
    return name
