"""Outliers are those that stay alone; what is rare, dirty or a tenth of the set is none."""

import math

import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from sparring.data.audit.detectors.outliers import (
    ALIKE_SHARE,
    MOST_Z,
    RATIO,
    SHARE,
    Outliers,
    _tail,
    likeness,
)
from sparring.data.audit.registry import all_detectors
from sparring.data.dirt.registry import make

detector = Outliers()


def digits(n=1000):
    return torch.tensor(load_digits().images[:n]).float()[:, None] / 16


def photographs(n, side=8):
    """Grey tiles."""
    photo = torch.tensor(load_sample_images().images[0]).float().mean(2)[None, None] / 255
    small = torch.nn.functional.avg_pool2d(photo, 2)[0, 0]
    cut = small.unfold(0, side, side).unfold(1, side, side).reshape(-1, 1, side, side)
    return cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))[:n]]


def dirty(x, kind, **options):
    dirt = make(kind, options)
    made = [dirt.of(i).apply(y, torch.Generator().manual_seed(i), None) for i, y in enumerate(x)]
    return (torch.stack(made).clamp(0, 1) * 255).round() / 255


def statistics(x):
    return {f"outliers.{name}": values for name, values in detector.look(x).items()}


def judged(x, is_noisy=None):
    seen = statistics(x)
    if is_noisy is not None:
        seen["said.gaussian"] = is_noisy.float()
    return detector.fit(seen)(seen)["outlier"]


def mixed(x, others):
    """Both in one set, in an order that says nothing, and where the others are."""
    order = torch.randperm(len(x) + len(others), generator=torch.Generator().manual_seed(0))
    return torch.cat([x, others])[order], order >= len(x)


def test_the_kind_is_found_by_its_name_and_its_statistics_are_per_image():
    assert isinstance(all_detectors()["outliers"], Outliers)
    x = digits(3)
    for name, values in detector.look(x).items():
        alone = torch.cat([detector.look(each[None])[name] for each in x])
        torch.testing.assert_close(values, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [5, 50])
def test_images_of_another_set_are_found_and_the_set_itself_is_kept(n):
    x, is_other = mixed(digits(), photographs(n))
    p = judged(x)
    assert (p[is_other] > 0.5).float().mean() > 0.8
    assert (p[~is_other] > 0.5).float().mean() < 0.03


def test_of_a_clean_set_few_are_called():
    assert (judged(digits()) > 0.5).float().mean() < 0.01
    assert (judged(photographs(1000)) > 0.5).float().mean() < 0.03


def test_what_is_much_more_than_the_cap_is_a_part_of_the_set():
    x, is_other = mixed(digits(), photographs(400))
    assert SHARE < 0.2
    assert (judged(x)[is_other] > 0.5).float().mean() < 0.1


@pytest.mark.parametrize(
    ("kind", "options"),
    [("gaussian", {"sigma": [0.05, 0.35]}), ("blur", {}), ("salt_and_pepper", {"share": 0.05})],
)
def test_the_clean_tenth_of_a_dirty_set_is_kept(kind, options):
    x, is_dirty = mixed(digits()[:100], dirty(digits()[100:], kind, **options))
    called = judged(x, is_dirty) > 0.5
    assert called[~is_dirty].float().mean() <= 0.03
    assert called[is_dirty].float().mean() <= 0.05


def test_of_a_few_images_unlike_the_others_in_dirt_nothing_is_said():
    x, is_dirty = mixed(digits()[:30], dirty(digits()[30:], "gaussian", sigma=0.3))
    assert (judged(x)[~is_dirty] > 0.5).any()
    assert not (judged(x, is_dirty)[~is_dirty] > 0.5).any()


def test_an_image_alone_is_judged_as_in_its_set():
    x, _ = mixed(digits(), photographs(50))
    rule = detector.fit(statistics(x))
    at_once = rule(statistics(x))["outlier"]
    alone = torch.cat([rule(statistics(each[None]))["outlier"] for each in x[:20]])
    torch.testing.assert_close(alone, at_once[:20], rtol=1e-3, atol=1e-3)


def test_the_tail_begins_where_it_is_heavier_than_the_bells():
    bell = torch.distributions.Normal(0.0, 1.0)
    z = bell.icdf((torch.arange(2000) + 0.5) / 2000)
    assert _tail(z) == MOST_Z
    z[-60:] = torch.linspace(2.4, 3.0, 60)  # 3 % there, of which the bell has 0.8 %
    assert pytest.approx(RATIO * 0.5 * math.erfc(2.4 / 2**0.5), rel=0.05) == 3 * 0.008
    assert _tail(z) == pytest.approx(2.4)
    z[-200:] = 4.0
    assert _tail(z) == MOST_Z


def described(n_like=60, shift=6.0):
    """Statistics of 1,000 images, and which are like each other: two numbers are shifted."""
    rng = torch.Generator().manual_seed(0)
    filters, edges = torch.randn(1000, 96, generator=rng), torch.randn(1000, 54, generator=rng)
    is_like = torch.arange(1000) < n_like
    filters[is_like, :2] += shift
    seen = {"outliers.filters": filters, "outliers.edges": edges}
    return seen | {"said.gaussian": torch.zeros(1000)}, is_like


def test_what_is_like_the_outliers_found_is_one():
    seen, is_like = described()
    first = is_like & (torch.arange(1000) % 2 == 0)
    alike = likeness(seen, first)
    assert alike is not None
    p = alike(seen)
    assert (p[is_like] > 0.5).float().mean() > 0.8
    assert (p[~is_like] > 0.5).float().mean() < 0.01


def test_outliers_that_have_nothing_in_common_show_no_others():
    seen, _ = described()
    assert likeness(seen, torch.arange(1000) % 40 == 7) is None
    assert likeness(seen, torch.arange(1000) < 9) is None  # too few


def test_the_probability_of_being_like_them_is_the_regressions_at_the_share():
    seen, is_like = described()
    alike = likeness(seen, is_like)
    assert alike is not None
    x = torch.cat([seen["outliers.filters"], seen["outliers.edges"]], 1)
    x = (x - x.mean(0)) / x.std(0)
    mine = alike(seen).logit() + math.log(ALIKE_SHARE / (1 - ALIKE_SHARE))
    # at the optimum the regression's probabilities add up to the number of those found
    assert mine.sigmoid().sum() == pytest.approx(is_like.sum().item(), rel=0.02)
    slope = torch.linalg.lstsq(torch.cat([x, torch.ones(1000, 1)], 1), mine[:, None]).solution
    assert slope[:2].min() > 3 * slope[2:-1].abs().max()


def test_a_group_of_few_images_is_not_judged_by_likeness():
    seen, is_like = described()
    seen["said.gaussian"][:40] = 1.0
    alike = likeness(seen, is_like & (torch.arange(1000) >= 40))
    assert alike is None or not (alike(seen)[:40] > 0.5).any()


@pytest.mark.parametrize("n", [1, 2, 12])
def test_small_sets_and_sets_of_equal_images_have_no_outliers(n):
    assert (judged(digits(n)) <= 0.5).all()
    assert (judged(digits(1).repeat(n, 1, 1, 1)) <= 0.5).all()


def test_colour_and_odd_sizes():
    x = torch.rand(40, 3, 9, 33, generator=torch.Generator().manual_seed(0))
    p = judged(x)
    assert p.shape == (40,)
    assert p.isfinite().all()
