r"""Dead pixels: 0 or 1 in all channels where the neighbours say otherwise.

With a the distance of a pixel from black (of its channel that is farthest), then from white, b the
smallest a among its eight neighbours and c their mean one, a pixel is

    alone if b - a >= needed,  an impulse if besides a = 0,  a possible place of one if b >= needed
    needed = max(GAP, UNLIKE (c - b)): more than the neighbours differ among themselves

Noise and texture leave pixels alone too, but not at the very end only: clipped Gaussian noise of
any size has fewer lonely pixels at an end than lonely ones before it. So the pixels that are alone
without being at an end measure, in the same image, how many lonely ones at the end mean nothing.
Per image, n impulses, m other lonely pixels and v places, of each colour:

    n ~ Poisson(v share / 2 + b),  b = RATE v + m + LEAST,  share = 0 for a clean image

Salt and pepper are equally frequent, so stars on a night sky, all salt, are not enough. How many
images of the set have which of SHARES is learned by expectation maximisation, from a start with
half of them clean: so an image without a single impulse is clean among those with many. An image
is called dirty for what it shows: however dirty the set, half of it counts as clean beforehand.

`hidden` takes one more neighbour of the same colour into the bargain, for two impulses often touch:
the second smallest a around it must be at least SEEN_GAP. That costs the ends of thin black or
white lines in dirty images, and the middle of three impulses in a row stays.

Source: ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contract import Columns, Detector, Rule, Statistics

GAP = 0.25  # [0, 1] scale: 0.15 finds as many impulses and twice the texture
UNLIKE = 1.0
"""0 calls a fifth of digits with light-dependent noise salt and pepper, 1 one in 150; 2 none, but
finds 0.42 of the digits with impulses where 1 finds 0.50."""
SHARES = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
RATE, LEAST = 2e-4, 0.1
"""Lonely pixels at an end that mean nothing: among the places, and per image and colour. Clothes
have 2e-4, photographs below 2e-5."""
N_ROUNDS, PRIOR = 30, 8  # of expectation maximisation, and the images that its start is worth
SEEN_GAP = 0.1
FAR = 9.0  # beyond every distance: no neighbour


@dataclass(frozen=True)
class ImpulseRule(Rule):
    """The mixture of the set."""

    weights: tuple[float, ...]  # of each of SHARES among the images, sum 1

    def __call__(self, seen: Statistics) -> Columns:
        has_none = self.posterior(log_likelihoods(seen["impulses.counts"]))[:, 0]
        return {"salt_and_pepper": (1 - has_none).float()}

    def posterior(self, likelihoods: Tensor) -> Tensor:
        """Probability of each of SHARES, (B, n_shares), float64."""
        return (likelihoods + torch.tensor(self.weights, dtype=torch.float64).log()).softmax(1)


class Impulses(Detector):
    """Finds salt and pepper."""

    kinds = ("salt_and_pepper",)

    def look(self, x: Tensor) -> dict[str, Tensor]:
        """counts: (n, m, v) of pepper, then of salt, (B, 6)."""
        counts = []
        for a in _from_ends(x):
            nearest = _least_around(a)
            needed = (UNLIKE * (_mean_around(a) - nearest)).clamp(min=GAP)
            place, alone = nearest >= needed, nearest - a >= needed
            counts += [alone & (a <= 0), alone & (a > 0), place]
        return {"counts": torch.stack([each.sum((1, 2, 3)) for each in counts], 1).float()}

    def fit(self, seen: Statistics) -> ImpulseRule:
        likelihoods = log_likelihoods(seen["impulses.counts"])
        start = torch.full((len(SHARES),), 0.5 / (len(SHARES) - 1), dtype=torch.float64)
        start[0] = 0.5
        weights = start
        for _ in range(N_ROUNDS):
            counted = ImpulseRule(tuple(weights.tolist())).posterior(likelihoods).sum(0)
            weights = (counted + PRIOR * start) / (len(likelihoods) + PRIOR)
        if weights[0] < start[0]:
            weights[1:] *= (1 - start[0]) / (1 - weights[0])
            weights[0] = start[0]
        return ImpulseRule(tuple(weights.tolist()))

    def hidden(self, x: Tensor, kind: str) -> Tensor:
        """Impulses that can be seen as such: one of the background's colour changes nothing."""
        pepper, salt = (
            (a <= 0) & (_around(a).kthvalue(2, 0).values >= SEEN_GAP) for a in _from_ends(x)
        )
        return pepper | salt


def log_likelihoods(counts: Tensor) -> Tensor:
    """ln of the likelihood of counts (B, 6), see Impulses.look, for each of SHARES, (B, n_shares).
    Less what all have; float64."""
    n, m, v = counts.double().reshape(-1, 2, 3).unbind(2)
    b = (RATE * v + m + LEAST)[..., None]
    more = v[..., None] * torch.tensor(SHARES, dtype=torch.float64) / 2
    return (n[..., None] * torch.log1p(more / b) - more).sum(1)


def _from_ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from black and from white, each (B, 1, H, W), in the channel that is farthest."""
    return x.amax(1, keepdim=True), 1 - x.amin(1, keepdim=True)


def _around(a: Tensor) -> Tensor:
    """The eight neighbours, (8, B, 1, H, W); beyond the border FAR."""
    padded, (height, width) = F.pad(a, (1, 1, 1, 1), value=FAR), a.shape[2:]
    places = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    return torch.stack([padded[..., i : i + height, j : j + width] for i, j in places])


def _least_around(a: Tensor) -> Tensor:
    """The smallest of the eight neighbours, (B, 1, H, W)."""
    padded = F.pad(a, (1, 1, 1, 1), value=FAR)
    beside = torch.minimum(padded[..., :-2], padded[..., 2:])
    rows = torch.minimum(beside, padded[..., 1:-1])
    return torch.minimum(torch.minimum(rows[..., :-2, :], rows[..., 2:, :]), beside[..., 1:-1, :])


def _mean_around(a: Tensor) -> Tensor:
    """The mean of the eight neighbours, as far as they lie in the image, (B, 1, H, W)."""
    whole = F.avg_pool2d(F.pad(a, (1, 1, 1, 1)), 3, 1) * 9
    n = F.avg_pool2d(F.pad(torch.ones_like(a[:1]), (1, 1, 1, 1)), 3, 1) * 9
    return (whole - a) / (n - 1)
