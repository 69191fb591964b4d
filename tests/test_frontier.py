"""Exact denoisers of benchmarks/frontier.py: how far the data themselves let a sample be pushed."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import VPSchedule
from sparring.models.model import Model
from sparring.sampling.sample import sample
from sparring.sampling.trajectory_attacks import Attack, TrajectoryAttack

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import frontier  # type: ignore

N_STEPS, CALL, RADIUS = 5, 2, 0.1


@pytest.fixture
def schedule() -> VPSchedule:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return VPSchedule((1 - betas).cumprod(0))


def at(schedule, t, n):
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = schedule.at(torch.tensor([t]), like=x)
    return x, alpha.item(), sigma.item()


def test_the_mean_of_two_images_is_weighed_by_their_likelihood(schedule):
    images = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.5]], dtype=torch.float64)
    x, alpha, sigma = at(schedule, 400, 4)
    found = frontier.Empirical(schedule, images)(x, torch.tensor([400]))
    likelihood = torch.stack([
        torch.distributions.Normal(alpha * image, sigma).log_prob(x).sum(1).exp()
        for image in images
    ])  # fmt: skip
    expected = (likelihood / likelihood.sum(0)).T @ images
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_many_images_of_a_normal_law_are_that_law(schedule):
    spread = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)
    images = 0.3 + spread * torch.randn(
        200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    x, alpha, sigma = at(schedule, 600, 50)
    x = alpha * 0.3 + (alpha**2 * spread**2 + sigma**2).sqrt() * x
    t = torch.tensor([600])
    many = frontier.Empirical(schedule, images)(x, t)
    law = frontier.GaussianTruth(schedule, torch.full((3,), 0.3), spread.square().diag())(x, t)
    torch.testing.assert_close(many, law, rtol=0, atol=0.02)


@pytest.mark.parametrize("units", ["noise", "sample"])
def test_an_attack_on_a_normal_law_reaches_the_largest_gain_and_no_more(schedule, units):
    """x -> sample is linear: a move of call k is stretched by the product of the later gains."""
    variance = torch.tensor([0.5, 0.02, 0.001], dtype=torch.float64)
    network = frontier.GaussianTruth(schedule, torch.zeros(3), variance.diag())
    model = Model.around(Denoiser(network, schedule, "x0"), (3,))
    words = {"num_inference_steps": N_STEPS, "scheduler": "ddim", "clip_sample": False}
    states: list = []

    def watch(steps, call, x):
        states.append((steps, call))
        return x

    clean = sample(model, 8, move=watch, **words)
    steps = states[0][0]
    levels = [tuple(one.item() for one in schedule.at(t[None], like=clean)) for t in steps.times]
    levels.append((1.0, 0.0))
    gain = torch.ones(3, dtype=torch.float64)
    for (alpha, sigma), (alpha_next, sigma_next) in pairwise(levels[CALL:]):
        to_x0 = alpha * variance / (alpha**2 * variance + sigma**2)
        gain *= alpha_next * to_x0 + sigma_next * (1 - alpha * to_x0) / sigma
    words |= {"move": TrajectoryAttack(Attack(
        RADIUS, norm="l2", units=units, where=(CALL,), n_attack_steps=30, n_path_steps=None, seed=0
    ))}  # fmt: skip
    attacked = sample(model, 8, **words)
    shift = (attacked - clean).double().square().mean(1).sqrt()
    bound = gain.abs().max().item() * RADIUS * (levels[CALL][1] if units == "noise" else 1.0)
    assert shift.max() <= bound * 1.001
    assert shift.min() >= bound * 0.97


def test_rows_are_kept_one_by_one_and_not_measured_again(tmp_path):
    """What is planned, less what is there; a screen plans less of the same rows."""
    raw = {
        "data": {"digits": {"config": "digits.yaml", "words": []}},
        "questions": {
            "attack": {
                "data": ["digits"], "seeds": [0], "methods": {"plain": {"words": []}},
                "measure": {"n_samples": 9, "steps": [10], "radii": [0.1, 0.2],
                            "attacks": {"features": {}, "random": {}}},
                "screen": {"radii": [0.1], "attacks": {"features": {}}},
            }
        },
    }  # fmt: skip
    (cell,) = frontier.Table(raw, tmp_path).cells("plain$", None)
    (screen,) = frontier.Table(raw, tmp_path, screens=True).cells("plain$", None)
    assert [(what["attack"], what["radius"]) for what in cell.planned] == [
        (None, None), ("features", 0.1), ("features", 0.2), ("random", 0.1), ("random", 0.2),
    ]  # fmt: skip
    told = {"question": "attack", "data": "digits", "method": "plain", "setting": "", "seed": 0}
    rows = [told | {"n_samples": 9} | what for what in screen.planned]
    cell.measured.parent.mkdir(parents=True)
    frontier.write_rows(cell.measured, rows)
    frontier.keep(tmp_path / "all.json", [cell])
    kept = frontier.read_rows(tmp_path / "all.json")
    assert screen.left(kept) == []
    assert cell.left(kept) == cell.planned[2:]
