"""What a table says of a whole set: a line per kind of dirt, and what to train with.

for line in lines_of(table): print(line)    # gaussian: 900 images (90 %), sigma 0.05 to 0.35 ...
"""

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
    """A kind of dirt in a set.

    Attributes:
        kind: Its name, or `clean`.
        n_images: Images that have it; one may have several kinds.
        share: Of all images, in [0, 1].
        sizes: `QUANTILES` of each size over these images, by the name of its column.
    """

    kind: str
    n_images: int
    share: float
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)

    def line(self) -> str:
        """`gaussian: 900 images (90 %), sigma 0.05 to 0.35, median 0.2`."""
        words = [f"{self.kind}: {self.n_images} images ({_percent(self.share)})"]
        for name, size in self.sizes.items():
            low, median, high = (f"{size[key]:.3g}" for key in ("low", "median", "high"))
            unit = " pixels" if name in ("blur_sigma", "correlation") else ""
            words.append(
                f"{name} {median}{unit}"
                if low == high
                else f"{name} {low} to {high}{unit}, median {median}"
            )
        return ", ".join(words)


def found_in(table: Table, rows: np.ndarray | None = None) -> list[Found]:
    """The kinds that some images have, the commonest first, and last the clean images.

    Args:
        table: Of a set, or of a sample of it.
        rows: The rows that count, (n,), bool; None: all.
    """
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
    """How to train on such a set.

    Returns:
        `objective`, `overrides` for the command line, and `because`, sentences.
    """
    *dirt, clean = found
    if not dirt:
        return {
            "objective": "plain", "overrides": ["objective=plain"],
            "because": ["no dirt was found"],
        }  # fmt: skip
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


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.1 else f"{100 * share:.2g} %"
