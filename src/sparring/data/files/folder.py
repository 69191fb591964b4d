"""Every image below a folder, with its class and its caption."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ..classes import natural
from .folder_captions import folder_captions, is_about_captions
from .listing import EXTENSIONS, images_below, merged
from .source import FolderFiles, Source
from .splits import check_classes, class_folders, remarks_on_classes, split_folders


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
    roots, training, is_split = split_folders(root, split, remarks)
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
        first = class_folders(training[0])
        names = first + [name for name in names if name not in first]
    if training == roots and None not in classes:
        remarks += remarks_on_classes(roots[0], names)
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
