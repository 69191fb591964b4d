"""Sets with a known answer: planes, subspaces, mixtures, curves, and what is true of them.

Everything is in data units; vectors have shape (d,). The orientation follows from (seed, name),
fresh samples from the seed given to `sample`, which shares no stream with training points.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.randomness import generator


class Truth(ABC):
    """What is known about a data set. Abstract."""

    @abstractmethod
    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """n clean samples, shape (n, *), and their labels, shape (n,), if there are any."""

    def sample(self, n: int, seed: int) -> Tensor:
        """n fresh clean samples, shape (n, *), data units."""
        return self.draw(n, generator("cpu", seed, "fresh samples"))[0]


@dataclass(frozen=True)
class LinearTruth(Truth):
    """A flat manifold: mean + span(basis). Abstract."""

    basis: Tensor  # orthonormal rows, (k, d)
    mean: Tensor  # a point of the manifold, the mean of the data, (d,)
    in_manifold_std_true: float  # standard deviation per direction inside, rms over them

    def coordinates(self, x: Tensor) -> Tensor:
        """Coordinates inside the manifold, shape (n, k), of samples (n, *)."""
        return (x.flatten(1) - self.mean) @ self.basis.T

    def residual(self, x: Tensor) -> Tensor:
        """What of samples (n, *) is off the manifold, shape (n, d): orthogonal to the basis."""
        return x.flatten(1) - self.mean - self.coordinates(x) @ self.basis


@dataclass(frozen=True)
class PlaneTruth(LinearTruth):
    """u @ basis with u uniform on [-1, 1]^2: standard deviation 1 / sqrt(3) inside, 0 off it."""

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, None]:
        u = 2 * torch.rand(n, 2, generator=rng) - 1
        return self.mean + u @ self.basis, None


def plane(dim: int = 3, seed: int = 0) -> PlaneTruth:
    """A plane through the origin of R^dim, its orientation drawn from the seed."""
    return PlaneTruth(orthonormal(2, dim, seed), torch.zeros(dim), 1 / math.sqrt(3))


@dataclass(frozen=True)
class SubspaceTruth(LinearTruth):
    """Data projected on their first k principal components; fresh samples are drawn from them."""

    images: Tensor  # (n, C, H, W), about [0, 1]: clipping would leave the subspace
    labels: Tensor  # (n,)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self.images), (n,), generator=rng)
        return self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class MixtureTruth(Truth):
    """Equally likely isotropic Gaussians."""

    means: Tensor  # their centres, (K, d)
    std: float  # of each in every direction

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(len(self.means), (n,), generator=rng)
        noise = torch.randn(n, self.means.shape[1], generator=rng)
        return self.means[label] + self.std * noise, label

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x), shape (n,), nats, of points x (n, d)."""
        K, d = self.means.shape
        squared = torch.cdist(x, self.means.to(x)).square()
        log_p = -squared / (2 * self.std**2) - d / 2 * math.log(2 * math.pi * self.std**2)
        return torch.logsumexp(log_p, 1) - math.log(K)


def gaussian_mixture(
    dim: int = 2, n_components: int = 8, std: float = 0.05, seed: int = 0
) -> MixtureTruth:
    """Gaussians evenly spaced on the unit circle; for dim > 2 its plane is drawn from the seed."""
    angle = 2 * math.pi * torch.arange(n_components, dtype=torch.float64) / n_components
    circle = torch.stack([angle.cos(), angle.sin()], 1).float()
    return MixtureTruth(embed(circle, dim, seed), std)


@dataclass(frozen=True)
class SwissRollTruth(Truth):
    """A rolled sheet in [-1, 1]: (t cos t, h, t sin t) / 4.5 pi, without h when dim = 2.

    t = 1.5 pi (1 + 2 u) as in scikit-learn, u uniform in [0, 1); h / 4.5 pi uniform in [-1, 1).
    """

    dim: int
    seed: int

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, None]:
        t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=rng))
        h = 2 * torch.rand(n, generator=rng) - 1
        x, z = t * t.cos() / (4.5 * math.pi), t * t.sin() / (4.5 * math.pi)
        sheet = torch.stack([x, z] if self.dim == 2 else [x, h, z], 1)
        return embed(sheet, self.dim, self.seed), None


@dataclass(frozen=True)
class TwoMoonsTruth(Truth):
    """Two interleaved half circles of radius 1, without noise, centred; the label says which one.
    (cos a, sin a) and (1 - cos a, 1/2 - sin a), minus (1/2, 1/4), a uniform in [0, pi)."""

    dim: int
    seed: int

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(2, (n,), generator=rng)
        a = math.pi * torch.rand(n, generator=rng)
        upper = torch.stack([a.cos(), a.sin()], 1)
        lower = torch.stack([1 - a.cos(), 0.5 - a.sin()], 1)
        moons = torch.where(label[:, None] == 0, upper, lower) - torch.tensor([0.5, 0.25])
        return embed(moons, self.dim, self.seed), label


def embed(points: Tensor, dim: int, seed: int) -> Tensor:
    """Points (n, k) as they are if dim = k, else on a seeded random k-plane of R^dim."""
    k = points.shape[1]
    return points if dim == k else points @ orthonormal(k, dim, seed)


def orthonormal(k: int, dim: int, seed: int) -> Tensor:
    """k orthonormal rows in R^dim, shape (k, dim), uniformly oriented (QR of a Gaussian matrix)."""
    if dim < k:
        raise ValueError(f"dim must be >= {k}, got {dim}")
    rng = generator("cpu", seed, "orientation")
    q, r = torch.linalg.qr(torch.randn(dim, k, generator=rng, dtype=torch.float64))
    return (q * r.diagonal().sign()).T.contiguous().float()
