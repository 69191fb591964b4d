r"""A sampler's path as a linear map: what training through sampling must know of a solver.

With its noise fixed, a solver is linear in where it starts and in what the network answers,

    x_i = M_i x_start + sum over calls j before i of W_ij o_j + noise,     x_end likewise,

where x_i is what the network reads at call i. So if gradients stop at the network's input, answer
o_j reaches the sample through one number, W_end,j, and through nothing else:

    dL/dtheta = sum_j W_end,j  <dL/dx_end, do_j/dtheta>

`OneStepPath` has these numbers in closed form, for DDIM and flow Euler; `SchedulerPath` finds them
for any scheduler of diffusers whose step is linear, by running it on zeros and ones.
"""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion.noising import add_noise
from ..diffusion.parametrization import KINDS, Pair
from ..diffusion.schedules import EDMSchedule, Schedule, kind_from_config
from ..diffusion.solver_steps import restate, step_coefficients, time_grid

_TOLERANCE = 1e-4  # of the check that a step is linear; schedulers compute in float32
_NOT_FROM_THE_MIDDLE = ("PNDMScheduler", "LMSDiscreteScheduler")
"""Their first steps need a history that only the beginning of the path can give."""

_NOT_LINEAR = "cannot be trained through: its steps are not linear in the network's answers"

PairOf = Callable[[Tensor, Tensor], Pair]
"""A parametrisation's two numbers as a function of (alpha, sigma); see `Denoiser.pair`."""


class Walk(ABC):
    """A rollout under way, in the precision of the sample it began with."""

    x_t: Tensor  # what the network is to see next, (B, *); after the last step the sample

    @abstractmethod
    def step(self, output: Tensor) -> None:
        """Move on with the network's answer to `x_t`, (B, *)."""


class Path(ABC):
    """The network calls of a sampler, numbered from noise (0) to data."""

    schedule: Schedule  # the model's
    times: Tensor  # of the calls, as the model receives them, (n_calls,)
    starts: tuple[int, ...]  # where a rollout may begin: no step is half done

    @property
    def n_calls(self) -> int:
        return len(self.times)

    def begin(self, start: int, x0: Tensor, eps: Tensor) -> Tensor:
        """x_t at call `start`, (B, *): alpha x0 + sigma eps, and pure noise at the first call,
        where real sampling knows nothing of x0 and alpha x0 might still show its mean."""
        alpha, sigma = self.schedule.at(self.times[start].expand(len(x0)), like=x0)
        if start > 0:
            return add_noise(x0, eps, alpha, sigma)
        return sigma * eps if isinstance(self.schedule, EDMSchedule) else eps

    @abstractmethod
    def walk(
        self, start: int, x_t: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Walk:
        """A rollout from x_t (B, *) at call `start`; generators, one a row, of stochastic steps."""

    @abstractmethod
    def coefficients(self, start: int) -> Tensor:
        """W of the calls from `start` on, (n + 1, n) for n of them, float64.
        W[i, j] = d(what the network sees at call start + i) / d(answer at call start + j), zero for
        j >= i; the last row is that of the sample."""

    def weights(self, kind: str, start: int, pair: PairOf) -> Tensor:
        """w_k of every call from `start` on, (n,), float64.
        "native": W_end,k; "unit": its sign over the calls of the path; "x0_balanced": d x0_hat_k /
        d o_k over them, for the network's two numbers."""
        native = self.coefficients(start)[-1]
        if kind == "native":
            return native
        if kind == "unit":
            return native.sign() / self.n_calls
        times = self.times[start:]
        alpha, sigma = self.schedule.alpha(times), self.schedule.sigma(times)
        a, b = pair(alpha, sigma)
        return sigma / (a * sigma - b * alpha) / self.n_calls


def trained_calls(calls: range, most: int, how: str, rng: torch.Generator) -> tuple[int, ...]:
    """S, ascending: k = min(most, len(calls)) of the calls: "even", "random" or the "last" ones."""
    k = min(most, len(calls))
    if how == "last":
        return tuple(calls[-k:])
    if how == "random":
        return tuple(sorted(calls[i] for i in torch.randperm(len(calls), generator=rng)[:k]))
    gap = len(calls) // k
    offset = int(torch.randint(len(calls) - gap * (k - 1), (), generator=rng))
    return tuple(calls[offset + gap * i] for i in range(k))


class OneStepPath(Path):
    r"""DDIM without noise, which for flow is Euler: x_s = A x_t + B o at every step.

    W_end,k = B_k prod_{j > k} A_j,   each of the n_steps one call

    Source: Song et al. 2021, eq. 12; the weights are ours (chain rule on it).
    """

    def __init__(self, schedule: Schedule, pair: PairOf, n_steps: int) -> None:
        self.schedule, self.times = schedule, time_grid(schedule, n_steps)
        self.starts = tuple(range(n_steps))
        alpha, sigma = schedule.alpha(self.times), schedule.sigma(self.times)
        alpha_s, sigma_s = F.pad(alpha[1:], (0, 1), value=1), F.pad(sigma[1:], (0, 1))
        a, b = step_coefficients(pair(alpha, sigma), alpha, sigma, alpha_s, sigma_s)
        self._a, self._b = torch.as_tensor(a), torch.as_tensor(b)

    def walk(
        self, start: int, x_t: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Walk:
        return _OneStepWalk(self._a.tolist()[start:], self._b.tolist()[start:], x_t)

    def coefficients(self, start: int) -> Tensor:
        a, b = self._a[start:], self._b[start:]
        n = len(a)
        w = torch.zeros(n + 1, n, dtype=torch.float64)
        for i in range(n):
            w[i + 1] = a[i] * w[i]
            w[i + 1, i] = b[i]
        return w


class _OneStepWalk(Walk):
    def __init__(self, a: list[float], b: list[float], x_t: Tensor) -> None:
        self._left, self.x_t = list(zip(a, b, strict=True)), x_t

    def step(self, output: Tensor) -> None:
        a, b = self._left.pop(0)
        self.x_t = a * self.x_t + b * output


class SchedulerPath(Path):
    """The path of a diffusers scheduler, which is copied, run and, for the numbers W, probed.

    It is of the model's family; Heun and KDPM2 make two calls a step. What the network says is
    restated in the kind that the scheduler's config asks for. Raises ValueError if its step is not
    linear (clip_sample, thresholding) or cannot begin in the middle of the path.
    """

    def __init__(self, scheduler: Any, schedule: Schedule, pair: PairOf, n_steps: int) -> None:
        name, config = type(scheduler).__name__, scheduler.config
        for word in ("clip_sample", "thresholding"):
            if config.get(word):
                raise ValueError(f"{name} with {word}=True {_NOT_LINEAR}. Set {word}=False")
        if name in _NOT_FROM_THE_MIDDLE:
            advice = "take ddim, euler, heun, dpmsolver++ or unipc"
            raise ValueError(f"{name} cannot begin in the middle of its path: {advice}")
        self.schedule, self.pair = schedule, pair
        self.spoken = KINDS.get(kind_from_config(config), pair)  # EDM: the network's own
        self.scheduler = copy.deepcopy(scheduler)
        self.scheduler.set_timesteps(n_steps)
        self.times = self.scheduler.timesteps
        self.starts = tuple(range(0, len(self.times), getattr(scheduler, "order", 1)))
        self._found: dict[int, Tensor] = {}

    def walk(
        self, start: int, x_t: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Walk:
        return _SchedulerWalk(self, start, x_t, generators)

    def coefficients(self, start: int) -> Tensor:
        """By one run on the zero vector, the unit vectors and a mixture, side by side as rows.
        Raises ValueError if the answer to the mixture is not the mixture of the answers."""
        if start in self._found:
            return self._found[start]
        n = self.n_calls - start
        mixed = torch.linspace(-1, 2, n)[None]
        answers = torch.cat([torch.zeros(1, n), torch.eye(n), mixed]).double()
        x_t = torch.zeros(n + 2, 1, 1, 1, dtype=torch.float64)
        same = [torch.Generator().manual_seed(0) for _ in answers]  # one noise for all rows
        walk = self.walk(start, x_t, same)
        seen = [walk.x_t]
        for j in range(n):
            walk.step(answers[:, j].view(-1, 1, 1, 1))
            seen.append(walk.x_t)
        responses = torch.stack(seen).flatten(1)  # (n + 1, rows)
        w = responses[:, 1:] - responses[:, :1]
        w, answer = w[:, :-1], w[:, -1]
        if not torch.allclose(answer, w @ mixed[0].double(), rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ValueError(f"{type(self.scheduler).__name__} {_NOT_LINEAR}")
        self._found[start] = w
        return w


class _SchedulerWalk(Walk):
    """Holds x in the scheduler's own scale, which for Euler and its kin is x_t / alpha_t."""

    def __init__(self, path: SchedulerPath, start: int, x_t: Tensor, generators: Any) -> None:
        self._path, self._call = path, start
        self._scheduler = copy.deepcopy(path.scheduler)
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(start)
        accepted = inspect.signature(self._scheduler.step).parameters
        words = {"generator": generators and list(generators)}
        self._extra = words if "generator" in accepted else {}
        self.x_t = x_t
        self._x = x_t / self._read(torch.ones_like(x_t[:1]))

    def step(self, output: Tensor) -> None:
        t = self._path.times[self._call]
        alpha, sigma = self._path.schedule.at(t[None], like=self.x_t[:1])
        p, q = restate(self._path.pair(alpha, sigma), self._path.spoken(alpha, sigma), alpha, sigma)
        told = p * output + q * self.x_t
        self._x = self._scheduler.step(told, t, self._x, **self._extra).prev_sample
        self._call += 1
        self.x_t = self._x if self._call == self._path.n_calls else self._read(self._x)

    def _read(self, x: Tensor) -> Tensor:
        """x_t of what the scheduler holds."""
        t = self._path.times[self._call]
        if hasattr(self._scheduler, "scale_model_input"):
            x = self._scheduler.scale_model_input(x, t)
        _, sigma = self._path.schedule.at(t[None], like=x[:1])
        return x / self._path.schedule.input_scale(sigma)
