r"""Inception Score: is each sample of one class, and all of many?

IS = exp mean_i KL(p(y | x_i) || mean_j p(y | x_j)),   p = softmax(logits)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...diffusion.randomness import generator
from ..feature_sets import checked
from .base import Comparison, Figure, Metric, given

N_SPLITS = 10


class InceptionScore(Metric):
    """Of extractors that have classes, beside the reference's own."""

    place = 30
    figures = (
        Figure("inception_score", "Inception Score", "higher is better", better="higher"),
        Figure("inception_score_std", "… its spread over parts of the samples"),
    )

    def suits(self, against: Comparison) -> bool:
        return super().suits(against) and against.reference.extractor.logits is not None

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        reference, fake = against.reference, seen["features"]
        real, logits = reference.features, given(reference.extractor.logits)
        seed = reference.settings.seed
        n_splits = min(N_SPLITS, len(real), len(fake))
        mean, deviation = inception_score(logits(fake), n_splits, seed)
        return {
            "inception_score": mean,
            "inception_score_std": deviation,
            "inception_score_of_reference": inception_score(logits(real), n_splits, seed)[0],
        }


def inception_score(
    logits: Tensor, n_splits: int = 10, seed: int | None = 0
) -> tuple[float, float]:
    r"""Inception Score: mean and standard deviation over equal parts of the samples.

    Between 1 and the number of classes; it never looks at real images, and is biased downwards by
    small parts. Logits (N, n_classes), N >= n_splits, are without the layer's bias as in the
    original code; samples fall into parts in random order, without a seed as they come.

    Source: Salimans et al., "Improved techniques for training GANs", 2016, section 4.
    """
    logits = checked(logits, at_least=n_splits)
    if seed is not None:
        order = torch.randperm(len(logits), generator=generator("cpu", seed, "parts"))
        logits = logits[order.to(logits.device)]
    scores = []
    for part in torch.tensor_split(logits, n_splits):
        log_p = part.double().log_softmax(1)
        log_mean = log_p.exp().mean(0).log()
        scores.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))
