r"""Ascents: each maximises gain(w), a function of the perturbation with one value per row.

Whoever builds `gain` freezes the network (`denoiser.frozen`), so that no gradient is left in its
weights. A row whose gradient, or change, is zero or not finite stays where it is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.parametrization import column
from .balls import Ball, L2Ball

Gain = Callable[[Tensor], Tensor]  # takes w of shape (B, *), returns what is maximised, (B,)


def value_and_gradient(gain: Gain, w: Tensor) -> tuple[Tensor, Tensor]:
    """gain(w), (B,), and d gain / d w, (B, *), detached."""
    with torch.enable_grad():
        w = w.detach().requires_grad_(True)
        value = gain(w)
        (gradient,) = torch.autograd.grad(value.sum(), w)
    return value.detach(), gradient


def pgd(
    gain: Gain, start: Tensor, radius: Tensor, ball: Ball, step: Tensor | float, n_steps: int
) -> Tensor:
    """Projected gradient ascent, w <- project(w + step * ascent(grad gain(w))); one step is FGSM.

    `start` (B, *) lies in the ball; `radius` (B,) and `step`, the length of a step in the ball's
    norm, (B,) or a number, are in w's units.

    Source: Madry et al. 2018, eq. 3; one step from a random start: Wong et al. 2020.
    """
    w = start
    length = column(step, start)
    for _ in range(n_steps):
        _, gradient = value_and_gradient(gain, w)
        w = ball.project(w + length * ball.ascent(gradient), radius)
    return w.detach()


def power_iteration(
    change: Callable[[Tensor], Tensor], start: Tensor, radius: Tensor, n_iterations: int
) -> Tensor:
    r"""Towards the directions that a function f passes on most, by forward passes alone:

        w <- radius sqrt(d) change(w) / ||change(w)||,   change(w) = f(w) - f(0).

    To first order change(w) = K w, K the Jacobian of f. Where K is symmetric, as that of the exact
    denoiser is (a score is a gradient), each turn is a power iteration, and two of them are an
    infinitely long step of L2 ascent on ||change(w)||^2, whose gradient is 2 K^T K w.

    Each iteration is one call of `change`, which is not differentiated; `start` (B, *) is a random
    direction, `radius` (B,) the rms of the result, in w's units.

    Source: ours (see docs/explanation/smoothing.md); with gradients in Miyato et al. 2018 (VAT).
    """
    w, ball = start, L2Ball()
    for _ in range(n_iterations):
        with torch.no_grad():
            direction = ball.ascent(change(w))
        moved = column(direction.flatten(1).any(1), w)
        w = torch.where(moved, column(radius, w) * direction, w)
    return w


class Best:
    """The point w (B, *) with the largest gain seen so far, row by row, and that gain (B,).
    That of the first point is kept as `first_value`."""

    def __init__(self, w: Tensor, value: Tensor) -> None:
        self.w, self.value, self.first_value = w.detach(), value.detach(), value.detach()

    def offer(self, w: Tensor, value: Tensor) -> None:
        """Take the rows of w whose gain is larger; one that is not a number never is."""
        better = value.detach() > self.value
        better |= self.value.isnan() & ~value.detach().isnan()
        self.w = torch.where(column(better, w), w.detach(), self.w)
        self.value = torch.where(better, value.detach(), self.value)


def strongest(gain: Gain, start: Tensor, radius: Tensor, ball: Ball, n_steps: int) -> Best:
    r"""The best point that FGSM and then PGD meet, the start included, row by row.

    w_{k+1} = project(w_k + l_k ascent(grad gain(w_k))),   l_k = 2 radius (1 - k / n_steps)

    The first step is the ball's diameter, which leads from any point of the cube to any corner: w_1
    is FGSM's point for every n_steps. Then steps get shorter, so that the last ones settle. So FGSM
    (n_steps = 1) is never weaker than its start, and PGD never weaker than FGSM, in every row.

    `gain` is the same function at every call, so that values compare; `start` (B, *) lies in the
    ball, `radius` (B,) is in w's units, and n_steps gradients are taken.

    Source: Goodfellow et al. 2015; Madry et al. 2018; Croce and Hein 2020; the lengths are ours.
    """
    w = start.detach()
    value, gradient = value_and_gradient(gain, w)
    best, diameter = Best(w, value), 2 * column(radius, start)
    for k in range(n_steps):
        w = ball.project(w + (1 - k / n_steps) * diameter * ball.ascent(gradient), radius)
        if k + 1 < n_steps:
            value, gradient = value_and_gradient(gain, w)
        else:
            with torch.no_grad():
                value = gain(w)
        best.offer(w, value)
    return best
