"""Sampling, cleaning, attacks and diagnostics on a device without float64."""

from typing import Any

import pytest
import torch

from narrow_device import DEVICE, moved, narrow_device
from sparring.diffusion.denoiser import Denoiser
from sparring.evaluation.studies.diagnostics import diagnostics
from sparring.models.networks import MLP
from sparring.models.pretrained import Model
from sparring.sampling.clean import clean
from sparring.sampling.sample import sample
from sparring.sampling.samplers import names
from sparring.sampling.schedulers import families_of
from sparring.sampling.trajectory_attacks import Attack, TrajectoryAttack
from support import SCHEDULES

KINDS = {"vp": "v", "flow": "flow", "edm": "edm"}
CASES = [
    (family, name) for name in names() for family in families_of(name) if name != "consistency"
]


def model(family: str, boundary: str | None = None) -> Model:
    torch.manual_seed(0)
    denoiser = Denoiser(MLP(3, 16, 1), SCHEDULES[family](), KINDS[family], boundary=boundary)
    return Model.around(denoiser.eval(), (3,))


def both(family: str, function: Any, boundary: str | None = None) -> tuple[Any, Any]:
    """What a function of a model gives on the CPU and on the device."""
    expected = function(model(family, boundary))
    with narrow_device():
        there = model(family, boundary)
        moved(there.denoiser)
        found = function(there)
    return expected, found


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_sampler(family: str, name: str) -> None:
    expected, found = both(
        family, lambda one: sample(one, 3, scheduler=name, num_inference_steps=6)
    )
    assert found.device == DEVICE
    near(found, expected)


@pytest.mark.parametrize("family", ["vp", "flow", "edm"])
def test_a_consistency_model(family: str) -> None:
    expected, found = both(
        family,
        lambda one: sample(one, 3, scheduler="consistency", num_inference_steps=3),
        boundary="ddim",
    )
    near(found, expected)


@pytest.mark.parametrize("family", ["vp", "flow", "edm"])
def test_cleaning(family: str) -> None:
    y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected, found = both(family, lambda one: clean(one, y, 0.4, n_steps=3, eta=0.5, purify=0.6))
    near(found, expected)


@pytest.mark.parametrize("family", ["vp", "flow", "edm"])
def test_an_attack_on_the_path(family: str) -> None:
    expected, found = both(
        family,
        lambda one: sample(
            one, 3, num_inference_steps=4,
            move=TrajectoryAttack(Attack(radius=0.2, kind="pgd", n_attack_steps=2)),
        ),
    )  # fmt: skip
    near(found, expected)


@pytest.mark.parametrize("family", ["vp", "flow", "edm"])
def test_diagnostics(family: str) -> None:
    x0 = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def look(one: Model) -> Any:
        device = next(one.denoiser.parameters()).device
        return diagnostics(one.denoiser, x0.to(device), n_times=3, n_path_steps=4)

    expected, found = both(family, look)
    for here, there in zip(expected["times"], found["times"], strict=True):
        assert list(there) == list(here)
        for key in ("t", "alpha", "sigma", "equivariance_error", "lipschitz"):
            assert there[key] == pytest.approx(here[key], rel=1e-2)
    assert found["straightness"] == pytest.approx(expected["straightness"], rel=1e-2)
