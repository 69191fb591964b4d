r"""ADT, adversarial diffusion tuning: train a model through its own inference path.

    x_start = alpha x0 + sigma eps        start drawn uniformly from the calls of a sampler
    x_end   = the sampler's, from x_start                      (a rollout, image to image)
    model:          weight * G(D(x_end, x0)) + diffusion_weight * denoising loss
    discriminator:  its loss of the real pair and the fake pair

Gradients stop at the network's input and only some calls S are trained, so with W of `rollouts`

    d L_adv / d theta = sum over k in S of  w_k <g, d o_k / d theta>,     g = dL_adv / dx_end,
                                                                          w_k = W_end,k.

No graph of the path is ever held: roll out without gradients and keep the inputs of S; take g once,
through the decoder and the discriminator; then each k is a part of the turn, a forward and backward
pass with w_k g as what comes from above: memory does not grow with K.

Source: Shen et al. 2025 (arXiv 2504.11423). The image-to-image start, the stopped gradient, trained
subset, siamese DINOv2 discriminator and kept diffusion loss are the paper's; its settings are not
known to us, so each is an option. The backward pass in parts is ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..adversarial.balance import Balance
from ..adversarial.discriminators import Discriminator
from ..adversarial.eyes import Maps
from ..adversarial.rollouts import OneStepPath, Path, SchedulerPath, trained_calls
from ..diffusion.denoiser import Denoiser, dropout_of
from ..diffusion.noising import on_device, precise
from ..diffusion.parametrization import column
from ..diffusion.randomness import StepRandom
from ..options.value_types import Count, CountOrZero, NotNegative
from ..support.errors import UserError
from .base import Draws, Objective, RunFacts, Terms, Turn

Answer = Callable[[Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class ADTDraws(Draws):
    """With the randomness of a rollout."""

    image: Tensor  # the real images, (B, C, H, W); of latent models x0 is what became of them
    start: int  # the call it begins with
    trained: tuple[int, ...]  # the calls S that are trained, of the whole path's numbers
    noise: Tensor  # eps of x_start, (B, *)
    seeds: Sequence[int]  # of the noise of stochastic samplers, one a row
    looks: tuple[Any, Any]  # two of the discriminator's eye
    told: dict[str, Any]  # the condition as sampling tells it
    learns: bool  # whether the model takes a turn in this batch

    @property
    def generators(self) -> list[torch.Generator]:
        """New ones from the seeds: the same draws make the same rollout each time."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


class ADT(Objective):
    r"""Adversarial diffusion tuning: a discriminator judges what the model draws (see the module).
    Take it for a trained model that draws badly in few steps, not to train from nothing.

    Args:
        num_inference_steps: Of the sampler in training.
        scheduler: A diffusers scheduler of the model's family whose path is trained; None: DDIM
            without noise, for flow Euler, in closed form.
        guidance_scale: w of guidance in the rollout, o = null + w (conditional - null).
        cfg_grad: "both": the null answer is trained too, by (1 - w) of the gradient;
            "cond_only": it is taken as given.
        start: "uniform" over the path's calls, or "noise": always from pure noise.
        n_trained: K, network calls that are trained in each rollout; all, where fewer are left.
        trained: "even": with a random offset (as CoMat does for DRTune); "random"; or "last".
        path_weight: "native": w_k = W_end,k. It depends on what the network predicts: for eps the
            first calls weigh ten times the later ones, for flow all weights sum to one. "unit":
            sign(W_end,k) / n, n the calls of the whole path; "x0_balanced": (d x0_hat_k / d o_k)
            / n, each estimate of x0 counts alike, whatever the network predicts.
        input_grad: Gradients also pass through the network's input, from later trained calls to
            earlier ones (as CoMat does for SD 1.5); with all calls trained this is backpropagation
            through sampling. Needs native weights.
        weight: Of the adversarial loss.
        diffusion_weight: Of the denoising loss that is kept; 0: it is not computed.
        warmup_batches: First batches in which the discriminator learns alone.
        discriminator_steps: Its updates, each on a batch of its own, for one of the model.
        real_pair: What is compared with the real image in the pair that passes for real: "same",
            itself under another look; "other", the real image of another row. With "same" the
            discriminator may tell fakes by their being other images; that says something where the
            model was told enough to draw the same one: by captions, or by a start late on the path.
            (The paper's pairs are not known; "other" is ours.)
        rows_at_once: Images that are decoded and judged at a time: bounds the memory of the decoder
            and the discriminator.

    Source: Shen et al. 2025; DRTune (Wu et al. 2024) for the stopped gradient and even steps.
    """

    name = "adt"
    needs_discriminator = True
    needs_scheduler = True
    path: Path  # the sampler's, once `set_up` was called

    def __init__(
        self,
        *args: Any,
        num_inference_steps: Count = 20,
        scheduler: Any = None,
        guidance_scale: NotNegative = 1.0,
        cfg_grad: Literal["both", "cond_only"] = "both",
        start: Literal["uniform", "noise"] = "uniform",
        n_trained: Count = 4,
        trained: Literal["even", "random", "last"] = "even",
        path_weight: Literal["native", "unit", "x0_balanced"] = "native",
        input_grad: bool = False,
        weight: NotNegative = 0.1,
        diffusion_weight: NotNegative = 1.0,
        warmup_batches: CountOrZero = 0,
        discriminator_steps: Count = 1,
        real_pair: Literal["same", "other"] = "same",
        rows_at_once: Count = 64,
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        if weight == diffusion_weight == 0:
            raise ValueError("weight and diffusion_weight are both 0: the model learns nothing")
        if input_grad and path_weight != "native":
            raise ValueError("input_grad needs path_weight native: other weights are no gradient")
        self.num_inference_steps, self.scheduler = num_inference_steps, scheduler
        self.guidance_scale, self.cfg_grad = guidance_scale, cfg_grad
        self.start, self.n_trained, self.trained = start, n_trained, trained
        self.path_weight, self.input_grad = path_weight, input_grad
        self.weight, self.diffusion_weight = weight, diffusion_weight
        self.warmup_batches, self.discriminator_steps = warmup_batches, discriminator_steps
        self.real_pair, self.rows_at_once = real_pair, rows_at_once
        self.n_graphs = 2.0 if guidance_scale != 1 and cfg_grad == "both" else 1.0
        self._eye: Any = None
        self.balance = Balance()

    def n_batches(self, n_steps: int) -> int:
        return self.warmup_batches + n_steps * self.discriminator_steps

    def check_run(self, run: RunFacts) -> None:
        if self.real_pair == "other" and run.n_rows == 1:
            advice = "set training.train_batch_size to 2 or more, or real_pair to same"
            raise UserError(f"objective.real_pair=other compares two images of a batch: {advice}")
        if self.guidance_scale != 1 and run.has_null_condition is False:
            raise UserError(
                "objective.guidance_scale needs a text-to-image model, or a class-conditional one "
                "with training.conditioning_dropout_prob > 0: set it to 1"
            )

    def network_calls(self) -> str:
        """In words, means over the start step: n calls a rollout from the noise, (n + 1) / 2 on
        average from a uniform start, min(K, what is left) trained; with guidance each is two."""
        kind = self.scheduler if isinstance(self.scheduler, str) else type(self.scheduler).__name__
        second_order = any(one in kind.lower() for one in ("heun", "dpm2"))
        n = self.num_inference_steps * (1 + second_order) - second_order
        left = range(n, 0, -1 - second_order) if self.start == "uniform" else [n]
        rolled = sum(left) / len(left) * self.discriminator_steps
        trained = sum(min(self.n_trained, one) for one in left) / len(left)
        both = 1 if self.guidance_scale == 1 else 2
        trained_rows = both if self.cfg_grad == "both" else 1
        kept = int(self.diffusion_weight > 0)
        guided = " (guidance: each is two)" if both == 2 else ""
        total = both * rolled + (trained_rows + 2 * trained_rows + (both - trained_rows)) * trained
        calls = f"{rolled:g} in rollouts and {trained:.3g} trained to a step{guided}"
        cost = f"as much as {(total + 3 * kept) / 3:.3g} plain steps, without the discriminator"
        return f"{calls}, {kept} for the denoising loss: {cost}"

    def set_up(self, denoiser: Denoiser, discriminator: Discriminator) -> None:
        """Whose path it is, and who judges; ValueError if it cannot be trained through."""
        self._eye = discriminator.eye
        words = self.schedule, denoiser.pair, self.num_inference_steps
        own = self.scheduler
        self.path = OneStepPath(*words) if own is None else SchedulerPath(own, *words)
        self.path.coefficients(0)  # here a sampler that is not linear is found out

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> ADTDraws:
        s, path = super().draw(batch, rng, step), self.path
        if rng.step == rng.micro == 0 and self.warmup_batches:
            n = self.warmup_batches
            self.news.append(f"the discriminator learns alone for the first {n} batches")
        n_before = rng.step - self.warmup_batches  # batches in which the model might have learned
        shared, start = rng.shared("path"), path.starts[0]
        if self.start == "uniform":
            start = path.starts[int(torch.randint(len(path.starts), (), generator=shared))]
        return ADTDraws(
            **vars(s),
            image=batch.get("image", s.x0),
            start=start,
            trained=trained_calls(range(start, path.n_calls), self.n_trained, self.trained, shared),
            noise=rng.normal("rollout", s.x0.shape[1:]).to(s.x0),
            seeds=[] if self.scheduler is None else rng.seeds("rollout steps"),
            looks=self._eye.draw(rng, s.x0),
            told=dict(batch.get("sampling_cond") or batch.get("cond") or {}),
            learns=n_before >= 0 and (n_before + 1) % self.discriminator_steps == 0,
        )

    def turns(self, nets: Mapping[str, Any], s: ADTDraws) -> Iterator[Turn]:
        denoiser, discriminator = nets["model"], nets["discriminator"]
        answer = self.guided(denoiser, s.told)
        x_end, inputs = self.rollout(denoiser, answer, s)
        maps, judged = self.judge(discriminator, x_end, s)
        if s.learns:
            with dropout_of(denoiser) as dropout:
                parts: list[Callable[[], Terms]] = []
                if self.diffusion_weight > 0:
                    parts.append(partial(self._diffusion, denoiser, dropout, s))
                if self.weight > 0:
                    parts += self._path_parts(denoiser, answer, dropout, inputs, judged, s)
                yield Turn("model", parts)
            self.balance.unwatch()
        yield Turn("discriminator", [partial(self._discriminate, discriminator, maps)])

    def guided(self, denoiser: Denoiser, told: dict[str, Any]) -> Answer:
        """The network's answer to (x_t, t), t (), with guidance, (B, *)."""
        w, null = self.guidance_scale, {}
        if w != 1.0 and not told:
            raise ValueError("guidance_scale needs a condition: classes or captions")
        if w != 1.0:
            everyone = torch.ones(len(tree_leaves(told)[0]), dtype=torch.bool)
            null = denoiser.drop_condition(told, everyone)

        def answer(x_t: Tensor, t: Tensor) -> Tensor:
            times = on_device(t, x_t.device).expand(len(x_t))
            conditional = denoiser(x_t, times, **told).output
            if w == 1.0:
                return conditional
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.cfg_grad == "both"):
                unconditional = denoiser(x_t, times, **null).output
            return unconditional + w * (conditional - unconditional)

        return answer

    @torch.no_grad()
    def rollout(
        self, denoiser: Denoiser, answer: Answer, s: ADTDraws
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """x_end (B, *), and what the network read at each trained call; float32, dropout off."""
        x_t = self.path.begin(s.start, precise(s.x0), precise(s.noise))
        walk, inputs = self.path.walk(s.start, x_t, s.generators), {}
        with dropout_of(denoiser) as dropout:
            dropout(False)
            for call in range(s.start, self.path.n_calls):
                if call in s.trained:
                    inputs[call] = walk.x_t
                walk.step(answer(walk.x_t, self.path.times[call]))
        return walk.x_t, inputs

    def judge(
        self, discriminator: Discriminator, x_end: Tensor, s: ADTDraws
    ) -> tuple[tuple[Maps, Maps, Maps], tuple[Tensor, Tensor]]:
        """Maps of the fake, of the real and of its partner under the fake's look, detached; the
        model's loss (B,) and g, its gradient by x_end (B, *), zero if the model takes no turn."""
        eye, (look_a, look_b) = discriminator.eye, s.looks
        partners = tree_map(lambda one: one.roll(1, 0), (s.x0, s.image, s.told))
        seen: list[tuple[Maps, Maps, Maps]] = []
        losses, slopes = [], []
        for first in range(0, len(x_end), self.rows_at_once):
            rows = slice(first, first + self.rows_at_once)
            a, b, told = _take(look_a, rows), _take(look_b, rows), _take(s.told, rows)
            with torch.no_grad():
                image = partner = eye.real(s.x0[rows], s.image[rows])
                partner_told = told
                if self.real_pair == "other":
                    *own, partner_told = _take(partners, rows)
                    partner = eye.real(*own)
                real, again = eye(image, b, told), eye(partner, a, partner_told)
            with torch.set_grad_enabled(s.learns):
                x = x_end[rows].detach().requires_grad_(s.learns)
                fake = eye(eye.prepare(x), a, told)
                loss = discriminator.generator_loss(fake, real, again)
            g = torch.autograd.grad(loss.sum(), x)[0] if s.learns else torch.zeros_like(x)
            slopes.append(g)
            losses.append(loss.detach())
            seen.append(([one.detach() for one in fake], real, again))
        each = (zip(*one, strict=True) for one in zip(*seen, strict=True))
        maps = tuple([torch.cat(parts) for parts in one] for one in each)
        return maps, (torch.cat(losses), torch.cat(slopes))  # pyright: ignore[reportReturnType]

    def _diffusion(self, denoiser: Denoiser, dropout: Callable[[bool], None], s: ADTDraws) -> Terms:
        self.balance.unwatch()  # of the micro-batch before
        dropout(True)
        terms = self.denoising(self.bind(denoiser, s)(s.x_t), s)
        return {name: self.diffusion_weight * term for name, term in terms.items()}

    def _path_parts(
        self,
        denoiser: Denoiser,
        answer: Answer,
        dropout: Callable[[bool], None],
        inputs: Mapping[int, Tensor],
        judged: tuple[Tensor, Tensor],
        s: ADTDraws,
    ) -> list[Callable[[], Terms]]:
        """One part for each trained call, the last call first: later inputs depend on earlier ones.

        Its value is the loss's share, its gradient that of w_k <g, o_k>.
        """
        loss, g = judged
        w = self.path.coefficients(s.start)
        total = self.path.weights(self.path_weight, s.start, denoiser.pair)
        later: list[tuple[int, Any, Any]] = []  # call, its input, the scale of its gradient

        def part(call: int) -> Terms:
            upstream = float(total[call - s.start]) * g
            x_t, unit = inputs[call], torch.ones(len(g), device=g.device, requires_grad=True)
            for after, x_after, scale in later:
                share = float(w[after - s.start, call - s.start])
                # the loop scales the loss; what it did to a number of known gradient tells by what
                upstream = upstream + share * x_after.grad / column(scale.grad, g)
            if self.input_grad:
                x_t = x_t.detach().requires_grad_()
                later.append((call, x_t, unit))
            if s.step % 10 == 0:
                self.balance.watch(denoiser, 3 * call // self.path.n_calls)
            dropout(False)  # on the way back too, where checkpointed blocks are computed again
            output = answer(x_t, self.path.times[call])
            slope = (upstream.detach() * output).flatten(1).sum(1)
            if self.input_grad:
                slope = slope + unit
            return {"adversarial": self.weight * (loss / len(inputs) + slope - slope.detach())}

        return [partial(part, call) for call in sorted(inputs, reverse=True)]

    def _discriminate(self, discriminator: Discriminator, maps: tuple[Maps, Maps, Maps]) -> Terms:
        terms, scores = discriminator.loss(*maps)
        self.balance.see(scores)
        self.news += self.balance.news()
        return terms

    def found(self) -> dict[str, float]:
        return self.balance.found()

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **self.balance.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.balance.load_state_dict(state)


def _take(value: Any, rows: slice) -> Any:
    return tree_map(lambda one: one[rows], value)
