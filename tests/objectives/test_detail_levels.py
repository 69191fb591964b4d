"""Pairs of neighbouring noise levels: grids, probabilities and curricula against their papers."""

import math
from itertools import pairwise

import pytest
import torch

from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import EDMSchedule
from sparring.objectives import OBJECTIVES
from sparring.objectives.levels import KarrasLevels, ShrinkingGap, SkippingLevels
from support import SCHEDULES


def draw(levels, step=0, n=20000):
    return levels.draw(StepRandom(0, 0, n, dtype=torch.float64), step)


def test_the_grid_is_karras(vp):
    edm = KarrasLevels(EDMSchedule(), n_levels=17)
    ratios = edm.ratios(17)
    i = torch.arange(18, dtype=torch.float64)
    theirs = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # falling
    torch.testing.assert_close(ratios, theirs.flip(0), rtol=1e-12, atol=0)
    t, s = draw(edm)
    below = {round(math.log(high), 6): low for low, high in pairwise(ratios.tolist())}
    for high, low in zip((4 * t).exp()[:50].tolist(), (4 * s).exp()[:50].tolist(), strict=True):
        assert low == pytest.approx(below[round(math.log(high), 6)])


def test_levels_double_as_in_ict():
    levels = KarrasLevels(EDMSchedule(), 10, 1280, max_train_steps=800)
    assert [levels.n_at(step) for step in (0, 99, 100, 200, 699, 700, 10000)] == [
        10, 10, 20, 40, 640, 1280, 1280,
    ]  # fmt: skip


def test_levels_are_drawn_from_the_discretised_lognormal():
    levels = KarrasLevels(EDMSchedule(), 10, mean=-1.1, std=2.0)
    ratios = levels.ratios(10)
    normal = torch.distributions.Normal(-1.1, 2.0)
    mass = normal.cdf(ratios[1:].log()) - normal.cdf(ratios[:-1].log())
    t, _ = draw(levels)
    times = EDMSchedule().time_of_ratio(ratios[1:])
    share = torch.stack([(t - time).abs().lt(1e-9).double().mean() for time in times])
    torch.testing.assert_close(share, mass / mass.sum(), rtol=0, atol=0.012)


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_levels_lie_on_the_schedule_in_their_order(name):
    schedule = SCHEDULES[name]()
    for levels in (KarrasLevels(schedule, 30), ShrinkingGap(schedule, 800)):
        for step in (0, 400, 799):
            t, s = draw(levels, step, 500)
            kept = ~s.isnan()
            assert (s[kept] < t[kept]).all()
            assert (schedule.ratio(t) <= levels.high * (1 + 1e-9)).all()
            assert (schedule.ratio(s[kept]) >= levels.low * (1 - 1e-9)).all()


def test_the_gap_shrinks_as_in_ect():
    levels = ShrinkingGap(EDMSchedule(), max_train_steps=800)
    r = torch.tensor([0.3, 2.0, 30.0], dtype=torch.float64)
    for step, stage in ((0, 1), (99, 1), (100, 2), (450, 5), (799, 8), (5000, 8)):
        adjusted = 1 + 8 * torch.sigmoid(-r)
        theirs = (r * (1 - 1 / 2**stage * adjusted)).clamp(min=0)
        ours = levels.neighbour(r, step)
        torch.testing.assert_close(ours.nan_to_num(0.0), theirs, rtol=1e-12, atol=0)
    assert levels.neighbour(r, 0).isnan().tolist() == [True, False, False]


def test_skipping_is_lcms(vp):
    t, s = draw(SkippingLevels(vp, 50))
    assert set(t.tolist()) == set(range(19, 1000, 20))
    assert ((t - s == 20) | ((t == 19) & (s == 0))).all()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda s: OBJECTIVES["consistency_training"](s, n_levels=0), "n_levels"),
        (lambda s: KarrasLevels(s, 20, 10), "n_levels_end"),
        (lambda s: OBJECTIVES["consistency_training"](s, std=0.0), "std"),
        (lambda s: OBJECTIVES["easy_consistency_tuning"](s, q=1.0), "q must be > 1"),
        (lambda s: SkippingLevels(s, 1001), r"\[1, 1000\]"),
    ],
)
def test_out_of_range(vp, build, said):
    with pytest.raises(ValueError, match=said):
        build(vp)
