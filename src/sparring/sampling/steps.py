"""A sampler under way: what happens between two calls of the network.

`integrate` runs it from noise to data. An attack also moves its state, and runs a `fork` of it
ahead, with gradients, to see where a move would lead.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..diffusion.denoiser import Denoiser
from ..diffusion.noising import on_device
from ..diffusion.parametrization import KINDS, Prediction
from .schedulers import spoken_kind
from .settings import Sampling


class Steps:
    """A scheduler around a denoiser, call by call of the network.

    Args:
        denoiser: In evaluation mode.
        scheduler: Fresh: `set_timesteps` was called, no step was taken.
        sampling: Says guidance_scale, eps_scale and eta; the scheduler has the rest already.
        condition: Further arguments of the network, (B, ...) each.
        generators: Of the noise of stochastic steps, one a row.
        rows: Which samples these are, for whoever seeds by their numbers.

    `x` is the sample in the scheduler's own scale, (B, *), which it carries from step to step.
    """

    recomputes: bool = False  # whether gradients cost a second forward pass instead of memory

    def __init__(
        self,
        denoiser: Denoiser,
        scheduler: Any,
        sampling: Sampling,
        condition: Mapping[str, Any] | None = None,
        generators: Sequence[torch.Generator] | None = None,
        rows: range = range(0),
    ) -> None:
        self.denoiser, self.scheduler, self.rows = denoiser, scheduler, rows
        if getattr(scheduler, "begin_index", 0) is None:
            scheduler.set_begin_index(0)  # else it searches its times, and two may be alike
        self.condition, self.generators = dict(condition or {}), generators
        self.guidance_scale, self.eps_scale = sampling.guidance_scale, sampling.eps_scale
        self._null: dict[str, Any] | None = None
        self._spoken = spoken_kind(scheduler) or denoiser.kind
        self._accepted = inspect.signature(scheduler.step).parameters
        self._extra: dict[str, Any] = {}
        if "use_clipped_model_output" in self._accepted:  # changes nothing where x0 is not clipped
            self._extra["use_clipped_model_output"] = True
        if sampling.eta:
            if "eta" not in self._accepted:
                raise ValueError(f"{type(scheduler).__name__} has no eta; eta goes with ddim")
            self._extra["eta"] = sampling.eta
        is_ddpm = type(scheduler).__name__.startswith("DDPM")
        self._keeps_variance = is_ddpm and "learned" in str(scheduler.config.get("variance_type"))

    @property
    def times(self) -> Tensor:
        """Times of the network's calls, from noise to data, (n_calls,)."""
        return self.scheduler.timesteps

    def fork(self, generators: Sequence[torch.Generator] | None) -> "Steps":
        """The same sampler at the same place, on its own from here on, with this noise to come."""
        twin = copy.copy(self)
        twin.scheduler, twin.generators = copy.deepcopy(self.scheduler), generators
        return twin

    def x_t(self, x: Tensor, call: int) -> Tensor:
        """What the network is to see of x at this call, alpha_t x0 + sigma_t eps, (B, *)."""
        return _unscaled(self.denoiser, self._read(x, call), self._at(x, call))

    def moved(self, x: Tensor, call: int, delta: Tensor) -> Tensor:
        """x of which x_t is `delta` (sample units) further on, (B, *)."""
        return x + delta / self.x_t(torch.ones_like(x[:1]), call)  # x_t is x times a number

    def prediction(self, x: Tensor, call: int) -> Prediction:
        """What the network says at this call, guidance and eps_scale included."""
        return self._stated(x, call, self._guided(x, call)[0], self.denoiser.kind)

    def step(self, x: Tensor, call: int) -> Tensor:
        """x at the next call, or the sample after the last one, (B, *)."""
        output, variance = self._guided(x, call)
        if self.eps_scale != 1.0 or self._spoken != self.denoiser.kind:
            prediction = self._stated(x, call, output, self._spoken)
            is_said = self.eps_scale != 1.0 or self._spoken not in KINDS
            output = prediction.output if is_said else prediction.to(self._spoken)
        if variance is not None and self._keeps_variance:
            output = torch.cat([output, variance], dim=1)
        extra = self._extra
        if "generator" in self._accepted:
            extra = extra | {"generator": self.generators and list(self.generators)}
        return self.scheduler.step(output, self.times[call], x, **extra).prev_sample

    def _read(self, x: Tensor, call: int) -> Tensor:
        """x as the network reads it."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return x
        return self.scheduler.scale_model_input(x, self.times[call])

    def _at(self, x: Tensor, call: int) -> Tensor:
        return on_device(self.times[call], x.device).expand(len(x))

    def _guided(self, x: Tensor, call: int) -> tuple[Tensor, Tensor | None]:
        """The network's output with guidance, and its learned variance where it has one."""
        x_in, times = self._read(x, call), self._at(x, call)
        output = _output(self.denoiser, x_in, times, self.condition, self.recomputes)
        output, variance = output.chunk(2, 1) if self.denoiser.learned_variance else (output, None)
        if self.guidance_scale == 1.0:
            return output, variance
        if self._null is None:
            everyone = torch.ones(len(x), dtype=torch.bool, device=x.device)
            self._null = self.denoiser.drop_condition(self.condition, everyone)
        unconditional = _output(self.denoiser, x_in, times, self._null, self.recomputes)
        unconditional = unconditional[:, : output.shape[1]]
        return unconditional + self.guidance_scale * (output - unconditional), variance

    def _stated(self, x: Tensor, call: int, output: Tensor, kind: str) -> Prediction:
        """What the output says; where its noise is divided by eps_scale, in words of `kind`."""
        x_t, denoiser = self.x_t(x, call), self.denoiser
        alpha, sigma = denoiser.schedule.at(self._at(x, call), like=x)
        own = denoiser.pair(alpha, sigma)
        prediction = Prediction(x_t, output, alpha, sigma, *own)
        if self.eps_scale == 1.0:
            return prediction
        eps = prediction.eps / self.eps_scale
        x0 = (x_t - sigma * eps) / alpha
        a, b = KINDS[kind](alpha, sigma) if kind in KINDS else own
        return Prediction(x_t, a * x0 + b * eps, alpha, sigma, a, b)


Move = Callable[[Steps, int, Tensor], Tensor]  # (steps, call, x) -> x: see `integrate`


def integrate(steps: Steps, x: Tensor, move: Move | None = None) -> Tensor:
    """From the scheduler's initial noise x (B, *) to samples (B, *), through all its timesteps.

    `move` is called before each call of the network with the sampler, the number of the call and x;
    what it returns takes the place of x. To watch, return x as it is: `steps.times[call]` is the
    time and `steps.x_t(x, call)` what the network is to see, whatever scale the scheduler carries.
    """
    for call in range(len(steps.times)):
        x = steps.step(x if move is None else move(steps, call, x), call)
    return x


def _unscaled(denoiser: Denoiser, x_in: Tensor, times: Tensor) -> Tensor:
    """x_t of what `scale_model_input` made for the network: every scheduler hands it the same."""
    _, sigma = denoiser.schedule.at(times, like=x_in)
    return x_in / denoiser.schedule.input_scale(sigma)


def _output(
    denoiser: Denoiser, x_in: Tensor, times: Tensor, condition: Mapping[str, Any], recomputes: bool
) -> Tensor:
    """The network's output at its own precision, handed back at the sample's."""
    x = x_in.to(dtype_of(denoiser))
    if recomputes:
        words = {"use_reentrant": False, "preserve_rng_state": False, **condition}
        return cast(Tensor, checkpoint(denoiser.output, x, times, **words)).to(x_in.dtype)
    return denoiser.output(x, times, **condition).to(x_in.dtype)


def dtype_of(module: nn.Module) -> torch.dtype:
    """Of a network's weights; float32 without any."""
    floating = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floating, torch.float32)
