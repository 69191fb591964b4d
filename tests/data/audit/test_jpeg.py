"""JPEG that was saved as something else: found, with its quality, on any grid, also when cut."""

import io

import pytest
import torch
from photographs import dirty, eight_bits, tiles
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sparring.data.audit.detectors.jpeg import (
    Jpeg,
    Levels,
    evidence,
    file_quality,
    forward,
    luminance,
    moved_grids,
    put_back,
    table_of,
)
from sparring.data.datasets import build_dataset

SHARED = {"n": 60, "side": 32}


def columns(x):
    detector = Jpeg()
    seen = {f"jpeg.{name}": values for name, values in detector.look(x).items()}
    return detector.fit(seen)(seen)


def posters(n_channels):
    """Tiles of such contrast that a good part of the pixels is at 0 or 255, rings around them."""
    return eight_bits((3 * (tiles(**SHARED, n_channels=n_channels) - 0.5) + 0.3).clamp(0, 1))


def encoded(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality)
    file.seek(0)
    return JpegImageFile(file)


@pytest.mark.parametrize("quality", [1, 10, 24, 25, 49, 50, 51, 75, 90, 95, 100])
def test_the_tables_are_those_that_pillow_writes(quality):
    image = encoded(torch.zeros(16, 16, dtype=torch.uint8), quality)
    assert torch.equal(torch.tensor(image.quantization[0]).reshape(8, 8), table_of(quality))
    assert file_quality(image) == quality


def test_the_quality_of_other_files():
    assert file_quality(Image.new("L", (8, 8))) is None
    foreign = encoded(torch.zeros(16, 16, dtype=torch.uint8), 50)
    foreign.quantization = {0: [step + step // 9 for step in foreign.quantization[0]]}
    assert file_quality(foreign) in range(44, 49), "steps a tenth larger: quality 50 / 1.1"


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 40, 75, 90])
def test_jpeg_is_found_with_its_quality(n_channels, quality):
    x = tiles(**SHARED, n_channels=n_channels)
    found = columns(dirty(x, "jpeg", quality=quality))
    assert (found["jpeg"] > 0.99).float().mean() > 0.95
    assert (found["quality"] == quality).float().mean() > 0.9


@pytest.mark.parametrize("n_channels", [1, 3])
def test_clean_images_are_no_jpeg(n_channels):
    for x in (tiles(**SHARED, n_channels=n_channels), posters(n_channels)):
        found = columns(x)
        assert (found["jpeg"] < 0.5).all()
        assert (found["quality"] == 0).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("blur", {"blur_sigma": 1.0}),
        ("blur", {"blur_sigma": 3.0}),
        ("enlarged", {"factor": 2.0}),
        ("enlarged", {"factor": 4.0, "filter": "nearest"}),
        ("gaussian", {"sigma": 0.2}),
        ("salt_and_pepper", {"share": 0.05}),
        ("missing_blocks", {"block_size": 0.25, "fill": "contrast"}),
        ("outlier", {}),
    ],
)
def test_other_dirt_is_no_jpeg(kind, options):
    found = columns(dirty(tiles(**SHARED), kind, **options))
    assert (found["jpeg"] < 0.5).all()


def test_what_was_cut_to_the_range_is_put_back():
    found = columns(dirty(posters(1), "jpeg", quality=30))
    assert (found["jpeg"] > 0.99).float().mean() > 0.9
    assert (found["quality"] == 30).float().mean() > 0.9


def test_an_image_of_one_block_is_found_though_a_third_of_it_is_cut():
    x = build_dataset("digits").read_all()["x0"][:200]
    found = columns(dirty(x, "jpeg", quality=[10, 40]))
    assert (found["jpeg"] > 0.5).float().mean() > 0.88
    assert (columns(x)["jpeg"] > 0.5).float().mean() == 0


def test_cut_pixels_come_nearer_to_what_the_file_said():
    """One block: true pixels below 0 and above 255, known; cut, then put back."""
    table = table_of(30).flatten().float()
    k = torch.zeros(64)
    k[[0, 1, 8, 9, 2]] = torch.tensor([1.0, 40.0, -4.0, 3.0, 2.0])
    true = table * k @ torch.eye(64)
    pixels = torch.linalg.solve(dct_matrix(), true) + 128
    assert (pixels < -3).any()
    assert (pixels > 258).any()
    cut = pixels.clamp(0, 255)
    floor = torch.where(cut <= 0, -torch.inf, cut)
    ceiling = torch.where(cut >= 255, torch.inf, cut)
    whole = put_back(Levels(cut, floor, ceiling), table, 4)
    assert (forward(cut) - true).abs().max() > 10
    assert (forward(whole) - true).abs().max() < 0.5
    inside = (cut > 0) & (cut < 255)
    assert torch.equal(whole[inside], cut[inside])


def dct_matrix():
    return forward(torch.eye(64) + 128).T


def test_the_transform_is_orthonormal_and_has_the_mean_first():
    matrix = dct_matrix()
    assert torch.allclose(matrix @ matrix.T, torch.eye(64), atol=1e-5)
    assert torch.allclose(matrix[0], torch.full((64,), 1 / 8), atol=1e-6)


def test_a_crop_moves_the_grid():
    x = dirty(tiles(20, 48), "jpeg", quality=50)[..., 3:35, 6:38]
    offsets, gain = moved_grids(luminance(x).y)
    assert (offsets == torch.tensor([5, 2])).all(1).float().mean() > 0.9
    assert gain.median() > 0.3
    found = columns(x)
    assert (found["jpeg"] > 0.99).float().mean() > 0.95
    assert (found["quality"] == 50).float().mean() > 0.9


@pytest.mark.parametrize("side", [8, 12, 15, 28])
def test_sides_that_are_no_multiple_of_8(side):
    x = tiles(60, side, n_channels=1)
    found = columns(dirty(x, "jpeg", quality=40))["jpeg"]
    assert (found > 0.5).float().mean() > (0.9 if side >= 16 else 0.6)
    assert (columns(x)["jpeg"] < 0.5).all()


def test_images_smaller_than_a_block_and_constant_ones_say_nothing():
    for x in (
        torch.rand(2, 3, 7, 40),
        torch.full((2, 1, 32, 32), 77 / 255),
        torch.zeros(2, 3, 8, 8),
    ):
        seen = Jpeg().look(x)
        assert (seen["evidence"] == 0).all()
        assert (columns(x)["jpeg"] < 0.05).all()


def test_large_images_are_judged_by_some_of_their_blocks():
    x = tiles(2, 200, shrunk=1)
    assert (columns(dirty(x, "jpeg", quality=60))["quality"] == 60).all()


def test_the_statistics_of_an_image_depend_on_it_alone():
    x = torch.cat([tiles(**SHARED)[:9], dirty(tiles(**SHARED)[:9], "jpeg", quality=30)])
    together, alone = Jpeg().look(x), [Jpeg().look(image[None]) for image in x]
    for name, values in together.items():
        one_by_one = torch.cat([each[name] for each in alone])
        assert torch.allclose(values, one_by_one, rtol=1e-3, atol=0.1)


def test_the_evidence_is_the_sum_of_the_formula():
    """In float64, one logarithm each; far from the comb, on it, and in its cell at zero."""
    table = table_of(40).flatten().double()
    rng = torch.Generator().manual_seed(0)
    k = torch.randint(-2, 3, (50, 64), generator=rng)
    error = 0.3 * torch.randn(50, 64, generator=rng).double()
    c = k * table + torch.where(torch.rand(50, 64, generator=rng) < 0.3, 0.2 * table, error)
    off, spread = c - (c / table).round() * table, 0.3
    normal = torch.distributions.Normal(0.0, spread).log_prob(off).exp()
    nats = (0.9 * table * normal + 0.1).log()
    nats = torch.where((c / table).round() == 0, nats.clamp(max=0), nats).sum(1)
    found = evidence(c.float(), table.float().expand(50, -1), spread)
    torch.testing.assert_close(found.double(), nats, rtol=1e-4, atol=1e-2)


def test_zeros_are_no_evidence():
    """Images without any detail are as empty as a JPEG, but their few waves are of any height."""
    coarse = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic", align_corners=True)
    seen = Jpeg().look(eight_bits(0.2 + 0.6 * smooth.clamp(0, 1)))
    assert (seen["evidence"] < 0).all()


def test_a_quality_that_is_none_is_refused():
    with pytest.raises(ValueError, match="quality must be in 1 to 100, got 0"):
        table_of(0)
