"""Multistep consistency sampling, as a scheduler of diffusers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...diffusion.noising import on_device
from ...diffusion.parametrization import Prediction
from ...diffusion.schedules import Schedule, schedule_from_config
from ...diffusion.solver_steps import Jump, consistency_range, karras

MIDDLE = 0.8  # noise level of the second step


class ConsistencyScheduler(SchedulerMixin, ConfigMixin):
    r"""From noise to the data in one call, and back to less noise for the next:

        x0 = f(x_t, t);   x_s = alpha_s x0 + sigma_s z,  z fresh;   the last x0 is the sample

    It takes the network's answer as an estimate of x0 (`sample` restates it).

    Args:
        train_scheduler_config: Config of the scheduler that the model was trained with.
        boundary: How f is made of the estimate, see `Jump`; None is of no consistency model.
        ratios: Noise levels sigma / alpha of the steps, falling; None: the highest, then n - 1 on
            Karras' grid from m = 0.8, (m^{1/7} + i/(n-1) (low^{1/7} - m^{1/7}))^7, i = 0..n-2, for
            data in [-1, 1]. Two steps are then those of iCT (0.821); for more it is ours, since on
            digits a grid from the highest level on is worse with two and with eight steps than one.
        clip_sample: Clip f to [-1, 1].

    Raises:
        ValueError: if `ratios` do not fall or lie outside the schedule, or without a boundary.

    Source: Song et al. 2023, algorithm 1.
    """

    families = ("vp", "flow", "edm")
    order = 1

    @register_to_config
    def __init__(
        self,
        train_scheduler_config: Mapping[str, Any],
        boundary: str | None = "ddim",
        ratios: Sequence[float] | None = None,
        clip_sample: bool = False,
    ) -> None:
        if boundary is None:
            raise ValueError("sampler consistency needs a consistency model; this one diffuses")
        self.register_to_config(prediction_type="sample")  # what its step is given
        self.schedule: Schedule = schedule_from_config(train_scheduler_config)
        self.jump = Jump(self.schedule, boundary)
        self.low, self.high = consistency_range(self.schedule)
        if ratios is not None:
            falling = all(a > b for a, b in pairwise(ratios))
            if not ratios or not falling or not self.low <= ratios[-1] <= ratios[0] <= self.high:
                levels = f"[{self.low:.3g}, {self.high:.3g}]"
                raise ValueError(f"ratios must fall and lie in {levels}, got {list(ratios)}")
        self.timesteps = torch.empty(0)

    @property
    def init_noise_sigma(self) -> float:
        """What unit noise is multiplied by to be the first x_t (there is no data in it)."""
        return float(self.schedule.sigma(self.timesteps[0].cpu()))

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """The times of the steps; `ratios` decide where they are given."""
        levels = self.config["ratios"]
        if levels is None:
            rest = num_inference_steps - 1
            u = torch.arange(rest, dtype=torch.float64) / max(rest, 1)
            levels = [self.high, *karras(MIDDLE, self.low, u).tolist()]
        elif len(levels) != num_inference_steps:
            raise ValueError(f"{len(levels)} ratios do not make {num_inference_steps} steps")
        times = self.schedule.time_of_ratio(torch.as_tensor(levels, dtype=torch.float64))
        self.timesteps = on_device(times, torch.device(device or "cpu"))
        self.num_inference_steps = num_inference_steps

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """x_t as the network reads it."""
        return sample * self.schedule.input_scale(self.schedule.sigma(timestep).to(sample))

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from the sample x_t (B, *) at one of `timesteps`.
        `model_output` is the network's estimate of x0, (B, *); `generator` one, or one per row."""
        times = timestep.expand(len(sample))
        alpha, sigma = self.schedule.at(times, like=sample)
        x0 = self.jump(Prediction(sample, model_output, alpha, sigma, 1.0, 0.0), times)
        if self.config["clip_sample"]:
            x0 = x0.clamp(-1, 1)
        index, x_s = int((self.timesteps == timestep).nonzero()[0]), x0
        if index + 1 < len(self.timesteps):
            noise = randn_tensor(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
            alpha, sigma = self.schedule.at(self.timesteps[index + 1].expand(len(x0)), like=x0)
            x_s = alpha * x0 + sigma * noise
        return DDIMSchedulerOutput(x_s, x0) if return_dict else (x_s, x0)
