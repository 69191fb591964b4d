r"""Balls that can draw, ascend and project.

A radius is per element in both norms, so that one number means the same in 3 and in 3,072
dimensions: the Linf ball holds |w_i| <= r, the L2 ball holds rms(w) <= r, which is
||w||_2 <= r sqrt(d).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..diffusion.noising import l2_norm
from ..diffusion.parametrization import column
from ..diffusion.randomness import StepRandom


class Ball(ABC):
    """All perturbations w of shape (B, *) with norm(w) <= radius, for a radius (B,) or number."""

    @abstractmethod
    def draw(self, rng: StepRandom, name: str, shape: tuple[int, ...], radius: Tensor) -> Tensor:
        """Random points for the rows of `rng`, (B, *shape)."""

    @abstractmethod
    def norm(self, w: Tensor) -> Tensor:
        """The norm in which the radius is stated, (B,)."""

    @abstractmethod
    def project(self, w: Tensor, radius: Tensor | float) -> Tensor:
        """The nearest point of the ball, (B, *)."""

    @abstractmethod
    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of norm 1 along which a linear function grows most, (B, *).
        Zero in rows where the gradient is zero or not finite: such a row is not moved."""


class LinfBall(Ball):
    """|w_i| <= radius for every element."""

    def draw(self, rng: StepRandom, name: str, shape: tuple[int, ...], radius: Tensor) -> Tensor:
        """Uniform in the cube."""
        u = rng.uniform(name, shape)
        return (2 * u - 1) * column(radius, u)

    def norm(self, w: Tensor) -> Tensor:
        return w.flatten(1).abs().amax(1)

    def project(self, w: Tensor, radius: Tensor | float) -> Tensor:
        radius = column(radius, w)
        return torch.maximum(torch.minimum(w, radius), -radius)

    def ascent(self, gradient: Tensor) -> Tensor:
        return torch.where(_finite_rows(gradient), gradient.sign(), 0.0)


class L2Ball(Ball):
    """rms(w) = ||w||_2 / sqrt(d) <= radius."""

    def draw(self, rng: StepRandom, name: str, shape: tuple[int, ...], radius: Tensor) -> Tensor:
        """Uniform in direction, on the ball's surface."""
        z = rng.normal(name, shape)
        return z * column(radius.to(z.dtype) / self.norm(z), z)

    def norm(self, w: Tensor) -> Tensor:
        return l2_norm(w) / w[0].numel() ** 0.5

    def project(self, w: Tensor, radius: Tensor | float) -> Tensor:
        norm = self.norm(w).clamp(min=torch.finfo(w.dtype).tiny)
        return w * column((radius / norm).clamp(max=1.0), w)

    def ascent(self, gradient: Tensor) -> Tensor:
        # scaled by the largest element first: squares of small gradients underflow
        largest = column(gradient.flatten(1).abs().amax(1), gradient)
        usable = _finite_rows(gradient) & (largest > 0)
        gradient = torch.where(usable, gradient / torch.where(usable, largest, 1.0), 0.0)
        norm = column(self.norm(gradient), gradient)
        return gradient / torch.where(norm > 0, norm, 1.0)

    def climb(self, w: Tensor, gradient: Tensor, step: Tensor, radius: Tensor) -> Tensor:
        """w after one ascent step of rms `step` (B,), back in the ball; detached, (B, *).
        A gradient of another backward pass is enough (Free-AT, Shafahi et al. 2019)."""
        return self.project(w.detach() + column(step, w) * self.ascent(gradient), radius)


BALLS: dict[str, Ball] = {"linf": LinfBall(), "l2": L2Ball()}


def _finite_rows(values: Tensor) -> Tensor:
    return column(values.flatten(1).isfinite().all(1), values)
