"""The Inception network against known answers, and the ways its weights come or are refused.

Weights are random here: features of 64 need the first three layers only.
"""

import hashlib
import logging
import math
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from measuring import evaluate
from torch import nn

from sparring.commands.evaluate.figures import as_text
from sparring.data.base import InMemory
from sparring.evaluation.networks import inception, inception_weights
from sparring.evaluation.networks.extractors import make_extractor
from sparring.evaluation.networks.inception import InceptionV3, resize_tf1
from sparring.evaluation.networks.inception_weights import fold, load_inception
from sparring.evaluation.store.reference import Reference, Settings
from sparring.support.errors import UserError


def random_state(n_features=64, seed=0):
    torch.manual_seed(seed)
    return {name: value.clone() for name, value in InceptionV3(n_features).state_dict().items()}


def with_batch_norm(state):
    """The same layers as the public file names them, each with a batch norm of its own."""
    torch.manual_seed(1)
    apart = {}
    for key, value in state.items():
        name, _, part = key.rpartition(".")
        if part == "weight" and value.ndim == 4:
            n = len(value)
            apart[f"{name}.conv.weight"] = value
            apart[f"{name}.bn.weight"] = 0.5 + torch.rand(n)
            apart[f"{name}.bn.bias"] = torch.randn(n)
            apart[f"{name}.bn.running_mean"] = torch.randn(n)
            apart[f"{name}.bn.running_var"] = 0.5 + torch.rand(n)
            apart[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
    return apart


def saved(folder, state, name="weights.safetensors"):
    safetensors.torch.save_file(state, folder / name)
    return str(folder / name)


@pytest.fixture
def small(monkeypatch):
    """A twentieth of the time: 64 features are defined on pictures of any size."""
    monkeypatch.setattr(inception, "SIDE", 67)


# --- Resize


@pytest.mark.parametrize(("height", "width"), [(1, 5), (2, 3), (4, 9), (7, 7)])
def test_resize_is_the_loop_over_pixels(height, width):
    image = torch.rand(height, width, dtype=torch.float64)
    found = resize_tf1(image[None, None], side=7)[0, 0]
    for i in range(7):
        for j in range(7):
            y, x = i * height / 7, j * width / 7
            y0, x0 = int(y + 1e-6), int(x + 1e-6)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = image[y0, x0] * (1 - x + x0) + image[y0, x1] * (x - x0)
            bottom = image[y1, x0] * (1 - x + x0) + image[y1, x1] * (x - x0)
            assert found[i, j].item() == pytest.approx(
                (top * (1 - y + y0) + bottom * (y - y0)).item(), abs=1e-5
            )


def test_resize_starts_at_the_corner_and_repeats_the_last_pixel():
    row = torch.tensor([0.0, 1.0]).expand(1, 1, 2, 2)
    assert resize_tf1(row, side=4)[0, 0, 0].tolist() == [0, 0.5, 1, 1]
    centred = F.interpolate(row, size=(4, 4), mode="bilinear", align_corners=False)
    assert centred[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]  # what is not wanted
    same = torch.rand(1, 3, 299, 299)
    assert torch.equal(resize_tf1(same), same)


# --- Network


def test_layers_have_their_sizes_and_number_of_weights():
    network, x = InceptionV3().eval(), torch.rand(1, 3, 299, 299)
    sizes = {}
    with torch.no_grad():
        for name in network.stages:
            x = network.get_submodule(name)(x)
            sizes[name] = tuple(x.shape[1:3])
    assert sizes == {
        "Conv2d_1a_3x3": (32, 149), "Conv2d_2a_3x3": (32, 147), "Conv2d_2b_3x3": (64, 147),
        "MaxPool_1": (64, 73), "Conv2d_3b_1x1": (80, 73), "Conv2d_4a_3x3": (192, 71),
        "MaxPool_2": (192, 35), "Mixed_5b": (256, 35), "Mixed_5c": (288, 35),
        "Mixed_5d": (288, 35), "Mixed_6a": (768, 17), "Mixed_6b": (768, 17), "Mixed_6c": (768, 17),
        "Mixed_6d": (768, 17), "Mixed_6e": (768, 17), "Mixed_7a": (1280, 8),
        "Mixed_7b": (2048, 8), "Mixed_7c": (2048, 8),
    }  # fmt: skip
    counts = {name: sum(p.numel() for p in m.parameters()) for name, m in network.named_children()}
    assert counts.pop("fc") == 2048 * 1008 + 1008
    # trainable weights of Keras' InceptionV3, which has no gammas either, less its 1,000 classes
    assert sum(counts.values()) == 23_817_352 - 2_049_000


def test_pools_do_not_count_padding_and_the_last_takes_the_maximum():
    x = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    assert inception.POOLS["mean"](x)[0, 0, 0, 0] == (1 + 2 + 4 + 5) / 4
    for by_maximum, expected in ((False, 3.0), (True, 5.0)):
        block = inception.mixed7(1, "maximum" if by_maximum else "mean")
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(block.branch_pool.weight)
        assert block(x)[0, -1, 0, 0] == expected
        assert not block(x)[0, :-192].any()


def test_features_of_64_by_hand(tmp_path):
    apart = with_batch_norm(random_state())
    images = torch.rand(1, 3, 20, 30)
    x = (resize_tf1((images * 255).round()) - 128) / 128
    for name, stride, padding in (
        ("Conv2d_1a_3x3", 2, 0), ("Conv2d_2a_3x3", 1, 0), ("Conv2d_2b_3x3", 1, 1),
    ):  # fmt: skip
        x = F.conv2d(x, apart[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, var = apart[f"{name}.bn.running_mean"], apart[f"{name}.bn.running_var"]
        gamma, beta = apart[f"{name}.bn.weight"], apart[f"{name}.bn.bias"]
        x = F.relu(F.batch_norm(x, mean, var, gamma, beta, eps=1e-3))
    expected = F.max_pool2d(x, 3, 2).mean((2, 3))
    path = saved(tmp_path, apart)
    found = load_inception(64, path)(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    folded = load_inception(64, saved(tmp_path, fold(apart), "folded.safetensors"))
    torch.testing.assert_close(folded(images), found, rtol=1e-5, atol=1e-6)


def test_folded_layers_are_the_convolution_and_its_batch_norm():
    layer, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3)
    x = torch.randn(8, 3, 6, 6)
    norm(5 * layer(x) + 1)  # statistics other than 0 and 1
    norm.eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    state = {f"a.conv.{k}": v for k, v in layer.state_dict().items()}
    state |= {f"a.bn.{k}": v for k, v in norm.state_dict().items()} | {"fc.weight": torch.ones(1)}
    folded = fold(state)
    assert folded.keys() == {"a.weight", "a.bias", "fc.weight"}
    torch.testing.assert_close(F.conv2d(x, folded["a.weight"], folded["a.bias"]), norm(layer(x)))


def test_images_are_rounded_to_8_bits_and_grey_is_rgb(small):
    network = InceptionV3(64).eval()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(network(images), network((images * 255).round() / 255))
    grey = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match="takes 1 or 3 channels, got 4"):
        network(torch.rand(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"n_features must be one of \[64, 192, 768, 2048\], got"):
        InceptionV3(1000)


# --- Weights


def test_a_file_that_ends_early_serves_what_it_holds_and_says_so(tmp_path, caplog):
    state = random_state(192)
    path = saved(tmp_path, {name: value.half() for name, value in state.items()})
    network = load_inception(192, path)
    assert "ends at MaxPool_2: it serves inception-192 at most" in caplog.text
    assert "not comparable with FID" in caplog.text
    assert network.Conv2d_4a_3x3.weight.dtype == torch.float32
    with pytest.raises(
        UserError, match=r"768 features also need Mixed_5b.*Mixed_6e: .*extractor=inception-192"
    ):
        load_inception(768, path)
    with pytest.raises(UserError, match=r"2048 features also need .*Mixed_7c, fc"):
        load_inception(2048, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"conv1.weight": s["Conv2d_1a_3x3.weight"]}, "it has no layer Conv2d_1a_3x3"),
        (lambda s: s | {"AuxLogits.fc.weight": torch.ones(2)}, "but torchvision's"),
        (
            lambda s: s | {"Conv2d_2a_3x3.bias": torch.ones(3)},
            r"Conv2d_2a_3x3\.bias has shape \(3,\) instead of \(32,\)",
        ),
        (lambda s: {k: v for k, v in s.items() if "2b" not in k}, "ends at Conv2d_2a_3x3, 64"),
    ],
)
def test_other_weights_are_one_clear_line(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_inception(64, saved(tmp_path, change(random_state())))


def test_a_file_that_is_none_is_one_clear_line(tmp_path):
    half = with_batch_norm(random_state())
    del half["Conv2d_2a_3x3.bn.running_var"]
    with pytest.raises(UserError, match=r"lacks 'Conv2d_2a_3x3\.bn\.running_var'"):
        load_inception(64, saved(tmp_path, half, "half.safetensors"))
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"text\.safetensors cannot be read"):
        load_inception(64, tmp_path / "text.safetensors")
    for name in ("none.safetensors", "none.pth"):
        with pytest.raises(UserError, match=rf"evaluation\.weights: there is no file .*{name}"):
            load_inception(64, tmp_path / name)


class Dangerous:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


def test_another_pickle_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Dangerous()))
    with pytest.raises(
        UserError, match=r"has SHA-256 .*, the public file has 6726825d\.\.\.: it w"
    ):
        load_inception(64, "weights.pth")
    monkeypatch.setattr(inception_weights, "URL", (tmp_path / "weights.pth").as_uri())
    with pytest.raises(UserError, match=r"file:.*weights\.pth has SHA-256"):
        load_inception(64)
    assert not (tmp_path / "was-run").exists()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A small file in the place of the public one, with its own checksum, and an empty cache."""
    file = tmp_path / "public.pth"
    torch.save(with_batch_norm(random_state()), file)
    monkeypatch.setattr(inception_weights, "URL", file.as_uri())
    monkeypatch.setattr(inception_weights, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    return file


def test_the_public_file_is_brought_once_and_kept_as_safetensors(small, public):
    images = torch.rand(1, 3, 8, 8)
    first = load_inception(64)(images)
    public.unlink()
    torch.testing.assert_close(load_inception(64)(images), first)
    (kept,) = inception_weights.cache_folder().iterdir()
    assert kept.name == f"inception-2015-12-05-{inception_weights.SHA256[:8]}.safetensors"
    kept.write_text("broken")
    with pytest.raises(UserError, match=r"cannot be read .*; delete it to have it made anew"):
        load_inception(64)
    kept.unlink()
    with pytest.raises(UserError, match=r"could not be brought there .*evaluation\.weights=PATH"):
        load_inception(64)


def test_the_public_file_named_by_its_path_gives_the_same(small, public):
    named, brought = load_inception(64, public), load_inception(64)
    images = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(named(images), brought(images))


# --- Extractor


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights"), random_state())


@pytest.fixture(scope="module")
def pictures():
    images = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return InMemory("pictures", (images * 255).round() / 255)


SETTINGS = {"extractor": "inception-64", "n_resamples": 2}


def test_figures_carry_what_fid_depends_on(small, pictures, weights, caplog):
    settings = Settings(**SETTINGS, weights=weights)
    drawn = {"sampler": "ddim", "steps": 5}
    figures = evaluate(2 * pictures.x0[:30] - 1, pictures, None, settings, generation=drawn)
    protocol = figures["protocol"]
    assert "frechet_distance is FID-64: " in as_text(figures)
    assert protocol["extractor"] == "inception-64"
    assert protocol["resize"] == "bilinear as in TensorFlow 1, to 299 pixels"
    assert protocol["range"] == "[0, 1], clipped, rounded to 8 bits"
    assert protocol["frechet_distance_is"].startswith("FID-64: ")
    assert (protocol["n_real"], protocol["n_fake"]) == (40, 30)
    assert "30 images are few for FID, which needs 10000" in caplog.text
    assert figures["frechet_distance_infinity"] < figures["frechet_distance"]
    assert "inception_score" not in figures  # inner layers have no classes


def test_the_checksum_follows_the_layers_that_are_used(pictures, tmp_path, weights):
    longer = saved(tmp_path, random_state() | {"Conv2d_3b_1x1.weight": torch.ones(80, 64, 1, 1)})
    other = saved(tmp_path, random_state(seed=5), "other.safetensors")
    first, same, unlike = (
        make_extractor("inception-64", pictures, weights=path).checksum
        for path in (weights, longer, other)
    )
    assert first == same != unlike


def test_the_inception_score_is_that_of_the_logits(pictures):
    reference = Reference(pictures, Settings("pixels", n_resamples=2))
    classes = torch.eye(4, dtype=torch.float64).repeat(10, 1)
    object.__setattr__(
        reference.extractor, "logits", lambda features: 50 * classes[: len(features)]
    )
    figures = evaluate(2 * pictures.x0 - 1, reference)
    assert 2 < figures["inception_score"] <= 4  # 10 parts of 4 that need not hold all 4 classes
    of_reference = figures["inception_score_of_reference"]
    assert figures["inception_score"] == pytest.approx(of_reference, rel=1e-9)
    assert figures["inception_score_std"] > 0


def test_what_inception_cannot_measure_is_refused(pictures, weights):
    with pytest.raises(UserError, match=r"evaluation\.weights is for .*inception.*, not pixels"):
        make_extractor("pixels", pictures, weights=weights)
    with pytest.raises(UserError, match="takes images with 1 or 3 channels, pairs has 2"):
        make_extractor("inception-64", InMemory("pairs", torch.rand(9, 2, 4, 4)), weights=weights)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features(pictures, weights):
    on_cpu = make_extractor("inception-64", pictures, "cpu", weights)
    on_gpu = make_extractor("inception-64", pictures, "cuda", weights)
    assert on_cpu.checksum == on_gpu.checksum
    torch.testing.assert_close(on_gpu(pictures.x0), on_cpu(pictures.x0), rtol=1e-4, atol=1e-5)


# --- Saved statistics


def test_a_saved_reference_gives_the_same_figures(small, pictures, weights, tmp_path, monkeypatch):
    settings = Settings(**SETTINGS, weights=weights)
    reference, path = Reference(pictures, settings), str(tmp_path / "reference.safetensors")
    reference.save(path)
    samples = 1 - 2 * pictures.x0
    expected = evaluate(samples, reference)
    again = Reference(pictures, Settings(**SETTINGS, weights=weights, statistics=path))
    n_seen = []
    function = again.extractor.function
    object.__setattr__(
        again.extractor, "function", lambda x: (n_seen.append(len(x)), function(x))[1]
    )
    assert evaluate(samples, again) == expected
    assert n_seen == [16, 32, 8]  # the check, then the samples
    tensors = safetensors.torch.load_file(path)
    torch.testing.assert_close(tensors["mu"], tensors["features"].double().mean(0))
    torch.testing.assert_close(tensors["sigma"], torch.cov(tensors["features"].double().T))


def test_statistics_of_something_else_are_refused(small, pictures, weights, tmp_path):
    path = tmp_path / "reference.safetensors"
    Reference(pictures, Settings(**SETTINGS, weights=weights), "all").save(path)

    def read(data=pictures, split="all", extractor="inception-64", weights=weights):
        settings = Settings(extractor, 2, weights=weights, statistics=str(path))
        return Reference(data, settings, split).features

    read()
    with pytest.raises(UserError, match=r"split: all in the file, train asked for\): make it anew"):
        read(split="train")
    with pytest.raises(UserError, match="extractor: inception-64 in the file, pixels asked for"):
        read(extractor="pixels", weights=None)
    changed = pictures.x0.clone()
    changed[-1, 0, 0, 0] = 1 - changed[-1, 0, 0, 0]
    with pytest.raises(UserError, match=r"another reference \(data_fingerprint: "):
        read(InMemory("pictures", changed))
    other = saved(tmp_path, random_state(seed=5), "other.safetensors")
    with pytest.raises(UserError, match=r"another reference \(extractor_checksum: "):
        read(weights=other)


def test_statistics_that_claim_data_they_are_not_of_are_refused(small, pictures, weights, tmp_path):
    path = tmp_path / "reference.safetensors"
    Reference(pictures, Settings(**SETTINGS, weights=weights)).save(path)
    with safetensors.safe_open(path, "pt") as file:
        claims = file.metadata()
    tensors = safetensors.torch.load_file(path)
    forged = Reference(pictures, Settings(**SETTINGS, weights=weights, statistics=str(path)))
    for features in (1.1 * tensors["features"], tensors["features"][:, :3].contiguous()):
        safetensors.torch.save_file(tensors | {"features": features}, path, claims)
        with pytest.raises(UserError, match="holds other features than its data give"):
            forged.features
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(UserError, match=r"is no file of --save-reference"):
        forged.features
    path.unlink()
    with pytest.raises(UserError, match="is no file: make it with --save-reference"):
        forged.features


def test_full_files_do_not_warn(caplog):
    state = InceptionV3().state_dict()
    with caplog.at_level(logging.WARNING):
        network = inception_weights.network_of(768, state, Path("whole"))
        assert inception_weights.network_of(2048, state, Path("whole")).logits_unbiased(
            torch.ones(1, 2048)
        ).shape == (1, 1008)
    assert not caplog.text
    with pytest.raises(ValueError, match="768 features have no classes"):
        network.logits_unbiased(torch.ones(1, 768))


# --- Against torch-fidelity 0.4.0


def hashed(shape, salt):
    """Numbers in [-1/2, 1/2) that look random and are the same everywhere."""
    k = torch.arange(math.prod(shape))
    return ((31 * k * k + 7919 * k + 104729 * salt) % 10007 / 10007 - 0.5).reshape(shape)


def hashed_state():
    state = InceptionV3().state_dict()
    for salt, (name, value) in enumerate(sorted(state.items())):
        spread = (24 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.2
        state[name] = spread * hashed(value.shape, salt)
    return state


THEIRS = {  # values of its network with hashed weights on one hashed image, and their mean
    192: ({0: 0.0993804, 33: 0.4397684, 132: 1.3748842}, 0.6967535),
    768: ({0: 1.1887949, 129: 0.066007, 516: 0.1523191, 645: 0.6460381}, 0.3658403),
    2048: ({342: 0.9882588, 684: 1.1708746, 1026: 0.6284337, 1710: 1.1807842}, 0.5354015),
}
THEIR_LOGITS = {0: -0.3576465, 169: 1.2283541, 845: -3.008158}


def test_features_of_known_weights_are_those_of_torch_fidelity():
    """`python benchmarks/inception_reference.py` compares more of them."""
    image, state = (255 * (hashed((1, 3, 40, 50), 0) + 0.5)).round() / 255, hashed_state()
    for n_features, (values, mean) in THEIRS.items():
        network = inception_weights.network_of(n_features, state, Path("hashed"))
        features = network(image)
        found = features[0]
        assert {place: found[place].item() for place in values} == pytest.approx(values, rel=1e-4)
        assert found.mean().item() == pytest.approx(mean, rel=1e-4)
        if n_features == 2048:
            logits = network.logits_unbiased(features)[0]
            assert {k: logits[k].item() for k in THEIR_LOGITS} == pytest.approx(
                THEIR_LOGITS, rel=1e-4
            )
