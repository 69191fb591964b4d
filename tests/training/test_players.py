"""A player's update against closed forms: average, schedule, clipping, fp16's skips."""

import math

import pytest
import torch
from diffusers.training_utils import EMAModel
from tiny_runs import tiny_settings
from torch import nn

from sparring.training.average import MovingAverage
from sparring.training.players import Player


def one_weight(value=0.0, **settings):
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    ema_warmup, scaler = settings.pop("ema_warmup", True), settings.pop("scaler", None)
    player = Player(network, tiny_settings(**settings), ema_warmup=ema_warmup, scaler=scaler)
    return network, player


def update(network, player, gradient=1.0):
    network.weight.grad = torch.full((1, 1), gradient)
    player.clip()
    player.step()
    player.optimizer.zero_grad(set_to_none=True)


def test_average_without_warmup_is_the_geometric_sum():
    network, player = one_weight(2.0, ema_decay=0.9, ema_warmup=False)
    expected = 2.0
    for _ in range(20):
        update(network, player)
        expected = 0.9 * expected + 0.1 * network.weight.item()
        assert float(player.ema.shadow[0]) == pytest.approx(expected, rel=1e-6)


def test_average_with_warmup_follows_its_decay():
    network, player = one_weight(2.0, ema_decay=0.8, ema_warmup=True)
    expected = 2.0
    for n in range(1, 30):
        update(network, player)
        decay = min(0.8, 1 - n**-0.75)
        expected = decay * expected + (1 - decay) * network.weight.item()
        assert float(player.ema.shadow[0]) == pytest.approx(expected, rel=1e-6)
    assert 1 - 29**-0.75 > 0.8  # the limit was reached


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_that_of_diffusers_to_the_bit(warmup):
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(7))]
    words = {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 3 / 4}
    own = {"min_decay": 0.95, "update_after_step": -1}
    theirs = EMAModel(weights, 0.95, foreach=True, **(words if warmup else own))
    ours = MovingAverage(weights, 0.95, warmup)
    for _ in range(80):
        for weight in weights:
            weight.data += torch.randn_like(weight)
        theirs.step(weights)
        ours.step(weights)
        pairs = zip(ours.shadow, theirs.shadow_params, strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_averaged_weights_come_and_go():
    network, player = one_weight(2.0, ema_decay=0.9, ema_warmup=False)
    update(network, player)
    live, average = network.weight.detach().clone(), player.ema.shadow[0].clone()
    assert not torch.equal(live, average)
    with player.averaged_weights():
        assert torch.equal(network.weight, average)
    assert torch.equal(network.weight, live)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_schedule_counts_updates(kind):
    network, player = one_weight(
        learning_rate=0.1, lr_scheduler=kind, lr_warmup_steps=4, max_train_steps=10
    )
    rates = []
    for _ in range(10):
        update(network, player)
        rates.append(player.last_lr)
    warmup = [0.1 * n / 4 for n in range(4)]
    after = [0.1] * 6
    if kind == "cosine":
        after = [0.1 * 0.5 * (1 + math.cos(math.pi * n / 6)) for n in range(6)]
    assert rates == pytest.approx(warmup + after)


def test_adamw_step_is_the_formula():
    network, player = one_weight(1.0, learning_rate=0.1, adam_weight_decay=0.5, max_grad_norm=None)
    update(network, player, gradient=3.0)
    # the first step of Adam is the gradient's sign; decoupled decay shrinks the weight first
    assert network.weight.item() == pytest.approx(1.0 * (1 - 0.1 * 0.5) - 0.1)


@pytest.mark.parametrize(("limit", "factor"), [(None, 1.0), (10.0, 1.0), (1.0, 0.2)])
def test_clipping_is_by_the_global_norm(limit, factor):
    network = nn.Linear(1, 1)
    player = Player(network, tiny_settings(max_grad_norm=limit))
    network.weight.grad, network.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 4.0)
    assert float(player.clip()) == pytest.approx(5.0)
    assert float(network.weight.grad) == pytest.approx(3 * factor, rel=1e-5)
    assert float(network.bias.grad) == pytest.approx(4 * factor, rel=1e-5)


def test_fp16_overflow_changes_the_scale_and_nothing_else():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    network, player = one_weight(1.0, scaler=scaler, lr_scheduler="cosine", max_grad_norm=None)

    def backward(gradient):
        scaler.scale((network.weight * gradient).sum()).backward()
        return float(player.clip())

    assert backward(3.0) == 3.0  # unscaled
    player.step()
    player.optimizer.zero_grad()
    before = network.weight.detach().clone(), player.last_lr, player.ema.n_updates
    epoch = player.lr_schedule.last_epoch

    assert backward(math.inf) == math.inf
    player.skip()
    player.optimizer.zero_grad()
    assert (network.weight.detach(), player.last_lr, player.ema.n_updates) == before
    assert player.lr_schedule.last_epoch == epoch
    assert scaler.get_scale() == 2.0
    assert (player.n_updates, player.n_skipped, player.n_skipped_in_a_row) == (1, 1, 1)

    assert backward(3.0) == 3.0
    player.step()
    assert (player.n_updates, player.n_skipped, player.n_skipped_in_a_row) == (2, 1, 0)


def test_frozen_parameters_are_neither_moved_nor_counted():
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    network[0].requires_grad_(False)
    player = Player(network, tiny_settings())
    assert list(player.parameters) == ["1.weight", "1.bias"]
