"""Part of `sparring evaluate`: what is said and shown of copies of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...data.base import Dataset
from ...evaluation.evaluate import thumbs
from ...sampling.images import grid

KEYS = ("memorization", "memorization_of_dirty")
SHARES = {
    "near_duplicates": "as near as the nearest 1 % of these",
    "within_5_percent": "as near as the nearest 5 %",
    "within_a_third": "d1 < d2 / 3",
    "authentic": "authentic (AuthPct)",
}


def memorization_lines(result: Mapping[str, Any]) -> list[str]:
    """The verdict, then each share beside that of the images that calibrate it."""
    lines = []
    for key in KEYS:
        if (found := result.get(key)) is None:
            continue
        lines.append(f"  {found['verdict']}")
        for name, words in SHARES.items():
            if name in found:
                low, high = found[f"{name}_interval"]
                lines.append(
                    f"    {words:<34}{found[name]:>10.4g}   [{low:.4g}, {high:.4g}]   "
                    f"of {found['calibration']}: {found[f'{name}_of_calibration']:.4g}"
                )
    return lines


def pairs_picture(
    copies: Tensor, training: Dataset, pairs: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """A row for each pair: the sample at the left, the training image at the right.

    Args:
        copies: `thumbs` (N, C, h, w) of the pairs' samples.
        training: Images, about [0, 1].
        pairs: `memorization(...)["pairs"]`, at least one.
    """
    originals = training.__getitems__([pair["training"] for pair in pairs])["x0"]
    both = torch.stack([copies, thumbs(originals.float().clamp(0, 1))], 1).flatten(0, 1)
    return grid(both.float() / 127.5 - 1, n_columns=2)
