"""All detectors, found by walking their folder."""

import pkgutil
from collections.abc import Container, Mapping
from functools import cache
from graphlib import TopologicalSorter

import torch
from torch import Tensor

from ...support.user_code import class_of_module
from . import detectors
from .contract import Detector


@cache
def all_detectors() -> dict[str, Detector]:
    """The detectors by the names of their files, in the order of these."""
    names = sorted(module.name for module in pkgutil.iter_modules(detectors.__path__))
    classes: dict[str, type[Detector]] = {
        name: class_of_module(detectors, name, Detector) for name in names if name[0] != "_"
    }
    return {name: detector() for name, detector in classes.items()}


def kinds() -> tuple[str, ...]:
    """Every kind of dirt that a detector finds, in the order of the detectors."""
    return tuple(kind for detector in all_detectors().values() for kind in detector.kinds)


def in_order(names: Container[str]) -> list[str]:
    """Detectors, each after those that it names in `after`."""
    found = {name: one for name, one in all_detectors().items() if name in names}
    before = {name: sorted(set(one.after) & found.keys()) for name, one in found.items()}
    return list(TopologicalSorter(before).static_order())


def hiding() -> dict[str, Detector]:
    """The detectors that say which pixels hold nothing."""
    found = all_detectors().items()
    return {name: one for name, one in found if type(one).hidden is not Detector.hidden}


def hiding_kinds() -> set[str]:
    """Kinds of dirt that leave pixels without any information."""
    return {kind for detector in hiding().values() for kind in detector.kinds}


def hidden_pixels(x: Tensor, has: Mapping[str, Tensor]) -> Tensor:
    """Pixels that say nothing, (B, 1, H, W), bool, of images (B, C, H, W) in [0, 1]. `has` says by
    kind which have it, (B,), bool; kinds that hide nothing do not matter."""
    hidden = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.bool)
    for detector in hiding().values():
        for kind in detector.kinds:
            if kind in has and has[kind].any():
                found = detector.hidden(x[has[kind]], kind)
                if found is not None:
                    hidden[has[kind]] |= found
    return hidden


def look(x: Tensor, names: Container[str] | None = None) -> dict[str, Tensor]:
    """What these detectors (None: all) see of images (B, C, H, W) in [0, 1], by
    `detector.statistic`. Anything but finite float32 numbers of so many images is a ValueError that
    names it."""
    seen = {
        f"{name}.{statistic}": values
        for name, detector in all_detectors().items()
        if names is None or name in names
        for statistic, values in detector.look(x).items()
    }
    for name, values in seen.items():
        if len(values) != len(x) or values.dtype != torch.float32 or not values.isfinite().all():
            raise ValueError(
                f"{name} must be finite float32 numbers of {len(x)} images, got "
                f"{values.dtype} {list(values.shape)}"
            )
    return seen
