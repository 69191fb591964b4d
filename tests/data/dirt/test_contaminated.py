"""Contamination: exact counts, the statistics of each kind, and that only (seed, index) matters."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from sparring.data import classifier as classifiers
from sparring.data.base import InMemory, ModelRange
from sparring.data.classifier import train_classifier
from sparring.data.datasets import build_dataset
from sparring.data.dirt import kinds
from sparring.data.dirt.contaminated import Contaminated, contaminate, layers
from sparring.data.dirt.kinds.blur import Blur
from sparring.data.dirt.kinds.jpeg import Jpeg
from sparring.data.dirt.manifest import manifest, read_manifest, write_manifest
from sparring.data.dirt.registry import find
from sparring.options.sections import options_of
from sparring.support.errors import UserError

KINDS = tuple(kinds.names())
PARTS = [{"kind": "jpeg", "quality": [10, 40]}, {"kind": "gaussian", "sigma": [0.1, 0.2]}]
OPTIONS = {"mixture": {"parts": PARTS}}
"""What a kind must be told."""
IMAGE_KINDS = [kind for kind in KINDS if kind not in ("gaussian", "outlier", "adversarial")]


def unclipped(dataset, kind, rate, seed, **options):
    """Floats, of which the tests here know the law."""
    return Contaminated(
        dataset, kind, rate, seed, **{"clip": False, **OPTIONS.get(kind, {}), **options}
    )


@pytest.fixture(autouse=True)
def _short_training(monkeypatch):
    monkeypatch.setattr(classifiers, "N_STEPS", 300)


@pytest.fixture(scope="module")
def digits():
    return build_dataset("digits")


@pytest.fixture
def grey():
    """Large constant images: every change is the contamination's."""
    return InMemory("grey", torch.full((20, 3, 48, 64), 0.4))


def _changed(clean, dirty):
    return (clean.read_all()["x0"] != dirty.read_all()["x0"]).flatten(1).any(1)


# Which samples


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.301, 1.0])
def test_exactly_the_share_is_dirty_and_the_rest_is_untouched(digits, kind, rate):
    # Noticeable strengths: by default a block may hide empty pixels, and salt may miss them all.
    fields = {
        "missing_blocks": {"fill": 0.123}, "salt_and_pepper": {"share": 0.9},
        "watermark": {"shade": 0.3},
    }.get(kind, {})  # fmt: skip
    dirty = unclipped(digits, kind, rate, seed=0, **fields)
    assert int(dirty.dirty.sum()) == math.floor(rate * 1500 + 0.5)
    assert torch.equal(_changed(digits, dirty), dirty.dirty)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_in_any_batch_and_epoch(digits, kind):
    held = unclipped(digits, kind, 0.5, seed=3)
    read = unclipped(digits, kind, 0.5, seed=3)
    read.held = None  # contaminated at every reading
    whole = held.read_all()["x0"]
    for keys in ([5, 1400, 5], [(1400, 0)], [(5, 10**6), (17, 3)]):
        batch = read.__getitems__(keys)
        assert torch.equal(batch["x0"], whole[batch["index"]])
    assert held.fingerprint() == read.fingerprint()


def test_the_classifiers_attack_is_one_whatever_the_number_of_threads(digits):
    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(unclipped(digits, "adversarial", 0.2, seed=0).read_all()["x0"])
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_seeds_differ_and_a_lower_rate_is_part_of_a_higher(digits):
    masks = [unclipped(digits, "gaussian", rate, seed=0).dirty for rate in (0.3, 0.6)]
    assert (masks[0] <= masks[1]).all()
    other = unclipped(digits, "gaussian", 0.6, seed=1).dirty
    share = float((masks[1] & other).sum() / 1500)
    assert share == pytest.approx(0.36, abs=0.03)  # independent


def test_two_layers_choose_independently(digits):
    inner = unclipped(digits, "gaussian", 0.5, seed=0, sigma=0.1)
    outer = unclipped(inner, "gaussian", 0.5, seed=0, sigma=0.1)
    assert layers(ModelRange(outer)) == [inner, outer]
    assert float((inner.dirty & outer.dirty).sum() / 1500) == pytest.approx(0.25, abs=0.03)
    both, clean = outer.read_all()["x0"], digits.read_all()["x0"]
    moved = (both - clean).flatten(1)
    for mask, std in (
        (inner.dirty & outer.dirty, 0.1 * math.sqrt(2)),
        (inner.dirty ^ outer.dirty, 0.1),
        (~inner.dirty & ~outer.dirty, 0.0),
    ):
        assert float(moved[mask].std()) == pytest.approx(std, rel=0.01, abs=1e-9)
    outer.held = None
    assert torch.equal(outer.read_all()["x0"], both)


# What they get


def test_gaussian_noise_is_normal_independent_and_not_clipped(digits):
    dirty = unclipped(digits, "gaussian", 1.0, seed=0, sigma=0.2)
    noise = (dirty.read_all()["x0"] - digits.read_all()["x0"]).flatten(1)
    assert float(noise.mean()) == pytest.approx(0, abs=4 * 0.2 / math.sqrt(noise.numel()))
    assert float(noise.std()) == pytest.approx(0.2, rel=0.01)
    inside = [float((noise.abs() < k * 0.2).float().mean()) for k in (1, 2)]
    assert inside == pytest.approx([0.6827, 0.9545], abs=0.005)
    off_diagonal = torch.corrcoef(noise.T) - torch.eye(64)
    assert float(off_diagonal.abs().max()) < 5 / math.sqrt(1500)
    assert float(dirty.read_all()["x0"].min()) < -0.3


def test_by_default_images_are_what_files_hold(digits):
    exact = unclipped(digits, "gaussian", 0.5, seed=0, sigma=0.2).read_all()["x0"]
    cut = Contaminated(digits, "gaussian", 0.5, seed=0, sigma=0.2)
    levels = (exact.clamp(0, 1) * 255).round()  # of the clean ones too: files hold nothing else
    assert torch.equal(cut.read_all()["x0"], levels / 255)
    assert cut.protocol()["clip"] is True


def test_vectors_get_noise_in_data_units():
    plane = build_dataset("plane", dim=3)
    dirty = unclipped(plane, "gaussian", 0.9, seed=0, sigma=0.1)
    off = plane.truth.residual(dirty.read_all()["x0"])
    # One direction is off the plane: its variance is rate * sigma^2.
    rms = off.square().sum(1).mean().sqrt()
    assert float(rms) == pytest.approx(0.1 * math.sqrt(0.9), rel=0.02)
    assert dirty.protocol()["scale"] == "data units"
    assert dirty.truth is plane.truth


def test_salt_and_pepper_replaces_its_share_of_pixels(grey):
    x = unclipped(grey, "salt_and_pepper", 1.0, seed=0, share=0.3).read_all()["x0"]
    assert torch.equal(x[:, 0], x[:, 2])  # whole pixels
    n = x[:, 0].numel()
    tolerance = 4 * math.sqrt(0.15 * 0.85 / n)
    for value in (0.0, 1.0):
        assert float((x[:, 0] == value).float().mean()) == pytest.approx(0.15, abs=tolerance)
    rest = x[(x != 0) & (x != 1)]
    assert (rest == 0.4).all()
    everything = unclipped(grey, "salt_and_pepper", 1.0, seed=0, share=1.0).read_all()["x0"]
    assert ((everything == 0) | (everything == 1)).all()


def test_missing_blocks_are_where_the_manifest_says(grey):
    dirty = unclipped(grey, "missing_blocks", 0.5, seed=0, n_blocks=2, block_size=0.25, fill=0.9)
    expected = grey.read_all()["x0"].clone()
    entries = manifest(dirty)
    assert len(entries) == 10
    for entry in entries:
        assert len(entry["blocks"]) == 2
        for top, left, height, width in entry["blocks"]:
            assert (height, width) == (12, 16)
            expected[entry["index"], :, top : top + height, left : left + width] = 0.9
    assert torch.equal(dirty.read_all()["x0"], expected)


def test_blocks_reach_every_place(digits):
    dirty = unclipped(digits, "missing_blocks", 1.0, seed=0, block_size=0.5)
    places = [tuple(entry["blocks"][0][:2]) for entry in manifest(dirty)]
    counts = np.zeros((5, 5))
    for place in places:
        counts[place] += 1
    assert counts.min() > 30  # 60 expected in each of 5 x 5


def test_blur_keeps_the_mean_and_damps_each_cosine_by_its_gain():
    sigma, n = 1.5, 24
    blur = Blur(blur_sigma=sigma)
    rng = torch.Generator()
    x = torch.rand(3, n, 17, dtype=torch.float64)
    blurred = blur.apply(x, rng, None)
    torch.testing.assert_close(blurred.mean((1, 2)), x.mean((1, 2)), atol=1e-12, rtol=0)
    assert torch.equal(blur.apply(torch.full((1, 9, 9), 0.5), rng, None).round(decimals=6),
                       torch.full((1, 9, 9), 0.5))  # fmt: skip
    # Mirrored at the edges, the cosines of the DCT-II are eigenvectors.
    place = torch.arange(n, dtype=torch.float64) + 0.5
    for k in (1, 3, 7):
        wave = torch.cos(math.pi * k * place / n)[None, :, None].expand(1, n, 5)
        out = blur.apply(wave, rng, None)
        gain = float((out * wave).sum() / wave.square().sum())
        torch.testing.assert_close(out, gain * wave, atol=1e-12, rtol=0)
        assert gain == pytest.approx(math.exp(-((math.pi * k * sigma / n) ** 2) / 2), abs=1e-4)


def test_jpeg_is_what_pillow_makes_of_the_eight_bit_image():
    x = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    out = Jpeg(quality=30).apply(x, torch.Generator(), None)
    pixels = (x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=30)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)
    x = torch.linspace(0, 1, 16 * 16).view(1, 16, 16)
    errors = [
        float((Jpeg(quality=q).apply(x, torch.Generator(), None) - x).abs().mean())
        for q in (5, 50, 95)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_outlier_images_are_another_distribution(grey, digits):
    clean = digits.read_all()["x0"]
    uniform = unclipped(digits, "outlier", 1.0, seed=0, outlier="uniform").read_all()["x0"]
    assert float(uniform.std()) == pytest.approx(1 / math.sqrt(12), rel=0.01)
    assert abs(float(torch.corrcoef(torch.stack([uniform.ravel(), clean.ravel()]))[0, 1])) < 0.02
    inverted = unclipped(digits, "outlier", 1.0, seed=0, outlier="inverted").read_all()["x0"]
    assert torch.equal(inverted, 1 - clean)

    stripes = unclipped(grey, "outlier", 1.0, seed=0).read_all()["x0"]
    assert float(stripes.min()) >= 0
    assert float(stripes.max()) <= 1
    for image in stripes[:, 0]:
        # One sine wave, of 12 to 24 pixels: a quarter to a half of the shorter side. The spectrum's
        # peak says so to within a bin of 1 / 64.
        window = torch.hann_window(48)[:, None] * torch.hann_window(64)[None]
        power = torch.fft.fft2((image - image.mean()) * window).abs().square()
        rows, columns = torch.fft.fftfreq(48)[:, None], torch.fft.fftfreq(64)[None]
        frequency = (rows**2 + columns**2).sqrt()
        peak = float(frequency.flatten()[power.argmax()])
        assert 1 / 24 - 1 / 64 < peak < 1 / 12 + 1 / 64
        assert float(image.max() - image.min()) > 0.45


def test_outlier_vectors_are_far_in_every_direction():
    plane = build_dataset("plane", dim=3)
    x = unclipped(plane, "outlier", 1.0, seed=0, distance=4.0).read_all()["x0"]
    radius = x.norm(dim=1)
    assert float(radius.min()) >= 4
    assert float(radius.max()) < 8
    assert float(radius.mean()) == pytest.approx(6, rel=0.01)
    direction = x / radius[:, None]
    torch.testing.assert_close(
        direction.T @ direction / len(x), torch.eye(3) / 3, atol=0.02, rtol=0
    )


# Attacks


def test_the_classifiers_gradient_is_autograds(monkeypatch):
    monkeypatch.setattr(classifiers, "LARGEST_SIDE", 5)
    data = build_dataset("digits", resolution=12, n_channels=3)
    classifier = train_classifier(data, seed=0)
    assert classifier.pool[0].shape == (5, 12)
    batch = data.read_all(3)
    x = batch["x0"].double().requires_grad_(True)
    F.cross_entropy(classifier.logits(x), batch["label"], reduction="sum").backward()
    for i in range(3):
        ours = classifier.input_gradient(x[i].detach(), int(batch["label"][i]))
        torch.testing.assert_close(ours, x.grad[i], atol=1e-12, rtol=1e-9)


def test_an_attack_stays_in_its_ball_and_beats_random_signs(digits):
    dirty = unclipped(digits, "adversarial", 1.0, seed=0, eps=0.15)
    classifier = dirty.dirt.classifier
    assert classifier.accuracy > 0.97
    clean, x = digits.read_all(), dirty.read_all()["x0"]
    assert float((x - clean["x0"]).abs().max()) <= 0.15 + 1e-6

    def accuracy(x):
        return float((classifier.logits(x).argmax(1) == clean["label"]).double().mean())

    def losses(x):
        return F.cross_entropy(classifier.logits(x), clean["label"], reduction="none")

    signs = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(0)) * 0.3 - 0.15
    assert accuracy(clean["x0"] + signs) > 0.9
    assert accuracy(x) < 0.15
    assert float((losses(x) > losses(clean["x0"] + signs)).double().mean()) > 0.99


def test_one_step_without_a_random_start_is_fgsm(digits):
    options = {"eps": 0.05, "steps": 1, "alpha": 0.05, "random_start": False}
    dirty = unclipped(digits, "adversarial", 1.0, seed=0, **options)
    batch, classifier = digits.read_all(20), dirty.dirt.classifier
    x = batch["x0"].double().requires_grad_(True)
    F.cross_entropy(classifier.logits(x), batch["label"], reduction="sum").backward()
    expected = batch["x0"] + 0.05 * x.grad.sign()
    torch.testing.assert_close(dirty.read_all(20)["x0"].double(), expected, atol=1e-6, rtol=0)


def test_vectors_with_labels_can_be_attacked_and_those_without_are_refused():
    moons = build_dataset("two_moons", n_points=500)
    x = unclipped(moons, "adversarial", 1.0, seed=0, eps=0.2).read_all()["x0"]
    assert float((x - moons.read_all()["x0"]).abs().max()) <= 0.2 + 1e-6
    with pytest.raises(UserError, match=r"plane has none: choose labelled data"):
        unclipped(build_dataset("plane", n_points=8), "adversarial", 0.5, seed=0)


# The record


def test_the_manifest_names_the_dirty_samples_and_what_they_got(digits, tmp_path):
    inner = unclipped(digits, "gaussian", 0.1, seed=0, sigma=0.2)
    outer = unclipped(inner, "jpeg", 0.01, seed=0)
    write_manifest(ModelRange(outer), tmp_path / "data" / "manifest.jsonl", note="here")
    header, entries = read_manifest(tmp_path / "data" / "manifest.jsonl")
    assert entries == manifest(outer)
    assert [entry["index"] for entry in entries] == sorted(entry["index"] for entry in entries)
    for kind, layer, said in (
        ("gaussian", inner, {"sigma": 0.2}),
        ("jpeg", outer, {"quality": 10}),
    ):
        mine = [entry for entry in entries if entry["kind"] == kind]
        assert {entry["index"] for entry in mine} == set(layer.dirty.nonzero().flatten().tolist())
        assert all(said.items() <= entry.items() for entry in mine)
    said = {"record": "protocol", "kind": "jpeg", "rate": 0.01, "n_dirty": 15, "clip": False}
    assert said.items() <= header.items()
    assert header["below"] == [inner.protocol()]
    assert header["note"] == "here"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_record_in_json(digits, kind):
    dirty = unclipped(digits, kind, 0.01, seed=0)
    assert json.loads(json.dumps(manifest(dirty))) == manifest(dirty)
    assert json.loads(json.dumps(dirty.protocol())) == dirty.protocol()
    assert dirty.fingerprint() != digits.fingerprint()


def test_files_are_named_in_the_manifest(folder):
    data = build_dataset("image_folder", train_data_dir=str(folder))
    entry = manifest(unclipped(data, "blur", 1.0, seed=0))[6]
    assert entry == {
        "index": 6, "kind": "blur", "blur_sigma": 1.0, "where": str(folder / "dog" / "6.png"),
    }  # fmt: skip


def test_a_stand_in_for_an_unreadable_image_keeps_its_own_contamination(folder):
    (folder / "cat" / "2.png").write_bytes(b"broken")
    data = build_dataset("image_folder", train_data_dir=str(folder))
    dirty = unclipped(data, "gaussian", 0.5, seed=0)
    batch = dirty.__getitems__([2, 3])
    assert batch["index"].tolist() == [3, 3]
    assert torch.equal(batch["x0"][0], batch["x0"][1])


def test_no_contamination_is_the_data_set_itself(digits):
    assert contaminate(digits, None) is digits
    assert contaminate(digits, {"kind": "none", "rate": 0.9, "sigma": 0.2}) is digits
    dirty = contaminate(digits, {"kind": "gaussian", "rate": None, "sigma": None, "eps": None})
    assert (dirty.rate, dirty.seed, dirty.dirt.sigma) == (0.9, 0, 0.1)
    ((name, (_, default)),) = options_of(find("gaussian")).items()
    assert (name, default) == ("sigma", 0.1)
    assert "classifier" not in options_of(find("adversarial"))


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("rain", {}, r"contamination.kind: there is no 'rain' .known: adversarial, blur"),
        ("gaussian", {"rate": 1.5}, r"contamination.rate must be in \[0, 1\], got 1.5"),
        (
            "gaussian",
            {"sigma": -0.1},
            "sigma must be a number >= 0, or a range .*, got -0.1",
        ),
        (
            "blur",
            {"sigma": 0.2},
            "sigma does not apply to kind blur - did you mean 'blur_sigma'",
        ),
        ("blur", {"blur_sigma": 0}, "contamination.blur_sigma must be a number > 0"),
        (
            "outlier",
            {"outlier": "cats"},
            "outlier must be one of stripes, uniform, inverted, got 'cats'",
        ),
        (
            "missing_blocks",
            {"block_size": 0},
            "contamination.block_size must be a number > 0",
        ),
        ("salt_and_pepper", {"share": 1.2}, "contamination.share must be a number >= 0 and <= 1"),
        ("jpeg", {"quality": 0}, "contamination.quality must be a whole number >= 1 and <= 95"),
        ("adversarial", {"steps": 0}, "contamination.steps must be a whole number >= 1"),
    ],
)
def test_wrong_fields_are_refused(digits, kind, fields, says):
    with pytest.raises(ValueError, match=says):
        unclipped(digits, kind, **{"rate": 0.5, "seed": 0, **fields})


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_kinds_of_images_refuse_vectors(kind):
    plane = build_dataset("plane", n_points=8)
    with pytest.raises(ValueError, match=f"contamination kind {kind} needs images"):
        unclipped(plane, kind, 0.5, seed=0)
    with pytest.raises(ValueError, match="clip applies to images"):
        Contaminated(plane, "gaussian", 0.5, seed=0, clip=True)
    assert Contaminated(plane, "gaussian", 0.5, seed=0).protocol()["clip"] is False
