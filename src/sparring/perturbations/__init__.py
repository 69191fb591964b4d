"""A perturbation maximises a function over a ball. It sees no model, no schedule, no label."""

from .attacks import Best, pgd, power_iteration, strongest
from .balls import BALLS, Ball, L2Ball, LinfBall
from .radius import Radius
from .units import Per, Units, size_in

__all__ = [
    "BALLS",
    "Ball",
    "Best",
    "L2Ball",
    "LinfBall",
    "Per",
    "Radius",
    "Units",
    "pgd",
    "power_iteration",
    "size_in",
    "strongest",
]
