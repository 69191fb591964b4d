"""scikit-learn's handwritten digits."""

from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import InMemory
from ..classes import numbers
from ..data_set import DataSet, given, known, limited, read_as

N_TRAIN_DIGITS = 1500


def digits_arrays() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits: images (1797, 1, 8, 8) in [0, 1] and labels (1797,)."""
    place = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    file = Path(str(place))
    if file.is_file():  # reading it costs a tenth of importing the package
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
        pixels, label = rows[:, :-1], rows[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, label = load_digits(return_X_y=True)
    x0 = torch.from_numpy(np.asarray(pixels, dtype=np.float32) / 16).view(-1, 1, 8, 8)
    return x0, torch.from_numpy(np.asarray(label, dtype=np.int64))


def split_digits(split: str) -> Tensor:
    """The rows of a split: 1,500 of train and 297 held out, by a fixed permutation."""
    # RandomState is the stream that NumPy has frozen
    order = torch.from_numpy(np.random.RandomState(0).permutation(1797))
    parts = {"train": order[:N_TRAIN_DIGITS], "held_out": order[N_TRAIN_DIGITS:], "all": None}
    return torch.arange(1797) if split == "all" else parts[known(split, parts)].sort().values


class Digits(DataSet):
    """scikit-learn's digits: 1,797 images (1, 8, 8), value / 16, ten classes."""

    is_bundled = True

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        x0, labels = digits_arrays()
        rows = split_digits(split)
        x0 = read_as(x0, fields)
        resized = given(fields, "resolution", "n_channels") if "resolution" in fields else None
        whole = InMemory(self.name, x0, labels, numbers(10), made_from=resized).select(rows)
        return limited(whole, split, fields)
