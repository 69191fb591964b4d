r"""Choosing without clean images: samples made dirty, against the dirty training images.

d = Frechet distance of the features of {dirt_i(sample_i)} and of the training images
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .base import Batch, Comparison, Figure, Metric, given
from .frechet_distance import frechet_figures


class ProximalDistance(Metric):
    """See `store.proximal`."""

    looks_at = "images"
    needs = ("proximal",)
    place = 20
    figures = (
        Figure("proximal_distance", "Proximal distance",
               "samples made dirty, to the dirty training images", better="lower"),
    )  # fmt: skip

    def prepare(self, against: Comparison) -> None:
        _ = given(against.proximal).features

    def look(self, batch: Batch) -> dict[str, Tensor]:
        proximal = given(batch.against.proximal)
        return {"proximal_features": proximal.look(batch.images, batch.first)}

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        proximal = given(against.proximal)
        fake, settings = seen["proximal_features"], proximal.dirty.settings
        return frechet_figures("proximal_distance", proximal.features, fake, settings)

    def protocol(self, against: Comparison) -> dict[str, Any]:
        return given(against.proximal).protocol()
