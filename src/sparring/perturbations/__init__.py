"""A perturbation maximises a function over a ball. It sees no model, no schedule, no label."""

from .attacks import fgsm, pgd, power_iteration
from .balls import BALLS, Ball, L2Ball, LinfBall
from .radius import Radius

__all__ = ["BALLS", "Ball", "L2Ball", "LinfBall", "Radius", "fgsm", "pgd", "power_iteration"]
