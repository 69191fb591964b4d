r"""The forward process and distances between tensors, per sample."""

import torch
from torch import Tensor


def add_noise(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t = alpha x0 + sigma eps, all of shape (B, *) or broadcastable to it."""
    return alpha * x0 + sigma * eps


def per_sample_mean(values: Tensor) -> Tensor:
    """Mean over everything but the batch, (B, *) -> (B,)."""
    return values.flatten(1).mean(1)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per sample, (B,)."""
    return per_sample_mean((prediction - target) ** 2)


def precise(x: Tensor) -> Tensor:
    """At least float32: what adds up many small things is no matter of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def l2_norm(values: Tensor) -> Tensor:
    """Euclidean norm per sample, (B,)."""
    return values.flatten(1).norm(dim=1)
