"""Where a model is sampled and measured."""

from __future__ import annotations

import os

import torch

from ...training.launcher import on_cpu


def default_device() -> str:
    """A GPU of this process's own, if there is one and accelerate is not told to use none."""
    use_gpu = torch.cuda.is_available() and not on_cpu()
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if use_gpu else "cpu"
