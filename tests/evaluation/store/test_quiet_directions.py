"""Directions in which images vary least: what they measure of noise."""

import pytest
import torch

from sparring.data.base import InMemory
from sparring.evaluation.store.quiet_directions import patches, quiet_directions


def test_the_energy_of_noise_is_its_variance():
    """The smallest variances of a sample are below the true one; by the other half they are not."""
    rng = torch.Generator().manual_seed(0)
    dataset = InMemory("noise", 0.2 * torch.randn(600, 1, 6, 6, generator=rng))
    residual = quiet_directions(dataset)
    batch = dataset.read_all()
    assert residual.directions.shape == (36, 9)
    own = torch.ones(600, dtype=torch.bool).index_fill(0, residual.others, False)
    assert residual.squares(batch["x0"][~own]).mean().item() == pytest.approx(0.04, rel=0.05)
    directions = residual.directions
    torch.testing.assert_close(directions.T @ directions, torch.eye(9), atol=1e-5, rtol=0)
    of_its_own = batch["x0"][own].flatten(1) - residual.mean
    assert (of_its_own @ directions).square().mean() < 0.036


def test_patches_tile_the_image():
    x = torch.arange(2 * 3 * 5 * 6.0).view(2, 3, 5, 6)
    tiles = patches(x, (2, 3))
    assert tiles.shape == (2, 4, 18)
    torch.testing.assert_close(tiles[1, 3], x[1, :, 2:4, 3:6].flatten())
