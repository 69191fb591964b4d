r"""What an objective is: it draws all the randomness of a step, then takes turns.

A turn says who learns and from what. Its parts are closures that return named loss terms, each per
sample, shape (B,), zero on rows that take no part; one graph is alive at a time. The loop does

    loss = sum of the terms, mean over the batch;  loss.backward();  the player's optimiser steps

and `turns`, a generator, goes on after that: so Free-AT can read the perturbation's gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from ..data.trust.trust import Trust
from ..diffusion.denoiser import Denoiser
from ..diffusion.noising import add_noise, mse, on_device, per_sample_mean
from ..diffusion.parametrization import Prediction
from ..diffusion.randomness import StepRandom
from ..diffusion.schedules import Schedule
from ..options.sections import check_options
from ..options.value_types import NotNegative, Positive, Share
from .own_noise import Incomplete, OwnNoise, own_noise, uncut
from .times import Times, Uniform
from .vlb import vlb

Terms = dict[str, Tensor]


@dataclass
class Turn:
    """One player's optimiser update, from the sum of its parts."""

    player: str
    parts: list[Callable[[], Terms]]


@dataclass(kw_only=True)
class Draws:
    """All that is random in a step, for the own rows of the global batch."""

    x0: Tensor  # data, (B, *)
    eps: Tensor  # unit noise, (B, *)
    t: Tensor  # times as the model receives them, (B,)
    alpha: Tensor  # coefficients at t, (B, 1, ...)
    sigma: Tensor
    x_t: Tensor  # alpha x0 + sigma eps, (B, *)
    weight: Tensor  # importance weight of the times, (B,), 1 for uniform sampling
    step: int  # updates of the model done before this step
    condition: dict[str, Any] = field(default_factory=dict)  # told beside x_t and t, by argument
    dropped: Tensor | None = None  # rows whose condition is replaced by the null condition, (B,)
    incomplete: Incomplete | None = None  # what can be learned of rows that are not clean data

    def carries(self, noise: OwnNoise, trust: Trust | None = None, below: float = 1.0) -> None:
        """Takes x0 for clean data plus that noise, see `own_noise`; x_t gets what is missing.

        `trust` says what else is known of the rows; `below` is the weight of a row at levels below
        its own, where x_t is as that of clean data.
        """
        self.incomplete = known = Incomplete.at(self.sigma / self.alpha, noise, trust, below)
        self.x_t = add_noise(self.x0, noise.apply(known.gain, self.eps), self.alpha, self.sigma)


OF_OTHER_SECTIONS = ("schedule", "times", "cond_dropout")
"""Arguments of every constructor that sections model and training say, not section objective."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What an objective may ask of the run that it is to train; None is not known yet."""

    n_steps: int  # updates of the model
    n_rows: int  # of a micro-batch
    has_lora: bool  # whether only LoRA's weights learn
    has_condition: bool | None = None  # whether the network is told a text or a class
    has_null_condition: bool | None = None  # whether it knows what no condition is


class Objective(ABC):
    """The common part: drawing (x0, eps, t), and the denoising term that every method keeps.

    Args:
        schedule: The model's schedule.
        times: How training times are drawn; uniformly by default.
        cond_dropout: Probability of replacing a row's condition by the null condition.
        snr_gamma: Min-SNR weighting (Hang et al. 2023), None for no weighting.
        vlb_weight: Weight of the variational bound when the network learns its variance;
            None is T / 1000, as in Improved DDPM's rescaled hybrid loss and paper 1's code.

    A method is one file with one class, and its constructor is its section in a config: the
    keyword arguments are the keys, with their types (`value_types`), defaults and ranges, checked
    when the config is read and when the class is called. What else others must know of it, it says
    in the attributes below.
    """

    name: ClassVar[str | None] = None
    """What a config calls it, if it is built in. It is the class's own, subclasses have another."""

    n_updates = 1
    """Updates of the model from one batch."""
    needs_ema = False
    """Whether `turns` calls nets["ema"]."""
    needs_teacher = False
    """Whether `turns` calls nets["teacher"]: a config names it in `objective.teacher`."""
    needs_discriminator = False
    """Whether `turns` calls nets["discriminator"], which then learns too and judges `rows_at_once`
    images at a time: a config describes it in `objective.discriminator`."""
    rows_at_once = 64
    """Images that are judged at a time."""
    needs_scheduler = False
    """Whether it trains through a sampler's path of `num_inference_steps`: a config names that in
    `objective.scheduler`, the constructor takes the scheduler itself."""
    needs_guidance_input = False
    """Whether the network must have an input for the guidance scale."""
    told_of_dirt: ClassVar[Literal["nothing", "truth", "table", "clean_only", "denoised"]] = (
        "nothing"
    )
    """What batches say of what is wrong with the images: nothing; what was really done; what a
    table says, `objective.dirt`; or, by such a table, the batches are of clean images alone, or of
    denoised ones."""
    of_the_run: ClassVar[Mapping[str, Callable[[RunFacts], Any]]] = {}
    """Arguments that are None where nobody says them, and what the run makes of them then."""
    boundary: str | None = None
    """What `Denoiser.boundary` becomes by this training."""
    ema_warmup = True
    """Whether the EMA's decay is warmed up unless the user says otherwise."""
    below = 0.0
    """Weight of a row at noise levels below that of its own dirt, see `Draws.carries`."""
    n_graphs = 1.0
    """Graphs of the batch's forward passes that are alive at once: what memory an update takes."""

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Refuses options that are not what the constructor's types say: a ValueError names one."""
        check_options(cls, options, skip=("schedule", "times"))
        return super().__new__(cls)

    def __init__(
        self,
        schedule: Schedule,
        times: Times | None = None,
        *,
        cond_dropout: Share = 0.0,
        snr_gamma: Positive | None = None,
        vlb_weight: NotNegative | None = None,
    ) -> None:
        self.schedule, self.times = schedule, times or Uniform(schedule)
        self.cond_dropout, self.snr_gamma = cond_dropout, snr_gamma
        self.vlb_weight = schedule.n_train_timesteps / 1000 if vlb_weight is None else vlb_weight
        self.teaching_levels: Tensor | None = None
        """Noise levels from which on the images of the set teach, ascending, (N,), infinite for
        never; None where nobody said. Whoever trains says it."""
        self.news: list[str] = []
        """Lines for the user; whoever runs the steps prints and clears them."""

    @abstractmethod
    def turns(self, nets: Mapping[str, Any], s: Any) -> Iterator[Turn]:
        """The turns of one step, from draws `s`; draws nothing itself."""

    @classmethod  # noqa: B027 - most have nothing to refuse
    def check_section(cls, section: Any) -> None:
        """Told the section of a config once each key is of its type: refuses keys that do not go
        together by a ValueError that names one, and may settle those that nobody said.
        """

    def check_run(self, run: RunFacts) -> None:  # noqa: B027 - the same
        """Refuses a run that it cannot train: a UserError that says which setting to change."""

    def epoch(self, trust: Trust, height: int, width: int) -> Tensor | None:
        """Numbers of the samples that make up an epoch, (n,), for a set of images of this size of
        which so much is known; None: each comes once."""
        return None

    def network_calls(self) -> str | None:
        """Network calls of one update in words, where they are not one forward and backward."""
        return None

    def set_up(self, denoiser: Denoiser, discriminator: Any) -> None:
        """Told once, before the first draw, who plays: for those that need a discriminator."""
        raise NotImplementedError(f"{type(self).__name__} has one player")

    def n_batches(self, n_steps: int) -> int:
        """Global batches of so many updates of the model."""
        return -(-n_steps // self.n_updates)

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> Draws:
        """All randomness of a step.

        Args:
            batch: "x0" (B, *), the own rows; "cond", the condition by argument name, if any;
                "trust", a `Trust` of rows that may be dirty, which every objective heeds;
                "image" (B, C, H, W), where x0 are latents of it; "sampling_cond", where sampling
                tells the network something else than training does.
            rng: The step's random numbers, for the same rows.
            step: Updates of the model done so far.
        """
        t, weight = (values[rng.rows] for values in self.times.draw(rng.on("cpu")))
        return self.noised(batch, rng, step, t, weight)

    def noised(
        self, batch: Mapping[str, Any], rng: StepRandom, step: int, t: Tensor, weight: Tensor
    ) -> Draws:
        """The draws of a step whose times t, (B,), and weights, (B,), are known."""
        x0, trust = batch["x0"], batch.get("trust")
        noise = None
        if trust is not None:
            noise = own_noise(trust, x0)
            x0 = uncut(trust, x0, rng.normal("uncut", x0.shape[1:]).to(x0), noise.mean)
        t = on_device(t, x0.device)
        alpha, sigma = self.schedule.at(t, like=x0)
        eps = rng.normal("eps", x0.shape[1:]).to(x0)
        condition = dict(batch.get("cond") or {})
        dropped = None
        if condition and self.cond_dropout > 0:
            dropped = rng.uniform("cond_dropout") < self.cond_dropout
        s = Draws(
            x0=x0,
            eps=eps,
            t=t,
            alpha=alpha,
            sigma=sigma,
            x_t=add_noise(x0, eps, alpha, sigma),
            weight=weight.to(x0),
            step=step,
            condition=condition,
            dropped=dropped,
        )
        if noise is not None:
            s.carries(noise, trust, self.below)
        return s

    def bind(
        self,
        denoiser: Denoiser,
        s: Draws,
        rows: Tensor | None = None,
        *,
        t: Tensor | None = None,
        **told: Tensor,
    ) -> Callable[[Tensor], Prediction]:
        """The denoiser as a function of x_t alone, at the drawn conditions and times.

        It may be student, average or teacher, of some rows (n,) only, at other times t (B,), and be
        told something in addition, by argument name.
        """
        condition = s.condition
        if s.dropped is not None:
            condition = denoiser.drop_condition(condition, s.dropped)
        return denoiser.bind(s.t if t is None else t, {**condition, **told}, rows)

    def denoising(
        self,
        prediction: Prediction,
        s: Draws,
        eps: Tensor | None = None,
        *,
        x_t: Tensor | None = None,
    ) -> Terms:
        r"""mse(output, a x0 + b eps), with the VLB where the network learns its variance.

        Where x0 carries noise itself (`Draws.carries`) it is the mean of (b - a s)^2 (A eps_hat -
        eps)^2, s = sigma/alpha, over the elements that count. With A = I that is the same.

        `eps` is the noise that is the target and `x_t` the noisy sample of the VLB, the drawn ones
        by default.
        """
        eps = s.eps if eps is None else eps
        weight, known = self.snr_weight(prediction), s.incomplete
        if known is None:
            squares = mse(prediction.output, prediction.target(s.x0, eps))
        else:
            error = known.noise.apply(known.gain, prediction.eps) - eps
            scale = prediction.b - prediction.a * s.sigma / s.alpha
            squares = per_sample_mean(known.factor * (scale * error) ** 2)
        losses = {"denoise": weight * squares}
        if prediction.variance is not None:
            x_t = s.x_t if x_t is None else x_t
            bound = vlb(self.schedule, prediction, s.x0, x_t, s.t)
            if known is not None:  # the bound is of data, not of data with noise
                bound = known.as_clean * bound
            losses["vlb"] = self.vlb_weight * bound
        self.times.update(s.t, torch.stack([term.detach() for term in losses.values()]).sum(0))
        return {name: s.weight * term for name, term in losses.items()}

    def snr_weight(self, prediction: Prediction) -> Tensor | float:
        r"""Min-SNR weight of a loss on the network's own output, (B,).

        On x0 the weight is min(snr, gamma). An error e of x0 is an error (det / sigma) e of the
        output, det = a sigma - b alpha, so on the output it is min(snr, gamma) sigma^2 / det^2:
        min(snr, gamma) / snr for eps, min(snr, gamma) / (snr + 1) for v.

        Source: Hang et al. 2023, section 3.4.
        """
        if self.snr_gamma is None:
            return 1.0
        alpha, sigma = prediction.alpha, prediction.sigma
        det = prediction.a * sigma - prediction.b * alpha
        weight = torch.clamp((alpha / sigma) ** 2, max=self.snr_gamma) * (sigma / det) ** 2
        return weight.flatten()

    def found(self) -> dict[str, float]:
        """Numbers it has found out by itself, logged beside the loss."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a restart: the state of the time sampler."""
        return self.times.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        self.times.load_state_dict(state)

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        step: int,
        seed: int = 0,
        nets: Mapping[str, Denoiser] | None = None,
        trust: Trust | None = None,
        **condition: Any,
    ) -> Iterator[Tensor]:
        """The losses of a step in anybody's own loop, one per turn:

            for loss in objective(denoiser, x0, step=step):
                loss.backward(); optimizer.step(); optimizer.zero_grad()

        Args:
            denoiser: The wrapped model.
            x0: Data, (B, *), in the model's range.
            step: The step's number; with `seed` it decides all random numbers.
            seed: The run's seed; give each process its own.
            nets: The other networks that the method calls, by role: "ema", "teacher"; a ValueError
                says which is missing.
            trust: What is known of the dirt of each row, see `sparring.trusted`; None: nothing.
            condition: What the network is told, by argument name.
        """
        who = type(self).__name__
        if self.needs_discriminator:
            advice = "go through `turns` yourself, as docs/how_to/adt.md shows"
            raise ValueError(f"{who} has two players and many parts to a turn: {advice}")
        nets = {"model": denoiser, **(nets or {})}
        for role, needed in (("ema", self.needs_ema), ("teacher", self.needs_teacher)):
            if needed and role not in nets:
                raise ValueError(f"{who} calls another network: pass nets={{{role!r}: ...}}")
        rng = StepRandom(seed, step, len(x0), device=x0.device)
        batch = {"x0": x0, "cond": condition, "trust": trust}
        for turn in self.turns(nets, self.draw(batch, rng, step)):
            losses = [sum(part().values(), torch.zeros(())).mean() for part in turn.parts]
            yield torch.stack(losses).sum()
