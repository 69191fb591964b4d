"""How an audit compares with what was done: for data that were contaminated here.

An image counts as dirty if at least two of its pixels differ from those of its clean file, 8 bits.
"""

from typing import Any

import numpy as np
import torch

from ..base import READ_CHUNK, Dataset
from ..dirt.contaminated import Contaminated, layers
from ..transforms import to_uint8
from .contract import HAS
from .table import Table

LEAST_PIXELS = 2


def is_changed(dataset: Dataset, index: np.ndarray) -> np.ndarray:
    """Whether contamination changed each of these images, (n,), bool."""
    clean, changed = layers(dataset)[0].dataset, []
    for start in range(0, len(index), READ_CHUNK):
        asked = index[start : start + READ_CHUNK].tolist()
        before, after = (to_uint8(one.__getitems__(asked)["x0"]) for one in (clean, dataset))
        changed.append((before != after).any(1).flatten(1).sum(1) >= LEAST_PIXELS)
    return torch.cat(changed).numpy()


def compare(table: Table, dataset: Dataset) -> dict[str, Any] | None:
    """What was done to the images of the audit's table, and how what was found compares.

    Returns:
        None for data that are not contaminated, else `rate`, the share of dirty images;
        `called_dirty`, the share of the clean ones that have some kind; `auc`, the probability that
        a dirty image's likeliest kind is likelier than a clean one's; `kinds`, by what was done:

        - `n_images` and `rate`; `auc`, of these against the clean ones; `found`, the share that has
          this kind by the table; `called`, the share that has each other kind, where it has any;
        - `confused`, of those with some kind, the share that has other kinds only;
        - `sigma_rmse`, of the images' own sizes of noise, where noise was added.
    """
    done = layers(dataset)
    if not done:
        return None
    dirty = is_changed(dataset, table.index)
    kinds, sigma = _done(table.index, dirty, done)
    p = np.stack(list(table.kinds.values()), 1) if table.kinds else np.zeros((len(table), 1))
    likeliest = p.max(1)
    found: dict[str, dict[str, Any]] = {}
    for kind, has in kinds.items():
        called = {name: float(table.has(name)[has].mean()) for name in table.kinds}
        some, sized = has & (likeliest > HAS), has & np.isfinite(sigma)
        found[kind] = {
            "n_images": int(has.sum()),
            "rate": float(has.mean()),
            "auc": _auc(likeliest, has, ~dirty),
            "found": called.pop(kind, 0.0),
            "called": {name: share for name, share in called.items() if share > 0},
            "confused": float((~table.has(kind))[some].mean()) if some.any() else 0.0,
        }
        if sized.any():
            off = np.square(table.sigma - sigma)[sized]
            found[kind]["sigma_rmse"] = float(np.sqrt(off.mean()))
    return {
        "rate": float(dirty.mean()),
        "called_dirty": float((likeliest[~dirty] > HAS).mean()) if not dirty.all() else None,
        "auc": _auc(likeliest, dirty, ~dirty),
        "kinds": found,
    }


def _done(
    index: np.ndarray, dirty: np.ndarray, done: list[Contaminated]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which images have each kind, (n,) bool, and the size of their noise, (n,), nan for none."""
    kinds: dict[str, np.ndarray] = {}
    variance = np.full(len(index), np.nan)
    for layer in done:
        for row in np.flatnonzero(dirty & layer.dirty[torch.from_numpy(index)].numpy()).tolist():
            details = layer.details(int(index[row]))
            kinds.setdefault(details["kind"], np.zeros(len(index), bool))[row] = True
            if isinstance(details.get("sigma"), float | int):
                variance[row] = np.nan_to_num(variance[row]) + details["sigma"] ** 2
    return dict(sorted(kinds.items())), np.sqrt(variance)


def _auc(score: np.ndarray, these: np.ndarray, those: np.ndarray) -> float | None:
    """Probability that one of these has a higher score than one of those; a tie counts half."""
    from sklearn.metrics import roc_auc_score

    if not these.any() or not those.any():
        return None
    rows = these | those
    return float(roc_auc_score(these[rows], score[rows]))
