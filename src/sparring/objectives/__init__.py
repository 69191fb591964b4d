"""Objectives by name; each is one file that reads like its formula.

A new one is a new file here, or a file of the user's: `objective: {name: path/to/blur.py:Blur}`.
See `registry` for how it is found, and `base.Objective` for what it says of itself.
"""

from .adt import ADT
from .base import Draws, Objective, Terms, Turn
from .consistency import ConsistencyTraining, EasyConsistencyTuning
from .controls import DenoiseFirst, Oracle, ThrowAway
from .denoising import Huber, InputPerturbation, Plain
from .detail import Detail
from .distillation import ConsistencyDistillation, LatentConsistencyDistillation
from .dro import FreeAT, PGDTraining
from .registry import objectives
from .smoothing import Invariance, SmoothingAdversarial, SmoothingRandom
from .times import TIMES, Times

OBJECTIVES = objectives()
"""Name in a config -> class, called as `(schedule, times=None, *, cond_dropout, ...)`."""
