"""How often images come: shares against closed forms, and what a loader of one's own is told."""

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

import sparring
from sparring.objectives.detail import Detail
from sparring.objectives.how_often import shares


def test_all_who_teach_at_a_noise_take_equal_turns_there():
    """10 clean images, and 90 that teach from 1 on; of five noises three lie below."""
    level = torch.cat([torch.zeros(10), torch.ones(90)])
    ratio = torch.tensor([0.2, 5.0, 0.3, 0.5, 2.0])
    share = shares(level, ratio, few=5)
    assert share[:10].numpy() == pytest.approx(3 / 5 / 10 + 2 / 5 / 100)
    assert share[10:].numpy() == pytest.approx(2 / 5 / 100)
    assert float(share.sum()) == pytest.approx(1)
    # fewer than enough: each gets what it would among 20, and the rest is for all
    share = shares(level, ratio, few=20)
    left = 1 - 10 * 3 / 5 / 20 - 2 / 5
    assert share[:10].numpy() == pytest.approx(3 / 5 / 20 + 2 / 5 / 100 + left / 100)
    assert float(share.sum()) == pytest.approx(1)


def test_where_nobody_teaches_all_come_equally_often():
    assert shares(torch.full((4,), 9.0), torch.tensor([0.1, 1.0]), 1).tolist() == [0.25] * 4
    assert shares(torch.zeros(4), torch.tensor([0.1, 1.0]), 1).tolist() == [0.25] * 4
    at_the_level = shares(torch.tensor([0.0, 1.0]), torch.tensor([1.0]), 1)
    assert at_the_level.tolist() == [1, 0]  # not above its level is below


def test_what_never_teaches_never_comes_unless_nothing_teaches():
    level = torch.tensor([0.0, torch.inf, 0.5])
    share = shares(level, torch.tensor([0.2, 1.0]), 1)
    assert share.tolist() == [0.75, 0.0, 0.25]
    assert shares(torch.full((2,), torch.inf), torch.tensor([1.0]), 1).tolist() == [0.5, 0.5]


def test_a_loader_of_one_s_own_draws_as_an_epoch_of_the_run_does(vp):
    """From the columns of an export: noise of 0.2 on 45 of 50 images, and one without weight."""
    sigma = np.where(np.arange(50) < 5, 0.0, 0.2).astype(np.float32)
    weight = np.ones(50)
    weight[7] = 0
    columns = {"sigma": sigma, "weight": weight, "text": ["a"] * 50}
    often = sparring.how_often(columns, (1, 8, 8), vp, few=1)
    _, trust = sparring.trusted(torch.zeros(50, 1, 8, 8), columns)
    epoch = Detail(vp, few=1).epoch(trust, 8, 8)
    assert epoch is not None
    counts = epoch.bincount(minlength=50)
    assert (counts - 4 * 50 * often).abs().max() <= 0.5
    drawn = torch.tensor(list(WeightedRandomSampler(often, 5000))).bincount(minlength=50)
    assert drawn[7] == 0
    assert drawn[:5].min() > 1.5 * drawn[8:].float().mean()


def test_columns_that_say_nothing_of_dirt_are_refused(vp):
    with pytest.raises(ValueError, match="no column says anything of dirt, got text"):
        sparring.how_often({"text": ["a"]}, (1, 8, 8), vp)
    with pytest.raises(ValueError, match="sigma must have a number"):
        sparring.how_often({"sigma": [0.1, -1.0]}, (1, 8, 8), vp)
