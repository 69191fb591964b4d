"""Objectives by name; each is one file that reads like its formula."""

from collections.abc import Callable

from .adt import ADT
from .base import Draws, Objective, Terms, Turn
from .consistency import (
    ConsistencyDistillation,
    ConsistencyTraining,
    EasyConsistencyTuning,
    latent_consistency_distillation,
)
from .denoising import Huber, InputPerturbation, Plain
from .detail import Detail
from .dro import FreeAT, PGDTraining
from .oracle import Oracle
from .smoothing import Smoothing, invariance, smoothing_adversarial, smoothing_random
from .times import TIMES, Times

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "plain": Plain,
    "input_perturbation": InputPerturbation,
    "huber": Huber,
    "smoothing_random": smoothing_random,
    "smoothing_adversarial": smoothing_adversarial,
    "invariance": invariance,
    "dro": FreeAT,
    "dro_pgd": PGDTraining,
    "detail": Detail,
    "oracle": Oracle,
    "throw_away": Plain,  # on the clean images alone, see data/controls.py
    "denoise_first": Plain,  # on images denoised by a library
    "consistency_training": ConsistencyTraining,
    "easy_consistency_tuning": EasyConsistencyTuning,
    "consistency_distillation": ConsistencyDistillation,
    "latent_consistency_distillation": latent_consistency_distillation,
    "adt": ADT,
}
"""Name in a config -> constructor `(schedule, times=None, *, cond_dropout, ...)`."""

__all__ = [
    "ADT",
    "OBJECTIVES",
    "TIMES",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "Detail",
    "Draws",
    "EasyConsistencyTuning",
    "FreeAT",
    "Huber",
    "InputPerturbation",
    "Objective",
    "Oracle",
    "PGDTraining",
    "Plain",
    "Smoothing",
    "Terms",
    "Times",
    "Turn",
    "invariance",
    "latent_consistency_distillation",
    "smoothing_adversarial",
    "smoothing_random",
]
