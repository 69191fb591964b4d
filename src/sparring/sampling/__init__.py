"""From noise to data: diffusers' samplers around a `Denoiser`, and samples as files."""

from .images import grid, save_images
from .sample import describe_sampling, sample
from .schedulers import NAMES, make_scheduler
from .steps import integrate

__all__ = [
    "NAMES",
    "describe_sampling",
    "grid",
    "integrate",
    "make_scheduler",
    "sample",
    "save_images",
]
