"""A training step of each objective on a device without float64: it runs, and to the same loss."""

import copy
from typing import Any

import pytest
import torch
from test_adt import discriminator
from test_identities import AT_WORK, METHODS
from torch import Tensor, nn

from narrow_device import DEVICE, Narrow, TooWide, moved, narrow_device
from sparring.data.trust.trust import Trust
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.models.networks import MLP
from sparring.objectives import ADT, OBJECTIVES
from support import SCHEDULES, tiny_unet

ROWS = 8
CASES = [("vp", "v", one) for one in METHODS] + [
    (schedule, kind, one)
    for schedule, kind in (("flow", "flow"), ("edm", "edm"))
    for one in ("plain", "detail", "consistency_training", "easy_consistency_tuning")
]


def step(
    objective: Any, nets: dict[str, Any], batch: dict[str, Any], device: torch.device
) -> dict[str, float]:
    """The mean of each term of a step, after its backward passes and the players' updates."""
    players = {
        name: torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
        for name, net in nets.items()
        if name in ("model", "discriminator")
    }
    rng = StepRandom(0, 3, ROWS, device=device)
    found = {}
    for turn in objective.turns(nets, objective.draw(batch, rng, 3)):
        for part in turn.parts:
            terms = part()
            torch.stack(list(terms.values())).sum(0).mean().backward()
            for name, term in terms.items():
                found[name] = found.get(name, 0.0) + term.detach().mean().item()
        players[turn.player].step()
    return found


def others(objective: Any, denoiser: Denoiser) -> dict[str, Denoiser]:
    roles = ["ema"] * objective.needs_ema + ["teacher"] * objective.needs_teacher
    return {role: copy.deepcopy(denoiser).requires_grad_(False).eval() for role in roles}


def on(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    there = {"x0": batch["x0"].to(device)}
    if "trust" in batch:
        there["trust"] = Trust(*(None if one is None else one.to(device) for one in batch["trust"]))
    return there


def check(make: Any, batch: dict[str, Any]) -> None:
    """The same step on the CPU and on the device."""
    objective, nets = make()
    expected = step(objective, nets, batch, torch.device("cpu"))
    objective, nets = make()
    with narrow_device() as device:
        for net in nets.values():
            moved(net)
        found = step(objective, nets, on(device, batch), device)
    assert isinstance(next(nets["model"].parameters()).grad, Narrow)
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(("schedule", "kind", "method"), CASES)
def test_a_step_needs_no_float64_on_the_device(schedule: str, kind: str, method: str) -> None:
    def make() -> tuple[Any, dict[str, Any]]:
        torch.manual_seed(0)
        denoiser = Denoiser(MLP(3, 16, 1), SCHEDULES[schedule](), kind)
        objective = OBJECTIVES[method](denoiser.schedule, **AT_WORK.get(method, {}))
        return objective, {"model": denoiser, **others(objective, denoiser)}

    x0 = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
    check(make, {"x0": x0})


def test_nor_does_one_on_dirty_images() -> None:
    def make() -> tuple[Any, dict[str, Any]]:
        denoiser = Denoiser(tiny_unet(), SCHEDULES["vp"](), "v")
        objective = OBJECTIVES["detail"](denoiser.schedule, noise=0.3, window=3.0, start_step=0)
        return objective, {"model": denoiser}

    rng = torch.Generator().manual_seed(1)
    x0 = (1.2 * torch.rand(ROWS, 1, 8, 8, generator=rng) * 2 - 1.2).clamp(-1, 1)
    zero = torch.zeros(ROWS)
    row = torch.arange(ROWS)
    trust = Trust(
        sigma=zero + 0.3,
        slope=torch.where(row < 3, 0.05, zero),
        correlation=torch.where(row > 5, 1.0, zero),
        clipped=row < 5,
        level=torch.where(row == 0, 0.5, zero),
        weight=zero + 1,
        seen=torch.rand(ROWS, 1, 8, 8, generator=rng) < 0.9,
    )
    check(make, {"x0": x0, "trust": trust})


@pytest.mark.parametrize("words", [{}, {"start": "noise", "diffusion_weight": 0.5}])
def test_nor_does_one_of_two_players(words: dict[str, Any]) -> None:
    def make() -> tuple[Any, dict[str, Any]]:
        denoiser = Denoiser(tiny_unet().eval(), SCHEDULES["vp"](), "v")
        rival = discriminator(1)
        objective = ADT(denoiser.schedule, num_inference_steps=4, n_trained=2, **words)
        objective.set_up(denoiser, rival)
        return objective, {"model": denoiser, "discriminator": rival}

    x0 = torch.rand(ROWS, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    check(make, {"x0": x0})


def test_the_device_refuses_float64_and_tensors_of_elsewhere() -> None:
    with narrow_device() as device:
        x = torch.randn(3, device=device)
        assert x.device == DEVICE
        for wide in (
            x.double,
            lambda: torch.zeros(3, dtype=torch.float64, device=device),
            lambda: torch.zeros(3, dtype=torch.float64).to(device),
            lambda: torch.tensor([1.0], dtype=torch.float64, device=device),
        ):
            with pytest.raises(TooWide):
                wide()
        with pytest.raises(RuntimeError, match="and on the CPU"):
            x + torch.zeros(3)
        assert x.cpu().double().dtype == torch.float64
        assert (x * torch.tensor(2.0)).device == DEVICE  # numbers may come from anywhere


def test_a_step_with_float64_is_found() -> None:
    """The guard itself: a network that computes wide is no step that passes."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MLP(3, 16, 1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.inner(x, t).double().float()

    denoiser = Denoiser(Wide(), SCHEDULES["vp"](), "v")
    objective = OBJECTIVES["plain"](denoiser.schedule)
    with narrow_device() as device, pytest.raises(TooWide):
        step(objective, {"model": moved(denoiser)}, {"x0": torch.zeros(ROWS, 3).to(device)}, device)
