"""From images to rows of a table: the rules of all detectors, fitted once, judge any image.

    hiding = fit_hiding(look(sample))            # thresholds, from a bounded sample of the set
    judge = fit(hiding.look(sample), hiding)
    judge(x, index)                              # rows of a `Table`; of images seen on the fly too

A judge is numbers alone, so it is pickled, handed to workers and kept. It says of an image the same
whoever asks, and in whatever batch. Impulses pass for noise, and a hole for something that does not
belong, so what hides pixels is found first, and the others look at the image with these pixels
filled. A kind without its size says nothing that training could use, so its probability is at most
1/2 then; and a size counts only where the image has a kind of that size (`table.SIZES`).
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import registry
from .contract import HAS, SAID, Columns, Rule, Statistics
from .filling import filled
from .levels import Losses
from .table import NUMBERS, PROBABILITY, SIZES, Table, clean_table, consistent, rounded

LEAST_SIDE = 8  # pixels: nothing is looked for in smaller images
IN_RANGE = "image.in_range"  # no detector's: 1 where no value of the image leaves [0, 1]


@dataclass(frozen=True)
class Hiding:
    """Finds the images of which some pixels say nothing, and looks at what these leave."""

    rules: Mapping[str, Rule]  # of the detectors that hide pixels, by name

    def columns(self, seen: Statistics) -> dict[str, Columns]:
        """What these rules say, by detector."""
        own = {name: values for name, values in seen.items() if _detector(name) in self.rules}
        return {name: rule(own) for name, rule in self.rules.items()}

    def has(self, seen: Statistics) -> dict[str, Tensor]:
        """By kind, the images that have it, (B,), bool."""
        said = {kind: p for columns in self.columns(seen).values() for kind, p in columns.items()}
        return {kind: p > HAS for kind, p in said.items() if kind in registry.hiding_kinds()}

    def rows(self, seen: Statistics) -> Tensor:
        """Images of which some pixels say nothing, (B,), bool."""
        none = torch.zeros(len(seen[IN_RANGE]), dtype=torch.bool)
        return torch.stack([none, *self.has(seen).values()]).any(0)

    def look(self, x: Tensor) -> dict[str, Tensor]:
        """What is seen of images (B, C, H, W): by the others, after hidden pixels were filled."""
        if not self.rules:
            return look(x)
        x = x.float()
        seen = look(x, self.rules)
        has, rows = self.has(seen), self.rows(seen)
        if rows.any():
            some = {kind: one[rows] for kind, one in has.items()}
            x = x.clone()
            x[rows] = filled(x[rows], registry.hidden_pixels(x[rows], some))
        return look(x, registry.all_detectors().keys() - self.rules.keys()) | seen


@dataclass(frozen=True)
class Judge:
    """Judges images one by one."""

    hiding: Hiding  # what is taken out of an image before it is judged
    rules: Mapping[str, Rule]  # of the other detectors, by name, in the order in which they judge
    kinds: tuple[str, ...]  # what all of them find, in the order of the table's columns
    losses: Losses | None = None  # what JPEG and blur take from the set's images, if that is known

    def __call__(self, x: Tensor, index: np.ndarray | Tensor) -> Table:
        """Rows of a table for images (B, C, H, W) in [0, 1] of these numbers (B,)."""
        return self.of(self.hiding.look(x), index)

    def of(self, seen: Statistics, index: np.ndarray | Tensor) -> Table:
        """Rows of a table for images that `hiding` looked at. Where a rule gives something that no
        table can hold, a ValueError names it."""
        table = clean_table(np.asarray(index), self.kinds)
        said = self.hiding.columns(seen)
        seen = with_words(seen, said)
        for name, rule in self.rules.items():
            said[name] = rule(seen)
            seen = with_words(seen, {name: said[name]})
        for name, columns in said.items():
            for column, values in columns.items():
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
        table = consistent(table)
        if self.losses is not None:
            table.lost[:] = rounded("lost", self.losses(table.quality, table.blur_sigma))
        return table


def look(x: Tensor, names: Container[str] | None = None) -> dict[str, Tensor]:
    """What these detectors (None: all) see of images (B, C, H, W) in [0, 1], as `registry.look`."""
    in_range = {IN_RANGE: ((x >= 0) & (x <= 1)).flatten(1).all(1).float()}
    if min(x.shape[2:]) < LEAST_SIDE:
        return in_range
    return {**registry.look(x.float(), names), **in_range}


def fit_hiding(seen: Statistics) -> Hiding:
    """What hides pixels in a set of which some images were seen as they are."""
    looked = {_detector(name) for name in seen}
    detectors = {name: one for name, one in registry.hiding().items() if name in looked}
    own = {name: values for name, values in seen.items() if _detector(name) in detectors}
    return Hiding({name: detector.fit(own) for name, detector in detectors.items()})


def fit(seen: Statistics, hiding: Hiding) -> Judge:
    """The judge of a set of which some images were looked at by `hiding`."""
    detectors, rules = registry.all_detectors(), {}
    looked = {_detector(name) for name in seen} - hiding.rules.keys()
    seen = with_words(seen, hiding.columns(seen))
    for name in registry.in_order(looked):
        rules[name] = detectors[name].fit(seen)
        seen = with_words(seen, {name: rules[name](seen)})
    return Judge(hiding, rules, registry.kinds())


def with_words(seen: Statistics, said: Mapping[str, Columns]) -> dict[str, Tensor]:
    """What was seen, and beside it the probabilities that detectors, by name, gave."""
    words = {kind: p for columns in said.values() for kind, p in columns.items()}
    return dict(seen) | {SAID + kind: p for kind, p in words.items() if kind not in SIZES}


def _detector(statistic: str) -> str:
    return statistic.partition(".")[0]
