"""Columns of a table: which hold images, classes and captions, and what stands in them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...support.errors import UserError
from ..captions import Caption, caption_of
from ..classes import labels_of
from .source import Columns, Files, Source


def chosen(
    origin: str, features: Mapping[str, Any], asked: Columns, remarks: list[str]
) -> tuple[str, str | None]:
    """The columns of images and of classes (None without).

    Args:
        origin: What an error message calls the whole.
        features: The kind of each column.
        asked: Those that are named. None: the first column of images; `label`, else the first
            column of classes.
        remarks: A choice among several is said here.

    Raises:
        UserError: if a column is not there, or none holds images.
    """
    import datasets

    for key, column in asked._asdict().items():
        if column is not None and column not in features:
            raise UserError(
                f"data.{key}_column: no column '{column}' in {origin} (it has "
                f"{', '.join(features)})"
            )
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    image, label = (
        named or next((name for name in known if name in features), None)
        for named, known in (
            (asked.image, [*images, "image", "img"]), (asked.label, ["label", *classes])
        )
    )  # fmt: skip
    if image is None:
        raise UserError(
            f"no image column in {origin} (it has {', '.join(features)}): set data.image_column"
        )
    for key, named, column, others in (
        ("image", asked.image, image, images), ("label", asked.label, label, classes)
    ):  # fmt: skip
        if named is None and len(others) > 1:
            remarks.append(
                f"{origin} has the columns {', '.join(others)}, of which '{column}' is read: "
                f"data.{key}_column chooses another"
            )
    return image, label


def described(
    files: Files,
    features: Mapping[str, Any],
    asked: Columns,
    label: str | None,
    read: Callable[[str], Sequence[Any]],
    train: Callable[[], Sequence[Any]] | None,
    remarks: list[str],
) -> Source:
    """Files of a table with their classes and captions.

    Args:
        files: The images.
        features: The kind of each column.
        asked: The columns that are named; captions are read from a named one only.
        label: The column of classes.
        read: The cells of "labels" and of "captions".
        train: The labels of split train, where the files are of another.
        remarks: What is no class is said here.

    Raises:
        UserError: if a named column holds something else.
    """
    labels, names, captions = None, [], None
    if label is not None:
        kind = features[label]
        others = [] if train is None or hasattr(kind, "names") else train()
        is_named = asked.label is not None
        labels, names = labels_of(
            read("labels"), kind, label, files.origin, is_named, remarks, others
        )
    if asked.caption is not None:
        captions = column_captions(files.origin, asked.caption, read("captions"))
    return Source(files, labels, names, captions, remarks=remarks)


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


def encoded_images(origin: str, table: Any, column: str) -> Any:
    """The table's images as they are in their files: structs of bytes and path."""
    import datasets

    try:
        return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # as Arrow's casts fail
        raise UserError(f"column '{column}' of {origin} holds no images") from error
