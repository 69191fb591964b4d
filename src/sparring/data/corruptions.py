r"""Kinds of contamination: each turns one clean sample into a dirty one.

A kind sees one sample, its label and a generator seeded for this sample alone, so the result cannot
depend on batch, worker or process. Arithmetic is elementwise in a fixed order (no convolution, no
threaded sum), so it is the same to the bit wherever it runs. No kind clips, but jpeg, whose files
hold 8 bits.

Images are (C, H, W) in [0, 1]; vectors (d,) in data units. Every choice here is ours; paper 2 of
docs/papers.md uses the Gaussian kind and, for vectors, outliers.
"""

import dataclasses
import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from . import transforms
from .classifier import Classifier
from .images import decode


@dataclass(frozen=True)
class Corruption(ABC):
    """One kind with its strength. Abstract; the fields are the leaves of a config."""

    images_only: ClassVar[bool] = True

    @abstractmethod
    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        """The dirty version of one sample, of the same shape; `x` is left as it is."""

    def settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """The fields that matter to samples of this shape, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        """What happened to a sample of this shape whose generator is `rng`, for the manifest."""
        return self.settings(shape)


@dataclass(frozen=True)
class Gaussian(Corruption):
    """x + sigma * n, n ~ N(0, I).

    Args:
        sigma: Standard deviation, on the [0, 1] scale of images, in data units of vectors.
    """

    images_only = False
    sigma: float = 0.1

    def __post_init__(self) -> None:
        _require(self.sigma >= 0, "sigma", ">= 0", self.sigma)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        return x + self.sigma * torch.randn(x.shape, generator=rng)


@dataclass(frozen=True)
class Outlier(Corruption):
    """A sample of another distribution in the sample's place.

    Images, by `outlier`:
        stripes: a sine wave of random direction, phase and wavelength (a quarter to a half of the
            shorter side) between a dark and a bright colour, each channel's colours drawn and
            swapped on their own: structured, on no image manifold of interest, and made without
            other data;
        uniform: every value uniform in [0, 1);
        inverted: 1 - x, the same content with unlikely brightness.
    Vectors: a point in a uniform direction from the origin, at a distance uniform in
    [distance, 2 distance).

    Args:
        outlier: Which, for images.
        distance: Data units, for vectors.
    """

    images_only = False
    outlier: str = "stripes"
    distance: float = 3.0

    def __post_init__(self) -> None:
        if self.outlier not in ("stripes", "uniform", "inverted"):
            raise ValueError(f"outlier must be stripes, uniform or inverted, got '{self.outlier}'")
        _require(self.distance > 0, "distance", "> 0", self.distance)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        if x.ndim == 1:
            direction = torch.randn(x.shape, generator=rng)
            far = self.distance * (1 + torch.rand((), generator=rng))
            return far * direction / direction.norm()
        if self.outlier == "uniform":
            return torch.rand(x.shape, generator=rng)
        return 1 - x if self.outlier == "inverted" else _stripes(x.shape, rng)

    def settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"distance": self.distance} if len(shape) == 1 else {"outlier": self.outlier}


def _stripes(shape: torch.Size, rng: torch.Generator) -> Tensor:
    channels, height, width = shape
    angle, phase, length = torch.rand(3, generator=rng).tolist()
    wavelength = min(height, width) * (0.25 + 0.25 * length)
    row = torch.arange(height)[:, None] * math.sin(math.pi * angle)
    column = torch.arange(width)[None] * math.cos(math.pi * angle)
    wave = 0.5 + 0.5 * torch.sin(2 * math.pi * ((row + column) / wavelength + phase))
    dark, bright, swapped = torch.rand(3, channels, 1, 1, generator=rng)
    dark, bright = 0.25 * dark, 0.75 + 0.25 * bright
    return dark + (bright - dark) * torch.where(swapped < 0.5, wave, 1 - wave)


@dataclass(frozen=True)
class MissingBlocks(Corruption):
    """Rectangles set to one value, in all channels.

    Each of the n_blocks has block_size times the height and the width of the image (rounded, at
    least one pixel) and lies inside it, every place equally likely; blocks may overlap.

    Args:
        n_blocks: How many.
        block_size: Share of each side, in (0, 1].
        fill: Their value, [0, 1] scale.
    """

    n_blocks: int = 1
    block_size: float = 0.5
    fill: float = 0.0

    def __post_init__(self) -> None:
        _require(self.n_blocks >= 1, "n_blocks", ">= 1", self.n_blocks)
        _require(0 < self.block_size <= 1, "block_size", "in (0, 1]", self.block_size)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        out = x.clone()
        for top, left, height, width in self._blocks(tuple(x.shape), rng):
            out[:, top : top + height, left : left + width] = self.fill
        return out

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        return {"blocks": self._blocks(shape, rng), "fill": self.fill}

    def _blocks(self, shape: tuple[int, ...], rng: torch.Generator) -> list[list[int]]:
        """[top, left, height, width] of each, pixels."""
        sides = [max(1, round(self.block_size * side)) for side in shape[1:]]
        return [
            [
                int(torch.randint(whole - side + 1, (), generator=rng))
                for whole, side in zip(shape[1:], sides, strict=True)
            ]
            + sides
            for _ in range(self.n_blocks)
        ]


@dataclass(frozen=True)
class SaltAndPepper(Corruption):
    """Pixels replaced by white or black, all channels together.

    Args:
        share: Probability that a pixel is replaced, in [0, 1]; half of them turn 1, half 0.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, "share", "in [0, 1]", self.share)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        u = torch.rand(x.shape[1:], generator=rng)
        out = torch.where(u < self.share / 2, 0.0, x)
        return torch.where(u >= 1 - self.share / 2, 1.0, out)


@dataclass(frozen=True)
class Blur(Corruption):
    """Gaussian blur, the image mirrored at its edges (edge pixels repeated), so its mean is kept.

    Args:
        blur_sigma: Standard deviation of the kernel, pixels; it is cut at 4 standard deviations.
    """

    blur_sigma: float = 1.0

    def __post_init__(self) -> None:
        _require(self.blur_sigma > 0, "blur_sigma", "> 0", self.blur_sigma)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        reach = math.ceil(4 * self.blur_sigma)
        offsets = range(-reach, reach + 1)
        weights = [math.exp(-((k / self.blur_sigma) ** 2) / 2) for k in offsets]
        for axis in (1, 2):
            n = x.shape[axis]
            blurred = torch.zeros_like(x)
            for k, weight in zip(offsets, weights, strict=True):
                place = (torch.arange(n) + k) % (2 * n)
                mirrored = torch.minimum(place, 2 * n - 1 - place)
                blurred += weight / sum(weights) * x.index_select(axis, mirrored)
            x = blurred
        return x


@dataclass(frozen=True)
class Jpeg(Corruption):
    """Through a JPEG file and back: clipped to [0, 1] and 8 bits on the way in.

    Args:
        quality: 1 (worst) to 95, as in Pillow.
    """

    quality: int = 10

    def __post_init__(self) -> None:
        _require(1 <= self.quality <= 95, "quality", "in 1..95", self.quality)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        pixels = transforms.to_uint8(x).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels)
        image.save(file, "JPEG", quality=self.quality)
        return decode(file.getvalue(), len(x))


@dataclass(frozen=True)
class Adversarial(Corruption):
    r"""Projected gradient ascent against a classifier, in the Linf ball around the sample.

    delta_0 = U[-eps, eps] (0 without random_start)
    delta_{k+1} = clamp(delta_k + alpha sign grad_x CE(classifier(x + delta_k), label), -eps, eps)

    steps = 1 with alpha = eps and no random start is FGSM. Setting names are those of attack
    libraries.

    Args:
        eps: Radius, on the [0, 1] scale of images, in data units of vectors.
        steps: Number of ascent steps.
        alpha: Step size; None: 2.5 eps / steps.
        random_start: Whether the first point is random.
        classifier: What is attacked, trained on the same data's labels.

    Source: Madry et al. 2018 (arXiv 1706.06083), section 2.1.
    """

    images_only = False
    eps: float = 8 / 255
    steps: int = 10
    alpha: float | None = None
    random_start: bool = True
    classifier: Classifier | None = None

    def __post_init__(self) -> None:
        _require(self.eps >= 0, "eps", ">= 0", self.eps)
        _require(self.steps >= 1, "steps", ">= 1", self.steps)
        _require(self.alpha is None or self.alpha > 0, "alpha", "> 0", self.alpha)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        if self.classifier is None or label is None:
            raise ValueError("the adversarial kind needs a classifier and a label")
        alpha = 2.5 * self.eps / self.steps if self.alpha is None else self.alpha
        delta = torch.zeros_like(x)
        if self.random_start:
            delta = self.eps * (2 * torch.rand(x.shape, generator=rng) - 1)
        for _ in range(self.steps):
            ascent = self.classifier.input_gradient(x + delta, label).sign()
            delta = (delta + alpha * ascent).clamp(-self.eps, self.eps)
        return x + delta

    def settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        said = super().settings(shape)
        del said["classifier"]
        return said


CORRUPTIONS: dict[str, type[Corruption]] = {
    "gaussian": Gaussian,
    "outlier": Outlier,
    "missing_blocks": MissingBlocks,
    "salt_and_pepper": SaltAndPepper,
    "blur": Blur,
    "jpeg": Jpeg,
    "adversarial": Adversarial,
}


def _require(holds: bool, name: str, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"contamination.{name} must be {what}, got {got}")
