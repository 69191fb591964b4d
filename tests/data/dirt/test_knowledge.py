"""What is told of a dirty sample is what was done to it."""

import pytest
import torch

from sparring.data.base import InMemory
from sparring.data.dirt import kinds
from sparring.data.dirt.contaminated import Contaminated
from sparring.data.dirt.contract import NOTHING
from sparring.data.dirt.registry import make

FLAT = InMemory("flat", torch.full((60, 1, 16, 16), 0.5))
UNCLIPPED = {"rate": 0.5, "seed": 3, "clip": False}


def known(dirty):
    """Number -> what is true of each dirty sample."""
    return {i: dirty.knowledge(i) for i in dirty.dirty.nonzero().flatten().tolist()}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gaussian", {"sigma": [0.05, 0.4]}),
        ("poisson_gaussian", {"photons": [10, 40], "sigma": [0.05, 0.2]}),
        ("correlated", {"sigma": [0.05, 0.4], "correlation": 0.7}),
    ],
)
def test_the_noise_has_the_variance_that_is_told(kind, options):
    dirty = Contaminated(FLAT, kind, **UNCLIPPED, **options)
    added = dirty.read_all()["x0"] - 0.5
    ratios = [
        float(added[i].square().mean()) / (one.sigma**2 + 0.5 * one.slope)
        for i, one in known(dirty).items()
    ]
    assert torch.tensor(ratios).mean() == pytest.approx(1, abs=0.05)  # 30 images of 256 pixels
    assert len({one.sigma for one in known(dirty).values()}) == 30
    assert all(one.correlation == options.get("correlation", 0) for one in known(dirty).values())


def test_neighbours_are_as_alike_as_is_told():
    dirty = Contaminated(FLAT, "correlated", **UNCLIPPED, sigma=0.2, correlation=1.0)
    noise = dirty.read_all()["x0"][dirty.dirty] - 0.5
    alike = float((noise * noise.roll(1, -1)).mean() / noise.square().mean())
    assert alike == pytest.approx(torch.tensor(-1 / 4).exp().item(), abs=0.03)


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("jpeg", {"quality": [10, 40]}, "quality"),
        ("blur", {"blur_sigma": [0.5, 2.0]}, "blur_sigma"),
    ],
)
def test_sizes_are_those_of_the_manifest(kind, options, size):
    dirty = Contaminated(FLAT, kind, **UNCLIPPED, **options)
    for i, one in known(dirty).items():
        said = dirty.details(i)
        assert getattr(one, size) == said.get(size, said.get("blur_sigma"))


def test_an_enlarged_image_lacks_what_a_blur_of_its_factor_would_take():
    """Half of the amplitude is left at the frequency that the small image could just hold."""
    one = make("enlarged", {"factor": 2}).of(0).knowledge((1, 16, 16), torch.Generator())
    frequencies = 2 * torch.pi * torch.fft.fftfreq(16)  # of which 4 cycles are 1 / (2 * 2)
    left = torch.exp(-((one.blur_sigma * frequencies) ** 2) / 2)
    assert left[4] == pytest.approx(0.5, abs=1e-6)
    same = make("enlarged", {"factor": 1}).of(0).knowledge((1, 16, 16), torch.Generator())
    assert same.blur_sigma == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("salt_and_pepper", {"share": [0.05, 0.2]}),
        ("missing_blocks", {"n_blocks": 2, "block_size": 0.25, "fill": 0.0}),
        ("watermark", {"place": "random", "opacity": [0.5, 1.0]}),
    ],
)
def test_hidden_is_the_region_that_was_replaced_and_not_what_changed(kind, options):
    """On grey every replaced pixel changes; on other images, where some do not, it is the same."""
    grey = Contaminated(FLAT, kind, **UNCLIPPED, **options)
    black = Contaminated(
        InMemory("black", torch.zeros(60, 1, 16, 16)), kind, **UNCLIPPED, **options
    )
    x0 = grey.read_all()["x0"]
    for i, one in known(grey).items():
        assert one.hidden is not None
        assert torch.equal(one.hidden, (x0[i] != 0.5).any(0))
        assert torch.equal(one.hidden, black.knowledge(i).hidden)
    assert any(bool(one.hidden.any()) for one in known(grey).values())


def test_what_nobody_can_use_has_weight_0_and_every_kind_says_something():
    for kind in kinds.names():
        options = {"parts": [{"kind": "outlier"}]} if kind == "mixture" else {}
        corruption = make(kind, options).of(0)
        one = corruption.knowledge((1, 16, 16), torch.Generator().manual_seed(0))
        is_nothing = kind in ("outlier", "adversarial", "mixture")
        assert (one == NOTHING) == is_nothing, kind


def test_each_part_of_a_mixture_is_told_by_its_own_kind():
    parts = [{"kind": "gaussian", "sigma": 0.2}, {"kind": "jpeg", "quality": 30}]
    dirty = Contaminated(FLAT, "mixture", **UNCLIPPED, parts=parts)
    told = {dirty.details(i)["kind"]: (one.sigma, one.quality) for i, one in known(dirty).items()}
    assert told == {"gaussian": (0.2, 0), "jpeg": (0, 30)}
