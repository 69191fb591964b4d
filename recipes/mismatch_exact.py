"""The sampler's own share of the mismatch: the curve of the denoiser that makes no error.

    python recipes/mismatch_exact.py plane gaussian_mixture --steps 10 50

On the schedule of configs/plane.yaml, with the posterior mean of the data in closed form. What
a trained model has beyond these numbers is its network's; what it has less, two errors that cancel.
"""

import argparse
import math
import statistics

import torch
from torch import Tensor, nn

from sparring.data.analytic import MixtureTruth, PlaneTruth, gaussian_mixture, plane
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import Schedule, schedule_from_config
from sparring.evaluation.studies.mismatch import Counts, mismatch
from sparring.models.pretrained import Model
from sparring.sampling.settings import Sampling

KEY = "sliced_wasserstein"
TRUTHS = {"plane": lambda seed: plane(3, seed), "gaussian_mixture": lambda _: gaussian_mixture(2)}
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


class Exact(nn.Module):
    """E[x0 | x_t] of a `PlaneTruth` or a `MixtureTruth`, as an x0-network."""

    def __init__(self, truth: PlaneTruth | MixtureTruth, schedule: Schedule) -> None:
        super().__init__()
        self.truth, self.schedule = truth, schedule
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.at(t, like=x)
        if isinstance(self.truth, PlaneTruth):
            basis = torch.linalg.qr(self.truth.basis.double().T).Q
            return square_mean(x / alpha @ basis, sigma / alpha) @ basis.T
        return mixture_mean(x, self.truth.means.double(), self.truth.std, alpha, sigma)


def square_mean(y: Tensor, s: Tensor) -> Tensor:
    """E[u | y] of y = u + s eps, u uniform on [-1, 1]: the mean of a truncated Gaussian, (B, 2)."""

    def density(z: Tensor) -> Tensor:
        return torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)

    low, high = (-1 - y) / s, (1 - y) / s
    mass = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp(min=1e-300)
    return (y + s * (density(low) - density(high)) / mass).clamp(-1, 1)


def mixture_mean(x: Tensor, means: Tensor, std: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x_t = x] of equally likely N(means, std^2), (B, d)."""
    variance = alpha**2 * std**2 + sigma**2
    offsets = x[:, None] - alpha[..., None] * means  # (B, K, d)
    share = torch.softmax(-offsets.square().sum(2) / (2 * variance), dim=1)
    near = means + (alpha * std**2 / variance)[..., None] * offsets
    return (share[..., None] * near).sum(1)


def main(
    name: str, n_steps: int, n: int, n_resamples: int, seeds: list[int], scheduler: str = "ddim"
) -> str:
    """One line: mean over t, its floor, the last call and its floor, over seeds of the data."""
    schedule = schedule_from_config({"_class_name": "DDPMScheduler", **BETAS})
    rows = []
    for seed in seeds:
        truth = TRUTHS[name](seed)
        denoiser = Denoiser(Exact(truth, schedule), schedule, "x0")
        model = Model.around(denoiser, tuple(truth.sample(1, 0).shape[1:]))
        sampling = Sampling(scheduler=scheduler, num_inference_steps=n_steps)
        curve = mismatch(model, truth.sample, sampling, Counts(n, n_resamples))
        mean, last = curve["mean"], curve["times"][-1]
        rows.append([one[key] for one in (mean, last) for key in (KEY, f"{KEY}_of_reference")])
    columns = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    return f"| {name} | {n_steps} | " + " | ".join(f"{value:.4f}" for value in columns) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=TRUTHS)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--n-resamples", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scheduler", default="ddim")
    chosen = parser.parse_args()
    print("| data | steps | mean over t | its floor | at the last call | its floor |")
    for name in chosen.names:
        for n_steps in chosen.steps:
            words = (chosen.n, chosen.n_resamples, chosen.seeds, chosen.scheduler)
            print(main(name, n_steps, *words), flush=True)
