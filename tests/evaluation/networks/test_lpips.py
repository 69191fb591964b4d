"""LPIPS against known answers, and the ways its weights come or are refused.

Weights are random here; benchmarks/inception_reference.py compares with the package lpips.
"""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from measuring import evaluate

from sparring.data.base import InMemory
from sparring.evaluation.metrics.lpips_diversity import diversity_figures, lpips_diversity
from sparring.evaluation.networks import lpips
from sparring.evaluation.networks.lpips import (
    LPIPS,
    converted_path,
    enlarge,
    find_lpips,
    load_lpips,
)
from sparring.evaluation.store.reference import Reference, Settings
from sparring.support.errors import UserError


def random_network(name="alex", seed=0):
    torch.manual_seed(seed)
    network = LPIPS(name).eval().requires_grad_(False)
    for key, value in network.state_dict().items():
        if key.startswith("lin"):
            value.abs_()  # as fitted ones are
    return network


@pytest.fixture(scope="module")
def alex():
    return random_network()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))


def images(n=6, side=64, channels=3, seed=1):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


# --- The distance


def test_layers_are_those_of_the_public_networks(alex):
    counts = {name: sum(p.numel() for p in LPIPS(name).parameters()) for name in ("alex", "vgg")}
    # torchvision's alexnet().features and vgg16().features, and a weight for each channel
    assert counts["alex"] == 2_469_696 + 64 + 192 + 384 + 256 + 256
    assert counts["vgg"] == 14_714_688 + 64 + 128 + 256 + 512 + 512
    assert [key for key in alex.state_dict() if key.endswith("weight")] == [
        *[f"features.{n}.weight" for n in (0, 3, 6, 8, 10)],
        *[f"lin{n}.model.1.weight" for n in range(5)],
    ]
    assert [tuple(one.shape[1:]) for one in alex.activations(images(1))] == [
        (64, 15, 15), (192, 7, 7), (384, 3, 3), (256, 3, 3), (256, 3, 3),
    ]  # fmt: skip
    vgg = LPIPS("vgg")
    with torch.no_grad():
        shapes = [tuple(one.shape[1:]) for one in vgg.activations(images(1))]
    assert shapes == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    convolutions = [n for n, layer in enumerate(vgg.features) if hasattr(layer, "weight")]
    assert convolutions == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def test_distance_by_hand(alex):
    x, y = images(2), images(2, seed=2)
    weight, expected = dict(alex.named_parameters()), torch.zeros(2)
    a, b = (
        (2 * one - 1 - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        for one in (x, y)
    )
    plan = [(0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False)]
    for number, (place, stride, padding, pools) in enumerate(plan):
        if pools:
            a, b = F.max_pool2d(a, 3, 2), F.max_pool2d(b, 3, 2)
        w, bias = weight[f"features.{place}.weight"], weight[f"features.{place}.bias"]
        a, b = (F.relu(F.conv2d(one, w, bias, stride, padding)) for one in (a, b))
        unit_a, unit_b = (one / one.norm(dim=1, keepdim=True) for one in (a, b))
        lin = weight[f"lin{number}.model.1.weight"].view(1, -1, 1, 1)
        expected += (lin * (unit_a - unit_b) ** 2).sum(1).mean((1, 2))
    torch.testing.assert_close(alex(x, y), expected, rtol=1e-5, atol=1e-7)


def test_distance_is_symmetric_and_0_only_for_the_same(alex):
    x, y = images(3), images(3, seed=2)
    torch.testing.assert_close(alex(x, y), alex(y, x))
    assert alex(x, x).abs().max() < 1e-9
    assert (alex(x, y) > 1e-3).all()
    grey = images(2, channels=1)
    torch.testing.assert_close(alex(grey, grey.flip(0)), alex(*(
        one.repeat(1, 3, 1, 1) for one in (grey, grey.flip(0)))))  # fmt: skip
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        alex(images(2, channels=2), images(2, channels=2))


def test_small_images_are_enlarged_and_others_are_left(alex):
    small = images(2, side=8)
    large = F.interpolate(small, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(alex(small, small.flip(0)), alex(large, large.flip(0)))
    assert enlarge(torch.zeros(1, 3, 32, 48)).shape == (1, 3, 64, 96)
    kept = images(1, side=65)
    assert enlarge(kept) is kept


# --- Diversity


class Difference(LPIPS):
    """|mean x - mean y|, so that the diversity is known."""

    def __init__(self) -> None:
        super().__init__("alex")

    def forward(self, x, y):
        return (x.mean((1, 2, 3)) - y.mean((1, 2, 3))).abs()


def test_diversity_is_the_mean_over_pairs_of_different_samples():
    half = torch.tensor([0.2, 0.6]).repeat_interleave(2000).view(-1, 1, 1, 1)
    found = lpips_diversity(half, Difference())
    low, high = found["lpips_diversity_interval"]
    assert low < 0.2 < high  # half of the pairs are 0.4 apart
    assert high - low == pytest.approx(2 * 1.96 * 0.2 / 1000**0.5, rel=0.02)
    assert lpips_diversity(half[:2000], Difference())["lpips_diversity"] == 0
    two_each = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(-1, 1, 1, 1)
    seen = {lpips_diversity(two_each, Difference(), seed)["lpips_diversity"] for seed in range(20)}
    assert seen == {0.0, 1.0}  # 2 pairs, none of a sample with itself or twice the same sample
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        lpips_diversity(half[:3], Difference())


def test_samples_are_clipped_and_stand_beside_the_reference():
    data = InMemory("points", torch.tensor([0.0, 1.0]).repeat(50).view(-1, 1, 1, 1))
    samples = torch.tensor([-3.0, 4.0]).repeat(50).view(-1, 1, 1, 1)
    found = diversity_figures(samples, data, Difference())
    assert 0.2 < found["lpips_diversity"] < 0.8
    assert 0.2 < found["lpips_diversity_of_reference"] < 0.8


def test_evaluate_has_the_figure_where_weights_are_named(alex, tmp_path):
    data = InMemory("squares", images(40, side=8, channels=1))
    samples = 2 * images(30, side=8, channels=1, seed=3) - 1
    without = evaluate(samples, Reference(data, Settings("pixels", 2)))
    assert "lpips_diversity" not in without
    assert "lpips" not in without["protocol"]
    safetensors.torch.save_file(alex.state_dict(), tmp_path / "weights.safetensors")
    settings = Settings("pixels", 2, lpips_weights=str(tmp_path / "weights.safetensors"))
    found = evaluate(samples, Reference(data, settings))
    expected = lpips_diversity((samples + 1) / 2, alex)
    assert found["lpips_diversity"] == pytest.approx(expected["lpips_diversity"], rel=1e-5)
    assert found["lpips_diversity_of_reference"] > 0
    assert found["protocol"]["lpips"].startswith("alex, ")


# --- Weights


@pytest.fixture
def public(alex, tmp_path, monkeypatch):
    """The two files as they are published, and their sums."""
    state = alex.state_dict()
    trunk = {k: v for k, v in state.items() if k.startswith("features")}
    trunk["classifier.1.weight"] = torch.zeros(3)  # the public file has the classes as well
    lins = {k: v for k, v in state.items() if k.startswith("lin")}
    paths = [tmp_path / name for name in lpips.NETS["alex"].files]
    for path, part in zip(paths, (trunk, lins), strict=True):
        torch.save(part, path)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in paths}
    monkeypatch.setitem(lpips.NETS, "alex", replace(lpips.NETS["alex"], files=sums))
    return paths


def test_public_files_are_verified_and_kept_as_safetensors(public, alex):
    assert find_lpips(None) is None
    network = load_lpips(public[0])
    for key, value in alex.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    assert not network.training
    kept = safetensors.torch.load_file(converted_path("alex"))
    assert kept.keys() == alex.state_dict().keys()
    for path in public:
        path.unlink()
    found = find_lpips(None)  # from the cache
    assert found is not None
    pair = images(1), images(1, seed=2)
    torch.testing.assert_close(found(*pair), network(*pair))


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_with_another_sum_is_not_read(which, public, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public[which].write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=rf"{public[which].name} has SHA-256 .* it was not read"):
        load_lpips(public[0])
    assert not Path("exploded").exists()
    assert not converted_path("alex").exists()


def test_wrong_files_are_one_clear_line(public, alex, tmp_path):
    public[1].unlink()
    with pytest.raises(UserError, match=r"alex\.pth cannot be read .* beside the other"):
        load_lpips(public[0])
    with pytest.raises(UserError, match=r"other\.pth is not known: it must be alexnet-owt"):
        load_lpips(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"there is no file .*none\.safetensors"):
        load_lpips(tmp_path / "none.safetensors")
    path = tmp_path / "w.safetensors"
    state = alex.state_dict()
    safetensors.torch.save_file({k: v for k, v in state.items() if "lin" not in k}, path)
    with pytest.raises(UserError, match=r"lacks lin0\.model\.1\.weight of LPIPS on alex"):
        load_lpips(path)
    safetensors.torch.save_file(state | {"lin1.model.1.weight": torch.zeros(1, 3, 1, 1)}, path)
    with pytest.raises(UserError, match=r"lin1\.model\.1\.weight has shape \(1, 3, 1, 1\) instead"):
        load_lpips(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"w\.safetensors cannot be read"):
        load_lpips(path)
