"""Data of known variances through their exact denoiser: the spectrum finds the scales again."""

import numpy as np
import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import schedule_from_config
from sparring.objectives import OBJECTIVES
from sparring.objectives.spectrum import Scales
from sparring.objectives.spectrum import _window as window_of

VP = schedule_from_config({"_class_name": "DDPMScheduler"})
SIGNAL = 0.577
N_STEPS, N_ELEMENTS = 60, 64 * 512  # per batch: few directions say little each


class Exact(nn.Module):
    """eps of N(0, diag(variances)): sigma x / (alpha^2 v + sigma^2)."""

    def __init__(self, variances):
        super().__init__()
        self.register_buffer("variances", variances)

    def forward(self, x, t):
        alpha, sigma = VP.at(t, like=x)
        return sigma * x / (alpha**2 * self.variances + sigma**2)


def trained_on(n_signal, n_noise, noise, n_steps=N_STEPS):
    """The objective after its plain steps on data with two scales."""
    return trained_on_variances([SIGNAL**2] * n_signal + [noise**2] * n_noise, n_steps)


def trained_on_variances(variances, n_steps=N_STEPS):
    variances = torch.tensor(variances)
    objective = OBJECTIVES["detail"](VP, start_step=n_steps)
    denoiser, batch = Denoiser(Exact(variances), VP, "eps"), N_ELEMENTS // len(variances)
    for step in range(n_steps):
        random = torch.Generator().manual_seed(step)
        x0 = variances.sqrt() * torch.randn(batch, len(variances), generator=random)
        rng = StepRandom(0, step, batch)
        (turn,) = objective.turns({"model": denoiser}, objective.draw({"x0": x0}, rng, step))
        assert set(turn.parts[0]()) == {"denoise"}
    return objective


@pytest.mark.parametrize(("n_signal", "n_noise"), [(2, 1), (2, 14), (2, 62)])
def test_noise_under_a_signal_is_found(n_signal, n_noise):
    objective = trained_on(n_signal, n_noise, 0.1)
    scales = objective.spectrum.scales(n_signal + n_noise, lam=10.0)
    assert scales.noise == pytest.approx(0.1, rel=0.2)
    assert objective.scales(n_signal + n_noise) == (scales.noise, scales.window)
    assert objective.found() == {"noise_scale": scales.noise, "window": scales.window}
    assert f"standard deviation {scales.noise:.3g}" in objective.news[0]


@pytest.mark.parametrize(
    ("n_noise", "noise", "expected"),
    [(1, 0.1, 0.1), (14, 0.1, 0.178), (62, 0.1, 0.189), (14, 0.05, 0.1)],
)
def test_the_window_ends_where_r_takes_a_tenth_of_the_signal(n_noise, noise, expected):
    """lam d K^2 / (d_n - 2) = 0.1, K = s^2 / (s^2 + v); at least the noise, at most twice that."""
    n, lam = 2 + n_noise, 10.0
    scales = trained_on(2, n_noise, noise).spectrum.scales(n, lam)
    assert scales.window == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("n_noise", [4, 14, 62])
def test_the_price_is_omegas_share_of_the_signal(n_noise):
    """1 / (1 + lam d p): p measured on random directions after a power iteration."""
    n, lam = 2 + n_noise, 10.0
    s = window_of(0.1, np.array([SIGNAL**2]), np.ones(1), n_noise, lam * n)
    assert 0.1 < s < 0.2
    z = torch.randn(400_000, n, generator=torch.Generator().manual_seed(0))
    z[:, :2] *= s**2 / (s**2 + SIGNAL**2)
    share = (z[:, :2] ** 2).mean(1) / (z**2).sum(1)
    assert lam * n * float(share.mean()) == pytest.approx(0.1, rel=0.07)


def test_without_the_regulariser_the_window_is_the_noise():
    scales = trained_on(2, 14, 0.1).spectrum.scales(16, lam=0.0)
    assert scales.window == scales.noise


def test_the_loss_per_noise_level_is_the_exact_denoisers():
    s, d, rows = trained_on(2, 14, 0.1).spectrum.loss()
    expected = (2 * SIGNAL**2 / (SIGNAL**2 + s**2) + 14 * 0.01 / (0.01 + s**2)) / 16
    n_seen = N_ELEMENTS / 16 * N_STEPS / 2  # the second half of the steps
    assert 0.5 * n_seen < rows.sum() < n_seen
    error = (d / expected - 1) * rows**0.5  # each row has 16 elements
    assert (error**2).mean() ** 0.5 < 1.0
    assert abs((rows * (d / expected - 1)).sum() / rows.sum()) < 0.02


@pytest.mark.parametrize(("n_signal", "n_noise", "noise"), [(2, 1, 1e-4), (0, 2, 0.1), (3, 0, 0.1)])
def test_without_a_peak_under_a_signal_training_stays_plain(n_signal, n_noise, noise):
    """A manifold without noise; one mode of any width, which is all there is in the data."""
    objective = trained_on(n_signal, n_noise, noise)
    n = n_signal + n_noise
    assert objective.scales(n) == (0, 0)
    assert "stays plain" in objective.news[0]
    denoiser = Denoiser(Exact(torch.ones(n)), VP, "eps")
    s = objective.draw({"x0": torch.randn(8, n)}, StepRandom(0, N_STEPS, 8), N_STEPS)
    plain = OBJECTIVES["plain"](VP).draw({"x0": s.x0}, StepRandom(0, N_STEPS, 8), N_STEPS)
    (turn,) = objective.turns({"model": denoiser}, s)
    (same,) = OBJECTIVES["plain"](VP).turns({"model": denoiser}, plain)
    assert turn.parts[0]().keys() == {"denoise"}
    assert torch.equal(turn.parts[0]()["denoise"], same.parts[0]()["denoise"])


def test_data_that_vary_at_every_scale_have_no_noise():
    """As clean images do."""
    objective = trained_on_variances((torch.logspace(-1.7, 0.3, 64) ** 2).tolist())
    assert objective.scales(64) == (0, 0)


def test_it_warns_where_the_noise_covers_the_signal():
    assert "WARNING" in Scales(0.4, 0.6, 0.4).in_words()
    assert "WARNING" not in Scales(0.1, 0.6, 0.1).in_words()


def test_the_spectrum_survives_a_restart():
    objective = trained_on(2, 14, 0.1)
    again = OBJECTIVES["detail"](VP, start_step=N_STEPS)
    again.load_state_dict(objective.state_dict())
    assert again.scales(16) == objective.scales(16)
    assert min(again.scales(16)) > 0


def test_auto_says_what_it_needs():
    with pytest.raises(ValueError, match="set start_step"):
        OBJECTIVES["detail"](VP, start_step=0)
    with pytest.raises(ValueError, match="noise must be a number or auto"):
        OBJECTIVES["detail"](VP, noise="much")
    with pytest.raises(ValueError, match="set window, or noise"):
        OBJECTIVES["detail"](VP, noise=None)
    objective = trained_on(10, 4000, 0.1, n_steps=2)
    assert objective.scales(4010) == (0, 0)
    assert "too few plain steps" in objective.news[0]
