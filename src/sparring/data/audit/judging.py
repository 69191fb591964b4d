r"""From images to rows of a table: the rules of all detectors, fitted once, judge any image.

    judge = fit(look(sample))        # thresholds, from a bounded sample of the set
    judge(x, index)                  # rows of a `Table`; of images seen on the fly too

A judge is numbers alone: it is pickled, handed to workers and kept. It says of an image the same
whoever asks, and in whatever batch.

An image may have several kinds of dirt. What the detectors say stands side by side, but for two
things that follow from it. A kind without its size says nothing that training could use, so its
probability is at most 1/2 then; and a size counts only where the image has a kind of that size
(`table.SIZES`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import registry
from .contract import Rule, Statistics
from .table import HAS, NUMBERS, PROBABILITY, SIZES, Table, clean_table, consistent, rounded

IN_RANGE = "image.in_range"
"""The statistic that is no detector's: 1 where no value of the image leaves [0, 1]."""


def look(x: Tensor) -> dict[str, Tensor]:
    """What is seen of images (B, C, H, W) in [0, 1], (B,) or (B, k) each, float32."""
    in_range = ((x >= 0) & (x <= 1)).flatten(1).all(1)
    return {**registry.look(x.float()), IN_RANGE: in_range.float()}


@dataclass(frozen=True)
class Judge:
    """Judges images one by one.

    Attributes:
        rules: By the name of the detector.
        kinds: What they find, in the order of the table's columns.
    """

    rules: Mapping[str, Rule]
    kinds: tuple[str, ...]

    def __call__(self, x: Tensor, index: np.ndarray | Tensor) -> Table:
        """Rows of a table for images (B, C, H, W) in [0, 1] of these numbers (B,)."""
        return self.of(look(x), index)

    def of(self, seen: Statistics, index: np.ndarray | Tensor) -> Table:
        """Rows of a table for images that were looked at.

        Raises:
            ValueError: where a rule gives something that no table can hold; the message names it.
        """
        table = clean_table(np.asarray(index), self.kinds)
        for name, rule in self.rules.items():
            for column, values in rule(seen).items():
                known = PROBABILITY if column in self.kinds else NUMBERS.get(column)
                numbers = rounded(column, values.numpy())
                if known is None or len(numbers) != len(table) or not known.allows(numbers):
                    raise ValueError(
                        f"detector {name}: column {column!r} must be one of the table's, "
                        f"{known.words() if known else ''} for each of {len(table)} images"
                    )
                mine = table.kinds[column] if column in self.kinds else getattr(table, column)
                mine[:] = numbers
        table.clipped[:] = seen[IN_RANGE].numpy() > 0
        for kind, p in table.kinds.items():
            sizes = [getattr(table, name) for name, kinds in SIZES.items() if kind in kinds]
            if sizes:
                p[:] = np.where(np.any(sizes, 0), p, np.minimum(p, HAS))
        return consistent(table)


def fit(seen: Statistics) -> Judge:
    """The judge of a set of which some images, (n,) of them, were seen."""
    detectors = registry.all_detectors()
    rules = {name: detector.fit(seen) for name, detector in detectors.items()}
    return Judge(rules, registry.kinds())


def joined(seen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What was seen of all images, from what was seen of some at a time."""
    return {name: torch.cat([some[name] for some in seen]) for name in seen[0]}
