"""Every data set by name.

    build_dataset("digits")                                       # (1, 8, 8) images in [0, 1]
    build_dataset("plane", dim=3)                                 # vectors (3,), with .truth
    build_dataset("image_folder", train_data_dir="photos", resolution=64)

Sets that fit are held in memory as one tensor. Splits: `train` (default), `held_out`, `all`.
"""

import functools
import logging
import os
from typing import Any, Union

from pydantic import ConfigDict

from ..options.sections import check_options, options_of, section_of
from ..support.user_code import class_from_file, class_of_module
from . import sets
from .base import Dataset
from .data_set import DataSet
from .section import READING, DataSection

log = logging.getLogger(__name__)


def find(name: str) -> type[DataSet]:
    """The class of a data set; ValueError if there is none, UserError if a file holds none."""
    if ".py:" in name:
        return class_from_file(name, "data.name", DataSet, "sparring.data.data_set.DataSet")
    return class_of_module(sets, sets.check_name(name), DataSet)


class _WithItsOwn(DataSection):
    model_config = ConfigDict(extra="forbid")


def section_of_data(name: str) -> type[DataSection]:
    """Section data for a set: how samples are read, and the arguments of its constructor. Those of
    the built-in sets are all there, at null where they say nothing, so that a config may name them
    beside any set; `build_dataset` refuses a value that the chosen set does not take."""
    return _section_of(find(name) if ".py:" in name else None, name)


@functools.cache
def _section_of(own: type[DataSet] | None, name: str) -> type[DataSection]:
    fields: dict[str, tuple[Any, Any]] = {}
    built_in = [find(one) for one in sorted(sets.names(), key=name.__eq__)]  # the chosen one last
    for one in (*built_in, *([own] if own else [])):
        for key, (kind, default) in options_of(one).items():
            is_needed = default is ... and one is own
            fields[key] = (kind, ...) if is_needed else (Union[kind, None], None)  # noqa: UP007
    declared = DataSection.model_fields
    fields = {key: field for key, field in fields.items() if key not in declared}
    return section_of(fields, "Data", _WithItsOwn)


def build_dataset(name: str, split: str = "train", **fields: Any) -> Dataset:
    """A data set by name: images (C, H, W) in [0, 1] or vectors (d,) in data units.

    Args:
        name: A file of the room `sets`, or `path/to/file.py:Name`.
        split: train, held_out or all; a Hugging Face set's own split too.
        fields: The arguments of the set's constructor, None meaning its default; and for images
            resolution (shorter side resized to it, square crop), center_crop, n_channels (1 or 3),
            seed, held_out_share (part of a folder or table kept out of train, drawn from the seed)
            and max_train_samples (so many of train, drawn from the seed).

    Raises:
        ValueError: if the name, the split or a field is unknown or does not fit.
        UserError: if the data cannot be read.
    """
    build = find(name)
    given = {key: value for key, value in fields.items() if value is not None}
    own = {key: given.pop(key) for key in options_of(build).keys() & given.keys()}
    for key in given.keys() - READING:
        others = [one for one in sets.names() if key in options_of(find(one))]
        takes = ", ".join(sorted(options_of(build)))
        hint = f" (it takes {takes})" if takes else ""
        if others:
            hint += f": it goes with data.name={' or '.join(others)}"
        raise ValueError(f"data.{key} does not apply to {name}{hint}")
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
