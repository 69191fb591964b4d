"""Adversarial and robust training of diffusion models.

    import sparring

    model = sparring.load("runs/digits")                 # a run, a pipeline folder or a hub name
    images = sparring.sample(model, 16)                  # (16, C, H, W) in [-1, 1]

The names below are imported on first use, so that `import sparring` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "UserError": "support.errors",
    "TrainingStopped": "support.errors",
    "Prediction": "diffusion.parametrization",
    "StepRandom": "diffusion.randomness",
    "Denoiser": "diffusion.denoiser",
    "MLP": "models.networks",
    "Schedule": "diffusion.schedules",
    "VPSchedule": "diffusion.schedules",
    "FlowSchedule": "diffusion.schedules",
    "EDMSchedule": "diffusion.schedules",
    "schedule_from_config": "diffusion.schedules",
    "kind_from_config": "diffusion.schedules",
    "Objective": "objectives",
    "OBJECTIVES": "objectives",
    "Trust": "data.trust.trust",
    "trusted": "data.trust.trusted",
    "how_often": "objectives.how_often",
    "Model": "models.pretrained",
    "load": "models.pretrained",
    "save": "models.pretrained",
    "Sampling": "sampling.settings",
    "sample": "sampling.sample",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparring' has no attribute {name!r}")
    module = importlib.import_module(f".{_HOME[name]}", __name__)
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
