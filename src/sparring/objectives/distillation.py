r"""Consistency distillation: a teacher's step says where the neighbour on the path lies.

    d( f(x_t, t), f_ema(x_s, s) ),    x_s one solver step of the teacher from x_t

with classifier-free guidance of the teacher on request; see `consistency` for the rest.

Source: Song et al. 2023 (CM), Luo et al. 2023 (LCM).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.guidance import guidance_dim, guidance_embedding
from ..diffusion.parametrization import Prediction, column
from ..diffusion.randomness import StepRandom
from ..diffusion.solver_steps import heun, step
from ..options.value_types import Count, NotNegative
from ..support.errors import UserError
from .base import RunFacts
from .consistency import Consistency, ConsistencyDraws
from .levels import KarrasLevels, SkippingLevels

GRIDS = {"karras": KarrasLevels, "skipping": SkippingLevels}


class ConsistencyDistillation(Consistency):
    r"""From a teacher: x_s is one step of its probability-flow ODE from x_t.

    Args:
        grid: "karras": neighbours on Karras' grid, see `levels.KarrasLevels`; "skipping": every
            k-th training time, see `levels.SkippingLevels`.
        n_levels: Gaps of the grid: 17 in CM, 50 in LCM.
        solver: "heun" (CM's), "ddim", or "euler": Euler's step of dy/dr = eps_hat, which for any
            schedule is DDIM's.
        guidance_low, guidance_high: The teacher's guidance scale is uniform between them, null +
            w (conditional - null); 1 and 1 is none. LCM's omega is w - 1.
        guidance_embedding: Tell the student the guidance scale through the network's
            `timestep_cond`, as LCM does; the network needs time_cond_proj_dim. None: in a run,
            unless only LoRA's weights learn.

    Source: Song et al. 2023, algorithm 2; with guidance Luo et al. 2023, eq. 14-16.
    """

    name = "consistency_distillation"
    needs_teacher = True
    defaults: ClassVar = {"weighting": "uniform", "target": "ema"}
    of_the_run: ClassVar = {"guidance_embedding": lambda run: not run.has_lora}

    def __init__(
        self,
        *args: Any,
        grid: Literal["karras", "skipping"] = "karras",
        n_levels: Count = 17,
        solver: Literal["heun", "ddim", "euler"] = "heun",
        guidance_low: NotNegative = 1.0,
        guidance_high: NotNegative = 1.0,
        guidance_embedding: bool | None = False,
        **rest: Any,
    ) -> None:
        if guidance_low > guidance_high:
            given = f"{guidance_low} and {guidance_high}"
            raise ValueError(f"guidance needs 0 <= guidance_low <= guidance_high, got {given}")
        super().__init__(*args, **{**ConsistencyDistillation.defaults, **rest})
        self.levels = GRIDS[grid](self.schedule, n_levels)
        self.solver, self.needs_guidance_input = solver, bool(guidance_embedding)
        self.guidance_low, self.guidance_high = guidance_low, guidance_high

    @property
    def guided(self) -> bool:
        """Whether the teacher's step has classifier-free guidance."""
        return (self.guidance_low, self.guidance_high) != (1, 1) or self.needs_guidance_input

    def check_run(self, run: RunFacts) -> None:
        if self.guided and run.has_condition is False:
            raise UserError(
                "objective.guidance_low and guidance_high need a text-to-image or class-"
                "conditional model: set both to 1, or take objective=consistency_distillation"
            )
        if self.needs_guidance_input and run.has_lora:
            why = "trains an input that LoRA does not reach"
            raise UserError(f"objective.guidance_embedding {why}: set it to false")

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> ConsistencyDraws:
        s = super().draw(batch, rng, step)
        if self.guided:
            if not s.condition:
                raise ValueError("guidance needs a condition: text or class labels")
            u = rng.uniform("guidance").to(s.x0)
            s.guidance = self.guidance_low + (self.guidance_high - self.guidance_low) * u
        return s

    @torch.no_grad()
    def neighbour(self, nets: Mapping[str, Denoiser], s: ConsistencyDraws) -> Tensor:
        """x_s, (B, *): the teacher's step, once for all passes."""
        at = partial(self.teach, nets["teacher"], s)
        prediction = at(s.t)(s.x_t)
        if self.solver == "heun":
            return heun(lambda x, t: at(t)(x), prediction, self.schedule, s.t_s)
        return step(prediction, s.alpha_s, s.sigma_s)

    def teach(
        self, teacher: Denoiser, s: ConsistencyDraws, t: Tensor
    ) -> Callable[[Tensor], Prediction]:
        """The teacher at times t with classifier-free guidance."""
        conditional = self.bind(teacher, s, t=t)
        if s.guidance is None:
            return conditional
        everyone = torch.ones(len(t), dtype=torch.bool, device=t.device)
        null = teacher.bind(t, teacher.drop_condition(s.condition, everyone))

        def guided(x: Tensor) -> Prediction:
            with_it, without = conditional(x), null(x)
            scale = column(s.guidance, x)  # pyright: ignore[reportArgumentType]
            output = without.output + scale * (with_it.output - without.output)
            return replace(with_it, output=output)

        return guided

    def told(self, denoiser: Denoiser, s: ConsistencyDraws) -> dict[str, Tensor]:
        """The guidance scale, where it is to be told."""
        if not self.needs_guidance_input or s.guidance is None:
            return {}
        dim = guidance_dim(denoiser.network)
        if dim is None:
            wanted = "a network with time_cond_proj_dim, see guidance.with_guidance_embedding"
            raise ValueError(f"guidance_embedding needs {wanted}")
        return {"timestep_cond": guidance_embedding(s.guidance, dim)}


class LatentConsistencyDistillation(ConsistencyDistillation):
    """LCM's settings, as in diffusers' training scripts (their w from 5 to 15 is this less 1).

    Source: Luo et al. 2023.
    """

    name = "latent_consistency_distillation"
    defaults: ClassVar = {
        "boundary": "lcm", "metric": "huber", "grid": "skipping", "n_levels": 50, "solver": "ddim",
        "guidance_low": 6.0, "guidance_high": 16.0, "guidance_embedding": None,
    }  # fmt: skip

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **{**LatentConsistencyDistillation.defaults, **rest})
