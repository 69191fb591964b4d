"""The oracle's minimiser on dirty data is the denoiser of the clean data, at every noise level."""

import pytest
import torch

from sparring.data.base import ModelRange
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.data.dirt.manifest import manifest, noise_of
from sparring.denoiser import Denoiser
from sparring.errors import UserError
from sparring.objectives import OBJECTIVES
from sparring.randomness import StepRandom
from support import CASES, SCHEDULES, AtRatio, LinearEps

S, TAU, N = 0.5, 0.3, 40_000


@pytest.mark.parametrize("ratio", [0.1, 0.4, 1.0, 5.0])
def test_dirty_data_teach_the_clean_denoiser(ratio):
    """eps_hat = k x: the best k is sigma / (alpha^2 S^2 + sigma^2), S without the noise."""
    vp = SCHEDULES["vp"]()
    objective = OBJECTIVES["oracle"](vp, AtRatio(vp, ratio))
    random = torch.Generator().manual_seed(0)
    dirty = torch.arange(N) % 10 > 0
    x0 = S * torch.randn(N, 1, generator=random, dtype=torch.float64)
    x0 += TAU * dirty[:, None] * torch.randn(N, 1, generator=random, dtype=torch.float64)
    objective.told(TAU * dirty)
    batch = {"x0": x0, "index": torch.arange(N)}
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
    batch = {"x0": torch.randn(16, 3, dtype=torch.float64), "index": torch.arange(16)}
    values = []
    for objective in (OBJECTIVES["oracle"](schedule), OBJECTIVES["plain"](schedule)):
        if hasattr(objective, "told"):
            objective.told(torch.zeros(16))
        s = objective.draw(batch, StepRandom(0, 0, 16, dtype=torch.float64), 0)
        (turn,) = objective.turns({"model": denoiser}, s)
        values.append(turn.parts[0]()["denoise"])
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-9)


def test_what_it_is_told_is_what_was_done():
    digits = build_dataset("digits", split="train")
    dirty = contaminate(digits, {"kind": "gaussian", "rate": 0.5, "sigma": 0.2, "clip": False})
    noise = noise_of(ModelRange(dirty))
    assert torch.equal(noise > 0, dirty.dirty)
    assert noise.max() == pytest.approx(0.4)  # [-1, 1]
    difference = (ModelRange(dirty).read_all()["x0"] - ModelRange(digits).read_all()["x0"]) ** 2
    assert difference[dirty.dirty].mean() ** 0.5 == pytest.approx(0.4, rel=0.02)
    assert noise_of(contaminate(digits, {"kind": "blur", "rate": 0.1})).max() == torch.inf
    assert not noise_of(digits).any()


def test_it_is_told_each_samples_own_noise_and_what_has_no_size_is_refused():
    digits = build_dataset("digits", split="held_out")
    parts = [{"kind": "gaussian", "sigma": [0.05, 0.35]}, {"kind": "correlated"}]
    words = {"kind": "mixture", "parts": parts, "rate": 0.6}
    dirty = contaminate(digits, {**words, "clip": False})
    noise, record = noise_of(ModelRange(dirty)), manifest(dirty)
    assert len(record) == 178
    for entry in record:
        expected = 2 * entry["sigma"] if entry["kind"] == "gaussian" else torch.inf
        assert noise[entry["index"]] == pytest.approx(expected)
    assert int((noise > 0).sum()) == 178
    with pytest.raises(UserError, match=r"clipped to 8 bits .* set contamination.clip=false"):
        noise_of(contaminate(digits, words))


def test_other_dirt_is_left_out_or_used_from_a_level_on():
    vp = SCHEDULES["vp"]()
    batch = {"x0": torch.randn(400, 2), "index": torch.arange(400)}
    for others_from in (None, 1.0):
        objective = OBJECTIVES["oracle"](vp, others_from=others_from)
        objective.told(torch.full((400,), torch.inf))
        s = objective.draw(batch, StepRandom(0, 0, 400), 0)
        used = (s.sigma / s.alpha).flatten() >= 1.0 if others_from else torch.zeros(400).bool()
        assert torch.equal(s.gain > 0, used)
        network = LinearEps(torch.eye(2))
        (turn,) = objective.turns({"model": Denoiser(network, vp, "eps")}, s)
        assert torch.equal(turn.parts[0]()["denoise"] > 0, used)
    with pytest.raises(ValueError, match="must be told"):
        OBJECTIVES["oracle"](vp).draw(batch, StepRandom(0, 0, 400), 0)
