r"""How near cleaned images are to the clean ones they came from: PSNR and a distance of features.

| figure | what | best |
|---|---|---|
| `psnr` | mean over images of -10 log10(mean square error), dB, images in [0, 1] | high |
| `feature_distance` | rms of phi(cleaned) - phi(clean), over that of two random clean images | 0 |
| `frechet_distance` | of the features of all cleaned and all clean images | 0 |

`psnr` rewards the posterior mean and is blind to how an image looks. `feature_distance` sees
whether the same thing is shown: 0 is the image itself, 1 any other image of the set (ours).
`frechet_distance` sees whether the set looks clean, and is left out where images are too few.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..figure import Figure
from ..metrics.frechet_distance import FrechetDistance, frechet_distance
from ..resampling import mean_of, with_interval

FIGURES = {
    figure.key: figure
    for figure in (
        Figure("psnr", "PSNR, dB", "higher is better", better="higher"),
        Figure(
            "feature_distance", "Feature distance", "0 the same image, 1 any other", better="lower"
        ),
        FrechetDistance.figures[0],
    )
}
LEAST_MSE = 1e-10  # an image that is exact has 100 dB rather than infinitely many


def psnr(images01: Tensor, clean01: Tensor) -> Tensor:
    """-10 log10(mean (x - y)^2) of each pair of images (N, C, H, W) in [0, 1], (N,), dB."""
    error = (images01.double() - clean01.double()).square().flatten(1).mean(1)
    return -10 * error.clamp(min=LEAST_MSE).log10()


def feature_distance(features: Tensor, of_clean: Tensor) -> float:
    """sqrt(mean ||phi_i - phi(clean_i)||^2) / sqrt(E ||phi(clean_i) - phi(clean_j)||^2).
    Of features of the cleaned images and of the clean image of each, (N, D), N >= 2."""
    error = (features - of_clean).square().sum(1).mean()
    two_others = 2 * of_clean.var(0).sum()
    return (error / two_others.clamp(min=torch.finfo(of_clean.dtype).tiny)).sqrt().item()


def cleaning_figures(
    images01: Tensor,
    clean01: Tensor,
    features: Tensor,
    of_clean: Tensor,
    n_resamples: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures above with 95 % intervals over halves of the images, of cleaned (or noisy) images
    (N, C, H, W) in [0, 1] and the clean image of each, and the features of both, (N, D)."""
    figures = with_interval("psnr", mean_of, psnr(images01, clean01), n_resamples, seed)
    figures |= with_interval(
        "feature_distance",
        lambda half: feature_distance(half[:, 0], half[:, 1]),
        torch.stack([features, of_clean], 1), n_resamples, seed,
    )  # fmt: skip
    if len(features) > features.shape[1]:
        figures["frechet_distance"] = frechet_distance(of_clean, features)
    return {name: value for name, value in figures.items() if np.isfinite(value).all()}
