r"""The oracle: a control that is told which training samples are dirty, and by how much noise.

    clean sample              mse(eps(x_t), eps)
    y = x0 + tau n, s > tau   mse(sqrt(1 - tau^2 / s^2) eps(x_t), eps'),
                              x_t = alpha (y + sqrt(s^2 - tau^2) eps'),  s = sigma / alpha
    y, s <= tau               nothing: it says nothing about x0 there

At noise above its own a dirty sample is as good as a clean one: x_t has noise s in all, of which
eps' is the known part, and E[eps' | x_t] = sqrt(1 - tau^2 / s^2) E[eps | x_t]. So the minimiser is
the denoiser of the clean data, at every level. No method that must not read the manifest can expect
to be better; it is what robust training is measured against.

Source: ours, after Ambient diffusion (Daras et al. 2024, "Consistent diffusion meets Tweedie").
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..randomness import StepRandom
from ..schedules import Schedule
from .base import Draws, Objective, Terms, Turn
from .times import Times


class Oracle(Objective):
    """Denoising with each sample at the noise levels above its own.

    Args:
        others_from: Dirty samples whose dirt is not Gaussian noise are used, as they are, at noise
            levels sigma/alpha from this one on, data units. None: not at all.

    Source: ours, see above.
    """

    def __init__(
        self,
        schedule: Schedule,
        times: Times | None = None,
        *,
        others_from: float | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schedule, times, **common)
        if others_from is not None and others_from <= 0:
            raise ValueError(f"others_from must be > 0, or null for never, got {others_from}")
        self.others_from = others_from
        self.noise: Tensor | None = None

    def told(self, noise: Tensor) -> None:
        """tau of every training sample by its index, (N,), in the model's units: 0 for clean ones,
        infinite for dirt of another kind."""
        self.noise = noise

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> Draws:
        if self.noise is None:
            raise ValueError("the oracle must be told which samples are dirty: call told(noise)")
        s = super().draw(batch, rng, step)
        tau = self.noise[batch["index"].cpu()].to(s.x0)
        if self.others_from is not None:
            used = tau.isinf() & ((s.sigma / s.alpha).flatten() >= self.others_from)
            tau = torch.where(used, 0.0, tau)
        s.carries(tau)
        return s

    def turns(self, nets: Mapping[str, Denoiser], s: Draws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)

        def part() -> Terms:
            terms = self.denoising(model(s.x_t), s)
            return {name: (s.gain > 0) * term for name, term in terms.items()}

        yield Turn("model", [part])
