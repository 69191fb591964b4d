"""Images attacked so that a classifier errs."""

import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import torch
from torch import Tensor

from ...base import Dataset
from ...classifier import Classifier, train_classifier
from ..contract import Corruption
from ..options import Limits


@dataclass
class Adversarial(Corruption):
    r"""Projected gradient ascent against a classifier, in the Linf ball around the sample.

    delta_0 = U[-eps, eps] (0 without random_start)
    delta_{k+1} = clamp(delta_k + alpha sign grad_x CE(classifier(x + delta_k), label), -eps, eps)

    steps = 1 with alpha = eps and no random start is FGSM. Setting names are those of attack
    libraries. The classifier is trained on the same data's labels.

    Args:
        eps: Radius, on the [0, 1] scale of images, in data units of vectors.
        steps: Number of ascent steps.
        alpha: Step size; None: 2.5 eps / steps.
        random_start: Whether the first point is random.

    Source: Madry et al. 2018 (arXiv 1706.06083), section 2.1.
    """

    images_only = False
    eps: Annotated[float, Limits(at_least=0)] = 8 / 255
    steps: Annotated[int, Limits(at_least=1)] = 10
    alpha: Annotated[float, Limits(above=0)] | None = None
    random_start: bool = True
    classifier: Classifier | None = field(default=None, init=False, repr=False)

    def prepared(self, dataset: Dataset, seed: int) -> Self:
        mine = copy.copy(self)
        mine.classifier = train_classifier(dataset, seed)
        return mine

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        if self.classifier is None or label is None:
            raise ValueError("the adversarial kind needs a classifier and a label")
        alpha = 2.5 * self.eps / self.steps if self.alpha is None else self.alpha
        delta = torch.zeros_like(x)
        if self.random_start:
            delta = self.eps * (2 * torch.rand(x.shape, generator=rng) - 1)
        for _ in range(self.steps):
            ascent = self.classifier.input_gradient(x + delta, label).sign()
            delta = (delta + alpha * ascent).clamp(-self.eps, self.eps)
        return x + delta

    def settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        said = super().settings(shape)
        if self.classifier is not None:
            said["classifier_accuracy"] = self.classifier.accuracy
        return said

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        return super().settings(shape)
