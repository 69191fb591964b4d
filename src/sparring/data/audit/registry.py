"""All detectors, found by walking their folder."""

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from . import detectors
from .contract import Detector


@cache
def all_detectors() -> dict[str, Detector]:
    """The detectors by the names of their files, in the order of these."""
    names = sorted(module.name for module in pkgutil.iter_modules(detectors.__path__))
    return {name: _in(_module(name)) for name in names if not name.startswith("_")}


def kinds() -> tuple[str, ...]:
    """Every kind of dirt that a detector finds, in the order of the detectors."""
    return tuple(kind for detector in all_detectors().values() for kind in detector.kinds)


def detector_of(kind: str) -> Detector:
    """The detector that finds a kind."""
    (found,) = (each for each in all_detectors().values() if kind in each.kinds)
    return found


def look(x: Tensor) -> dict[str, Tensor]:
    """What all detectors see of images (B, C, H, W) in [0, 1]: by `detector.statistic`, float32.

    Raises:
        ValueError: where a detector gives a statistic of another number of images, or one that is
            not finite; the message names it.
    """
    seen = {
        f"{name}.{statistic}": values
        for name, detector in all_detectors().items()
        for statistic, values in detector.look(x).items()
    }
    for name, values in seen.items():
        if len(values) != len(x) or values.dtype != torch.float32 or not values.isfinite().all():
            raise ValueError(
                f"{name} must be finite float32 numbers of {len(x)} images, got "
                f"{values.dtype} {list(values.shape)}"
            )
    return seen


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{detectors.__name__}.{name}")


def _in(module: ModuleType) -> Detector:
    (found,) = (
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, Detector)
        and each.__module__ == module.__name__
    )
    return found()
