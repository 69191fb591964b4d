"""Holes are found by their flatness and their edges, and backgrounds and JPEG blocks are none."""

import pytest
import torch
from photographs import drawn_tiles
from sklearn.datasets import load_digits

from sparring.data.audit.detectors.holes import CERTAIN, ENOUGH, Holes, flat_quads, holes
from sparring.data.audit.registry import all_detectors
from sparring.data.dirt.registry import make

detector = Holes()


def clothes(n=96):
    """Grey shapes on exactly black ground, of 28 x 28 pixels: digits, enlarged."""
    x = torch.tensor(load_digits().images[:n]).float()[:, None] / 16
    large = torch.nn.functional.interpolate(x, (28, 28), mode="bilinear")
    return ((large - 0.1).clamp(0, 1) * 255).round() / 255


def dirty(x, kind, **options):
    dirt = make(kind, options)
    made = [dirt.of(i).apply(y, torch.Generator().manual_seed(i), None) for i, y in enumerate(x)]
    return (torch.stack(made).clamp(0, 1) * 255).round() / 255


def true_mask(x, **options):
    """Where the blocks of `dirty` are: what differs between two fills."""
    low, high = (dirty(torch.zeros_like(x), "missing_blocks", fill=f, **options) for f in (0, 1))
    return (low != high)[:, :1]


def judged(x):
    seen = {f"holes.{name}": values for name, values in detector.look(x).items()}
    return detector.fit(seen)(seen)["missing_blocks"]


def test_the_kind_is_found_by_its_name_and_images_do_not_see_each_other():
    assert isinstance(all_detectors()["holes"], Holes)
    x = dirty(drawn_tiles(n=4), "missing_blocks", block_size=0.25, fill="contrast")
    alone = [detector.look(y[None])["evidence"] for y in x]
    assert torch.equal(detector.look(x)["evidence"], torch.cat(alone))


def test_a_quad_is_four_equal_pixels():
    x = torch.arange(20.0).reshape(1, 1, 4, 5) / 20
    x[0, 0, 1:3, 2:5] = 0.5
    assert flat_quads(x).nonzero().tolist() == [[0, 1, 2], [0, 1, 3]]


def test_rectangle_and_evidence_of_a_made_image():
    x = (torch.arange(144.0) % 2).reshape(1, 1, 12, 12) * 0.02 + 0.2
    x += torch.arange(12.0)[:, None] * 0.001  # nothing is flat
    x[0, 0, 3:6, 4:9] = 0.7
    found, evidence = holes(x)
    assert [part.tolist() for part in found[1:5]] == [[3], [4], [3], [5]]
    assert evidence.item() == pytest.approx(16 * (1 - ENOUGH))
    x[0, 0, 2, 4:9] = 0.68  # the upper side does not differ by a STEP
    assert holes(x)[1].item() == pytest.approx(16 * (11 / 16 - ENOUGH), abs=1e-5)
    x[0, 0, :6, 4:9] = 0.7  # now it lies at the edge, which neither speaks for it nor against
    assert holes(x)[1].max().item() == pytest.approx(17 * (1 - ENOUGH), abs=1e-5)


@pytest.mark.parametrize("images", [drawn_tiles, clothes], ids=["photographs", "clothes"])
@pytest.mark.parametrize("n_dirty", [0, 10, 96])
def test_blocks_that_stand_out_are_found_whatever_their_share(images, n_dirty):
    x = images()
    options = {"block_size": 0.25, "n_blocks": 2, "fill": "contrast"}
    if n_dirty:
        x[:n_dirty] = dirty(x[:n_dirty], "missing_blocks", **options)
    called = judged(x) > 0.5
    assert called[:n_dirty].all()
    assert called[n_dirty:].sum() == 0


@pytest.mark.parametrize("images", [drawn_tiles, clothes], ids=["photographs", "clothes"])
def test_the_mask_is_the_true_region_where_blocks_overlap_too(images):
    x, options = images(), {"block_size": 0.25, "n_blocks": 3}
    y = dirty(x, "missing_blocks", fill="contrast", **options)
    hidden, truth = detector.hidden(y, "missing_blocks"), true_mask(x, **options)
    assert hidden.shape == (96, 1, *x.shape[2:])
    assert (hidden & truth).sum() >= 0.99 * hidden.sum()
    assert (hidden & truth).sum() >= 0.99 * truth.sum()


def test_black_blocks_are_found_in_photographs_and_not_among_black_backgrounds():
    x = drawn_tiles()
    x[:48] = dirty(x[:48], "missing_blocks", block_size=0.25, fill=0)
    called = judged(x) > 0.5
    assert called[:48].float().mean() > 0.9
    assert called[48:].sum() == 0
    assert (judged(clothes()) > 0.5).sum() == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [("jpeg", {"quality": 10}), ("jpeg", {"quality": 30}), ("gaussian", {"sigma": 0.35}),
     ("salt_and_pepper", {"share": 0.05}), ("enlarged", {}), ("blur", {})],
)  # fmt: skip
@pytest.mark.parametrize("images", [drawn_tiles, clothes], ids=["photographs", "clothes"])
def test_other_dirt_is_not_called_holes(images, kind, options):
    assert (judged(dirty(images(), kind, **options)) > 0.5).float().mean() <= 0.03


def test_a_clear_sky_is_no_hole():
    x = drawn_tiles(n=2)
    x[:, :, :14] = torch.tensor([0.5, 0.7, 0.9])[:, None, None]
    horizon = 14 + (torch.arange(32) % 5)
    for j, i in enumerate(horizon.tolist()):
        x[:, :, 14:i, j] = x[:, :, 13:14, j]
    assert (detector.look(x)["evidence"][:, 0] < CERTAIN).all()


def test_images_without_anything_flat_have_no_hole():
    x = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert detector.look(x)["evidence"].tolist() == [[0, 0, 0]] * 2
    assert not detector.hidden(x, "missing_blocks").any()


def uneven(side=24):
    """Nothing is flat, and all near 0.2."""
    return torch.arange(float(side * side)).reshape(1, 1, side, side) % 7 * 0.001 + 0.2


@pytest.mark.parametrize("turned", [False, True])
def test_two_blocks_that_overlap_are_hidden_whole(turned):
    """The lower one's first row goes on in the upper one, or the other way round."""
    x = uneven()
    x[..., 6:12, 3:9] = x[..., 3:9, 7:13] = 0.8
    x = x.mT if turned else x
    found, evidence = holes(x)
    whole = (found.height == 6) & (found.width == 6)
    assert (evidence[whole] > CERTAIN).any()
    truth = x == 0.8
    assert torch.equal(detector.hidden(x, "missing_blocks"), truth)
