"""DDIM on a grid of one's choice, as a scheduler of diffusers."""

import functools
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from ...diffusion.schedules import Schedule


class GridDDIMScheduler(DDIMScheduler):
    """DDIM whose step ends at the next time of its grid, also where n does not divide T.

    Bit for bit diffusers' DDIM where n divides T. It runs the same step on the respaced process:
    a table of n entries, of which every one is visited (Nichol & Dhariwal 2021, section 4).

    With a `stop_ratio` the grid goes from T - 1 to the time of that noise level, and the last step
    is to the x0 that the model sees there: what happens at lower noise is left out. A `grid_power`
    p above 1 makes it denser towards the data: t = last + (T - 1 - last) u^p, u evenly from 1 to 0.
    """

    families = ("vp",)
    settings = ("stop_ratio", "grid_power")
    schedule: Schedule
    stop_ratio: float | None = None
    grid_power: float = 1.0

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        n = num_inference_steps
        if self.stop_ratio is not None or self.grid_power != 1:
            first, last = self.config["num_train_timesteps"] - 1, self._last_time()
            if n > first - last + 1:
                raise ValueError(f"{n} steps do not fit between the times {first} and {last}")
            u = torch.linspace(1, 0, n, dtype=torch.float64)
            times = (last + (first - last) * u**self.grid_power).round().long()
            rest = last + torch.arange(n).flip(0)  # no time twice
            self.timesteps = torch.maximum(times, rest).to(self.timesteps.device)
        given = {key: value for key, value in self.config.items() if not key.startswith("_")}
        given |= {"num_train_timesteps": n, "trained_betas": [0.5] * n}
        self._respaced = DDIMScheduler(**{**given, "rescale_betas_zero_snr": False})
        self._respaced.set_timesteps(n)
        self._respaced.alphas_cumprod = self.alphas_cumprod[self.timesteps.cpu().flip(0)]

    def _last_time(self) -> int:
        if self.stop_ratio is None:
            return 0
        ends = torch.tensor([0, self.config["num_train_timesteps"] - 1])
        lowest, highest = self.schedule.ratio(ends).tolist()
        if not lowest <= self.stop_ratio < highest:
            levels = f"[{lowest:.3g}, {highest:.3g})"
            raise ValueError(f"stop_ratio must lie in {levels}, got {self.stop_ratio}")
        ratio = torch.tensor(self.stop_ratio, dtype=torch.float64)
        return int(self.schedule.time_of_ratio(ratio).round())

    @functools.wraps(DDIMScheduler.step)
    def step(self, model_output: torch.Tensor, timestep: Any, *rest: Any, **words: Any) -> Any:
        index = int((self.timesteps == timestep).nonzero()[0])
        return self._respaced.step(model_output, len(self.timesteps) - 1 - index, *rest, **words)
