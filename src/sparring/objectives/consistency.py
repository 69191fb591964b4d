r"""Consistency models: one network call from any noise level to the data, and adversarial training.

    d( f(x_t, t), f_target(x_s, s) ) / gap,    s the next level below t

f is the consistency function of `Jump`. x_s is x_t's neighbour on the same path:

- training:      x_s = alpha_s x0 + sigma_s eps, the same eps, and the target is the network itself;
- distillation:  x_s = one solver step of a teacher from x_t, and the target is the moving average.

Adversarial: delta on what the student reads, f(x_t + delta, t), or on what the target reads,
f_target(x_s + delta, s). f answers with x0, so no target has to be corrected. delta is found as in
Free-AT: K passes over one batch, each an update of the weights and an ascent of delta for free.

Source: Song et al. 2023 (CM), Song & Dhariwal 2023 (iCT), Geng et al. 2024 (ECT). The adversarial
part: Wang et al., ICLR 2025 (paper 1), whose consistency loss, K, step size and radius are unknown:
a reconstruction after its diffusion algorithm.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from ..diffusion.denoiser import Denoiser, SharedDropout, frozen
from ..diffusion.noising import add_noise, l2_norm, mse, on_device, per_sample_mean
from ..diffusion.parametrization import column
from ..diffusion.randomness import StepRandom
from ..diffusion.solver_steps import Jump
from ..options.value_types import Count, NotNegative, Place, Positive
from ..perturbations import Per, Units
from ..support.errors import did_you_mean
from ..support.user_code import load_from_file
from .base import Draws, Objective, Terms, Turn
from .dro import PAPERS_STEP, Climb, free_at
from .levels import KarrasLevels, Levels, ShrinkingGap
from .times import Uniform

N_STEPS = 10_000  # of a run of which nobody says how long it is
Metric = Callable[[Tensor, Tensor], Tensor]
"""Takes two estimates of x0, (B, *), gives their distance, (B,)."""


def pseudo_huber(a: Tensor, b: Tensor, c: float | None) -> Tensor:
    """sqrt(||a - b||^2 + c^2) - c, (B,); c None: 0.00054 sqrt(d), d elements, as in iCT.

    Source: Song & Dhariwal 2023, eq. 7; ECT's loss with c = 0.
    """
    c = float(0.00054 * a[0].numel() ** 0.5) if c is None else c
    rest = torch.full((len(a), 1), c).to(a)
    return l2_norm(torch.cat([(a - b).flatten(1), rest], dim=1)) - c


def huber(a: Tensor, b: Tensor, c: float | None) -> Tensor:
    """Mean over the elements of sqrt((a - b)^2 + c^2) - c, (B,); c None: 0.001.

    Source: diffusers' training script for latent consistency models.
    """
    c = 0.001 if c is None else c
    return per_sample_mean(torch.sqrt((a - b) ** 2 + c**2) - c)


METRICS = {
    "pseudo_huber": pseudo_huber,
    "huber": huber,
    "l2": lambda a, b, c: mse(a, b),
    "l1": lambda a, b, c: per_sample_mean((a - b).abs()),
}


def _check_metric(name: str) -> str:
    if name not in METRICS and ".py:" not in name:
        raise ValueError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}")
    return name


MetricName = Annotated[Place, AfterValidator(_check_metric)]


@dataclass(kw_only=True)
class ConsistencyDraws(Draws):
    """With the neighbour."""

    t_s: Tensor  # its times, (B,), the smallest one where the pair ends in the data
    alpha_s: Tensor  # coefficients at t_s, (B, 1, ...)
    sigma_s: Tensor
    ends: Tensor  # rows whose pair ends in the data: their target is x0, (B,)
    guidance: Tensor | None = None  # scale of the teacher's step, (B,); None: it has none


class Consistency(Objective):
    r"""What all consistency objectives have in common.

    Args:
        boundary: How f is made of the network's answer, see `Jump`.
        metric: d: "pseudo_huber", "huber", "l2", "l1", `path/to/file.py:function`, or a function of
            two estimates of x0.
        huber_c: c of the two Hubers, data units; None: 0.00054 sqrt(elements), as in iCT, or 0.001.
        weighting: "inverse_gap": 1 / (r_t - r_s), r = sigma / alpha; "uniform": 1.
        target: Who answers at s: "student", the network itself with the same dropout mask, or
            "ema", its moving average (in eval mode). No gradient reaches its weights.
        n_passes: K, updates from one batch; 1 is plain training (paper 1: unknown).
        perturbed: Where delta is added: "student" (x_t) or "target" (x_s) (paper 1: unknown).
        step_size, step_per, max_norm, units: Of delta, as for `dro` (paper 1: unknown; these are
            its diffusion script's).
    """

    levels: Levels  # draws the pairs of neighbouring levels; each method has its own

    def __init__(
        self,
        *args: Any,
        boundary: Literal["ddim", "lcm"] = "ddim",
        metric: MetricName | Metric = "pseudo_huber",
        huber_c: NotNegative | None = None,
        weighting: Literal["inverse_gap", "uniform"] = "inverse_gap",
        target: Literal["student", "ema"] = "student",
        n_passes: Count = 1,
        perturbed: Literal["student", "target"] = "student",
        step_size: NotNegative = PAPERS_STEP,
        step_per: Per = "element",
        max_norm: NotNegative = 0.1,
        units: Units = "sample",
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        if self.snr_gamma is not None or common.get("vlb_weight") is not None:
            raise ValueError("snr_gamma and vlb_weight go with denoising, not with consistency")
        if not isinstance(self.times, Uniform):
            advice = "leave out times (training.timestep_sampling)"
            raise ValueError(f"consistency draws pairs of levels by itself: {advice}")
        self.jump, self.boundary = Jump(self.schedule, boundary), boundary
        if isinstance(metric, str) and metric in METRICS:
            metric = partial(METRICS[metric], c=huber_c)
        elif isinstance(metric, str):
            metric = load_from_file(metric, "objective.metric")
        self.metric, self.weighting = cast(Metric, metric), weighting
        self.target, self.needs_ema = target, target == "ema"
        self.n_updates, self.perturbed = n_passes, perturbed
        self.climb = Climb(step_size, step_per, max_norm, units)

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> ConsistencyDraws:
        x0 = batch["x0"]
        t, t_s = (on_device(v[rng.rows], x0.device) for v in self.levels.draw(rng.on("cpu"), step))
        ends = t_s.isnan()
        t_s = torch.where(ends, self.jump.first_time.to(t_s), t_s)
        s = self.noised(batch, rng, step, t, torch.ones_like(t))
        alpha_s, sigma_s = self.schedule.at(t_s, like=x0)
        return ConsistencyDraws(**vars(s), t_s=t_s, alpha_s=alpha_s, sigma_s=sigma_s, ends=ends)

    def turns(self, nets: Mapping[str, Denoiser], s: ConsistencyDraws) -> Iterator[Turn]:
        compare = partial(self.compare, nets, s, self.neighbour(nets, s))
        sigma = s.sigma if self.perturbed == "student" else s.sigma_s
        yield from free_at(compare, s.x_t, self.n_updates, *self.climb.at(s.x_t, sigma))

    def neighbour(self, nets: Mapping[str, Denoiser], s: ConsistencyDraws) -> Tensor:
        """x_s on the path of x_t, (B, *), detached: here through x0 and eps themselves."""
        return add_noise(s.x0, s.eps, s.alpha_s, s.sigma_s)

    def compare(
        self, nets: Mapping[str, Denoiser], s: ConsistencyDraws, x_s: Tensor, delta: Tensor
    ) -> Terms:
        """weight d(f(x_t), f_target(x_s)), with delta on one of the two."""
        dropout = SharedDropout(s.x0.device)
        x_t, x_s = (s.x_t + delta, x_s) if self.perturbed == "student" else (s.x_t, x_s + delta)
        answers = nets["ema" if self.target == "ema" else "model"]
        with dropout(), frozen(answers):  # at most the gradient of what it reads
            goal = self.function(answers, s, s.t_s)(x_s)
        with dropout():
            estimate = self.function(nets["model"], s, s.t)(x_t)
        goal = torch.where(column(s.ends, goal), s.x0, goal)
        return {"consistency": s.weight * self.weigh(s) * self.metric(estimate, goal)}

    def function(
        self, denoiser: Denoiser, s: ConsistencyDraws, t: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """f( . , t) of a network, at the drawn conditions."""
        predict = self.bind(denoiser, s, t=t, **self.told(denoiser, s))
        return lambda x: self.jump(predict(x), t)

    def told(self, denoiser: Denoiser, s: ConsistencyDraws) -> dict[str, Tensor]:
        """What student and target are told beside the condition, by argument name."""
        return {}

    def weigh(self, s: ConsistencyDraws) -> Tensor | float:
        """The weight of each pair, (B,)."""
        if self.weighting == "uniform":
            return 1.0
        below = torch.where(s.ends, 0.0, (s.sigma_s / s.alpha_s).flatten())
        return 1 / ((s.sigma / s.alpha).flatten() - below)


class ConsistencyTraining(Consistency):
    r"""Without a teacher, with the improved settings of iCT.

    d(f(x_t, t), sg f(x_s, s)) / (r_t - r_s),  levels twice as fine at even intervals

    Args:
        n_levels, n_levels_end, mean, std: See `levels.KarrasLevels`; iCT's by default.
        max_train_steps: Updates of the whole run, for the doubling; None: the run's, else 10,000.

    Source: Song & Dhariwal 2023, table 1 and algorithm in appendix A.
    """

    name = "consistency_training"
    of_the_run: ClassVar = {"max_train_steps": lambda run: run.n_steps}

    def __init__(
        self,
        *args: Any,
        n_levels: Count = 10,
        n_levels_end: Count = 1280,
        mean: float | None = -1.1,
        std: Positive = 2.0,
        max_train_steps: Count | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(*args, **rest)
        steps = max_train_steps or N_STEPS
        self.levels = KarrasLevels(self.schedule, n_levels, n_levels_end, steps, mean, std)


class EasyConsistencyTuning(Consistency):
    r"""From a pretrained diffusion model: pairs that start at the data and come closer.

    Args:
        max_train_steps: Updates of the whole run; None: the run's, else 10,000.
        n_stages, q, k, b, mean, std: See `levels.ShrinkingGap`.

    Source: Geng et al. 2024 and its official code, in which huber_c is 0: d is Euclidean.
    """

    name = "easy_consistency_tuning"
    defaults: ClassVar = {"huber_c": 0.0}
    of_the_run: ClassVar = {"max_train_steps": lambda run: run.n_steps}

    def __init__(
        self,
        *args: Any,
        n_stages: Count = 8,
        q: Annotated[float, Field(gt=1)] = 2.0,
        k: NotNegative = 8.0,
        b: NotNegative = 1.0,
        mean: float = -1.1,
        std: Positive = 2.0,
        max_train_steps: Count | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(*args, **{**EasyConsistencyTuning.defaults, **rest})
        n_steps = max_train_steps or N_STEPS
        self.levels = ShrinkingGap(self.schedule, n_steps, n_stages, q, k, b, mean, std)
