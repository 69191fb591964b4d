"""The small classifier that adversarial contamination attacks.

One hidden layer on the pixels (averaged down to 32 x 32 when larger), in float64. Its gradient is
written out, one sample at a time: it needs no autograd, which forked data-loading workers on a
machine with a GPU may not use, and cannot depend on the rest of a batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from ..diffusion.randomness import generator
from ..support.errors import UserError
from .base import Dataset

N_TRAINING_SAMPLES, N_STEPS, BATCH_SIZE = 8192, 1000, 64
N_HIDDEN, LARGEST_SIDE = 64, 32


@dataclass(frozen=True)
class Classifier:
    """logits = W2 relu(W1 z + b1) + b2, with z = (pooled x - mean) / std; weights in float64."""

    w1: Tensor  # (hidden, inputs)
    b1: Tensor
    w2: Tensor  # (classes, hidden)
    b2: Tensor
    mean: float  # of all training values
    std: float
    pool: tuple[Tensor, Tensor] | None  # averages rows (h, H) and columns (w, W); None of vectors
    accuracy: float = 0.0  # on the samples it was trained on

    def logits(self, x: Tensor) -> Tensor:
        """Shape (B, classes), of samples (B, *)."""
        return F.relu(self._inputs(x) @ self.w1.T + self.b1) @ self.w2.T + self.b2

    def input_gradient(self, x: Tensor, label: int) -> Tensor:
        r"""Gradient of the cross-entropy of one sample, shape of x (*), float64.

        d CE / dx = pool^T W1^T (1[h > 0] * W2^T (softmax(logits) - onehot(label))) / std
        """
        hidden = F.relu(self._inputs(x[None])[0] @ self.w1.T + self.b1)
        error = torch.softmax(hidden @ self.w2.T + self.b2, 0)
        error[label] -= 1
        inward = ((error @ self.w2) * (hidden > 0)) @ self.w1 / self.std
        if self.pool is None:
            return inward
        rows, columns = self.pool
        return rows.T @ inward.view(len(x), len(rows), len(columns)) @ columns

    def _inputs(self, x: Tensor) -> Tensor:
        x = x.double()
        if self.pool is not None:
            x = self.pool[0] @ x @ self.pool[1].T
        return (x.flatten(1) - self.mean) / self.std


def train_classifier(dataset: Dataset, seed: int) -> Classifier:
    """A classifier of a data set's labels, fixed by the seed; UserError if it has none. Adam, 1,000
    steps of batch 64 over at most 8,192 samples."""
    if not dataset.num_classes:
        raise UserError(
            f"adversarial contamination attacks a classifier of the labels, and {dataset.name} has "
            "none: choose labelled data (data.label_column, class subfolders) or another kind"
        )
    rng = generator("cpu", seed, "attacked classifier")
    chosen = torch.randperm(len(dataset), generator=rng)[:N_TRAINING_SAMPLES]
    batch = dataset.__getitems__(chosen.tolist())
    x, label = batch["x0"], batch["label"]
    with one_thread():
        net = _new(x, dataset.num_classes, rng)
        weights = [weight.requires_grad_(True) for weight in (net.w1, net.b1, net.w2, net.b2)]
        rate = ConstantLR(torch.optim.Adam(weights, lr=2e-3), factor=1)
        fit_labels(net.logits, rate, x, label, rng, n_steps=N_STEPS, batch_size=BATCH_SIZE)
        for weight in weights:
            weight.requires_grad_(False)
        accuracy = float((net.logits(x).argmax(1) == label).double().mean())
    return replace(net, accuracy=accuracy)


def _new(x: Tensor, n_classes: int, rng: torch.Generator) -> Classifier:
    """An untrained classifier for samples x (n, *): He's initialisation."""
    pool, n_inputs = None, x.shape[1]
    if x.ndim == 4:
        rows, columns = pool = _averaging(x.shape[2]), _averaging(x.shape[3])
        n_inputs *= len(rows) * len(columns)
    mean, std = float(x.double().mean()), float(x.double().std())
    w1 = torch.randn(N_HIDDEN, n_inputs, generator=rng, dtype=torch.float64)
    w2 = torch.randn(n_classes, N_HIDDEN, generator=rng, dtype=torch.float64)
    return Classifier(
        w1 * (2 / n_inputs) ** 0.5, torch.zeros(N_HIDDEN, dtype=torch.float64),
        w2 * (2 / N_HIDDEN) ** 0.5, torch.zeros(n_classes, dtype=torch.float64),
        mean, max(std, 1e-6), pool,
    )  # fmt: skip


def _averaging(side: int) -> Tensor:
    """The matrix (min(side, 32), side) that averages pixels down; the identity if there are few."""
    every_pixel = torch.eye(side, dtype=torch.float64)[None]
    return F.adaptive_avg_pool1d(every_pixel, min(side, LARGEST_SIDE))[0].T.contiguous()


def fit_labels(
    logits: Callable[[Tensor], Tensor],
    rate: LRScheduler,
    x: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    *,
    n_steps: int,
    batch_size: int,
) -> None:
    """Descends on the cross-entropy of random batches of samples x (N, *) and labels (N,). `logits`
    (B, n_classes) of samples, and the optimiser in `rate`, hold what learns."""
    for _ in range(n_steps):
        rows = torch.randint(len(x), (batch_size,), generator=rng)
        loss = F.cross_entropy(logits(x[rows]), labels[rows])
        rate.optimizer.zero_grad()
        loss.backward()
        rate.optimizer.step()
        rate.step()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever number of threads this process may use."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
