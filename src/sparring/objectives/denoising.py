r"""The baselines that users know: plain denoising, DDPM-IP and the scheduled pseudo-Huber loss.

    plain               mse(eps(x_t), eps)
    input_perturbation  mse(eps(x_t + sigma gamma xi), eps),  xi normal     (target not corrected)
    huber               2 c_t (sqrt(mse-like d^2 + c_t^2) - c_t), d = eps(x_t) - eps

stated for eps; the loss is on the network's own output, whatever it predicts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.noising import per_sample_mean
from ..diffusion.parametrization import column
from ..diffusion.randomness import StepRandom
from ..options.value_types import NotNegative, Positive
from .base import Draws, Objective, Terms, Turn


class Plain(Objective):
    """Denoising, mse(output, a x0 + b eps), with min-SNR weighting on request.

    Source: Ho et al. 2020, eq. 14; Hang et al. 2023 for `snr_gamma`.
    """

    name = "plain"

    def turns(self, nets: Mapping[str, Denoiser], s: Draws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)
        yield Turn("model", [lambda: self.denoising(model(s.x_t), s)])


@dataclass(kw_only=True)
class InputPerturbationDraws(Draws):
    """With the random perturbation omega, noise units, (B, *)."""

    omega: Tensor


class InputPerturbation(Objective):
    """DDPM-IP: the input carries more noise than the target says.

    Args:
        gamma: Standard deviation of the extra noise, noise units; 0.1 in the paper. diffusers calls
            it `--input_perturbation`.

    Source: Ning et al. 2023 (arXiv 2301.11706), algorithm 1.
    """

    name = "input_perturbation"

    def __init__(self, *args: Any, gamma: NotNegative = 0.1, **common: Any) -> None:
        super().__init__(*args, **common)
        self.gamma = gamma

    def draw(self, batch: Mapping[str, Any], rng: StepRandom, step: int) -> InputPerturbationDraws:
        s = super().draw(batch, rng, step)
        omega = self.gamma * rng.normal("omega", s.x0.shape[1:]).to(s.x0)
        return InputPerturbationDraws(**vars(s), omega=omega)

    def turns(self, nets: Mapping[str, Denoiser], s: InputPerturbationDraws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)
        yield Turn("model", [lambda: self.denoising(model(s.x_t + s.sigma * s.omega), s)])


class Huber(Objective):
    r"""Scheduled pseudo-Huber: quadratic near zero, linear for outliers, more so at high noise.

    loss_type "huber":      2 c (sqrt(d^2 + c^2) - c)
              "smooth_l1":  2 (sqrt(d^2 + c^2) - c)
    c by huber_schedule, times huber_scale except for "snr":
        "snr":          c = (1 - huber_c) / (1 + sigma/alpha)^2 + huber_c
        "exponential":  c = huber_c ^ (t / T)
        "constant":     c = huber_c

    Args:
        huber_c: Threshold at the noisy end, in the output's units.
        huber_schedule: One of the three above.
        loss_type: One of the two above.
        huber_scale: Factor of c ("exponential" and "constant").

    Source: Khrapov et al. 2024 (arXiv 2403.16728), eq. 12; names as in sd-scripts.
    """

    name = "huber"

    def __init__(
        self,
        *args: Any,
        huber_c: Positive = 0.1,
        huber_schedule: Literal["snr", "exponential", "constant"] = "snr",
        loss_type: Literal["huber", "smooth_l1"] = "huber",
        huber_scale: Positive = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        self.huber_c, self.huber_schedule = huber_c, huber_schedule
        self.loss_type, self.huber_scale = loss_type, huber_scale

    def threshold(self, s: Draws) -> Tensor:
        """c at the drawn times, (B,)."""
        if self.huber_schedule == "snr":
            ratio = (s.sigma / s.alpha).flatten()
            return (1 - self.huber_c) / (1 + ratio) ** 2 + self.huber_c
        share = s.t.to(s.x0.dtype) / self.schedule.n_train_timesteps
        exponent = share if self.huber_schedule == "exponential" else torch.ones_like(share)
        return self.huber_scale * self.huber_c**exponent

    def turns(self, nets: Mapping[str, Denoiser], s: Draws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)

        def part() -> Terms:
            prediction = model(s.x_t)
            if prediction.variance is not None:
                raise ValueError("huber has no variational bound: take a model without variance")
            c = self.threshold(s)
            d = prediction.output - prediction.target(s.x0, s.eps)
            loss = per_sample_mean((d**2 + column(c, d) ** 2).sqrt() - column(c, d))
            loss = 2 * (c * loss if self.loss_type == "huber" else loss)
            self.times.update(s.t, loss)
            return {"denoise": s.weight * self.snr_weight(prediction) * loss}

        yield Turn("model", [part])
