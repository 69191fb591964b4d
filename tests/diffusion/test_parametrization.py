import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.noising import add_noise, mse
from sparring.diffusion.parametrization import KINDS, Prediction, column
from support import CASES, SCHEDULES


def _draw(schedule, n=64):
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, n, 3, 4, generator=g, dtype=torch.float64)
    t = schedule.times(torch.rand(n, generator=g))
    alpha, sigma = schedule.at(t, like=x0)
    return x0, eps, t, alpha, sigma


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_round_trip_is_exact(name, kind):
    """A perfect network of any kind tells x0 and eps, and every other kind's output."""
    schedule = SCHEDULES[name]()
    x0, eps, _, alpha, sigma = _draw(schedule)
    a, b = Denoiser(nn.Identity(), schedule, kind).pair(alpha, sigma)
    x_t = add_noise(x0, eps, alpha, sigma)
    prediction = Prediction(x_t, a * x0 + b * eps, alpha, sigma, a, b)
    # EDM's sigma reaches 80: there x_t holds x0 to a relative 1e-2, so the tolerance scales
    scale = 1 + (sigma / alpha) ** 2
    assert ((prediction.x0 - x0).abs() / scale).max() < 1e-12
    assert ((prediction.eps - eps).abs() / (1 + alpha / sigma) ** 2).max() < 1e-12
    torch.testing.assert_close(
        prediction.target(x0, eps), prediction.output, rtol=1e-12, atol=1e-12
    )
    for other, two in KINDS.items():
        a2, b2 = two(alpha, sigma)
        expected = a2 * x0 + b2 * eps
        error = (prediction.to(other) - expected).abs() / (scale * (1 + alpha / sigma) ** 2)
        assert error.max() < 1e-12


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_equivariance_of_eps_is_invariance_of_x0(name, kind):
    """||eps(x_t + sigma w) - eps(x_t) - w||^2 = (alpha/sigma)^2 ||x0(x_t + sigma w) - x0(x_t)||^2,
    for any network at all."""
    schedule = SCHEDULES[name]()
    x0, eps, t, alpha, sigma = _draw(schedule)
    torch.manual_seed(0)
    network = _Field().double()
    denoiser = Denoiser(network, schedule, kind)
    x_t, omega = add_noise(x0, eps, alpha, sigma), 0.1 * torch.randn_like(x0)
    clean, moved = denoiser(x_t, t), denoiser(x_t + sigma * omega, t)
    left = mse(moved.eps, clean.eps + omega)
    right = ((alpha / sigma).flatten() ** 2) * mse(moved.x0, clean.x0)
    assert left.max() > 1e-6
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-12)


def test_edm_preconditioning_is_karras_table_1():
    schedule = SCHEDULES["edm"]()
    _, _, t, alpha, sigma = _draw(schedule)
    a, b = Denoiser(nn.Identity(), schedule, "edm").pair(alpha, sigma)
    output, x_t = torch.randn(2, *sigma.shape, dtype=torch.float64)
    c_skip = 0.25 / (sigma**2 + 0.25)
    c_out = 0.5 * sigma / (sigma**2 + 0.25).sqrt()
    prediction = Prediction(x_t, output, alpha, sigma, a, b)
    torch.testing.assert_close(prediction.x0, c_skip * x_t + c_out * output)
    torch.testing.assert_close(sigma.flatten(), (4 * t).exp())


def test_column_shapes_per_sample_values():
    assert column(torch.arange(3), torch.zeros(3, 2, 2)).shape == (3, 1, 1)
    assert column(0.5, torch.zeros(3, 2)).ndim == 0


class _Field(nn.Module):
    """A smooth random function of (x, t)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(12, 12)

    def forward(self, x, t):
        return torch.tanh(self.mix(x.flatten(1))).reshape(x.shape) + 0.3 * x
