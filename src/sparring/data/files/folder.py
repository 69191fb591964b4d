"""Every image below a folder, with its class and its caption, and which folders are splits.

Train/ beside val/, in any spelling, are splits; other folders are classes.
"""

import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ..classes import natural
from .allowed_files import is_within
from .folder_captions import folder_captions, is_about_captions
from .hub import TEST_SPLITS, TRAIN, held_out_rank
from .listing import EXTENSIONS, images_below, is_image, merged, passed_over
from .source import FolderFiles, Source

_AROUND = r"(?:images?|imgs?)"
_NAME = re.compile(
    rf"(?:{_AROUND}[-_. ]*)?({'|'.join((*TRAIN, *TEST_SPLITS))})"
    rf"(?:[-_. ]*(?:[0-9]+|{_AROUND}|set|data|split))*"
)
_WORDS = "|".join(sorted((*TRAIN, *TEST_SPLITS), key=len, reverse=True))
_WITHIN = re.compile(rf"(|.*?[^a-zA-Z])((?i:{_WORDS}))(|[A-D]|[^a-zA-Z].*)")
"""What is before and behind the word: DIV2K_train_HR, trainA."""


def folder(train_data_dir: str | None, split: str, caption_column: str | None = None) -> Source:
    """Every image below a folder; subfolders of the first level are the classes.

    Nothing is read that lies elsewhere: a linked image from outside counts as unreadable, a linked
    folder or text from outside is an error. The folder itself may be a link. Runs and samples of
    this program that lie below are passed over, and said (see `own_output`).

    There are labels if all images are in subfolders, at least two, numbered in natural order. A
    folder with a subfolder of training images beside one of another split (test, val, ...) is read
    split by split, see `split_folders`; the classes of train come first in each. What cannot be
    listed or read, or holds no image, is a UserError.
    """
    if train_data_dir is None:
        raise UserError("data.train_data_dir is missing: name the folder of images")
    root = expanded_path(train_data_dir)
    if not root.is_dir():
        where = "data.train_data_dir must be a folder of images"
        raise UserError(f"no folder '{train_data_dir}': {where}")
    remarks: list[str] = []
    roots, training, is_split = split_folders(root, split, remarks)
    found = merged(images_below(one, root, is_about_captions) for one in roots)
    paths = sorted(found.paths)
    remarks += found.remarks()
    if not paths:
        endings = ", ".join(sorted(EXTENSIONS))
        none = f"no image in folder '{train_data_dir}' (looked for {endings})"
        raise UserError("; ".join([none, *remarks]))
    files = FolderFiles(f"folder '{train_data_dir}'", [str(path) for path in paths], str(root))
    captions = folder_captions(paths, root, caption_column, remarks, found.others)
    class_of = functools.cache(lambda parent: _class_of(parent, roots))  # a folder has many images
    classes = [class_of(path.parent) for path in paths]
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
            remarks.append(
                f"the {len(names)} subfolders are not read as classes, as {classes.count(None)} of "
                f"{len(paths)} images lie in none of them, the first is "
                f"{paths[classes.index(None)]}"
            )
        return Source(files, captions=captions, is_split=is_split, remarks=remarks)
    number = {name: i for i, name in enumerate(names)}
    labels = torch.tensor([number[name] for name in classes if name is not None])
    return Source(files, labels, names, captions, is_split, remarks)


def _class_of(parent: Path, roots: Sequence[Path]) -> str | None:
    """The class of the images that lie in a folder."""
    root = next(root for root in roots if parent.is_relative_to(root))
    return next(iter(parent.relative_to(root).parts), None)


def split_name(folder: str) -> str | None:
    """Which split a folder's name stands for, None if it stands for none. Train, TRAINING, val2017,
    test_images and dev are splits' names; steam-train is not."""
    match = _NAME.fullmatch(folder.lower())
    return None if match is None else match[1]


def split_folders(
    root: Path, split: str, remarks: list[str]
) -> tuple[list[Path], list[Path], bool]:
    """The folders that hold a split (train, held_out, all, or a folder's name) of an image folder.

    A folder is divided if it holds a folder of training images and one of another split, and no
    other folder with images. If all its images lie in one folder, that one is looked at instead. If
    the folders may be splits and classes, or there is no such split, that is a UserError.

    Returns:
        The folders of the split, those of train (whose classes come first), and whether the tree is
        divided at all; the root itself, twice, if it is not.
    """
    place = root
    while True:
        below, loose = _folders(place), _has_loose(place)
        if loose or len(below) != 1 or split_name(below[0]) is not None:
            break
        place = place / below[0]
    named = {name: which for name in below if (which := split_name(name)) is not None}
    named = named or _named_alike(place, below)
    trains = [name for name, which in named.items() if which in TRAIN]
    if trains and len(below) == 1 and not loose:  # train/ alone: its folders are the classes
        return [place / below[0]], [place / below[0]], False
    if not _are_splits(place, below, named, trains):
        if named and len(below) > 1:
            remarks.append(
                f"the folder(s) {_listed(named)} of {place} are read as classes, as "
                f"{_listed(below)} lie there: name the folder of one split if they are splits"
            )
        return [root], [root], False
    if loose:
        remarks.append(
            f"the images in {place} itself are left out: its folders {_listed(below)} are splits"
        )
    training = [place / trains[0]]
    if split == "all":
        return [place / name for name in sorted(below)], training, True
    return [place / _chosen(place, split, named, trains[0])], training, True


def _named_alike(place: Path, below: Sequence[str]) -> dict[str, str]:
    """The splits of folders whose names agree but for the word: DIV2K_train_HR, DIV2K_valid_HR."""
    alike: dict[tuple[str, str], dict[str, str]] = {}
    for name in below:
        match = _WITHIN.fullmatch(name)
        if match is not None:
            before, behind = (re.sub("[0-9]+", "0", one.lower()) for one in match.group(1, 3))
            alike.setdefault((before, behind), {})[name] = match[2].lower()
    for named in alike.values():
        if set(named.values()) & set(TRAIN) and set(named.values()) - set(TRAIN):
            if len(named) < len(below):
                raise _unclear(place, below)
            return named
    return {}


def _unclear(place: Path, below: Sequence[str]) -> UserError:
    return UserError(
        f"{place} holds {_listed(below)}: these may be splits or classes; name the folder "
        "that is meant in data.train_data_dir, or move the others away"
    )


def _are_splits(
    place: Path, below: Sequence[str], named: dict[str, str], trains: Sequence[str]
) -> bool:
    """Whether the folders are splits; UserError if that cannot be told."""
    others = [name for name in below if name not in named]
    if len(trains) == len(named) == 1 and others:
        return False  # a class that is called train
    if not trains:
        if others or len(named) < 2:
            return False
        raise UserError(
            f"{place} holds the splits {_listed(named)} and none of training: name the folder "
            "that is meant in data.train_data_dir"
        )
    if others or len(trains) > 1:
        raise _unclear(place, below)
    return len(named) > 1


def _chosen(place: Path, split: str, named: dict[str, str], train: str) -> str:
    """The folder of a split."""
    if split == "train":
        return train
    if split == "held_out":
        others = [name for name in named if name != train]
        return min(others, key=lambda one: held_out_rank(named[one]))
    found = [name for name in named if name == split]
    found = found or [name for name in named if name.lower() == split.lower()]
    if not found:
        has = ", ".join(sorted(named))
        raise UserError(f"folder '{place}' has no split '{split}' (it has {has})")
    return found[0]


def check_classes(root: Path, paths: Iterable[Path]) -> None:
    """Refuse classes below `root` that are divided each: cat/train beside cat/val."""
    below: dict[str, dict[str, None]] = {}
    for path in paths:
        parts = path.relative_to(root).parts
        if len(parts) > 2 and split_name(parts[1]) is not None:
            below.setdefault(parts[0], {})[parts[1]] = None
    for name, folders in below.items():
        kinds = {split_name(one) for one in folders}
        if kinds & set(TRAIN) and len(kinds) > 1:
            raise UserError(
                f"{root / name} is divided into {_listed(list(folders))}: put the splits above the "
                "classes, train/cat beside test/cat"
            )


def seeming_splits(names: Sequence[str]) -> list[str]:
    """Which of these classes' names, as folders beside each other, would not be read as classes."""
    place = Path()
    named = {name: which for name in names if (which := split_name(name)) is not None}
    try:
        named = named or _named_alike(place, names)
        trains = [name for name, which in named.items() if which in TRAIN]
        if len(names) > 1 and not _are_splits(place, names, named, trains):
            return []
    except UserError:
        pass
    return [name for name in names if name in named or _WITHIN.fullmatch(name)]


def remarks_on_classes(place: Path, names: Sequence[str]) -> list[str]:
    """What is said of folders with images on the first level, where others read them otherwise."""
    numbers = {name.partition("_")[0] for name in names}
    if len(numbers) > 1 and all(re.fullmatch(r"[0-9]+_.+", name) for name in names):
        return [
            f"the numbers of {_listed(names)} in {place} are part of the classes' names and no "
            "repeats: each image is seen once in an epoch"
        ]
    if len(names) == 1 and not _has_loose(place / names[0]):
        below = class_folders(place / names[0])
        if len(below) > 1:
            return [
                f"all images lie in {place / names[0]}, so its folders {_listed(below)} are no "
                "classes: name it in data.train_data_dir if they are"
            ]
    return []


def class_folders(place: Path) -> list[str]:
    """The names of the folders of classes, in the order in which they are numbered."""
    return sorted(_folders(place), key=natural)


def _folders(place: Path) -> list[str]:
    """Folders of the first level that hold an image somewhere, in order."""
    with os.scandir(place) as entries:
        # isdir, as a link that leads back to itself is no folder, and nothing to fail at
        found = [one for one in entries if os.path.isdir(one.path)]
        names = [one.name for one in found if not passed_over(one.path)]
    return sorted(name for name in names if _has_image(place / name, place))


def _has_image(folder: Path, root: Path) -> bool:
    """Whether an image lies below a folder; one that leads out of the root may hold anything."""
    if not is_within(folder, root):
        return True
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if any(is_image(name) for name in names):
            return True
        real = os.path.realpath(place)
        if real in seen or not is_within(real, root):
            folders.clear()
        seen.add(real)
        folders[:] = [name for name in folders if not passed_over(os.path.join(place, name))]
    return False


def _has_loose(place: Path) -> bool:
    """Whether an image lies in the folder itself."""
    with os.scandir(place) as entries:
        return any(is_image(one.name) and not os.path.isdir(one.path) for one in entries)


def _listed(names: Sequence[str] | dict[str, str]) -> str:
    few = [f"'{name}'" for name in list(names)[:4]]
    return ", ".join(few) + (", ..." if len(names) > 4 else "")
