"""Each kind of dirt against its formula, ranges, mixtures, and a kind in a file of the user's."""

import io
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest

from sparring.data import classifier as classifiers
from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt import kinds
from sparring.data.dirt.contaminated import Contaminated, check_contamination
from sparring.data.dirt.kinds.correlated import folded_kernel
from sparring.data.dirt.kinds.missing_blocks import contrasting_grey
from sparring.data.dirt.manifest import manifest
from sparring.data.dirt.registry import find, make
from sparring.data.files.decoding import decode
from sparring.options.sections import options_of
from sparring.support.errors import UserError

HOW_TO = Path(__file__).parents[3] / "docs/how_to"
PAGE = (HOW_TO / "practise_on_dirt.md").read_text()


@pytest.fixture(scope="module")
def digits():
    return build_dataset("digits")


def made(dataset, kind, seed=0, clip=False, **options):
    """All of it dirty."""
    return Contaminated(dataset, kind, 1.0, seed, clip, **options)


def constant(n, shape, value=0.5):
    return InMemory("constant", torch.full((n, *shape), value))


# Ranges

RANGES = [
    ("gaussian", "sigma", 0.05, 0.35),
    ("poisson_gaussian", "photons", 8, 40),
    ("poisson_gaussian", "sigma", 0.02, 0.2),
    ("correlated", "sigma", 0.1, 0.3),
    ("correlated", "correlation", 0.5, 2.0),
    ("blur", "blur_sigma", 0.5, 1.5),
    ("salt_and_pepper", "share", 0.0, 0.2),
    ("watermark", "opacity", 0.2, 0.9),
]


@pytest.mark.parametrize(("kind", "option", "low", "high"), RANGES)
def test_a_range_is_uniform_over_the_images(digits, kind, option, low, high):
    drawn = [entry[option] for entry in manifest(made(digits, kind, **{option: [low, high]}))]
    assert len(drawn) == 1500
    assert kstest(drawn, "uniform", (low, high - low)).pvalue > 1e-3
    fixed = manifest(made(digits.select(torch.arange(3)), kind, **{option: high}))
    assert [entry[option] for entry in fixed] == [high] * 3


def test_the_manifest_says_what_each_image_has():
    data = constant(400, (1, 32, 32))
    dirty = made(data, "gaussian", sigma=[0.05, 0.35])
    own = (dirty.read_all()["x0"] - 0.5).flatten(1).std(1)
    said = torch.tensor([entry["sigma"] for entry in manifest(dirty)])
    torch.testing.assert_close(own, said, rtol=6 / math.sqrt(2 * 1024), atol=0)


def test_a_whole_range_holds_both_its_ends(digits):
    drawn = Counter(entry["quality"] for entry in manifest(made(digits, "jpeg", quality=[10, 12])))
    assert set(drawn) == {10, 11, 12}
    assert min(drawn.values()) > 420


# Noise


@pytest.mark.parametrize(("photons", "sigma"), [(12.0, 0.1), (200.0, 0.0)])
def test_the_variance_of_sensor_noise_grows_with_the_brightness(photons, sigma):
    n = 60_000
    for value in (0.0, 0.3, 1.0):
        x = made(
            constant(1, (1, 200, 300), value), "poisson_gaussian", photons=photons, sigma=sigma
        )
        x = x.read_all()["x0"].double()
        variance = value / photons + sigma**2
        assert float(x.mean()) == pytest.approx(value, abs=5 * math.sqrt(variance / n) + 1e-9)
        # fourth central moment of a Poisson number over photons: (3 l^2 + l) / photons^4
        excess = value / photons**3
        spread = math.sqrt((2 * variance**2 + excess) / n)
        assert float(x.var()) == pytest.approx(variance, abs=5 * spread + 1e-9)
    if sigma == 0:  # whole photons
        counts = x * photons
        torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)


def test_negative_values_send_no_light():
    dirty = made(constant(1, (1, 8, 8), -0.2), "poisson_gaussian", photons=10, sigma=0.0)
    assert not dirty.read_all()["x0"].any()


@pytest.mark.parametrize(("correlation", "shape"), [(0.7, (24, 32)), (3.0, (7, 16)), (0.2, (8, 8))])
def test_correlated_noise_has_its_variance_and_its_spectrum(correlation, shape):
    """The covariance of neighbours against that of the Gaussian wrapped around, by FFT."""
    sigma, n = 0.2, 1500
    dirty = made(constant(n, (2, *shape)), "correlated", sigma=sigma, correlation=correlation)
    noise = dirty.read_all()["x0"].double() - 0.5

    spectrum = torch.ones(shape, dtype=torch.float64)
    for axis, side in enumerate(shape):
        offsets = torch.arange(-math.ceil(4 * correlation), math.ceil(4 * correlation) + 1)
        kernel = torch.zeros(side, dtype=torch.float64)
        kernel.index_add_(
            0, offsets % side, torch.exp(-((offsets.double() / correlation) ** 2) / 2)
        )
        response = torch.fft.fft(kernel).abs().square()
        spectrum *= (response / response.mean()).view(*([-1, 1] if axis == 0 else [1, -1]))
    covariance = sigma**2 * torch.fft.ifft2(spectrum).real
    assert float(covariance[0, 0]) == pytest.approx(sigma**2)

    for down, right in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 3)]:
        products = (noise * noise.roll((-down, -right), (2, 3))).flatten(1).mean(1)
        expected = float(covariance[down, right])
        spread = float(products.std()) / math.sqrt(n)
        assert float(products.mean()) == pytest.approx(expected, abs=5 * spread)
    each_pixel = noise.square().mean(0)
    assert float((each_pixel / sigma**2 - 1).abs().max()) < 6 * math.sqrt(2 / n)
    between = (noise[:, 0] * noise[:, 1]).flatten(1).mean(1)
    assert abs(float(between.mean())) < 5 * float(between.std()) / math.sqrt(n)


def test_neighbours_correlate_as_the_closed_form_says():
    weights = folded_kernel(1.2, 64)
    assert sum(weight**2 for weight in weights.values()) == pytest.approx(1)
    for d in (1, 2, 3):
        found = sum(w * weights.get((k + d) % 64, 0.0) for k, w in weights.items())
        assert found == pytest.approx(math.exp(-(d**2) / (4 * 1.2**2)), abs=2e-3)


# Files


def test_jpeg_images_are_pillows_at_their_own_quality(digits):
    few = digits.select(torch.arange(60))
    dirty = made(few, "jpeg", quality=[10, 40])
    for entry, x, y in zip(manifest(dirty), few.x0, dirty.read_all()["x0"], strict=True):
        file = io.BytesIO()
        pixels = (x[0] * 255).round().byte().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=entry["quality"])
        assert torch.equal(y, decode(file.getvalue(), 1))


def test_enlarged_images_are_pillows(write_image, tmp_path):
    pixels = torch.rand(3, 24, 36, generator=torch.Generator().manual_seed(0))
    data = InMemory("one", pixels.expand(40, -1, -1, -1).contiguous())
    for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"):
        dirty = made(data, "enlarged", factor=[1.5, 4], filter=name)
        entries, images = manifest(dirty), dirty.read_all()["x0"]
        assert len({tuple(entry["shrunk_to"]) for entry in entries}) > 3
        height, width = entries[7]["shrunk_to"]
        way = getattr(Image, name.upper())
        small = [Image.fromarray(one).resize((width, height), way) for one in pixels.numpy()]
        expected = np.stack([np.asarray(one.resize((36, 24), way)) for one in small])
        np.testing.assert_allclose(images[7].numpy(), expected, atol=1e-6)
    assert not torch.equal(images[7], pixels)
    blocks = made(data, "enlarged", factor=2, filter="box").read_all()["x0"][0]
    expected = pixels.view(3, 12, 2, 18, 2).mean((2, 4)).repeat_interleave(2, 1)
    torch.testing.assert_close(blocks, expected.repeat_interleave(2, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", kinds.names())
def test_clipped_images_are_the_floats_in_8_bits_exactly(digits, kind, monkeypatch):
    monkeypatch.setattr(classifiers, "N_STEPS", 20)
    few = digits.select(torch.arange(90))
    parts = [{"kind": "gaussian"}, {"kind": "blur"}]
    options = {"parts": parts} if kind == "mixture" else {}
    floats = Contaminated(few, kind, 0.5, 1, False, **options).read_all()["x0"]
    files = Contaminated(few, kind, 0.5, 1, **options).read_all()["x0"]
    levels = files * 255
    assert torch.equal(levels.round() / 255, files)
    assert torch.equal(levels.round(), (floats.clamp(0, 1) * 255).round())


# Holes, marks, strangers


def test_a_contrasting_grey_is_one_that_the_image_hardly_has():
    assert contrasting_grey(torch.zeros(3, 8, 8)) == 0.5
    assert contrasting_grey(torch.full((1, 8, 8), 0.5)) == 0.3125  # 6/16 is still within 1/8
    most = torch.linspace(0, 1, 1001)
    few = most[(most - 0.75).abs() > 0.1]
    assert contrasting_grey(torch.cat([most, few])) == 0.75
    dirty = made(constant(5, (3, 16, 16), 1.0), "missing_blocks", fill="contrast", block_size=0.25)
    for entry, x in zip(manifest(dirty), dirty.read_all()["x0"], strict=True):
        ((top, left, height, width),) = entry["blocks"]
        assert (x[:, top : top + height, left : left + width] == 0.5).all()
        assert int((x != 1).sum()) == 3 * 4 * 4


@pytest.mark.parametrize("place", ["same", "random"])
def test_a_watermark_shows_its_text_in_its_box(place):
    data = constant(30, (3, 48, 64), 0.2)
    dirty = made(data, "watermark", text="Ax", opacity=[0.3, 0.9], place=place, shade=0.8)
    boxes = set()
    for entry, x in zip(manifest(dirty), dirty.read_all()["x0"], strict=True):
        top, left, height, width = entry["box"]
        boxes.add((top, left))
        assert (top + height <= 48, left + width <= 64, width) == (True, True, 51)
        inside = x[:, top : top + height, left : left + width]
        ink = (inside - 0.2) / 0.6  # (1 - a) 0.2 + a 0.8
        assert float(ink.max()) == pytest.approx(entry["opacity"], abs=1e-5)
        assert 0.15 < float((ink[0] > 0.5 * entry["opacity"]).float().mean()) < 0.6
        assert (x != 0.2).sum() == (inside != 0.2).sum()
        assert torch.equal(x[0], x[2])
        for edge in (inside[0, 0], inside[0, -1], inside[0, :, 0], inside[0, :, -1]):
            assert (edge != 0.2).any()  # the box is no larger than the text
    assert len(boxes) == 1 if place == "same" else len(boxes) > 20
    other = made(data, "watermark", text="B").read_all()["x0"]
    assert not torch.equal(other, made(data, "watermark", text="A").read_all()["x0"])


def test_outliers_are_images_of_the_other_set_at_the_size_of_the_data(tmp_path, write_image):
    for i in range(5):
        write_image(tmp_path / f"{i}.png", seed=i, size=(20, 30))
    data = constant(300, (1, 16, 16))
    images = {"name": "image_folder", "train_data_dir": str(tmp_path)}
    dirty = made(data, "outlier", images=images)
    others = build_dataset(
        "image_folder", train_data_dir=str(tmp_path), resolution=16, n_channels=1
    )
    by_place = {others.where(i): others[i]["x0"] for i in range(5)}
    shown = Counter()
    for entry, x in zip(manifest(dirty), dirty.read_all()["x0"], strict=True):
        assert torch.equal(x, by_place[entry["image"]])
        shown[entry["image"]] += 1
    assert len(shown) == 5
    assert min(shown.values()) > 35
    assert dirty.protocol()["images"] == images
    before = dirty.fingerprint()
    write_image(tmp_path / "5.png", seed=9, size=(20, 30))
    assert made(data, "outlier", images=images).fingerprint() != before


# Mixtures


def test_a_mixture_deals_its_parts_equally_and_by_seed_and_index(digits):
    parts = [
        {"kind": "gaussian", "sigma": [0.1, 0.2]},
        {"kind": "jpeg", "quality": 20},
        {"kind": "mixture", "parts": [{"kind": "blur"}, {"kind": "gaussian", "sigma": 0.3}]},
    ]
    dirty = Contaminated(digits, "mixture", 0.8, 3, False, parts=parts)
    entries = {entry["index"]: entry for entry in manifest(dirty)}
    assert len(entries) == 1200
    sizes = Counter(
        (entry["kind"], entry.get("sigma") == 0.3) for entry in entries.values()
    )  # fmt: skip
    assert sizes == {
        ("gaussian", False): 400, ("jpeg", False): 400, ("blur", False): 200,
        ("gaussian", True): 200,
    }  # fmt: skip

    # the same image gets the same at a lower rate, and what a part alone would do to it
    fewer = Contaminated(digits, "mixture", 0.5, 3, False, parts=parts)
    assert all(entries[entry["index"]] == entry for entry in manifest(fewer))
    alone = Contaminated(digits, "jpeg", 0.8, 3, False, quality=20)
    both = dirty.read_all()["x0"], alone.read_all()["x0"]
    for index, entry in entries.items():
        assert torch.equal(both[0][index], both[1][index]) == (entry["kind"] == "jpeg")
    other = Contaminated(digits, "mixture", 0.8, 4, False, parts=parts)
    assert manifest(other) != manifest(dirty)


def test_a_mixture_for_images_alone_refuses_vectors():
    plane = build_dataset("plane", n_points=90)
    noise = {"kind": "gaussian"}
    dirty = Contaminated(plane, "mixture", 1.0, 0, parts=[noise, {"kind": "outlier"}])
    assert Counter(entry["kind"] for entry in manifest(dirty)) == {"gaussian": 45, "outlier": 45}
    with pytest.raises(ValueError, match="mixture needs images, and plane holds vectors"):
        Contaminated(plane, "mixture", 1.0, 0, parts=[noise, {"kind": "blur"}])


# Kinds by name

MORE = """

class Growing(Corruption):
    def apply(self, x, rng, label):
        return x.repeat(1, 2, 1)


nothing = 3
"""


def test_a_new_kind_is_one_file(digits, tmp_path):
    """The one that is printed in the docs."""
    page = (HOW_TO / "add_your_own.md").read_text()
    (rain,) = re.findall(r"```python\n([^`]*class Rain.*?)```", page, re.S)
    file = tmp_path / "rain.py"
    file.write_text(rain + MORE)
    dirty = Contaminated(digits, f"{file}:Rain", 0.5, 0, False, depth=[0.2, 0.8])
    clean, x = digits.read_all()["x0"], dirty.read_all()["x0"]
    for entry in manifest(dirty):
        assert entry["kind"] == f"{file}:Rain"
        expected = clean[entry["index"], :, :, ::2] * (1 - entry["depth"])
        torch.testing.assert_close(x[entry["index"], :, :, ::2], expected, atol=1e-6, rtol=0)
    assert torch.equal(x[..., 1::2], clean[..., 1::2])
    dealt = Contaminated(digits, "mixture", 0.5, 0, parts=[{"kind": f"{file}:Rain", "depth": 1}])
    assert {entry["kind"] for entry in manifest(dealt)} == {f"{file}:Rain"}

    for name, options, says in [
        ("Rain", {"dpeth": 1}, "contamination.dpeth does not apply .* did you mean 'depth'"),
        ("Rain", {"depth": 2}, "contamination.depth must be a number >= 0 and <= 1"),
        ("Growing", {"depth": 1}, "contamination.depth does not apply .*it takes none"),
        ("nothing", {}, "nothing is no subclass of sparring.data.dirt.contract.Corruption"),
    ]:
        with pytest.raises((ValueError, UserError), match=says):
            check_contamination({"kind": f"{file}:{name}", **options})
    with pytest.raises(ValueError, match=r"made \[1, 16, 8\] of sample \d+ of shape \[1, 8, 8\]"):
        Contaminated(digits, f"{file}:Growing", 0.5, 0)
    with pytest.raises(UserError, match=f"contamination.kind: there is no file {tmp_path}/snow.py"):
        check_contamination({"kind": f"{tmp_path}/snow.py:Snow"})


@pytest.mark.parametrize("name", kinds.names())
def test_a_kind_is_the_class_in_the_file_of_its_name(name):
    found = find(name)
    assert found.__name__.lower() == name.replace("_", "")
    assert found.__doc__.strip()


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("jpeg", {"qualty": 3}, "contamination.qualty does not apply .* did you mean 'quality'"),
        ("jpeg", {"rte": 0.5}, "contamination.rte does not apply .* did you mean 'rate'"),
        ("jpeg", {"depth": 3}, "depth does not apply to kind jpeg .it takes quality.: leave it"),
        ("jpeg", {"quality": [10, 40.5]}, r"quality must be a whole number >= 1 and <= 95, or a"),
        ("jpeg", {"quality": True}, "quality must be a whole number"),
        ("gaussian", {"sigma": [0.3, 0.1]}, r"sigma must be .* a range \[low, high\]"),
        ("gaussian", {"sigma": [0.1, 0.2, 0.3]}, "sigma must be"),
        ("gaussian", {"sigma": math.nan}, "sigma must be"),
        ("correlated", {"correlation": 0}, "correlation must be a number > 0"),
        ("poisson_gaussian", {"photons": 0}, "photons must be a number > 0"),
        ("enlarged", {"filter": "bicubc"}, "filter must be one of .* did you mean 'bicubic'"),
        ("enlarged", {"factor": 0.5}, "factor must be a number >= 1"),
        ("missing_blocks", {"fill": "grey"}, "fill must be a number or 'contrast'"),
        ("watermark", {"text": "  "}, "text must be text that shows something"),
        ("watermark", {"text": "漢"}, "it has no '漢'"),
        ("watermark", {"text": 7}, "text must be text, got 7"),
        ("watermark", {"place": "corner"}, "place must be one of same, random"),
        ("outlier", {"images": "cats"}, "images must be a section as of data"),
        ("outlier", {"images": {"name": "digits"}, "outlier": "uniform"}, "images must be left"),
        ("mixture", {}, "parts must be a list"),
        ("mixture", {"parts": [{"quality": 3}]}, r"parts\[0\] must be {kind"),
        ("mixture", {"parts": [{"kind": "jpge"}]}, r"parts\[0\].kind: there .* mean 'jpeg'"),
        (
            "mixture", {"parts": [{"kind": "blur"}, {"kind": "jpeg", "quality": 200}]},
            r"contamination.parts\[1\].quality must be",
        ),
        ("mixture", {"parts": [{"kind": "blur", "sigma": 1}]}, r"parts\[0\].sigma does not apply"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_without_any_data(kind, options, says):
    with pytest.raises(
        ValueError, match=rf"^contamination\.(?s:.*){says.removeprefix('contamination.')}"
    ):
        check_contamination({"kind": kind, **options})


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ({"name": "digitz"}, "contamination.images.name must be one of .* did you mean 'digits'"),
        ({"name": "digits", "fodler": "x"}, "unknown key 'contamination.images.fodler'"),
        ({"name": "image_folder", "train_data_dir": "/nowhere"}, "images: no folder '/nowhere'"),
        ({"name": "plane"}, "contamination.images must be images in any order, and plane holds"),
        ({"name": "digits", "resolution": 4}, r"have the shape \[1, 4, 4\], those of .* \[1, 8, 8"),
    ],
)
def test_other_images_that_do_not_do_are_refused(digits, images, says):
    with pytest.raises((ValueError, UserError), match=says):
        made(digits, "outlier", images=images)


def test_settings_are_json_and_make_the_kind_again(digits):
    parts = [{"kind": "gaussian", "sigma": [0.1, 0.2]}, {"kind": "watermark", "text": "x"}]
    said = json.loads(json.dumps(make("mixture", {"parts": parts}).settings((1, 8, 8))))
    assert make("mixture", said).settings((1, 8, 8)) == said


@pytest.mark.parametrize("name", kinds.names())
def test_the_page_has_every_kind_with_its_options_and_defaults(name):
    (row,) = re.findall(rf"^\| `{name}` \|(.*)$", PAGE, re.M)
    options = options_of(find(name))
    said = dict(re.findall(r"`(\w+)` ([\w.]+)", row.rpartition("|")[0].rpartition("|")[2]))
    if name == "mixture":
        assert list(options) == ["parts"]
        return
    assert set(said) >= set(options)
    for option, (_, default) in options.items():
        word = default if isinstance(default, str) else json.dumps(default)
        assert said[option] == (f"{default:.3g}" if isinstance(default, float) else word)
