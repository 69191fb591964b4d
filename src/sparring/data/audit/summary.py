"""What a table says of a whole set: a line per kind of dirt, and what to train with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .table import SIZES, Table

QUANTILES = {"low": 0.05, "median": 0.5, "high": 0.95}
ENOUGH_CLEAN = 1000
"""So many clean images alone were as good as all 10,000 of Fashion-MNIST clean (16x16, 1,000
updates: distance 1.98 against 1.91), and 150 digits were not (11.8 against 3.0)."""


@dataclass(frozen=True)
class Found:
    """A kind of dirt in a set."""

    kind: str  # its name, or `clean`
    n_images: int  # images that have it; one may have several kinds
    share: float  # of all images, in [0, 1]
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)  # `QUANTILES`, by column

    def line(self) -> str:
        """`gaussian: 900 images (90 %), sigma 0.05 to 0.35, median 0.2`."""
        decimals = ".0f" if self.share == 0 or self.share >= 0.1 else ".2g"
        words = [f"{self.kind}: {self.n_images} images ({100 * self.share:{decimals}} %)"]
        for name, size in self.sizes.items():
            low, median, high = (f"{size[key]:.3g}" for key in QUANTILES)
            unit = " pixels" if name in ("blur_sigma", "correlation") else ""
            several = f"{name} {low} to {high}{unit}, median {median}"
            words.append(f"{name} {median}{unit}" if low == high else several)
        return ", ".join(words)


def found_in(table: Table, rows: np.ndarray | None = None) -> list[Found]:
    """The kinds that some images have, the commonest first, and last the clean images. Of the rows
    (n,), bool, that count; None: all."""
    rows = np.ones(len(table), bool) if rows is None else rows
    n, found = int(rows.sum()), []
    for kind in table.kinds:
        has = table.has(kind) & rows
        values = {name: getattr(table, name)[has] for name, of in SIZES.items() if kind in of}
        sizes = {
            name: {key: float(np.quantile(some, q)) for key, q in QUANTILES.items()}
            for name, some in values.items()
            if some.any()
        }
        if has.any():
            found.append(Found(kind, int(has.sum()), float(has.sum() / n), sizes))
    found.sort(key=lambda one: -one.n_images)
    n_clean = int((table.is_clean & rows).sum())
    return [*found, Found("clean", n_clean, n_clean / max(n, 1))]


def lines_of(table: Table) -> list[str]:
    """What is found in a set, a line per kind."""
    return [one.line() for one in found_in(table)]


def suggestion(found: Sequence[Found]) -> dict[str, Any]:
    """How to train on such a set: `objective`, `overrides` for the command line, and `because`."""
    *dirt, clean = found
    if not dirt:
        plain = {"objective": "plain", "overrides": ["objective=plain"]}
        return {**plain, "because": ["no dirt was found"]}
    because = ["detail uses each image where its dirt is hidden"]
    if clean.n_images >= ENOUGH_CLEAN:
        because.append(
            f"{clean.n_images} images are clean: training on these alone (objective=throw_away) "
            "may do as well, so compare the two"
        )
    elif clean.n_images:
        because.append(
            f"{clean.n_images} clean images are too few to be trained on alone, so the dirty ones "
            "have to teach"
        )
    else:
        because.append("no image is clean, so the dirty ones have to teach")
    return {"objective": "detail", "overrides": ["objective=detail"], "because": because}
