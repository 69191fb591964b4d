"""The digits in a known subspace."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ...options.value_types import Count
from .. import analytic
from ..base import InMemory
from ..classes import numbers
from ..data_set import DataSet, limited
from .digits import digits_arrays, split_digits


class DigitsSubspace(DataSet):
    r"""The digits projected on their first k principal components: images in a known subspace.

    mean + sum_i <x - mean, b_i> b_i, with b_1..b_k of all 1,797 digits (so every split lies in one
    subspace). Values leave [0, 1] a little and are not clipped, which would leave the subspace.

    Args:
        n_components: k, 1 to 61 (three pixels are always empty).
    """

    is_bundled = True

    def __init__(self, *, n_components: Count = 16) -> None:
        self.n_components = n_components

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        k = self.n_components
        if not 1 <= k <= 61:
            raise ValueError(f"n_components must be in 1..61 (the digits' rank), got {k}")
        for key in ("resolution", "n_channels"):
            if fields.get(key) not in (None, 8 if key == "resolution" else 1):
                why = "it would change the subspace"
                raise ValueError(f"data.{key} does not apply to digits_subspace: {why}")
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
        whole = InMemory(self.name, truth.images, labels, numbers(10), truth, made_from)
        return limited(whole.select(rows), split, fields)
