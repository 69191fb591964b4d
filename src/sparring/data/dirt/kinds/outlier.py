"""Samples that do not belong to the data at all."""

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import ValidationError
from torch import Tensor

from ....options.sections import in_words
from ....support.errors import UserError
from ...base import Dataset
from ...datasets import build_dataset, section_of_data
from ...section import DataSection
from ..contract import Corruption
from ..options import Limits, refuse


@dataclass
class Outlier(Corruption):
    """A sample of another distribution in the sample's place.

    Images, by `outlier`:
        stripes: a sine wave of random direction, phase and wavelength (a quarter to a half of the
            shorter side) between a dark and a bright colour, each channel's colours drawn and
            swapped on their own: structured, on no image manifold of interest, and made without
            other data;
        uniform: every value uniform in [0, 1);
        inverted: 1 - x, the same content with unlikely brightness.
    Images, by `images`: one of another data set, each equally likely, read at the size and with
    the channels of the data.
    Vectors: a point in a uniform direction from the origin, at a distance uniform in
    [distance, 2 distance).

    Args:
        outlier: Which, for images. None: stripes, unless `images` says another set.
        images: The other set, in the words of a config's section data:
            {name: image_folder, train_data_dir: cats}.
        distance: Data units, for vectors.
    """

    images_only = False
    outlier: Literal["stripes", "uniform", "inverted"] | None = None
    images: Annotated[Mapping[str, Any], DataSection] | None = None
    distance: Annotated[float, Limits(above=0)] = 3.0
    others: Dataset | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images is not None:
            if not isinstance(self.images, Mapping) or not isinstance(self.images.get("name"), str):
                raise refuse("images", "a section as of data, such as {name: digits}", self.images)
            if self.outlier is not None:
                raise refuse("images", "left out where outlier says what is shown", self.images)

    def prepared(self, dataset: Dataset, seed: int) -> Self:
        if self.images is None:
            return self
        mine = copy.copy(self)
        mine.others = _other_images(self.images, dataset)
        return mine

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        if x.ndim == 1:
            direction = torch.randn(x.shape, generator=rng)
            far = self.distance * (1 + torch.rand((), generator=rng))
            return far * direction / direction.norm()
        if self.others is not None:
            return self.others[_which(self.others, rng)]["x0"]
        if self.images is not None:
            raise ValueError("the outlier's images are read by prepared(...)")
        if self.outlier == "uniform":
            return torch.rand(x.shape, generator=rng)
        return 1 - x if self.outlier == "inverted" else _stripes(x.shape, rng)

    def settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        if len(shape) == 1:
            return {"distance": self.distance}
        if self.images is None:
            return {"outlier": self.outlier or "stripes"}
        said: dict[str, Any] = {"images": dict(self.images)}
        if self.others is not None:
            said["images_fingerprint"] = self.others.fingerprint()
        return said

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        if self.others is None:
            return self.settings(shape)
        index = _which(self.others, rng)
        where = self.others.where(index)
        return {"images": self.others.name, "image": index if where is None else where}


def _which(others: Dataset, rng: torch.Generator) -> int:
    return int(torch.randint(len(others), (), generator=rng))


def _other_images(words: Mapping[str, Any], like: Dataset) -> Dataset:
    """The other set, at the size and with the channels of the data."""
    place = "contamination.images"
    if not like.is_image:
        raise ValueError(f"{place} replaces images, and {like.name} holds vectors")
    channels, height, width = like.sample_shape
    sized = {"resolution": height} if height == width else {}
    try:
        section = section_of_data(words["name"]).model_validate(words)
    except ValidationError as error:
        said = in_words(error.errors(), DataSection, place)[0]
        raise UserError(_of_place(said, place)) from error
    said = section.model_dump(exclude_none=True, include=section.model_fields_set)
    try:
        others = build_dataset(**{"n_channels": channels, **sized, **said})
    except (ValueError, UserError) as error:
        raise ValueError(_of_place(str(error), place)) from error
    if not others.is_image or others.sharding is not None:
        held = "vectors" if not others.is_image else "a stream, which is read in its own order only"
        raise ValueError(f"{place} must be images in any order, and {others.name} holds {held}")
    if others.sample_shape != like.sample_shape:
        raise ValueError(
            f"{place}: images of {others.name} have the shape {list(others.sample_shape)}, those "
            f"of {like.name} {list(like.sample_shape)}: set data.resolution to make both square"
        )
    return others


def _stripes(shape: torch.Size, rng: torch.Generator) -> Tensor:
    channels, height, width = shape
    angle, phase, length = torch.rand(3, generator=rng).tolist()
    wavelength = min(height, width) * (0.25 + 0.25 * length)
    row = torch.arange(height)[:, None] * math.sin(math.pi * angle)
    column = torch.arange(width)[None] * math.cos(math.pi * angle)
    wave = 0.5 + 0.5 * torch.sin(2 * math.pi * ((row + column) / wavelength + phase))
    dark, bright, swapped = torch.rand(3, channels, 1, 1, generator=rng)
    dark, bright = 0.25 * dark, 0.75 + 0.25 * bright
    return dark + (bright - dark) * torch.where(swapped < 0.5, wave, 1 - wave)


def _of_place(said: str, place: str) -> str:
    """What is wrong with a section data, in words of the section that stands in for it."""
    said = re.sub(rf"^({place}\.\w+: )?data\.", f"{place}.", said)
    return said if place in said else f"{place}: {said}"
