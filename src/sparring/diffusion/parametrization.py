r"""A parametrisation is two numbers.

The noisy sample is x_t = alpha x0 + sigma eps. Whatever a network predicts is a linear combination
of the same two unknowns,

    output = a x0 + b eps,

so that (x_t, output) and (x0, eps) are related by a 2x2 system. Solved once, here:

    x0  = (sigma output - b x_t) / det,
    eps = (a x_t - alpha output) / det,        det = a sigma - b alpha.

No other file asks "eps or v?".
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Tensor | float, Tensor | float]

KINDS: dict[str, Callable[[Tensor, Tensor], Pair]] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "x0": lambda alpha, sigma: (1.0, 0.0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "flow": lambda alpha, sigma: (-1.0, 1.0),
}  # name -> (a, b). v: Salimans & Ho 2022; flow: eps - x0, as in SD3 (rectified flow).

DIFFUSERS_KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
"""diffusers' word for `prediction_type` -> ours."""


def edm_pair(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Pair:
    r"""The two numbers of EDM preconditioning, where x0 = c_skip x_t + c_out output.

    a = (1 - c_skip alpha) / c_out,    b = -c_skip sigma / c_out,
    c_skip = sigma_data^2 / (sigma^2 + sigma_data^2),
    c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2).

    Source: Karras et al. 2022, table 1.
    """
    variance = sigma**2 + sigma_data**2
    c_skip = sigma_data**2 / variance
    c_out = sigma * sigma_data / variance.sqrt()
    return (1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out


def column(values: Tensor | float, like: Tensor) -> Tensor:
    """Per-sample values (B,), or one number, shaped to multiply `like` of shape (B, *)."""
    values = torch.as_tensor(values, device=like.device)
    ones = (1,) * (like.ndim - values.ndim) if values.ndim else ()
    return values.reshape(values.shape + ones)


@dataclass(frozen=True)
class Prediction:
    """What a network says about x_t, in whichever words are asked for."""

    x_t: Tensor  # noisy sample, (B, *)
    output: Tensor  # the network's, (B, *), equal to a x0 + b eps
    alpha: Tensor  # of x_t = alpha x0 + sigma eps, (B, 1, ...)
    sigma: Tensor
    a: Tensor | float  # the parametrisation's two numbers, (B, 1, ...) or numbers
    b: Tensor | float
    variance: Tensor | None = None  # learned range (Nichol & Dhariwal 2021), in about [-1, 1]

    def __getitem__(self, rows: slice) -> "Prediction":
        """What it says about some of the rows."""
        values = vars(self).items()
        return Prediction(
            **{name: value[rows] if isinstance(value, Tensor) else value for name, value in values}
        )

    @property
    def x0(self) -> Tensor:
        """The estimate of the data, (B, *)."""
        return (self.sigma * self.output - self.b * self.x_t) / self._det

    @property
    def eps(self) -> Tensor:
        """The estimate of the unit noise, (B, *)."""
        return (self.a * self.x_t - self.alpha * self.output) / self._det

    @property
    def v(self) -> Tensor:
        """The estimate of v = alpha eps - sigma x0, (B, *)."""
        return self.to("v")

    @property
    def flow(self) -> Tensor:
        """The estimate of eps - x0, (B, *)."""
        return self.to("flow")

    def to(self, kind: str) -> Tensor:
        """The same estimate as a network of another kind would state it, (B, *)."""
        a, b = KINDS[kind](self.alpha, self.sigma)
        return a * self.x0 + b * self.eps

    def target(self, x0: Tensor, eps: Tensor) -> Tensor:
        """What `output` would be for a perfect network: a x0 + b eps, (B, *)."""
        return self.a * x0 + self.b * eps

    @property
    def _det(self) -> Tensor | float:
        return self.a * self.sigma - self.b * self.alpha
