r"""Attacks on the sampling path: x_t is moved before chosen calls of the network.

    x_t <- x_t + sigma_t w,   norm(w) <= radius,   w in noise units

With `units` "sample" it is norm(sigma_t w) <= radius: the same move of x_t at all noise levels.

Paper 2 attacks "intermediate timesteps of the sampling trajectory", its reviewers ask for adaptive
attacks and for expectation over the sampler's noise; what it does not give is an option. At each
chosen call the attacker sees where the sampler is, earlier moves included, and maximises one of

| aim | maximises | asks |
|---|---|---|
| `final` | mse(end(x_t + sigma_t w), end of the unattacked path) | how far is the sample pushed |
| `features` | the same between features of the two ends | how far as an eye sees it |
| `denoising` | mse(eps(x_t + sigma_t w), eps(x_t) + w) | by how much is the new noise missed |

where `end` runs the sampler itself for `n_path_steps` calls of the network and takes the estimate
of x0 of the last one, which is the sample where they reach the end of the path. One call is cheap;
all of them (None) is the adaptive attack, which differentiates through the sampler's steps with
their clipping. `denoising` is (alpha_t/sigma_t)^2 times the squared shift of the estimate of x0.

By default the attacker knows the sampler's noise to come, which is the strongest attack. With
`n_expectation` he maximises the mean over that many draws of his own (expectation over
transformation, Athalye et al. 2018), which are fixed during a call. Samplers that compute x anew
from their memory (the corrector of UniPC, Heun's second call) feel a move only through what the
network says about it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..diffusion.denoiser import frozen
from ..diffusion.noising import mse
from ..diffusion.parametrization import column
from ..diffusion.randomness import generator
from ..options.sections import check_options
from ..options.value_types import Count
from ..perturbations import BALLS, L2Ball, Per, Units, size_in, strongest
from ..perturbations.attacks import Gain
from .steps import Steps

Draw = Callable[[], list[torch.Generator] | None]  # of noise to come, always from the same state


@dataclass(frozen=True)
class Attack:
    """What the attacker may do; for `aim` see above.

    "random" is the control: a random corner of the cube, or a random point of the sphere, as large
    as an attack can be. "fgsm" and "pgd" start there; see `strongest`. `where` names the attacked
    calls: whole numbers count from noise (0), other numbers are shares of the path in [0, 1].
    """

    # of the ball, in `units`; 0 is no attack
    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kind: Literal["random", "fgsm", "pgd"] = "pgd"
    norm: Literal["linf", "l2"] = "linf"
    units: Units = "noise"
    per: Per = "element"  # (see `perturbations.balls`), or the Euclidean length, for "l2"
    aim: Literal["final", "denoising", "features"] = "final"
    where: tuple[int | float, ...] | str = (0.25, 0.5, 0.75)  # "all" is every call
    n_attack_steps: Count = 10  # gradients per attacked call; 1 for "fgsm"
    n_path_steps: Count | None = 1  # calls of the network that the aim looks ahead; None: all
    n_expectation: Count | None = None  # draws of the sampler's noise; None: it is known
    seed: int = 0  # the starts and draws of sample i follow from (seed, i, call)
    features: Callable[[Tensor], Tensor] | None = None  # differentiable, to (B, D)

    def __post_init__(self) -> None:
        check_options(type(self), vars(self))
        if self.per == "image" and self.norm != "l2":
            raise ValueError("per image is a length, which goes with norm l2")
        if self.aim == "denoising" and self.n_path_steps != 1:
            raise ValueError("aim denoising looks at one call: leave n_path_steps at 1")
        if self.n_expectation is not None and self.n_path_steps == 1:
            raise ValueError("n_expectation needs n_path_steps > 1: one call has no noise")
        if (self.features is None) != (self.aim != "features"):
            raise ValueError("aim features and a function `features` go together")


def calls_of(where: Sequence[int | float] | str, n_calls: int) -> list[int]:
    """Numbers of the attacked calls, rising; see `Attack.where`.
    Raises ValueError for a number outside the path."""
    if where == "all":
        return list(range(n_calls))
    if isinstance(where, str):
        raise ValueError(f"where must be all or a list of calls and shares, got {where!r}")
    calls = set()
    for one in where:
        is_share = isinstance(one, float)
        if not 0 <= one <= (1.0 if is_share else n_calls - 1):
            allowed = "[0, 1]" if is_share else f"0 to {n_calls - 1}, the sampler's calls"
            raise ValueError(f"where: {one} is not in {allowed}")
        calls.add(min(int(one * n_calls), n_calls - 1) if is_share else one)
    if not calls:
        raise ValueError("where names no call to attack")
    return sorted(calls)


class TrajectoryAttack:
    """The attack as a `Move` of one `sample`: `sample(model, n, move=TrajectoryAttack(attack))`."""

    def __init__(self, attack: Attack) -> None:
        self.attack, self.ball = attack, BALLS[attack.norm]
        self._w: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._gains: defaultdict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    @property
    def perturbations(self) -> dict[int, Tensor]:
        """Attacked call -> w of all samples, (n, *), on the CPU, once sampling is done."""
        return {call: torch.cat(parts) for call, parts in self._w.items()}

    @property
    def gains(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Attacked call -> what is maximised, at the start and at w, (n,) each; not of "random"."""
        found = {call: zip(*parts, strict=True) for call, parts in self._gains.items()}
        return {call: (torch.cat(start), torch.cat(w)) for call, (start, w) in found.items()}

    def __call__(self, steps: Steps, call: int, x: Tensor) -> Tensor:
        if self.attack.radius == 0:
            return x
        calls = calls_of(self.attack.where, len(steps.times))
        if self.attack.kind != "random":
            self._follow_unattacked(steps, call, x, calls)
        if call not in calls:
            return x
        _, sigma = steps.denoiser.schedule.at(steps.times[call].expand(len(x)), like=x)
        start, radius = self._start(steps, call, x, sigma)
        w = start
        if self.attack.kind != "random":
            n_steps = 1 if self.attack.kind == "fgsm" else self.attack.n_attack_steps
            with frozen(steps.denoiser):
                gain = self._gain(steps, call, x, sigma)
                best = strongest(gain, start, radius, self.ball, n_steps)
            self._gains[call].append((best.first_value.cpu(), best.value.cpu()))
            w = best.w
        self._w[call].append(w.cpu())
        return steps.moved(x, call, sigma * w)

    def _follow_unattacked(self, steps: Steps, call: int, x: Tensor, calls: list[int]) -> None:
        """Keep a twin of the sampler that was never attacked, from the first attacked call on."""
        if call == calls[0]:
            self._twin, self._twin_x = steps.fork(_copies(steps.generators)), x
        elif calls[0] < call <= calls[-1]:
            self._twin_x = self._twin.step(self._twin_x, call - 1)

    def _start(self, steps: Steps, call: int, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        z = [
            torch.randn(x.shape[1:], generator=generator("cpu", self.attack.seed, "w", call, row))
            for row in steps.rows
        ]
        own = self.attack
        radius = size_in("noise", own.radius, x, sigma, units=own.units, per=own.per)
        corner = self.ball.ascent(torch.stack(z).to(x))
        return self.ball.project(column(radius, x) * corner, radius), radius

    def _gain(self, steps: Steps, call: int, x: Tensor, sigma: Tensor) -> Gain:
        """What is maximised, as a function of w."""
        if self.attack.aim == "denoising":
            eps = steps.prediction(x, call).eps

            def missed(w: Tensor) -> Tensor:
                return mse(steps.prediction(steps.moved(x, call, sigma * w), call).eps, eps + w)

            return missed

        view, draws = self.attack.features or (lambda sample: sample), self._draws(steps, call)
        self._check_that_there_is_noise(steps, call, x, draws)
        unattacked = [view(self._end(self._twin, call, self._twin_x, draw)) for draw in draws]

        def distance(w: Tensor) -> Tensor:
            moved = steps.moved(x, call, sigma * w)
            ends = (view(self._end(steps, call, moved, draw)) for draw in draws)
            each = [mse(*pair) for pair in zip(ends, unattacked, strict=True)]
            return torch.stack(each).mean(0)

        return distance

    def _end(self, steps: Steps, call: int, x: Tensor, draw: Draw) -> Tensor:
        """The sample that x leads to, or the estimate of it after `n_path_steps` calls, (B, *)."""
        last, n = len(steps.times) - 1, self.attack.n_path_steps
        stop = last if n is None else min(call + n - 1, last)
        ahead = steps.fork(draw())
        ahead.recomputes = x.requires_grad and stop > call
        for i in range(call, stop):
            x = ahead.step(x, i)
        return ahead.step(x, last) if stop == last else ahead.prediction(x, stop).x0

    def _draws(self, steps: Steps, call: int) -> list[Draw]:
        if self.attack.n_expectation is None:
            return [partial(_copies, _copies(steps.generators))]
        key, rows = (self.attack.seed, "draw", call), steps.rows

        def drawn(draw: int) -> list[torch.Generator]:
            return [generator("cpu", *key, draw, row) for row in rows]

        return [partial(drawn, draw) for draw in range(self.attack.n_expectation)]

    def _check_that_there_is_noise(
        self, steps: Steps, call: int, x: Tensor, draws: list[Draw]
    ) -> None:
        if self.attack.n_expectation is None or self._gains:
            return
        used, fresh = draws[0](), draws[0]()
        self._end(steps, call, x, lambda: used)
        states = [one[0].get_state() for one in (used, fresh) if one is not None]
        if torch.equal(*states):
            raise ValueError(
                "n_expectation averages over the sampler's noise, and this sampler draws none in "
                "the steps that the attack looks through: take eta > 0 with ddim, ddpm or "
                "euler_ancestral, or leave n_expectation out"
            )


@dataclass
class Replay:
    """Known perturbations as a `Move`: what an attack on one model does to another."""

    perturbations: Mapping[int, Tensor]  # call -> w of all samples, (n, *), noise units

    def __call__(self, steps: Steps, call: int, x: Tensor) -> Tensor:
        if call not in self.perturbations:
            return x
        w = self.perturbations[call][steps.rows.start : steps.rows.stop].to(x)
        _, sigma = steps.denoiser.schedule.at(steps.times[call].expand(len(x)), like=x)
        return steps.moved(x, call, sigma * w)


@dataclass
class CorruptedStart:
    """A common corruption of the starting noise as a `Move`, of exactly the given size.

    w = radius d / rms(d), with the direction d(z) of the unit noise z:

    | name | d | the corruption |
    |---|---|---|
    | `shift` | 1 | brighter |
    | `contrast` | z | more of the same |
    | `blur` | blur(z) - z | towards noise blurred by a 3x3 binomial kernel |
    | `block` | -z in a random square of half the side, else 0 | a part of it goes missing |
    | `impulse` | +-1 at random 5 % of the elements | spikes |

    So a corruption is a point of the L2 ball, and needs no gradient and no model. `radius`, `units`
    and `per` are those of `Attack`; the change of sample i follows from (seed, i). Raises
    ValueError for another name, or for `blur` and `block` of vectors.
    """

    name: str
    radius: float
    seed: int = 0
    units: Units = "noise"
    per: Per = "element"

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            known = ", ".join(CORRUPTIONS)
            raise ValueError(f"corruption must be one of {known}, got {self.name!r}")

    def __call__(self, steps: Steps, call: int, x: Tensor) -> Tensor:
        if call != 0 or self.radius == 0:
            return x
        if self.name in ("blur", "block") and x.ndim != 4:
            raise ValueError(f"corruption {self.name} is of images, these samples are vectors")
        _, sigma = steps.denoiser.schedule.at(steps.times[0].expand(len(x)), like=x)
        z = (steps.x_t(x, 0) / sigma).cpu()
        key = (self.seed, "start", self.name)
        d = torch.stack([
            CORRUPTIONS[self.name](one, generator("cpu", *key, row))
            for one, row in zip(z, steps.rows, strict=True)
        ])  # fmt: skip
        radius = size_in("noise", self.radius, x, sigma, units=self.units, per=self.per)
        return steps.moved(x, 0, sigma * column(radius, x) * L2Ball().ascent(d).to(x))


def _blur(z: Tensor, random: torch.Generator) -> Tensor:
    row = torch.tensor([1.0, 2.0, 1.0], dtype=z.dtype) / 4
    padded = F.pad(z[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, torch.outer(row, row)[None, None])[:, 0] - z


def _block(z: Tensor, random: torch.Generator) -> Tensor:
    height, width = z.shape[1:]
    sides = (height + 1) // 2, (width + 1) // 2
    top, left = (
        int(torch.randint(whole - side + 1, (), generator=random))
        for whole, side in zip((height, width), sides, strict=True)
    )
    gone = torch.zeros_like(z)
    gone[:, top : top + sides[0], left : left + sides[1]] = 1
    return -z * gone


def _impulse(z: Tensor, random: torch.Generator) -> Tensor:
    chosen = torch.randperm(z.numel(), generator=random)[: math.ceil(0.05 * z.numel())]
    signs = 2.0 * torch.randint(2, chosen.shape, generator=random) - 1
    return torch.zeros_like(z).flatten().index_put((chosen,), signs.to(z)).view_as(z)


CORRUPTIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "shift": lambda z, random: torch.ones_like(z),
    "contrast": lambda z, random: z,
    "blur": _blur,
    "block": _block,
    "impulse": _impulse,
}  # name -> the direction d, of one sample's noise z (C, H, W) or (d,)


def _copies(generators: Sequence[torch.Generator] | None) -> list[torch.Generator] | None:
    """Generators that will draw what these would."""
    return None if generators is None else [one.clone_state() for one in generators]
