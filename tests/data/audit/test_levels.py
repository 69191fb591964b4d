"""From how much compression or blur took away to the noise that hides it."""

import numpy as np
import pytest

from sparring.data.audit.levels import BLUR, JPEG, level_of_blur, level_of_jpeg


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
