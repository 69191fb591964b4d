"""From how much compression or blur took away to the noise that hides it."""

import numpy as np
import pytest

from sparring.data.audit.levels import BLUR, JPEG, level_of_blur, level_of_jpeg


@pytest.mark.parametrize(
    ("level_of", "points"), [(level_of_jpeg, JPEG), (level_of_blur, BLUR)], ids=["jpeg", "blur"]
)
def test_published_points_lie_on_the_line_and_between_them_it_is_one(level_of, points):
    sizes = np.array(list(points))
    assert level_of(sizes) == pytest.approx(list(points.values()), rel=1e-6)
    middle = np.sqrt(sizes[1:] * sizes[:-1])
    levels = np.array(list(points.values()))
    assert level_of(middle) == pytest.approx(np.sqrt(levels[1:] * levels[:-1]), rel=1e-6)
    assert level_of(np.zeros(2)).tolist() == [0, 0]


def test_more_dirt_needs_more_noise_beyond_the_published_points_too():
    assert (np.diff(level_of_jpeg(np.arange(1, 101))) < 0).all()
    assert (np.diff(level_of_blur(np.linspace(0.1, 4, 50))) > 0).all()
