"""Extractors: what they compute, where they come from, and what they refuse."""

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image
from torch import nn

from sparring.data.base import InMemory, ModelRange
from sparring.evaluation.networks import classifier
from sparring.evaluation.networks.extractors import checksum, image_batches, make_extractor
from sparring.support.errors import UserError
from support import tiny_dino


def test_pixels_are_the_image_itself(digits):
    images = digits.read_all(5)["x0"]
    features = make_extractor("pixels", digits)(images)
    assert torch.equal(features, images.reshape(5, 64).double())


# --- Classifier


def test_classifier_knows_digits_it_has_not_seen(digits):
    extractor = make_extractor("classifier", digits)
    assert extractor.details["classifier_held_out_accuracy"] > 0.93
    features = extractor(digits.read_all(300)["x0"], batch_size=100)
    assert features.shape == (300, 64)
    assert features.dtype == torch.float32
    assert features.min() >= 0  # the layer before the classes, after its ReLU
    labels = digits.labels[:300]
    centres = torch.stack([features[labels == c].mean(0) for c in range(10)])
    nearest = torch.cdist(features, centres).argmin(1)
    assert (nearest == labels).double().mean() > 0.93


def test_features_do_not_depend_on_the_batch_size(digits):
    extractor = make_extractor("classifier", digits)
    images = digits.read_all(7)["x0"]
    torch.testing.assert_close(
        extractor(images), extractor(images, batch_size=2), atol=1e-5, rtol=0
    )


def test_training_repeats_to_the_bit_and_ignores_threads_and_the_global_seed(digits, monkeypatch):
    monkeypatch.setattr(classifier, "N_STEPS", 20)
    small = digits.select(torch.arange(200))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    n_threads = torch.get_num_threads()
    first, accuracy = classifier.train_classifier(small)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    torch.set_num_threads(2)
    try:
        second, again = classifier.train_classifier(small)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)
    assert checksum(first) == checksum(second)
    assert accuracy == again


def test_classifier_comes_from_the_cache_under_the_fingerprint_of_the_data(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(classifier, "N_STEPS", 5)
    small = digits.select(torch.arange(100))
    trained = make_extractor("classifier", small)
    (path,) = (tmp_path / "cache").iterdir()
    assert path.name == f"classifier-v{classifier.VERSION}-{small.fingerprint()}.safetensors"

    def refuse(_):
        raise AssertionError("trained again")

    monkeypatch.setattr(classifier, "train_classifier", refuse)
    cached = make_extractor("classifier", small)
    assert (cached.checksum, cached.details) == (trained.checksum, trained.details)
    with pytest.raises(AssertionError, match="trained again"):
        make_extractor("classifier", digits.select(torch.arange(101)))


@pytest.mark.parametrize("content", [b"not safetensors", safetensors.torch.save({})])
def test_a_broken_cache_is_trained_again_and_mended(content, digits, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier, "N_STEPS", 5)
    small = digits.select(torch.arange(100))
    expected = make_extractor("classifier", small).checksum
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert make_extractor("classifier", small).checksum == expected
    assert "cannot be used" in caplog.text
    caplog.clear()
    assert make_extractor("classifier", small).checksum == expected
    assert not caplog.text


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(
    digits, tmp_path, monkeypatch, caplog
):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("SPARRING_CACHE", str(file / "folder"))
    monkeypatch.setattr(classifier, "N_STEPS", 5)
    assert make_extractor("classifier", digits.select(torch.arange(100))).checksum
    assert "is not cached" in caplog.text


def test_large_images_are_averaged_down():
    images = torch.rand(2, 3, 64, 48)
    small = classifier.shrink(images)
    expected = images.reshape(2, 3, 32, 2, 24, 2).mean((3, 5))
    torch.testing.assert_close(small, expected)
    assert torch.equal(classifier.shrink(small), small)
    network = classifier.Classifier(3, 64, 4)
    torch.testing.assert_close(network(images), network(small))


@pytest.mark.parametrize("side", [4, 8, 28, 32, 100])
def test_the_classifier_fits_every_size(side):
    network = classifier.Classifier(1, side, 3)
    assert network(torch.rand(2, 1, side, side)).shape == (2, 3)


def test_the_classifier_needs_labels(unlabelled):
    with pytest.raises(UserError, match=r"needs labels and squares has none: use .*pixels"):
        make_extractor("classifier", unlabelled)


def test_without_a_name_the_labels_decide(digits, unlabelled):
    assert make_extractor(None, digits).name == "classifier"
    assert make_extractor(None, unlabelled).name == "pixels"


# --- A user's own


def write(tmp_path, code):
    path = tmp_path / "net.py"
    path.write_text(code)
    return f"{path}:features"


MODULE = """
import torch
class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([{weight}]))
        self.dropout = torch.nn.Dropout(0.5)
    def forward(self, images):
        return self.dropout(images.mean((2, 3)) * self.weight)
def features():
    return Mean()
"""


def test_a_users_module_gives_the_features_in_evaluation_mode(digits, tmp_path):
    extractor = make_extractor(write(tmp_path, MODULE.format(weight=2.0)), digits)
    images = digits.read_all(10)["x0"]
    torch.testing.assert_close(extractor(images), 2 * images.mean((2, 3)), atol=1e-6, rtol=0)
    other = make_extractor(write(tmp_path, MODULE.format(weight=3.0)), digits)
    assert extractor.checksum != other.checksum


def test_a_users_function_gives_the_features(digits, tmp_path):
    name = write(tmp_path, "def features():\n    return lambda images: images.amax((2, 3))\n")
    images = digits.read_all(10)["x0"]
    expected = images.amax((2, 3)).double()
    assert torch.equal(make_extractor(name, digits)(images), expected)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_like_this", r"cannot be imported \(ModuleNotFoundError"),
        ("x = 1", "has no 'features'"),
        ("def features(size): ...", "must take no arguments"),
        ("def features(): return 3", "must return a module or function, it returned int"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(code, message, digits, tmp_path):
    with pytest.raises(UserError, match=message):
        make_extractor(write(tmp_path, code), digits)


def test_unknown_names_are_refused(digits):
    with pytest.raises(UserError, match="unknown extractor 'vgg': choose classifier, pixels, inc"):
        make_extractor("vgg", digits)
    with pytest.raises(UserError, match=r"there is no file missing\.py"):
        make_extractor("missing.py:net", digits)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("images", r"for \(3, 1, 8, 8\) it returned \(3, 1, 8, 8\)"),
        ("images.flatten()[:, None]", r"it returned \(192, 1\)"),
        ("[1, 2, 3]", "it returned list"),
    ],
)
def test_features_of_another_shape_are_refused(body, message, digits, tmp_path):
    name = write(tmp_path, f"def features():\n    return lambda images: {body}\n")
    with pytest.raises(ValueError, match=message):
        make_extractor(name, digits)(digits.read_all(3)["x0"])


# --- Checksums and reading


def test_checksum_changes_with_every_value_and_shape():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    first = checksum(network)
    assert first == checksum(network)
    with torch.no_grad():
        network[0].bias[2] += 1e-6
    second = checksum(network)
    assert second != first
    network[1].running_var[0] += 1e-6  # the last of the state in the order of names
    assert checksum(network) != second
    assert checksum(nn.Linear(2, 1, bias=False)) != checksum(nn.Linear(1, 2, bias=False))


def test_reference_images_must_be_in_the_range_of_images(digits):
    with pytest.raises(ValueError, match=r"digits must be clean and in \[0, 1\], got -1 to 1"):
        list(image_batches(ModelRange(digits), [0, 1, 2]))


def test_an_unreadable_image_is_left_out_rather_than_counted_twice():
    class OneBroken(InMemory):
        def rows(self, indices, positions):
            replaced = torch.where(indices == 2, 3, indices)  # as data sets do it
            return super().rows(replaced, positions)

    images = torch.arange(6.0).reshape(6, 1, 1, 1) / 6
    data = OneBroken("broken", images, torch.arange(6), list("abcdef"))
    (read, labels), (rest, _) = image_batches(data, range(6), batch_size=4)
    assert labels.tolist() == [0, 1, 3]
    assert torch.equal(torch.cat([read, rest]), images[[0, 1, 3, 4, 5]])


# --- DINOv2


def test_dinov2_gives_the_class_token_of_transformers(tmp_path, digits):
    """At 224 pixels nothing is resized; elsewhere PIL's bicubic is met but for a grey level."""
    place = str(tiny_dino(tmp_path / "dino"))
    extractor = make_extractor("dinov2", digits, weights=place)
    assert extractor.details["frechet_distance_is"] == f"FD-DINOv2 with {place}"
    model = transformers.Dinov2Model.from_pretrained(place).eval()
    rng = torch.Generator().manual_seed(0)
    levels = torch.randint(256, (2, 3, 224, 224), generator=rng, dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # noqa: E501  # fmt: skip

    def expected(pixels):
        with torch.no_grad():
            return model((pixels.float() / 255 - mean) / std).last_hidden_state[:, 0]

    torch.testing.assert_close(extractor(levels / 255), expected(levels), rtol=1e-4, atol=1e-5)
    small = levels[:, :, :50, :40]
    resized = [
        np.asarray(Image.fromarray(one.permute(1, 2, 0).numpy()).resize((224, 224), Image.BICUBIC))
        for one in small
    ]
    by_pil = expected(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2))
    torch.testing.assert_close(extractor(small / 255), by_pil, rtol=1e-2, atol=1e-2)
    grey = digits.read_all(2)["x0"]
    torch.testing.assert_close(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))


def test_dinov2_needs_a_dinov2(tmp_path, digits):
    with pytest.raises(UserError, match=r"weights .*nowhere cannot be loaded"):
        make_extractor("dinov2", digits, weights=str(tmp_path / "nowhere"))
