"""Impulses are told from noise, texture and stars, and found where they can be seen."""

import math

import pytest
import torch
from photographs import drawn_tiles

from sparring.data.audit.detectors.impulses import (
    LEAST,
    RATE,
    SHARES,
    ImpulseRule,
    Impulses,
    log_likelihoods,
)
from sparring.data.audit.registry import all_detectors, look
from sparring.data.datasets import build_dataset
from sparring.data.dirt.registry import make

detector = Impulses()


def dirty(x, kind, **options):
    dirt = make(kind, options)
    if not len(x):
        return x
    made = [dirt.of(i).apply(y, torch.Generator().manual_seed(i), None) for i, y in enumerate(x)]
    return (torch.stack(made).clamp(0, 1) * 255).round() / 255


def judged(x):
    seen = {f"impulses.{name}": values for name, values in detector.look(x).items()}
    return detector.fit(seen)(seen)["salt_and_pepper"]


def test_the_kind_is_found_by_its_name_and_its_statistics_are_per_image():
    assert isinstance(all_detectors()["impulses"], Impulses)
    x = dirty(drawn_tiles(n=4), "salt_and_pepper", share=0.1)
    whole = look(x)["impulses.counts"]
    assert torch.equal(whole, torch.cat([look(y[None])["impulses.counts"] for y in x]))


def test_pixels_of_a_made_image_are_counted():
    x = torch.full((1, 3, 8, 8), 0.5)
    x[0, :, 2, 2] = 0  # pepper
    x[0, :, 5, 5] = 1  # salt
    x[0, :, 7, 0] = 1  # salt at a corner
    x[0, :, 0, 5] = 0.2  # alone, but at no end
    x[0, 0, 4, 2] = 0  # one channel only: no impulse, its farthest channel is like its neighbours
    pepper, dark, place, salt, bright, _ = detector.look(x)["counts"][0].tolist()
    assert (pepper, dark, salt, bright) == (1, 1, 2, 0)
    assert place == 64 - 8 - 5  # not around the pepper nor around the dark one


@pytest.mark.parametrize(("rest", "is_alone"), [(0.7, True), (0.35, True), (0.25, False)])
def test_a_pixel_must_stand_out_by_more_than_its_neighbours_differ(rest, is_alone):
    """White between two of 0.7: b = 0.3, and c - b is 0, 0.26 or 0.34."""
    x = torch.full((1, 1, 3, 3), rest)
    x[0, 0, 1] = torch.tensor([0.7, 1, 0.7])
    assert detector.look(x)["counts"][0, 3].item() == is_alone


def test_light_dependent_noise_of_small_images_is_no_salt_and_pepper():
    x = build_dataset("digits").read_all(800)["x0"]
    x = torch.cat([x[:80], dirty(x[80:], "poisson_gaussian", photons=12.0, sigma=0.1)])
    assert (judged(x) > 0.5).float().mean() < 0.03, "0.19 without regard to the neighbours"


def test_likelihoods_are_those_of_poisson_counts():
    counts = torch.tensor([[3.0, 1.0, 200.0, 5.0, 0.0, 400.0]])
    expected = []
    for share in SHARES:
        total = 0.0
        for n, m, v in ((3, 1, 200), (5, 0, 400)):
            means = [v * part / 2 + RATE * v + m + LEAST for part in (share, 0)]
            with_it, without = (n * math.log(mean) - mean for mean in means)
            total += with_it - without
        expected.append(total)
    assert log_likelihoods(counts)[0].tolist() == pytest.approx(expected, abs=1e-9)
    assert SHARES[0] == 0


def test_the_posterior_is_bayes_rule():
    rule = ImpulseRule((0.75, *[0.25 / 7] * 7))
    counts = torch.tensor([[2.0, 0.0, 300.0, 3.0, 0.0, 300.0]])
    odds = (log_likelihoods(counts)[0, 1:].exp().mean() * 0.25 / 0.75).item()
    p = rule({"impulses.counts": counts})["salt_and_pepper"].item()
    assert p == pytest.approx(odds / (1 + odds), rel=1e-5)


def test_an_image_that_shows_nothing_is_not_called_dirty_for_the_company_it_keeps():
    """A small one has few places, so most dirty ones show little."""
    counts = torch.tensor([[1.0, 0.0, 30.0, 1.0, 0.0, 30.0]]).repeat(400, 1)
    rule = detector.fit({"impulses.counts": counts})
    assert rule.weights[0] == pytest.approx(0.5)
    assert sum(rule.weights) == pytest.approx(1)
    nothing = torch.tensor([[0.0, 0.0, 30.0, 0.0, 0.0, 30.0]])
    assert rule({"impulses.counts": nothing})["salt_and_pepper"].item() < 0.5


@pytest.mark.parametrize("n_dirty", [0, 10, 48, 96])
def test_impulses_are_found_whatever_their_share_of_the_set(n_dirty):
    x = drawn_tiles()
    x[:n_dirty] = dirty(x[:n_dirty], "salt_and_pepper", share=0.05)
    called = judged(x) > 0.5
    assert called[:n_dirty].all()
    assert called[n_dirty:].sum() <= 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [("gaussian", {"sigma": 0.2}), ("gaussian", {"sigma": 0.35}), ("poisson_gaussian", {}),
     ("jpeg", {}), ("missing_blocks", {"block_size": 0.25}), ("blur", {})],
)  # fmt: skip
def test_other_dirt_is_not_called_impulses(kind, options):
    """Clipped noise puts a pixel in ten at an end, and none of its images among these."""
    x = drawn_tiles()
    x[:48] = dirty(x[:48], kind, **options)
    x[48:64] = dirty(x[48:64], "salt_and_pepper", share=0.05)
    called = judged(x) > 0.5
    assert called[:48].float().mean() <= 0.05
    assert called[48:64].all()


def test_stars_are_no_impulses_where_there_is_no_pepper():
    rng = torch.Generator().manual_seed(0)
    sky = (drawn_tiles() * 0.2 + 0.3 * (torch.rand(96, 1, 32, 32, generator=rng) < 0.5)).clamp(0, 1)
    stars = torch.rand(96, 1, 32, 32, generator=rng) < 0.001
    assert (judged(sky.masked_fill(stars, 1.0)) > 0.5).float().mean() <= 0.03


def test_the_mask_is_where_impulses_are():
    x = drawn_tiles()
    y = dirty(x, "salt_and_pepper", share=0.05)
    hidden = detector.hidden(y, "salt_and_pepper")
    changed = (y - x).abs().amax(1, keepdim=True)
    assert hidden.shape == (96, 1, 32, 32)
    assert hidden.dtype == torch.bool
    assert (changed[hidden] > 0).float().mean() > 0.99  # precision
    assert hidden[changed > 0.1].float().mean() > 0.95  # recall of those that show
    assert detector.hidden(x, "salt_and_pepper").float().mean() < 1e-3


def test_two_impulses_side_by_side_are_found_and_what_is_wider_is_left():
    x = torch.full((1, 1, 9, 9), 0.5)
    x[0, 0, 2, 3:5] = 1
    x[0, 0, 5:7, 2:8] = 0
    hidden = detector.hidden(x, "salt_and_pepper")
    assert hidden.nonzero()[:, 2:].tolist() == [[2, 3], [2, 4]]
