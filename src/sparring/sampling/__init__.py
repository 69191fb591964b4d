"""From noise to data: diffusers' samplers around a `Denoiser`, cleaning, samples as files."""

from .clean import clean, matching_time
from .images import grid, save_images
from .known_answer import check_ends_in_noise
from .sample import check_sampling, describe_sampling, sample
from .schedulers import NAMES, make_scheduler
from .steps import integrate

__all__ = [
    "NAMES",
    "check_ends_in_noise",
    "check_sampling",
    "clean",
    "describe_sampling",
    "grid",
    "integrate",
    "make_scheduler",
    "matching_time",
    "sample",
    "save_images",
]
