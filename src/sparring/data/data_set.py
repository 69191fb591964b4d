"""What a data set of a config is, and how a split is cut of points and files.

    class Photos(DataSet):
        def __init__(self, *, folder: Place, side: Count = 64) -> None: ...

        def read(self, split: str, fields: Mapping[str, Any]) -> Dataset: ...

In a config this is `data: {name: path/to/photos.py:Photos, folder: cats}`. The keyword arguments of
the constructor are keys of section data, with their types, defaults and ranges; what all data sets
are told, such as the resolution, comes with `read`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..diffusion.randomness import generator
from ..options.value_types import Count
from ..support.errors import UserError
from . import transforms
from .analytic import Truth
from .base import Dataset, InMemory, absent_classes
from .captions import caption_remarks, whole_characters
from .classes import absent_remark, numbers
from .files.images import ImageDataset
from .files.source import Columns, Source
from .streams.shards import ShardedImages, ShardFiles


class DataSet(ABC):
    """Where the samples of a run come from. Abstract."""

    is_bundled = False
    """Whether it is there without a file or a download."""

    @property
    def name(self) -> str:
        """What reports call it: by its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def read(self, split: str, fields: Mapping[str, Any]) -> Dataset:
        """The samples of split train, held_out or all (a Hugging Face set's own split too).

        `fields` say how samples are read, see `section.READING`; what is not said is left out.
        """


class Points(DataSet):
    """Points with a known answer, as many in each split. Abstract.

    Args:
        dim: Of the space.
        n_points: Of each split.
    """

    is_bundled = True
    n_classes = 0

    def __init__(self, *, dim: Annotated[int, Field(ge=2)] = 2, n_points: Count = 8192) -> None:
        self.dim, self.n_points = dim, n_points

    @abstractmethod
    def truth(self, seed: int) -> Truth:
        """The known answer; the points are drawn from (seed, split)."""

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        n, k, seed = self.n_points, self.n_classes, fields.get("seed", 0)
        truth = self.truth(seed)
        parts = {"train": ["train"], "held_out": ["held_out"], "all": ["train", "held_out"]}
        rngs = [generator("cpu", seed, "points", part) for part in parts[known(split, parts)]]
        x0, labels = zip(*(truth.draw(n, rng) for rng in rngs), strict=True)
        made_from = {"n_points": n, "seed": int(seed), "split": split, "n_classes": k}
        label = torch.cat(labels) if k else None
        whole = InMemory(self.name, torch.cat(x0), label, numbers(k or 1), truth, made_from)
        return limited(whole, split, fields)


class ImageFiles(DataSet):
    """Images in files, cut into splits here unless they are divided already. Abstract."""

    shuffling: Mapping[str, int | None] = {}
    """Of files in shards, see `ShardedImages`."""

    @abstractmethod
    def source(self, split: str, fields: Mapping[str, Any]) -> Source:
        """The files of the split, or of all splits that are cut here."""

    def read(self, split: str, fields: Mapping[str, Any]) -> ImageDataset:
        source, seed = self.source(split, fields), fields.get("seed", 0)
        share = fields.get("held_out_share", 0.0)
        if not 0 <= share < 1:
            raise ValueError(f"data.held_out_share must be in [0, 1), got {share}")
        origin, names = source.files.origin, source.class_names
        if not source.is_split:
            n = len(source.files)
            n_held_out = math.floor(share * n + 0.5)
            order = torch.randperm(n, generator=generator("cpu", seed, "held out"))
            parts = {"train": order[n_held_out:], "held_out": order[:n_held_out], "all": order}
            rows = parts[known(split, parts)].sort().values
            if len(rows) == 0:
                raise UserError(
                    f"{origin} has no held-out part: set data.held_out_share (for example 0.1), or "
                    "use split train or all"
                )
            source = source.select(rows)
        source = source.select(limit(len(source.files), split, fields))
        where = source.files.where
        source.captions, mended = whole_characters(source.captions, where)
        source.remarks = [
            *source.remarks,
            *mended,
            *absent_remark(origin, names, absent_classes(source.labels, len(names))),
            *caption_remarks(source.captions, where),
        ]
        reading = given(fields, "resolution", "center_crop", "n_channels", "seed")
        if isinstance(source.files, ShardFiles):
            return ShardedImages(self.name, source, **reading, **self.shuffling)
        return ImageDataset(self.name, source, **reading)


class Sharded(ImageFiles):
    """Files in shards. Abstract.

    Args:
        shuffle_lanes: See `streams.shard_order`.
        shuffle_buffer: Samples held at a time, by all processes together.
    """

    def __init__(
        self, *, shuffle_lanes: Count | None = None, shuffle_buffer: Count | None = None
    ) -> None:
        self.shuffling = {"n_lanes": shuffle_lanes, "buffer": shuffle_buffer}


class Table(Sharded):
    """Rows with a column of images. Abstract.

    Args:
        streaming: Read shard by shard.
    """

    def __init__(self, *, streaming: bool = False, **shuffling: Any) -> None:
        super().__init__(**shuffling)
        for key, value in shuffling.items():
            if value is not None and not streaming:
                raise ValueError(f"data.{key} applies to streams: set data.streaming=true")
        self.streaming = streaming


def columns(fields: Mapping[str, Any]) -> Columns:
    """The columns that are named."""
    return Columns(*(fields.get(f"{name}_column") for name in Columns._fields))


def limited(dataset: InMemory, split: str, fields: Mapping[str, Any]) -> InMemory:
    """As many samples as max_train_samples leaves."""
    return dataset.select(limit(len(dataset), split, fields))


def limit(n: int, split: str, fields: Mapping[str, Any]) -> Tensor:
    """The rows that max_train_samples leaves, in order."""
    kept = fields.get("max_train_samples", n)
    if kept < 1:
        raise ValueError(f"data.max_train_samples must be >= 1, got {kept}")
    if split != "train" or kept >= n:
        return torch.arange(n)
    rng = generator("cpu", fields.get("seed", 0), "max_train_samples")
    return torch.randperm(n, generator=rng)[:kept].sort().values


def read_as(x0: Tensor, fields: Mapping[str, Any]) -> Tensor:
    """Square images of a held set at the resolution and with the channels asked for."""
    if "resolution" in fields:
        x0 = transforms.resize(x0, fields["resolution"])
    return x0.expand(-1, fields.get("n_channels", 1), -1, -1).contiguous()


def given(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the fields that are there."""
    return {name: fields[name] for name in names if name in fields}


def known(split: str, splits: Mapping[str, Any]) -> str:
    """The split, if there is one of its name."""
    if split not in splits:
        raise ValueError(f"data.split must be one of {', '.join(splits)}, got '{split}'")
    return split
