r"""Levels for dirt that no statistic knows, from some images that the user trusts.

A small classifier c(x_t, s) tells trusted images from the others when both carry noise of size s,

    x_t = x + s n,   n ~ N(0, I),   x in [-1, 1].

Where noise hides what is wrong with an image it says the same of it as of a trusted one, and from
there on the image can be used. So the level of an image is the first s of `LEVELS` at which c says
at least what it says of all but a tenth of trusted images *that it was not trained on*. It is 0
where that holds at the smallest s, as it does for nine tenths of clean images.

At each s, c is linear in the log energies of the 64 coefficients of the 8x8 DCT and of its 15
diagonals, means over the blocks and channels: noise adds energy, blur and compression take it, and
noise of size s covers what lies below s^2. Discriminant analysis with a shrunk covariance learns it
from fifty images; a convolutional network, which learns them by heart, did not.

Source: Daras et al. 2025, "Ambient diffusion omni" (arXiv 2506.10038). Differs from it in: c is
linear and has no network, and the bound is that of trusted images held back, where they take 0.47.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...diffusion.randomness import derive_seed, generator
from ..base import Dataset
from ..transforms import to_model_range

if TYPE_CHECKING:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

LEVELS = tuple(np.geomspace(0.1, 3.2, 11).round(3).tolist())
"""At which images are looked at: sigma_t / alpha_t, images in [-1, 1]."""
N_DRAWS = 4  # noises with which each image is looked at
N_OTHERS = 4096  # other images that it is trained on, at most
LEAST_TRUSTED = 20  # fewer say nothing
QUANTILE = 0.1
LEAST_AUC = 0.6
"""Of trusted images held back against the others: below it nothing is wrong that it could see."""
CHUNK, BLOCK = 256, 8
LEAST_ENERGY = 1e-4  # of a coefficient, so that none has the logarithm of 0


def features(x_t: Tensor) -> Tensor:
    """Log energies of the 8x8 DCT and of its diagonals, (B, 79), of images (B, C, H, W)."""
    from scipy.fft import dct

    size = tuple(side // BLOCK * BLOCK for side in x_t.shape[2:])
    whole = x_t[:, :, : size[0], : size[1]].flatten(0, 1)[:, None]
    blocks = F.unfold(whole, BLOCK, stride=BLOCK).unflatten(1, (BLOCK, BLOCK))
    basis = torch.from_numpy(dct(np.eye(BLOCK), axis=0, norm="ortho")).to(x_t)
    spectrum = torch.einsum("ui,bijn,vj->buvn", basis, blocks, basis)
    energy = spectrum.square().mean(-1).unflatten(0, (len(x_t), -1)).mean(1)
    u = torch.arange(BLOCK)
    diagonal = F.one_hot((u[:, None] + u).flatten()).to(x_t)
    bands = energy.flatten(1) @ (diagonal / diagonal.sum(0))
    return (torch.cat([energy.flatten(1), bands], 1) + LEAST_ENERGY).log()


def looked_at(x: Tensor, seed: int) -> np.ndarray:
    """Features of images x (B, C, H, W) in [-1, 1], (k, draws, B, 79), k levels. Every image meets
    the same noises, so its features follow from itself alone."""
    rng = generator("cpu", seed, "levels")
    noises = torch.randn(N_DRAWS, *x.shape[1:], generator=rng)
    return np.stack([[features(x + s * n).numpy() for n in noises] for s in LEVELS])


def unknown_levels(
    dataset: Dataset, trusted: np.ndarray, others: np.ndarray, seed: int = 0
) -> np.ndarray | None:
    """Noise level from which each of the other images may be used, (n,), float32.

    One half of the trusted images and of the others judges the other half, and the other way round.
    The images lie in [0, 1]; of the numbers, `trusted` (m,) are at least `LEAST_TRUSTED`, `others`
    (n,) at least two.

    Returns:
        0 for an image that looks like a trusted one; the largest of `LEVELS` for one that never
        does. None if the trusted images held back cannot be told from the others at all.
    """
    from sklearn.metrics import roc_auc_score

    levels, aucs = np.zeros(len(others), np.float32), []
    for fold in range(2):
        judges, mine = (trusted[half::2] for half in (1 - fold, fold))
        draw = np.random.RandomState(derive_seed(seed, "level classifier", fold) % 2**32)
        some = np.sort(draw.permutation(others[1 - fold :: 2])[:N_OTHERS])
        rules = _rules(dataset, judges, some, seed)
        held_back = _scores(dataset, rules, mine, seed)
        found = _scores(dataset, rules, others[fold::2], seed)
        is_mine = np.arange(len(held_back) + len(found)) < len(held_back)
        aucs.append(roc_auc_score(is_mine, np.concatenate([held_back[:, 0], found[:, 0]])))
        is_alike = found >= np.quantile(held_back, QUANTILE, axis=0)
        steps = np.array([0.0, *LEVELS[1:], LEVELS[-1]], np.float32)
        levels[fold::2] = steps[np.where(is_alike.any(1), is_alike.argmax(1), len(LEVELS))]
    return levels if np.mean(aucs) >= LEAST_AUC else None


def _rules(
    dataset: Dataset, trusted: np.ndarray, others: np.ndarray, seed: int
) -> list[LinearDiscriminantAnalysis]:
    """What tells the two sets apart at each level."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    seen = [
        np.concatenate([looked_at(x, seed) for x in _read(dataset, numbers)], 2)
        for numbers in (trusted, others)
    ]
    is_trusted = np.repeat([True, False], [N_DRAWS * each.shape[2] for each in seen])
    rules = []
    for level in range(len(LEVELS)):
        rows = np.concatenate([each[level].reshape(-1, each.shape[-1]) for each in seen])
        rule = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
        rules.append(rule.fit(rows, is_trusted))
    return rules


def _scores(
    dataset: Dataset, rules: list[LinearDiscriminantAnalysis], numbers: np.ndarray, seed: int
) -> np.ndarray:
    """What the rules say of images by their numbers, (n, k): large for those like trusted ones."""
    return np.concatenate([
        np.stack([
            np.mean([rule.decision_function(rows) for rows in draws], 0)
            for rule, draws in zip(rules, looked_at(x, seed), strict=True)
        ], 1)
        for x in _read(dataset, numbers)
    ])  # fmt: skip


def _read(dataset: Dataset, numbers: np.ndarray) -> list[Tensor]:
    """Images of the model's range, some at a time, (n, C, H, W)."""
    parts = [numbers[i : i + CHUNK] for i in range(0, len(numbers), CHUNK)]
    return [to_model_range(dataset.__getitems__(part.tolist())["x0"]) for part in parts]
