"""Parquet files and data sets of the hub, as tables on the disk: what stands in their columns."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ..captions import Caption, caption_of
from ..classes import labels_of
from .hub import call_datasets, parquet_files, split_of
from .source import Columns, Files, Source, TableFiles


def parquet(data_files: str | Sequence[str] | None, columns: Columns) -> Source:
    """Parquet files, by paths or patterns, with an image column (bytes, or Hugging Face's struct).
    UserError if no file fits, or a column is not there."""
    patterns = parquet_files(data_files)
    origin = ", ".join(patterns)
    table = call_datasets(origin, "load_dataset", "parquet", data_files=patterns, split="train")
    roots = [re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "." for pattern in patterns]
    roots = [root for root in dict.fromkeys(roots) if "://" not in root]
    return _source(origin, table, columns, roots)


def huggingface(
    name: str, config_name: str | None, split: str, columns: Columns, own_held_out: bool = False
) -> Source:
    """A data set of the Hugging Face hub (or a local folder in its format), by name. Split all is
    the whole of train, held_out its test or validation split or, with `own_held_out`, a part of
    train; any other is one of its own. UserError if that or a column is not there."""
    from datasets import config
    from huggingface_hub import constants

    folder = expanded_path(name)
    named = name if folder.exists() else f"{name} (no folder here, so a name on the hub)"
    splits = call_datasets(named, "load_dataset", name, config_name)
    which = split_of(name, splits, split, own_held_out)
    train = splits["train"] if which != "train" and "train" in splits else None
    caches = [str(config.HF_DATASETS_CACHE), constants.HF_HUB_CACHE]  # of what was downloaded
    roots = [str(folder)] if folder.is_dir() else caches
    source = _source(f"data set '{name}'", splits[which], columns, roots, train)
    source.is_split = which != "train"
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


def chosen(
    origin: str, features: Mapping[str, Any], asked: Columns, remarks: list[str]
) -> tuple[str, str | None]:
    """The columns of images and of classes (None without), each of a kind that `features` tells. Of
    those that are not named, the first column of images, and `label` or the first of classes; a
    choice among several is a remark. UserError if a column is not there, or none holds images."""
    import datasets

    has = ", ".join(features)
    for key, column in asked._asdict().items():
        if column is not None and column not in features:
            raise UserError(f"data.{key}_column: no column '{column}' in {origin} (it has {has})")
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    found: list[str | None] = []
    for key, named, likely, others in (
        ("image", asked.image, [*images, "image", "img"], images),
        ("label", asked.label, ["label", *classes], classes),
    ):
        column = named or next((name for name in likely if name in features), None)
        if key == "image" and column is None:
            raise UserError(f"no image column in {origin} (it has {has}): set data.image_column")
        if named is None and len(others) > 1:
            remarks.append(
                f"{origin} has the columns {', '.join(others)}, of which '{column}' is read: "
                f"data.{key}_column chooses another"
            )
        found.append(column)
    return str(found[0]), found[1]


def described(
    files: Files,
    features: Mapping[str, Any],
    asked: Columns,
    label: str | None,
    read: Callable[[str], Sequence[Any]],
    train: Callable[[], Sequence[Any]] | None,
    remarks: list[str],
) -> Source:
    """Files of a table with their classes and captions; captions are read from a named column only.
    `read` gives the cells of "labels" and of "captions", `train` the labels of split train where
    the files are of another; what of column `label` is no class is a remark."""
    labels, names, captions = None, [], None
    if label is not None:
        kind = features[label]
        others = [] if train is None or hasattr(kind, "names") else train()
        cells, is_named = read("labels"), asked.label is not None
        labels, names = labels_of(cells, kind, label, files.origin, is_named, remarks, others)
    if asked.caption is not None:
        captions = column_captions(files.origin, asked.caption, read("captions"))
    return Source(files, labels, names, captions, remarks=remarks)


def column_captions(
    origin: str, column: str, values: Sequence[Any], first: int = 0
) -> list[Caption]:
    """The captions of a column, in rows from `first` on; UserError if a cell is none."""
    return [
        caption_of(value, f"row {row} of {origin}, column '{column}',")
        for row, value in enumerate(values, start=first)
    ]


def encoded_images(origin: str, table: Any, column: str) -> Any:
    """The table's images as they are in their files: structs of bytes and path."""
    import datasets

    try:
        return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # as Arrow's casts fail
        raise UserError(f"column '{column}' of {origin} holds no images") from error
