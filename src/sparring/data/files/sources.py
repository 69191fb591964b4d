"""Which files make a data set, with their labels: an image folder, parquet files, a hub name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ..captions import Caption, caption_of, folder_captions, is_about_captions
from ..classes import labels_of, natural
from .hub import caches, call_datasets, checked_name, parquet_files, split_of
from .images import Files, FolderFiles, TableFiles
from .listing import EXTENSIONS, images_below, is_image, merged, passed_over
from .splits import Looks, check_classes, class_folders, remarks_on_classes, split_folders


@dataclass
class Source:
    """Files of one split with what is known of each.

    Attributes:
        files: The images.
        labels: Classes, shape (n,), or None.
        class_names: Their names.
        captions: Of each image, see `captions`; or None.
        is_split: Whether these are already the split that was asked for.
        remarks: See `Dataset.remarks`.
    """

    files: Files
    labels: Tensor | None = None
    class_names: Sequence[str] = ()
    captions: list[Caption] | None = None
    is_split: bool = False
    remarks: list[str] = field(default_factory=list)

    def select(self, rows: Tensor) -> "Source":
        """Some of the files, in this order."""
        chosen = rows.tolist()
        return Source(
            self.files.select(chosen),
            None if self.labels is None else self.labels[rows],
            self.class_names,
            None if self.captions is None else [self.captions[row] for row in chosen],
            self.is_split,
            self.remarks,
        )

    def beside(self, roots: Sequence[str]) -> "Source":
        """The same, with the folders in which the paths of a table's images may lie."""
        if isinstance(self.files, TableFiles):
            self.files.roots = roots
        return self


def folder(train_data_dir: str | None, split: str, caption_column: str | None = None) -> Source:
    """Every image below a folder; subfolders of the first level are the classes.

    Nothing is read that lies elsewhere: a linked image from outside counts as unreadable, a linked
    folder or text from outside is an error. The folder itself may be a link. Runs and samples of
    this program that lie below are passed over, and said (see `own_output`).

    There are labels if all images are in subfolders, at least two, numbered in natural order. A
    folder with a subfolder of training images beside one of another split (test, val, ...) is read
    split by split, see `splits`; the classes of train come first in each.

    Captions come from metadata.jsonl or metadata.csv in any of the folders, whose `file_name` is
    relative to where it lies (the convention of Hugging Face's imagefolder), or from a text file
    beside each image, photo.txt or photo.caption of photo.png; see `captions`.

    Args:
        train_data_dir: The folder.
        split: train, held_out, all, or the name of a split's subfolder.
        caption_column: Of the metadata; None: `text`, and no captions without such a column.

    Raises:
        UserError: if the folder is missing or holds no image, a folder in it cannot be listed or
            leads out of it, or the metadata cannot be read.
    """
    if train_data_dir is None:
        raise UserError("data.train_data_dir is missing: name the folder of images")
    root = expanded_path(train_data_dir)
    if not root.is_dir():
        raise UserError(
            f"no folder '{train_data_dir}': data.train_data_dir must be a folder of images"
        )
    remarks: list[str] = []
    looks = Looks(is_image, passed_over)
    roots, training, is_split = split_folders(root, split, looks, remarks)
    found = merged(images_below(one, root, is_about_captions) for one in roots)
    paths = sorted(found.paths)
    remarks += found.remarks()
    if not paths:
        raise UserError(
            f"no image in folder '{train_data_dir}' (looked for {', '.join(sorted(EXTENSIONS))})"
            + "".join(f"; {remark}" for remark in remarks)
        )
    files = FolderFiles(f"folder '{train_data_dir}'", [str(path) for path in paths], str(root))
    captions = folder_captions(paths, root, caption_column, remarks, found.others)
    classes = [_class_of(path, roots) for path in paths]
    names = sorted({name for name in classes if name is not None}, key=natural)
    if not is_split:
        check_classes(roots[0], paths)
    elif training != roots:
        first = class_folders(training[0], looks)
        names = first + [name for name in names if name not in first]
    if training == roots and None not in classes:
        remarks += remarks_on_classes(roots[0], names, looks)
    if None in classes or len(names) < 2:
        if None in classes and len(names) > 1:
            remarks.append(_no_classes(paths, classes, names))
        return Source(files, captions=captions, is_split=is_split, remarks=remarks)
    number = {name: i for i, name in enumerate(names)}
    labels = torch.tensor([number[name] for name in classes if name is not None])
    return Source(files, labels, names, captions, is_split, remarks)


def _no_classes(paths: Sequence[Path], classes: Sequence[str | None], names: Sequence[str]) -> str:
    n = classes.count(None)
    return (
        f"the {len(names)} subfolders are not read as classes, as {n} of {len(paths)} images lie "
        f"in none of them, the first is {paths[classes.index(None)]}"
    )


def _class_of(path: Path, roots: Sequence[Path]) -> str | None:
    root = next(root for root in roots if path.is_relative_to(root))
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def parquet(
    data_files: str | Sequence[str] | None,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
) -> Source:
    """Parquet files with an image column (bytes, or the image struct of Hugging Face).

    Args:
        data_files: A path or pattern (`cifar10/train-*.parquet`), or several.
        image_column: None: the first column of images.
        label_column: None: `label`, else the first column of classes; no labels without either.
        caption_column: None: no captions.

    Raises:
        UserError: if no file fits, or a column is not there.
    """
    patterns = parquet_files(data_files)
    origin = ", ".join(patterns)
    table = call_datasets(origin, "load_dataset", "parquet", data_files=patterns, split="train")
    source = _from_table(origin, table, image_column, label_column, caption_column)
    roots = [re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "." for pattern in patterns]
    return source.beside([root for root in dict.fromkeys(roots) if "://" not in root])


def huggingface(
    dataset_name: str | None,
    dataset_config_name: str | None,
    split: str,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    *,
    own_held_out: bool = False,
) -> Source:
    """A data set of the Hugging Face hub (or a local folder in its format), by name.

    Args:
        dataset_name: As in `datasets.load_dataset`.
        dataset_config_name: Its configuration, None for the default one.
        split: train, all (the whole of train), held_out (its test or validation split), or the name
            of one of its splits.
        own_held_out: held_out is cut from train instead.

    Raises:
        UserError: if it cannot be loaded, or a split or column is not there.
    """
    dataset_name = checked_name(dataset_name)
    splits = call_datasets(dataset_name, "load_dataset", dataset_name, dataset_config_name)
    name = split_of(dataset_name, splits, split, own_held_out)
    train = splits["train"] if name != "train" and "train" in splits else None
    source = _from_table(
        f"data set '{dataset_name}'", splits[name], image_column, label_column, caption_column,
        train,
    )  # fmt: skip
    source.is_split = name != "train"
    folder = expanded_path(dataset_name)
    return source.beside([str(folder)] if folder.is_dir() else caches())


def _from_table(
    origin: str,
    table: Any,
    image_column: str | None,
    label_column: str | None,
    caption_column: str | None,
    train: Any = None,
) -> Source:
    explicit = label_column is not None
    remarks = column_remarks(origin, table.features, image_column, label_column)
    image_column, label_column = columns_of(
        origin, table.features, image_column, label_column, caption_column
    )
    if len(table) == 0:
        raise UserError(f"{origin} has no rows")
    labels, class_names = None, []
    if label_column is not None:
        kind = table.features[label_column]
        others = [] if train is None or hasattr(kind, "names") else train[label_column][:]
        labels, class_names = labels_of(
            table[label_column][:], kind, label_column, origin, explicit, remarks, others
        )
    captions = None
    if caption_column is not None:
        captions = column_captions(origin, caption_column, table[caption_column][:])
    table = encoded_images(origin, table, image_column)
    files = TableFiles(origin, table, image_column)
    return Source(files, labels, class_names, captions, remarks=remarks)


def column_captions(
    origin: str, column: str, values: Sequence[Any], first: int = 0
) -> list[Caption]:
    """The captions of a column, in rows from `first` on.

    Raises:
        UserError: if a cell is none; its row, from 0, is named.
    """
    return [
        caption_of(value, f"row {row} of {origin}, column '{column}',")
        for row, value in enumerate(values, start=first)
    ]


def columns_of(
    origin: str,
    features: Mapping[str, Any],
    image_column: str | None,
    label_column: str | None,
    caption_column: str | None,
) -> tuple[str, str | None]:
    """The columns of images and of classes (None without), see `parquet`."""
    import datasets

    for key, column in (
        ("image_column", image_column),
        ("label_column", label_column),
        ("caption_column", caption_column),
    ):
        if column is not None and column not in features:
            raise UserError(
                f"data.{key}: no column '{column}' in {origin} (it has {', '.join(features)})"
            )
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image_column = image_column or next(
        (name for name in (*images, "image", "img") if name in features), None
    )
    if image_column is None:
        raise UserError(
            f"no image column in {origin} (it has {', '.join(features)}): set data.image_column"
        )
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label_column = label_column or next(
        (name for name in ("label", *classes) if name in features), None
    )
    return image_column, label_column


def column_remarks(
    origin: str, features: Mapping[str, Any], image_column: str | None, label_column: str | None
) -> list[str]:
    """What is said of columns that may be meant as well as those that `columns_of` chooses."""
    import datasets

    chosen = columns_of(origin, features, image_column, label_column, None)
    remarks = []
    for key, asked, column, kind in (
        ("image_column", image_column, chosen[0], datasets.Image),
        ("label_column", label_column, chosen[1], datasets.ClassLabel),
    ):
        others = [name for name, one in features.items() if isinstance(one, kind)]
        if asked is None and len(others) > 1:
            remarks.append(
                f"{origin} has the columns {', '.join(others)}, of which '{column}' is read: "
                f"data.{key} chooses another"
            )
    return remarks


def encoded_images(origin: str, table: Any, column: str) -> Any:
    """The table's images as they are in their files: structs of bytes and path."""
    import datasets

    try:
        return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # as Arrow's casts fail
        raise UserError(f"column '{column}' of {origin} holds no images") from error
