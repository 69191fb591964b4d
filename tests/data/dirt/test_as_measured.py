"""Dirt that a table says, made on other images: its size, mixture, holes and impulses."""

import numpy as np
import pytest
import torch

from sparring.data.audit import registry
from sparring.data.audit.contract import Detector
from sparring.data.audit.table import clean_table
from sparring.data.base import InMemory
from sparring.data.dirt.as_measured import AsMeasured, can_be_made, impulse_share
from sparring.data.dirt.kinds.blur import Blur
from sparring.data.dirt.kinds.jpeg import Jpeg

GREY = torch.full((40, 1, 16, 16), 0.5)


class Marked(Detector):
    """Finds pixels of the value 0.25: the holes that these tests make."""

    kinds = ("missing_blocks",)

    def look(self, x):
        return {}

    def fit(self, seen):
        raise NotImplementedError

    def hidden(self, x, kind):
        return (x == 0.25).all(1, keepdim=True)


class Ends(Marked):
    """Finds black and white pixels."""

    kinds = ("salt_and_pepper",)

    def hidden(self, x, kind):
        return ((x == 0) | (x == 1)).all(1, keepdim=True)


@pytest.fixture
def detectors(monkeypatch):
    found = {"missing_blocks": Marked(), "salt_and_pepper": Ends()}
    monkeypatch.setattr(registry, "all_detectors", lambda: found)


def table_of(n, kind, share=1.0, clipped=True, **sizes):
    table = clean_table(n, [kind])
    dirty = slice(round(share * n))
    table.kinds[kind][dirty] = 1
    table.clipped[:] = clipped
    for name, value in sizes.items():
        getattr(table, name)[dirty] = value
    return table


def made(x, table, first=0):
    return AsMeasured(InMemory("grey", x), table).made(x, first)


def moments(y):
    """Standard deviation around grey, and the correlation of neighbours in a row."""
    noise = y.double() - 0.5
    together = (noise[..., 1:] * noise[..., :-1]).mean()
    return noise.square().mean().sqrt().item(), (together / noise.square().mean()).item()


@pytest.mark.parametrize(
    ("kind", "sizes", "std", "correlation"),
    [
        ("gaussian", {"sigma": 0.1}, 0.1, 0.0),
        ("poisson_gaussian", {"sigma": 0.06, "slope": 0.02}, (0.06**2 + 0.02 * 0.5) ** 0.5, 0.0),
        ("poisson_gaussian", {"slope": 0.02}, 0.1, 0.0),
        # a Gaussian blur of 1 pixel: exp(-1 / 4)
        ("correlated", {"sigma": 0.1, "correlation": 1.0}, 0.1, np.exp(-0.25)),
    ],
)
def test_noise_has_the_size_that_the_table_says(kind, sizes, std, correlation):
    found = moments(made(GREY, table_of(len(GREY), kind, **sizes)))
    assert found == (pytest.approx(std, rel=0.05), pytest.approx(correlation, abs=0.04))


def test_jpeg_and_blur_are_those_of_the_kinds_and_come_after_each_other():
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    table = table_of(3, "jpeg", quality=20)
    for image, y in zip(x, made(x, table), strict=True):
        assert torch.equal(y, Jpeg(20).apply(image, torch.Generator(), None))
    table.blur_sigma[:] = 1.5
    for image, y in zip(x, made(x, table), strict=True):
        blurred = Blur(1.5).apply(image, torch.Generator(), None)
        assert torch.equal(y, Jpeg(20).apply(blurred, torch.Generator(), None))


def test_the_mixture_is_the_sets_own_and_a_sample_gets_the_same_in_any_batch():
    table = table_of(len(GREY), "gaussian", share=0.7, sigma=0.2)
    dirt = AsMeasured(InMemory("grey", GREY), table)
    assert sorted(dirt.rows_of(0, 40)) == list(range(40))
    assert not np.array_equal(dirt.rows_of(0, 40), np.arange(40))
    whole = dirt.made(GREY)
    assert int((whole != whole[:, :, :1, :1]).flatten(1).any(1).sum()) == 28
    parts = [dirt.made(GREY[:13]), dirt.made(GREY[13:], first=13)]
    assert torch.equal(torch.cat(parts), whole)
    assert np.array_equal(dirt.rows_of(40, 40), dirt.rows_of(0, 40))
    assert not torch.equal(dirt.made(GREY, first=40), whole)  # the same rows' dirt, other noise
    other = AsMeasured(InMemory("grey", GREY), table, seed=1)
    assert not np.array_equal(other.rows_of(0, 40), dirt.rows_of(0, 40))


def test_files_are_clipped_to_8_bits_and_floats_are_not():
    bright = torch.full((20, 1, 8, 8), 1.0)
    as_files = made(bright, table_of(20, "gaussian", sigma=0.2))
    assert as_files.max() == 1
    assert torch.equal((as_files * 255).round() / 255, as_files)
    floats = made(bright, table_of(20, "gaussian", sigma=0.2, clipped=False))
    assert floats.mean().item() == pytest.approx(1, abs=0.02)
    assert floats.max() > 1.3


def test_what_cannot_be_made_is_left_out(detectors):
    kinds = ["gaussian", "jpeg", "missing_blocks", "outlier"]
    table = clean_table(9, kinds)
    table.kinds["outlier"][1] = 0.9
    table.weight[2] = 0
    table.level[3] = 1  # dirt of no known kind
    table.kinds["jpeg"][4], table.level[4] = 0.9, 1  # a JPEG of no known quality
    table.kinds["jpeg"][5], table.quality[5], table.level[5] = 0.9, 30, 1
    table.kinds["gaussian"][6], table.sigma[6] = 0.9, 0.1
    table.kinds["missing_blocks"][7] = 0.9
    table.kinds["outlier"][8] = 0.4
    assert np.flatnonzero(can_be_made(table)).tolist() == [0, 5, 6, 7, 8]
    assert sorted(set(AsMeasured(InMemory("grey", GREY[:9]), table).rows_of(0, 10))) == [
        0, 5, 6, 7, 8,
    ]  # fmt: skip
    table.weight[:] = 0
    with pytest.raises(ValueError, match="no image whose dirt can be made"):
        AsMeasured(InMemory("grey", GREY[:9]), table)


def test_a_hole_is_put_where_the_image_has_it(detectors):
    dirty = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for i in range(6):
        dirty[i, :, i, 2:5] = 0.25
    table = table_of(6, "missing_blocks")
    dirt = AsMeasured(InMemory("holes", dirty), table)
    out = dirt.made(torch.ones(6, 3, 8, 8))
    for y, row in zip(out, dirt.rows_of(0, 6), strict=True):
        expected = torch.ones(3, 8, 8)
        expected[:, row, 2:5] = round(0.25 * 255) / 255
        assert torch.equal(y, expected)


def with_impulses(x, share, seed=0):
    u = torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(seed))
    return torch.where(u < share / 2, 0.0, torch.where(u > 1 - share / 2, 1.0, x))


@pytest.mark.parametrize("ground", [0.0, 0.5, 1.0, 0.1])
def test_impulses_that_an_image_hides_are_counted_too(ground):
    """On a black ground nobody finds the black half of the impulses, 10 % of the pixels in all."""
    x = with_impulses(torch.full((10, 1, 40, 40), ground), 0.1)
    hidden = (x - ground).abs() > 0.2
    assert impulse_share(x, hidden).mean().item() == pytest.approx(0.1, rel=0.06)
    assert not impulse_share(x, torch.zeros_like(hidden)).any()


def test_impulses_are_made_with_the_share_that_was_found(detectors):
    dirty = with_impulses(torch.full((20, 1, 20, 20), 0.5), 0.1)
    out = AsMeasured(InMemory("impulses", dirty), table_of(20, "salt_and_pepper")).made(
        torch.full((20, 1, 20, 20), 0.5)
    )
    for end in (0, 1):
        assert (out == end).double().mean().item() == pytest.approx(0.05, rel=0.12)
