"""Parquet files and data sets of the hub, as tables that lie on the disk."""

import re
from collections.abc import Sequence
from typing import Any

from ...support.errors import UserError
from ...support.home_folder import expanded_path
from .columns import chosen, described, encoded_images
from .hub import caches, call_datasets, checked_name, parquet_files, split_of
from .source import Columns, Source, TableFiles


def parquet(data_files: str | Sequence[str] | None, columns: Columns) -> Source:
    """Parquet files with an image column (bytes, or the image struct of Hugging Face).

    Args:
        data_files: A path or pattern (`cifar10/train-*.parquet`), or several.
        columns: See `columns.chosen`.

    Raises:
        UserError: if no file fits, or a column is not there.
    """
    patterns = parquet_files(data_files)
    origin = ", ".join(patterns)
    table = call_datasets(origin, "load_dataset", "parquet", data_files=patterns, split="train")
    roots = [re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "." for pattern in patterns]
    roots = [root for root in dict.fromkeys(roots) if "://" not in root]
    return _source(origin, table, columns, roots)


def huggingface(
    dataset_name: str | None,
    dataset_config_name: str | None,
    split: str,
    columns: Columns,
    own_held_out: bool = False,
) -> Source:
    """A data set of the Hugging Face hub (or a local folder in its format), by name.

    Args:
        dataset_name: As in `datasets.load_dataset`.
        dataset_config_name: Its configuration, None for the default one.
        split: train, all (the whole of train), held_out (its test or validation split), or the name
            of one of its splits.
        columns: See `columns.chosen`.
        own_held_out: held_out is cut from train instead.

    Raises:
        UserError: if it cannot be loaded, or a split or column is not there.
    """
    dataset_name = checked_name(dataset_name)
    splits = call_datasets(dataset_name, "load_dataset", dataset_name, dataset_config_name)
    name = split_of(dataset_name, splits, split, own_held_out)
    train = splits["train"] if name != "train" and "train" in splits else None
    folder = expanded_path(dataset_name)
    roots = [str(folder)] if folder.is_dir() else caches()
    source = _source(f"data set '{dataset_name}'", splits[name], columns, roots, train)
    source.is_split = name != "train"
    return source


def _source(
    origin: str, table: Any, asked: Columns, roots: Sequence[str], train: Any = None
) -> Source:
    remarks: list[str] = []
    image, label = chosen(origin, table.features, asked, remarks)
    if len(table) == 0:
        raise UserError(f"{origin} has no rows")
    files = TableFiles(origin, encoded_images(origin, table, image), image, roots)
    cells = {"labels": label, "captions": asked.caption}
    return described(
        files, table.features, asked, label,
        read=lambda what: table[cells[what]][:],
        train=None if train is None else lambda: train[label][:],
        remarks=remarks,
    )  # fmt: skip
