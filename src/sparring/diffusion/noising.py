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


def wide(x: Tensor) -> Tensor:
    """In float64 on the CPU, in float32 elsewhere: Apple's `mps` has no float64."""
    return x.to(torch.float64 if x.device.type == "cpu" else torch.float32)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """The same on a device; float64 stays on the CPU and becomes float32 elsewhere."""
    is_too_wide = values.dtype == torch.float64 and device.type != "cpu"
    return values.to(device, torch.float32 if is_too_wide else values.dtype)


def l2_norm(values: Tensor) -> Tensor:
    """Euclidean norm per sample, (B,)."""
    return values.flatten(1).norm(dim=1)
