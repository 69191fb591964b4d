"""`training.mixed_precision: auto`: what it means for this run on this machine."""

import torch
from accelerate import PartialState

from ..diffusion.precision import multiplies
from ..support.shared_errors import on_main
from .checkpoint import Checkpoint
from .run_folder import RunFolder
from .settings import TrainSettings

LEAST_SIDE = 16
"""Pixels; smaller images gain next to nothing, and known answers of vectors lose digits."""


def settled(
    settings: TrainSettings, run: RunFolder, sample_shape: tuple[int, ...]
) -> TrainSettings:
    """The settings with a precision in the place of auto.

    A run that goes on has the precision that it began with, whatever machine it is on now; a new
    one, or a fork, has that of `precision_here`. Samples are (C, H, W) or (d,).
    """
    if settings.mixed_precision != "auto":
        return settings
    if run.checkpoint is None or run.is_fork:
        chosen = on_main(lambda: precision_here(sample_shape))
    else:
        chosen = Checkpoint(run.checkpoint, is_verified=True).state.get("mixed_precision", "no")
    return settings.model_copy(update={"mixed_precision": chosen})


def precision_here(sample_shape: tuple[int, ...]) -> str:
    """bf16 for images of LEAST_SIDE pixels or more, where it is multiplied in hardware; else no."""
    is_large = len(sample_shape) == 3 and min(sample_shape[1:]) >= LEAST_SIDE
    device = PartialState().device or torch.device("cpu")
    return "bf16" if is_large and multiplies(torch.bfloat16, device.type) else "no"
