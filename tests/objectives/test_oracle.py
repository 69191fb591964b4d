"""The oracle's minimiser on dirty data is the denoiser of the clean data, at every noise level."""

import pytest
import torch

from sparring.data.trust.trust import Trust
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.objectives import OBJECTIVES
from support import CASES, SCHEDULES, AtRatio, LinearEps

S, TAU, N = 0.5, 0.3, 40_000


def told(sigma):
    """White noise of these standard deviations, (B,)."""
    zero = torch.zeros(len(sigma))
    return Trust(sigma.float(), zero, zero, zero > 0, zero, zero + 1)


@pytest.mark.parametrize("ratio", [0.1, 0.4, 1.0, 5.0])
def test_dirty_data_teach_the_clean_denoiser(ratio):
    """eps_hat = k x: the best k is sigma / (alpha^2 S^2 + sigma^2), S without the noise."""
    vp = SCHEDULES["vp"]()
    objective = OBJECTIVES["oracle"](vp, AtRatio(vp, ratio))
    random = torch.Generator().manual_seed(0)
    dirty = torch.arange(N) % 10 > 0
    x0 = S * torch.randn(N, 1, generator=random, dtype=torch.float64)
    x0 += TAU * dirty[:, None] * torch.randn(N, 1, generator=random, dtype=torch.float64)
    batch = {"x0": x0, "trust": told(TAU * dirty)}
    s = objective.draw(batch, StepRandom(0, 0, N, dtype=torch.float64), 0)
    k = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    network = LinearEps(torch.zeros(1, 1, dtype=torch.float64))
    del network.weight
    network.weight = k
    (turn,) = objective.turns({"model": Denoiser(network, vp, "eps")}, s)
    loss = turn.parts[0]()["denoise"].mean()  # a quadratic in k
    (slope,) = torch.autograd.grad(loss, k, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), k)
    alpha, sigma = float(s.alpha[0]), float(s.sigma[0])
    best = -(slope / curvature).item()
    n_used = N / 10 if sigma / alpha < TAU else N
    assert best == pytest.approx(sigma / (alpha**2 * S**2 + sigma**2), rel=6 / n_used**0.5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_told_that_all_is_clean_it_is_plain(name, kind):
    schedule = SCHEDULES[name]()
    torch.manual_seed(0)
    denoiser = Denoiser(LinearEps(torch.randn(3, 3, dtype=torch.float64)), schedule, kind)
    batch = {"x0": torch.randn(16, 3, dtype=torch.float64)}
    values = []
    for name, trust in (("oracle", {"trust": told(torch.zeros(16))}), ("plain", {})):
        objective = OBJECTIVES[name](schedule)
        s = objective.draw({**batch, **trust}, StepRandom(0, 0, 16, dtype=torch.float64), 0)
        (turn,) = objective.turns({"model": denoiser}, s)
        values.append(turn.parts[0]()["denoise"])
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-9)


def test_it_does_not_train_untold():
    with pytest.raises(ValueError, match="must be told"):
        OBJECTIVES["oracle"](SCHEDULES["vp"]()).draw(
            {"x0": torch.randn(4, 2)}, StepRandom(0, 0, 4), 0
        )
