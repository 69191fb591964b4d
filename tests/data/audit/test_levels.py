"""From how much compression or blur took away to the noise that hides it."""

import numpy as np
import pytest
import torch

from sparring.data.audit.levels import (
    BLUR,
    JPEG,
    Losses,
    level_of_blur,
    level_of_jpeg,
    level_of_lost,
    losses_of,
)
from sparring.data.base import InMemory
from sparring.data.dirt.kinds.jpeg import Jpeg


@pytest.mark.parametrize(
    ("level_of", "points"), [(level_of_jpeg, JPEG), (level_of_blur, BLUR)], ids=["jpeg", "blur"]
)
def test_published_points_lie_on_the_line(level_of, points):
    assert level_of(np.array(list(points))) == pytest.approx(list(points.values()), rel=1e-6)
    assert level_of(np.zeros(2)).tolist() == [0, 0]


def test_between_published_points_the_level_is_their_geometric_mean():
    assert level_of_blur(np.sqrt([0.24, 0.8])) == pytest.approx(
        np.sqrt([0.22 * 1.38, 1.93 * 2.84]), rel=1e-6
    )
    # steps of 20, 40, 50, 80, 100 per cent of the standard's at qualities 90, 80, 75, 60, 50
    between = level_of_jpeg(np.array([80, 60]))
    assert between[0] == pytest.approx(0.63 * (0.81 / 0.63) ** (np.log(2) / np.log(2.5)), rel=1e-6)
    assert between[1] == pytest.approx(0.81 * (1.03 / 0.81) ** (np.log(1.6) / np.log(2)), rel=1e-6)


def test_more_dirt_needs_more_noise_beyond_the_published_points_too():
    assert (np.diff(level_of_jpeg(np.arange(1, 101))) < 0).all()
    assert (np.diff(level_of_blur(np.linspace(0.1, 4, 50))) > 0).all()


def test_smaller_images_lose_less_to_jpeg():
    """|missing|^2 in proportion to the elements: half the side, half the level."""
    quality = np.array([10, 90])
    assert level_of_jpeg(quality, 3 * 16 * 16) == pytest.approx(level_of_jpeg(quality) / 2)
    assert level_of_jpeg(quality, 3 * 64 * 64) == pytest.approx(level_of_jpeg(quality))


def waves(n_images, side=16, turns=3, amplitude=0.4):
    """A wave that stays one, only weaker, when it is blurred with its edges mirrored."""
    place = (torch.arange(side) + 0.5) / side
    wave = 0.5 + amplitude * torch.cos(torch.pi * turns * place)
    return InMemory("waves", wave.expand(n_images, 1, side, side).contiguous())


def test_blur_takes_from_a_wave_what_its_kernel_takes_from_that_frequency():
    """A cosine of frequency w keeps exp(-(width w)^2 / 2) of its amplitude."""
    losses = losses_of(waves(20), np.arange(20))
    frequency = np.pi * 3 / 16
    for width in (1.0, 2.0):
        taken = 0.4 * (1 - np.exp(-((width * frequency) ** 2) / 2))
        expected = 2 * taken * np.sqrt(16 * 16 / 2)
        found = losses(np.zeros(1), np.array([width]))
        assert found == pytest.approx(expected, rel=2e-3)


def test_what_jpeg_takes_is_what_the_file_differs_by():
    x = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = losses_of(InMemory("noise", x), np.arange(20))
    rng = torch.Generator()
    for quality in (18, 75):
        stored = torch.stack([Jpeg(quality).apply(image, rng, None) for image in x])
        expected = float((2 * (stored - x)).square().flatten(1).sum(1).mean().sqrt())
        assert losses(np.array([quality]), np.zeros(1)) == pytest.approx(expected, rel=1e-5)
    worse = losses(np.array([60, 40, 12]), np.zeros(3))
    assert (np.diff(worse) > 0).all()
    assert losses(np.zeros(2), np.zeros(2)).tolist() == [0, 0]


def test_only_clean_images_say_what_is_lost_and_a_few_say_nothing():
    x = torch.cat([waves(20).read_all()["x0"], torch.full((20, 1, 16, 16), 0.5)])
    dataset = InMemory("half", x)
    of_waves = losses_of(dataset, np.arange(20))(np.zeros(1), np.ones(1))
    assert of_waves == pytest.approx(losses_of(waves(20), np.arange(20))(np.zeros(1), np.ones(1)))
    assert losses_of(dataset, np.arange(20, 40))(np.zeros(1), np.ones(1)) < 0.01
    assert losses_of(dataset, np.arange(15)) is None


def test_the_level_hides_what_was_lost():
    """19 and 5.5 nats, twice; of both kinds the sum of the squares, and the more careful one."""
    losses = Losses({100.0: 2.0, 200.0: 4.0}, {1.0: 3.0, 2.0: 6.0})
    quality, blur = np.array([50.0, 0, 50, 0]), np.array([0, 2.0, 1, 0])
    lost = losses(quality, blur)
    assert lost == pytest.approx([2, 6, np.hypot(2, 3), 0])
    level = level_of_lost(lost, quality, blur)
    assert level == pytest.approx([2 / 19**0.5, 6 / 5.5**0.5, (13 / 5.5) ** 0.5, 0])
