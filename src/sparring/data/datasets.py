"""Every data set by name.

    build_dataset("digits")                                       # (1, 8, 8) images in [0, 1]
    build_dataset("plane", dim=3)                                 # vectors (3,), with .truth
    build_dataset("image_folder", train_data_dir="photos", resolution=64)

Sets that fit are held in memory as one tensor. Splits: `train` (default), `held_out`, `all`.
"""

import functools
import importlib
import inspect
import logging
import os
from typing import Any

from ..options.sections import check_options, options_of
from ..support.errors import did_you_mean
from ..support.home_folder import expanded
from ..support.user_code import load_from_file
from . import sets
from .base import Dataset
from .data_set import DataSet

log = logging.getLogger(__name__)

READING = frozenset(
    ("seed", "resolution", "center_crop", "n_channels", "held_out_share", "max_train_samples",
     "image_column", "label_column", "caption_column", "random_flip", "dataloader_num_workers",
     "trusted", "latents", "latents_cache")
)  # fmt: skip
"""Fields about how images are read: any data set accepts them, those that they say nothing about
ignore them. Other fields belong to certain data sets, and are an error elsewhere."""


def find(name: str) -> type[DataSet]:
    """The class of a data set.

    Raises:
        ValueError: if there is none, or it is no data set.
        UserError: if the user's file cannot be read.
    """
    if ".py:" in name:
        found = load_from_file(expanded(name), "data.name")
        if not (inspect.isclass(found) and issubclass(found, DataSet)):
            raise ValueError(f"data.name: {name} is no subclass of sparring.data.data_set.DataSet")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise ValueError(f"data.name: {name} has no method {', '.join(missing)}")
        return found
    if name not in sets.names():
        known = [*sets.names(), "path/to/file.py:Name"]
        raise ValueError(f"unknown data set {name!r}{did_you_mean(name, known)}")
    module = importlib.import_module(f"{sets.__name__}.{name}")
    (found,) = (
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, DataSet)
        and each.__module__ == module.__name__
    )
    return found


def build_dataset(name: str, split: str = "train", **fields: Any) -> Dataset:
    """A data set by name.

    Args:
        name: A file of the room `sets`, or `path/to/file.py:Name`.
        split: train, held_out or all; a Hugging Face set's own split too.
        fields: The arguments of the set's constructor, None meaning its default; and for images
            resolution (shorter side resized to it, square crop), center_crop, n_channels (1 or 3),
            seed, held_out_share (part of a folder or table kept out of train, drawn from the seed)
            and max_train_samples (so many of train, drawn from the seed).

    Returns:
        Images (C, H, W) in [0, 1] or vectors (d,) in data units.

    Raises:
        ValueError: if the name, the split or a field is unknown or does not fit.
        UserError: if the data cannot be read.
    """
    build = find(name)
    given = {key: value for key, value in fields.items() if value is not None}
    own = {key: given.pop(key) for key in options_of(build).keys() & given.keys()}
    for key in given.keys() - READING:
        takes = ", ".join(sorted(options_of(build)))
        raise ValueError(
            f"data.{key} does not apply to {name}" + (f" (it takes {takes})" if takes else "")
        )
    check_options(build, own, prefix="data")
    if given.get("n_channels", 1) not in (1, 3):
        raise ValueError(f"data.n_channels must be 1 (grey) or 3 (RGB), got {given['n_channels']}")
    if not given.get("resolution", 1) >= 1:
        raise ValueError(f"data.resolution must be >= 1, got {given['resolution']}")
    dataset = build(**own).read(split, given)
    for remark in dataset.remarks:
        _say_once(remark)
    return dataset


@functools.cache
def _say_once(remark: str) -> None:
    """On stderr, by the first process only."""
    if os.environ.get("RANK", "0") == "0":
        log.warning("%s", remark)
