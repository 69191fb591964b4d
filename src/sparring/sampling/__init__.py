"""From noise to data: diffusers' samplers around a `Denoiser`, cleaning, samples as files."""

from .clean import clean, matching_time
from .images import grid, save_images
from .sample import describe_sampling, sample
from .schedulers import NAMES, make_scheduler
from .steps import integrate

__all__ = [
    "NAMES",
    "clean",
    "describe_sampling",
    "grid",
    "integrate",
    "make_scheduler",
    "matching_time",
    "sample",
    "save_images",
]
