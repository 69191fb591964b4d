"""Every data set by name.

    build_dataset("digits")                                       # (1, 8, 8) images in [0, 1]
    build_dataset("plane", dim=3)                                 # vectors (3,), with .truth
    build_dataset("image_folder", train_data_dir="photos", resolution=64)

Sets that fit are held in memory as one tensor. Splits: `train` (default), `held_out`, `all`.
"""

import functools
import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..randomness import generator
from . import analytic, sources, table_shards, tar_shards, transforms
from .base import Dataset, InMemory, absent_classes
from .captions import caption_remarks, whole_characters
from .classes import absent_remark, numbers
from .images import ImageDataset
from .shards import ShardedImages, ShardFiles

log = logging.getLogger(__name__)

N_TRAIN_DIGITS = 1500

READING = frozenset(
    ("seed", "resolution", "center_crop", "n_channels", "held_out_share", "max_train_samples",
     "image_column", "label_column", "caption_column", "random_flip", "dataloader_num_workers",
     "trusted", "latents", "latents_cache")
)  # fmt: skip
"""Fields about how images are read: any data set accepts them, those that they say nothing about
ignore them. Other fields belong to certain data sets, and are an error elsewhere."""

SHUFFLE = frozenset(("shuffle_lanes", "shuffle_buffer"))
"""Fields of data in shards: how many lanes there are, and how many samples they hold together."""


def build_dataset(name: str, split: str = "train", **fields: Any) -> Dataset:
    """A data set by name.

    Args:
        name: One of DATASETS.
        split: train, held_out or all; a Hugging Face set's own split too.
        fields: Those of the function in DATASETS, None meaning its default; and for images
            resolution (shorter side resized to it, square crop), center_crop, n_channels (1 or 3),
            seed, held_out_share (part of a folder or table kept out of train, drawn from the seed)
            and max_train_samples (so many of train, drawn from the seed).

    Returns:
        Images (C, H, W) in [0, 1] or vectors (d,) in data units.

    Raises:
        ValueError: if the name, the split or a field is unknown or does not fit.
        UserError: if the data cannot be read.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set '{name}' (known: {', '.join(DATASETS)})")
    build, own = DATASETS[name]
    given = {key: value for key, value in fields.items() if value is not None}
    for key in given.keys() - READING - own:
        raise ValueError(
            f"data.{key} does not apply to {name}"
            + (f" (it takes {', '.join(sorted(own))})" if own else "")
        )
    if given.get("n_channels", 1) not in (1, 3):
        raise ValueError(f"data.n_channels must be 1 (grey) or 3 (RGB), got {given['n_channels']}")
    if not given.get("resolution", 1) >= 1:
        raise ValueError(f"data.resolution must be >= 1, got {given['resolution']}")
    dataset = build(split, given)
    for remark in dataset.remarks:
        _say_once(remark)
    return dataset


@functools.cache
def _say_once(remark: str) -> None:
    """On stderr, by the first process only."""
    if os.environ.get("RANK", "0") == "0":
        log.warning("%s", remark)


def digits_arrays() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits: images (1797, 1, 8, 8) in [0, 1] and labels (1797,)."""
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    x0 = torch.from_numpy(np.asarray(pixels, dtype=np.float32) / 16).view(-1, 1, 8, 8)
    return x0, torch.from_numpy(np.asarray(label, dtype=np.int64))


def split_digits(split: str) -> Tensor:
    """The rows of a split: 1,500 of train and 297 held out, by a fixed permutation."""
    # RandomState is the stream that NumPy has frozen
    order = torch.from_numpy(np.random.RandomState(0).permutation(1797))
    parts = {"train": order[:N_TRAIN_DIGITS], "held_out": order[N_TRAIN_DIGITS:], "all": None}
    return torch.arange(1797) if split == "all" else parts[_known(split, parts)].sort().values


def digits(split: str, fields: Mapping[str, Any]) -> InMemory:
    """scikit-learn's digits: 1,797 images (1, 8, 8), value / 16, ten classes."""
    x0, labels = digits_arrays()
    rows = split_digits(split)
    x0 = _read_as(x0, fields)
    resized = _given(fields, "resolution", "n_channels") if "resolution" in fields else None
    whole = InMemory("digits", x0, labels, numbers(10), made_from=resized).select(rows)
    return _limited(whole, split, fields)


def digits_subspace(split: str, fields: Mapping[str, Any]) -> InMemory:
    r"""The digits projected on their first k principal components: images in a known subspace.

    mean + sum_i <x - mean, b_i> b_i, with b_1..b_k of all 1,797 digits (so every split lies in one
    subspace). Values leave [0, 1] a little and are not clipped, which would leave the subspace.

    Field: n_components k, 1 to 61 (three pixels are always empty), 16 by default.
    """
    k = fields.get("n_components", 16)
    if not 1 <= k <= 61:
        raise ValueError(f"n_components must be in 1..61 (the digits' rank), got {k}")
    for key in ("resolution", "n_channels"):
        if fields.get(key) not in (None, 8 if key == "resolution" else 1):
            raise ValueError(
                f"data.{key} does not apply to digits_subspace: it would change the subspace"
            )
    x0, labels = digits_arrays()
    flat = x0.flatten(1).double()
    mean = flat.mean(0)
    _, spread, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    largest = directions.abs().argmax(1, keepdim=True)
    sign = directions.gather(1, largest).sign()  # else the linear algebra library decides it
    basis = (sign * directions)[:k]
    basis[:, (flat == mean).all(0)] = 0  # nothing varies there: the zeros are exact everywhere
    projected = mean + (flat - mean) @ basis.T @ basis
    truth = analytic.SubspaceTruth(
        basis=basis.float(), mean=mean.float(),
        in_manifold_std_true=math.sqrt(float(spread[:k].square().mean()) / len(flat)),
        images=projected.float().view_as(x0), labels=labels,
    )  # fmt: skip
    rows = split_digits(split)
    made_from = {"n_components": k}
    whole = InMemory("digits_subspace", truth.images, labels, numbers(10), truth, made_from)
    return _limited(whole.select(rows), split, fields)


def plane(split: str, fields: Mapping[str, Any]) -> InMemory:
    """Uniform on [-1, 1]^2 in R^dim, oriented by the seed. Fields: dim 3, n_points 8192, seed."""
    return _points("plane", analytic.plane(**_given(fields, "dim", "seed")), split, fields)


def gaussian_mixture(split: str, fields: Mapping[str, Any]) -> InMemory:
    """Gaussians of std 0.05 on the unit circle, a class each.

    Fields: dim 2, n_components 8, n_points 8192, seed.
    """
    truth = analytic.gaussian_mixture(**_given(fields, "dim", "n_components", "seed"))
    return _points("gaussian_mixture", truth, split, fields, len(truth.means))


def swiss_roll(split: str, fields: Mapping[str, Any]) -> InMemory:
    """scikit-learn's roll in [-1, 1]; dim = 2: the spiral alone. Fields: dim 2, n_points, seed."""
    dim = fields.get("dim", 2)
    _at_least_two(dim)
    return _points("swiss_roll", analytic.SwissRollTruth(dim, fields.get("seed", 0)), split, fields)


def two_moons(split: str, fields: Mapping[str, Any]) -> InMemory:
    """scikit-learn's moons without noise, centred, a class each. Fields: dim 2, n_points, seed."""
    dim = fields.get("dim", 2)
    _at_least_two(dim)
    return _points(
        "two_moons", analytic.TwoMoonsTruth(dim, fields.get("seed", 0)), split, fields, 2
    )


def image_folder(split: str, fields: Mapping[str, Any]) -> ImageDataset:
    """Every image below a folder. Fields: train_data_dir, caption_column (see sources.folder)."""
    source = sources.folder(fields.get("train_data_dir"), split, fields.get("caption_column"))
    return _from_files("image_folder", source, split, fields)


def parquet(split: str, fields: Mapping[str, Any]) -> ImageDataset:
    """Parquet files. Fields: data_files and the columns (see sources.parquet), streaming: read
    shard by shard, with shuffle_lanes and shuffle_buffer (see shard_order)."""
    columns = _given(fields, "image_column", "label_column", "caption_column")
    read = table_shards.parquet_stream if _is_streamed(fields) else sources.parquet
    return _from_files("parquet", read(fields.get("data_files"), **columns), split, fields)


def huggingface(split: str, fields: Mapping[str, Any]) -> ImageDataset:
    """A hub data set. Fields: dataset_name, dataset_config_name, columns (sources.huggingface);
    streaming as of parquet."""
    columns = _given(fields, "image_column", "label_column", "caption_column")
    read = table_shards.huggingface_stream if _is_streamed(fields) else sources.huggingface
    source = read(
        fields.get("dataset_name"), fields.get("dataset_config_name"), split, **columns,
        own_held_out=split == "held_out" and bool(fields.get("held_out_share")),
    )  # fmt: skip
    return _from_files(str(fields.get("dataset_name")), source, split, fields)


def webdataset(split: str, fields: Mapping[str, Any]) -> ImageDataset:
    """Tar shards. Fields: data_files and the columns (see tar_shards.webdataset), shuffle_lanes and
    shuffle_buffer (see shard_order)."""
    columns = _given(fields, "image_column", "label_column", "caption_column")
    source = tar_shards.webdataset(fields.get("data_files"), **columns)
    return _from_files("webdataset", source, split, fields)


DATASETS: dict[str, tuple[Callable[[str, Mapping[str, Any]], Dataset], frozenset[str]]] = {
    "digits": (digits, frozenset()),
    "digits_subspace": (digits_subspace, frozenset({"n_components"})),
    "plane": (plane, frozenset({"dim", "n_points"})),
    "gaussian_mixture": (gaussian_mixture, frozenset({"dim", "n_components", "n_points"})),
    "swiss_roll": (swiss_roll, frozenset({"dim", "n_points"})),
    "two_moons": (two_moons, frozenset({"dim", "n_points"})),
    "image_folder": (image_folder, frozenset({"train_data_dir"})),
    "parquet": (parquet, frozenset({"data_files", "streaming"}) | SHUFFLE),
    "huggingface": (
        huggingface,
        frozenset({"dataset_name", "dataset_config_name", "streaming"}) | SHUFFLE,
    ),
    "webdataset": (webdataset, frozenset({"data_files"}) | SHUFFLE),
}
"""Name -> (the function that builds a split from fields, the fields that are its own)."""


def _points(
    name: str, truth: analytic.Truth, split: str, fields: Mapping[str, Any], n_classes: int = 0
) -> InMemory:
    """n_points fixed points of each split, drawn from (seed, split)."""
    n, seed = fields.get("n_points", 8192), fields.get("seed", 0)
    if n < 1:
        raise ValueError(f"n_points must be >= 1, got {n}")
    parts = {"train": ["train"], "held_out": ["held_out"], "all": ["train", "held_out"]}
    drawn = [
        truth.draw(n, generator("cpu", seed, "points", part))
        for part in parts[_known(split, parts)]
    ]
    labels = torch.cat([label for _, label in drawn if label is not None]) if n_classes else None
    x0 = torch.cat([points for points, _ in drawn])
    made_from = {"n_points": n, "seed": int(seed), "split": split, "n_classes": n_classes}
    whole = InMemory(name, x0, labels, numbers(n_classes or 1), truth, made_from)
    return _limited(whole, split, fields)


def _from_files(
    name: str, source: sources.Source, split: str, fields: Mapping[str, Any]
) -> ImageDataset:
    """A source's split: cut here unless the source is divided already."""
    n, seed = len(source.files), fields.get("seed", 0)
    share = fields.get("held_out_share", 0.0)
    if not 0 <= share < 1:
        raise ValueError(f"data.held_out_share must be in [0, 1), got {share}")
    if not source.is_split:
        n_held_out = math.floor(share * n + 0.5)
        order = torch.randperm(n, generator=generator("cpu", seed, "held out"))
        parts = {"train": order[n_held_out:], "held_out": order[:n_held_out], "all": order}
        rows = parts[_known(split, parts)].sort().values
        if len(rows) == 0:
            raise UserError(
                f"{source.files.origin} has no held-out part: set data.held_out_share "
                "(for example 0.1), or use split train or all"
            )
        source = source.select(rows)
    source = source.select(_limit(len(source.files), split, fields))
    reading = _given(fields, "resolution", "center_crop", "n_channels", "seed")
    names = source.class_names
    absent = absent_classes(source.labels, len(names))
    source.captions, mended = whole_characters(source.captions, source.files.where)
    reading["remarks"] = [
        *source.remarks,
        *mended,
        *absent_remark(source.files.origin, names, absent),
        *caption_remarks(source.captions, source.files.where),
    ]
    if isinstance(source.files, ShardFiles):
        return ShardedImages(
            name, source.files, source.labels, source.class_names, source.captions, **reading,
            n_lanes=fields.get("shuffle_lanes"), buffer=fields.get("shuffle_buffer"),
        )  # fmt: skip
    return ImageDataset(
        name, source.files, source.labels, source.class_names, source.captions, **reading
    )


def _is_streamed(fields: Mapping[str, Any]) -> bool:
    given = sorted(SHUFFLE & fields.keys())
    if given and not fields.get("streaming"):
        raise ValueError(f"data.{given[0]} applies to streams: set data.streaming=true")
    return bool(fields.get("streaming"))


def _limited(dataset: InMemory, split: str, fields: Mapping[str, Any]) -> InMemory:
    return dataset.select(_limit(len(dataset), split, fields))


def _limit(n: int, split: str, fields: Mapping[str, Any]) -> Tensor:
    """The rows that max_train_samples leaves, in order."""
    kept = fields.get("max_train_samples", n)
    if kept < 1:
        raise ValueError(f"data.max_train_samples must be >= 1, got {kept}")
    if split != "train" or kept >= n:
        return torch.arange(n)
    rng = generator("cpu", fields.get("seed", 0), "max_train_samples")
    return torch.randperm(n, generator=rng)[:kept].sort().values


def _read_as(x0: Tensor, fields: Mapping[str, Any]) -> Tensor:
    """Square images of a held set at the resolution and with the channels asked for."""
    if "resolution" in fields:
        x0 = transforms.resize(x0, fields["resolution"])
    return x0.expand(-1, fields.get("n_channels", 1), -1, -1).contiguous()


def _given(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _known(split: str, splits: Mapping[str, Any]) -> str:
    if split not in splits:
        raise ValueError(f"data.split must be one of {', '.join(splits)}, got '{split}'")
    return split


def _at_least_two(dim: int) -> None:
    if dim < 2:
        raise ValueError(f"data.dim must be >= 2, got {dim}")
