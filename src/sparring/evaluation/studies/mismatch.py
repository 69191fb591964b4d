r"""Does sampling meet what training saw? The distance between x_t on the way and q(x_t), per t.

A denoiser is trained on x_t = alpha_t x0 + sigma_t eps of real x0, and asked about the x_t that its
own earlier answers led to. Both are the same distribution for a perfect model in many small steps;
how far they are apart is the mismatch that adversarial training is said to shrink (Wang et al.,
2025):

    mismatch(t) = D( x_t before the network's call at t,  alpha_t x0 + sigma_t eps )

with clean x0 and fresh eps, beside its floor, the same distance between two sets of the second kind
of the same size. Everything that moves the sampler off q counts: the network's error, few steps,
clipping, guidance, and dirty training data.

All distances but the feature distance look at x_t / sqrt(alpha_t^2 + sigma_t^2): x_t itself for VP,
and for every schedule a function of sigma/alpha alone, so that VP, flow and EDM compare.

| data | figure | asks |
|---|---|---|
| all | `sliced_wasserstein` | do all one-dimensional shadows agree? Images: of their pixels |
| vectors | `mmd_squared` | `gaussian_mmd`; unbiased, so the floor is 0 on average |
| images | `frechet_distance` | of an extractor's features, only where sigma/alpha <= 1: |

an extractor that was trained on clean images sees little in noise. (1,000 digits of classes 0 to 4
against 1,000 of all: 26 floors at sigma/alpha 0.05, 24 at 0.5, 7 at 1, 3 at 2, 1.2 at 5.) The
pixels' distance is weaker at low noise, about 3 floors there, but is the one to read at all t.

A perfect denoiser in few steps is off q too (`recipes/mismatch_exact.py`), and a trained one may be
nearer to q than that where two errors cancel.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...diffusion.randomness import derive_seed, generator
from ...models.model import Model
from ...sampling.sample import sample
from ...sampling.settings import Sampling
from ...sampling.steps import Steps
from ..metrics.frechet_distance import frechet_distance
from ..metrics.kernel_distance import gaussian_mmd
from ..metrics.sliced_wasserstein import directions, wasserstein_of_shadows
from ..networks.extractors import Extractor
from ..protocol import versions
from ..resampling import half_samples, interval

N_PROJECTIONS = 100
MAX_FOR_MMD = 1000  # its cost grows with the square
MAX_FEATURE_RATIO = 1.0
SCALE = "x_t / sqrt(alpha_t^2 + sigma_t^2)"

CleanData = Tensor | Callable[[int, int], Tensor]
"""Clean x0 (N, *) to draw from with replacement, or (n, seed) -> n fresh ones."""


@dataclass(frozen=True)
class Distance:
    """One way to compare two sets of x_t."""

    name: str  # the figure's
    # (x_t, alpha_t, sigma_t) -> what is looked at, (B, D); only that is kept
    view: Callable[[Tensor, Tensor, Tensor], Tensor]
    between: Callable[[Tensor, Tensor], float]  # (real, fake) -> the distance between two views
    max_rows: int | None = None  # that take part
    max_ratio: float = math.inf  # not measured above this sigma/alpha


@dataclass(frozen=True)
class Counts:
    """How many of what, and from which seed."""

    n: int = 2048  # trajectories, and samples in each set of q(x_t); at least 4
    # pairs of sets behind each distance and floor, halves behind each interval; at least 2
    n_resamples: int = 10
    max_times: int = 20  # at most about so many steps are measured, evenly, the last included
    seed: int = 0  # of q's sets, the directions and the halves

    def __post_init__(self) -> None:
        if self.n < 4 or self.n_resamples < 2 or self.max_times < 1:
            raise ValueError(
                "n must be >= 4, n_resamples >= 2 and max_times >= 1, "
                f"got {self.n}, {self.n_resamples} and {self.max_times}"
            )


def mismatch(
    model: Model,
    reference_x0: CleanData,
    sampling: Sampling,
    counts: Counts | None = None,
    *,
    extractor: Extractor | None = None,
    class_labels: Tensor | None = None,
) -> dict[str, Any]:
    """The curve of a model and a sampler: distance to q(x_t) and floor at each visited time.

    The clean data are in the model's range. Images without an extractor are compared by pixels.

    Returns:
        JSON-ready. `times`: for each measured call in order t, alpha, sigma, ratio = sigma/alpha
        (null where alpha is 0) and, for each distance, NAME, NAME_interval (95 %, of the
        trajectories' sampling noise), NAME_of_reference (the floor) and
        NAME_of_reference_interval (where 95 % of single pairs of sets of q fall). `mean`: the same
        averaged over the times, without intervals. `protocol`.

    Source: ours, after the claim of Wang et al., ICLR 2025 (arXiv 2502.17099).
    """
    counts = counts or Counts()
    n_resamples, seed = counts.n_resamples, counts.seed
    schedule = model.denoiser.schedule
    example = _draw(reference_x0, 1, seed)
    distances = distances_for(tuple(example.shape[1:]), extractor, seed)
    met = _meet(model, sampling, counts, distances, class_labels)
    times = []
    for i, (t, views) in met.items():
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        here = [distance for distance in distances if distance.name in views]
        sets = []
        for r in range(n_resamples + 1):
            q_seed = derive_seed(seed, "q", i, r)
            x0 = _draw(reference_x0, counts.n, q_seed)
            eps = torch.randn(x0.shape, generator=generator("cpu", q_seed, "eps"))
            x_t = (alpha * x0 + sigma * eps).float()
            sets.append([one.view(x_t[: one.max_rows], alpha, sigma).cpu() for one in here])
        row: dict[str, Any] = {
            "t": t.item(), "alpha": alpha.item(), "sigma": sigma.item(),
            "ratio": (sigma / alpha).item() if alpha > 0 else None,
        }  # fmt: skip
        for distance, *real in zip(here, *sets, strict=True):
            row |= _figures(distance, real, views[distance.name], n_resamples, seed)
        times.append(row)
    keys = [key for d in distances for key in (d.name, f"{d.name}_of_reference")]
    curves = {key: [row[key] for row in times if key in row] for key in keys}
    return {
        "times": times,
        "mean": {key: sum(curve) / len(curve) for key, curve in curves.items() if curve},
        "protocol": {
            "steps": sampling.num_inference_steps,
            "n_fake": counts.n,
            "n_projections": N_PROJECTIONS,
            "n_resamples": n_resamples,
            "scale": SCALE,
            "seeds": {"evaluation": seed, "sampling": sampling.seed},
            "versions": versions(),
        },
    }


def distances_for(
    sample_shape: tuple[int, ...], extractor: Extractor | None = None, seed: int = 0
) -> list[Distance]:
    """The distances that suit samples (*sample_shape), see the table above."""
    theta = directions(math.prod(sample_shape), N_PROJECTIONS, seed)

    def shadows(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return vectors(x_t, alpha, sigma) @ theta.T

    found = [Distance("sliced_wasserstein", shadows, wasserstein_of_shadows)]
    if len(sample_shape) == 1:
        found.append(Distance("mmd_squared", vectors, gaussian_mmd, max_rows=MAX_FOR_MMD))
    if extractor is not None:

        def features(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            # the noisy image at its own contrast, which is what a clean one may be recognised by
            return extractor((x_t / alpha / 2 + 0.5).clamp(0, 1))

        name = "frechet_distance"
        found.append(Distance(name, features, frechet_distance, max_ratio=MAX_FEATURE_RATIO))
    return found


def vectors(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t (B, *) over sqrt(alpha^2 + sigma^2), flattened, float64."""
    return x_t.flatten(1).cpu().double() / (alpha**2 + sigma**2).sqrt().cpu()


def _meet(
    model: Model,
    sampling: Sampling,
    counts: Counts,
    distances: list[Distance],
    class_labels: Tensor | None,
) -> dict[int, tuple[Tensor, dict[str, Tensor]]]:
    """Samples, and keeps the views of x_t at the chosen calls: call -> (t, name -> (n, D))."""
    schedule, ts, n_steps = model.denoiser.schedule, {}, sampling.num_inference_steps
    every = math.ceil(n_steps / counts.max_times)
    kept: defaultdict[int, defaultdict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))

    def watch(steps: Steps, call: int, x: Tensor) -> Tensor:
        if (call - (n_steps - 1)) % every:
            return x
        ts[call] = steps.times[call].cpu()
        alpha, sigma = schedule.alpha(ts[call]), schedule.sigma(ts[call])
        for distance in distances:
            if sigma <= distance.max_ratio * alpha:
                view = distance.view(steps.x_t(x, call), alpha, sigma)
                kept[call][distance.name].append(view.cpu())
        return x

    sample(model, counts.n, sampling, class_labels=class_labels, move=watch)
    limits = {distance.name: distance.max_rows for distance in distances}
    return {
        call: (ts[call], {name: torch.cat(part)[: limits[name]] for name, part in views.items()})
        for call, views in sorted(kept.items())
    }


def _draw(reference_x0: CleanData, n: int, seed: int) -> Tensor:
    if not isinstance(reference_x0, Tensor):
        return reference_x0(n, seed)
    rows = torch.randint(len(reference_x0), (n,), generator=generator("cpu", seed, "rows"))
    return reference_x0[rows]


def _figures(
    distance: Distance, real: list[Tensor], fake: Tensor, n_resamples: int, seed: int
) -> dict[str, Any]:
    """Distance and floor, each a mean over as many pairs of sets, and their intervals."""
    name, between = distance.name, distance.between
    value = sum(between(one, fake) for one in real[1:]) / n_resamples
    halves = half_samples(lambda half: between(real[0], half), fake, n_resamples, seed)
    floors = torch.tensor([between(*pair) for pair in pairwise(real)], dtype=torch.float64)
    floor, spread = floors.mean().item(), 1.96 * floors.std().item()
    return {
        name: value,
        f"{name}_interval": interval(value, halves),
        f"{name}_of_reference": floor,
        f"{name}_of_reference_interval": [floor - spread, floor + spread],
    }
