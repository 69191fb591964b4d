"""How training times are drawn: one file, four samplers, all from the step's own numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..diffusion.randomness import StepRandom
from ..diffusion.schedules import Schedule, VPSchedule


class Times(ABC):
    """Draws the times of a whole global batch with their importance weights."""

    @abstractmethod
    def draw(self, rng: StepRandom) -> tuple[Tensor, Tensor]:
        """(t, weight) of all rows of the global batch, each (n_rows,), alike on all processes."""

    def update(self, t: Tensor, losses: Tensor) -> None:  # noqa: B027 - most samplers do not adapt
        """Told the losses (B,) seen at times t (B,); only an adaptive sampler listens."""

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a restart."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - nothing to keep
        """Takes back what `state_dict` gave."""


class Uniform(Times):
    """Uniform over the schedule's times (EDM: in ln sigma)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def draw(self, rng: StepRandom) -> tuple[Tensor, Tensor]:
        u = rng.uniform_all("time")
        return self.schedule.times(u), torch.ones_like(u)


class LogitNormal(Times):
    """u = sigmoid(mean + std z), z normal: more times in the middle of the path; 0 and 1 in SD3.

    Source: Esser et al. 2024, eq. 19.
    """

    def __init__(self, schedule: Schedule, mean: float = 0.0, std: float = 1.0) -> None:
        self.schedule, self.mean, self.std = schedule, mean, std

    def draw(self, rng: StepRandom) -> tuple[Tensor, Tensor]:
        u = torch.sigmoid(self.mean + self.std * rng.normal_all("time").double())
        return self.schedule.times(u.clamp(max=1 - 2**-24)), torch.ones(rng.n_rows)


class LogNormal(Times):
    """ln(sigma / alpha) normal; -1.2 and 1.2 in EDM. The ratio's t is rounded for integer times.

    Source: Karras et al. 2022, table 1.
    """

    def __init__(self, schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> None:
        self.schedule, self.mean, self.std = schedule, mean, std

    def draw(self, rng: StepRandom) -> tuple[Tensor, Tensor]:
        ratio = (self.mean + self.std * rng.normal_all("time").double()).exp()
        t = self.schedule.time_of_ratio(ratio)
        discrete = isinstance(self.schedule, VPSchedule)
        return t.round().long() if discrete else t, torch.ones(rng.n_rows)


class LossSecondMoment(Times):
    r"""Times in proportion to sqrt(E[loss^2]) at that time, with weights that undo it.

    p_t = (1 - uniform_prob) m_t / sum(m) + uniform_prob / T,  m_t = sqrt(mean last losses^2)
    weight_t = 1 / (T p_t);  uniform until every time has its full `history` of losses.

    Source: Nichol & Dhariwal 2021, eq. 18; used by paper 1's CIFAR-10 script.
    """

    def __init__(self, schedule: Schedule, history: int = 10, uniform_prob: float = 0.001) -> None:
        if not isinstance(schedule, VPSchedule):
            raise ValueError("loss_second_moment needs integer times: a DDPM-family scheduler")
        self.n_times, self.uniform_prob = schedule.n_train_timesteps, uniform_prob
        self.losses = torch.zeros(self.n_times, history, dtype=torch.float64)
        self.counts = torch.zeros(self.n_times, dtype=torch.long)

    def probabilities(self) -> Tensor:
        """p_t, (T,)."""
        if (self.counts < self.losses.shape[1]).any():
            return torch.full((self.n_times,), 1 / self.n_times, dtype=torch.float64)
        root = (self.losses**2).mean(1).sqrt()
        return (1 - self.uniform_prob) * root / root.sum() + self.uniform_prob / self.n_times

    def draw(self, rng: StepRandom) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), rng.uniform_all("time").double(), right=True)
        t = t.clamp(max=self.n_times - 1)
        return t, (1 / (self.n_times * p[t])).float()

    def update(self, t: Tensor, losses: Tensor) -> None:
        history = self.losses.shape[1]
        times, values = all_rows(t).cpu(), all_rows(losses).cpu()
        for time, loss in zip(times.tolist(), values.tolist(), strict=True):
            if not math.isfinite(loss):
                continue  # the loop stops the run, or skips the fp16 step
            if self.counts[time] == history:
                self.losses[time] = self.losses[time].roll(-1)
                self.losses[time, -1] = loss
            else:
                self.losses[time, self.counts[time]] = loss
                self.counts[time] += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"times.losses": self.losses.clone(), "times.counts": self.counts.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.losses, self.counts = state["times.losses"].clone(), state["times.counts"].clone()


TIMES: dict[str, type[Times]] = {
    "uniform": Uniform,
    "logit_normal": LogitNormal,
    "lognormal": LogNormal,
    "loss_second_moment": LossSecondMoment,
}


def traded(ratio: Tensor, level: Tensor) -> Tensor:
    """Rows that cannot teach at their noise trade it with rows that can.

    From the lowest noise up, a row whose noise does not exceed its level looks for one that can
    teach there and whose own noise is above the first one's level. Of several it takes the one of
    the highest level, since the cleaner ones are needed at lower noise still; an image that never
    teaches gives its noise to whoever asks. So each batch has the same noise levels as before, and
    never fewer rows that teach.

    Args:
        ratio: sigma_t / alpha_t, (n_rows,), on the CPU.
        level: Noise that a row has to exceed to teach, (n_rows,): 0 for clean images, infinite for
            those that never teach; negative rows are left alone.

    Returns:
        The row whose noise each row gets, (n_rows,), int64: a permutation.

    Source: ours.
    """
    s, levels = (values.flatten().double().numpy() for values in (ratio, level))
    order = np.arange(len(s))
    for row in np.argsort(s, kind="stable"):
        own, needed = s[order[row]], levels[row]
        if not own <= needed < np.inf:
            continue
        can = (((levels >= 0) & (levels < own)) | (levels == np.inf)) & (s[order] > needed)
        if can.any():
            other = np.where(can, levels, -1.0).argmax()
            order[[row, other]] = order[[other, row]]
    return torch.from_numpy(order)


def all_rows(values: Tensor) -> Tensor:
    """The rows of all processes, in their order in the global batch."""
    values = values.detach().contiguous()
    if not (dist.is_available() and dist.is_initialized()):
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)
