"""Data sets by name: splits, known answers, what a wrong field says."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sparring.data import sets
from sparring.data.base import ModelRange
from sparring.data.datasets import build_dataset, find
from sparring.data.dirt.contaminated import training_data

ANALYTIC = ("plane", "gaussian_mixture", "swiss_roll", "two_moons")


def test_digits_are_scikit_learns_and_the_split_cuts_them_once():
    pixels, labels = load_digits(return_X_y=True)
    whole = build_dataset("digits", "all").read_all()
    assert torch.equal(whole["x0"].flatten(1), torch.tensor(pixels / 16, dtype=torch.float32))
    assert whole["label"].tolist() == labels.tolist()

    parts = [build_dataset("digits", split).read_all() for split in ("train", "held_out")]
    assert [len(part["x0"]) for part in parts] == [1500, 297]
    cut = torch.cat([part["x0"].flatten(1) for part in parts])
    assert _sorted_rows(cut) == _sorted_rows(whole["x0"].flatten(1))
    labels = torch.cat([part["label"] for part in parts])
    assert labels.bincount().tolist() == whole["label"].bincount().tolist()


def _sorted_rows(x):
    return sorted(map(tuple, x.tolist()))


def test_a_batch_and_a_sample_say_the_same():
    digits = build_dataset("digits", "train")
    batch = digits.__getitems__([7, 3, 7])
    assert batch["index"].tolist() == [7, 3, 7]
    assert batch["unreadable"] == []
    assert torch.equal(batch["x0"][0], batch["x0"][2])
    one = digits[3]
    assert torch.equal(one["x0"], batch["x0"][1])
    assert (one["index"], one["label"]) == (3, int(batch["label"][1]))
    assert digits.sample_shape == (1, 8, 8)
    assert digits.class_names == [str(i) for i in range(10)]
    with pytest.raises(IndexError, match="0 to 1499"):
        digits[1500]


def test_digits_in_three_channels_and_another_size():
    small = build_dataset("digits", "train")
    large = build_dataset("digits", "train", resolution=16, n_channels=3)
    assert large.sample_shape == (3, 16, 16)
    x0 = large.read_all(10)["x0"]
    assert torch.equal(x0[:, 0], x0[:, 2])
    expected = torch.nn.functional.interpolate(small.read_all(10)["x0"], 16, mode="bilinear")
    torch.testing.assert_close(x0[:, :1], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [1, 5, 61])
def test_the_subspace_digits_lie_in_k_dimensions_as_close_as_possible(k):
    whole = build_dataset("digits_subspace", "all", n_components=k)
    digits = build_dataset("digits", "all").read_all()["x0"].flatten(1).double()
    x0, truth = whole.read_all()["x0"], whole.truth
    torch.testing.assert_close(truth.basis @ truth.basis.T, torch.eye(k), atol=1e-5, rtol=0)
    assert truth.residual(x0).abs().max() < 1e-5
    assert torch.linalg.matrix_rank(x0.flatten(1) - truth.mean, atol=1e-2) == k
    # Eckart-Young: what k components leave out is the rest of the spectrum.
    spectrum = torch.linalg.svdvals(digits - digits.mean(0)).square()
    left_out = (digits - x0.flatten(1)).square().sum()
    torch.testing.assert_close(left_out, spectrum[k:].sum(), atol=1e-2, rtol=1e-4)
    inside = truth.coordinates(x0).var(0, correction=0).mean().sqrt()
    assert truth.in_manifold_std_true == pytest.approx(float(inside), rel=1e-4)


def test_every_split_of_the_subspace_digits_has_one_subspace():
    train, held_out = (
        build_dataset("digits_subspace", split, n_components=4) for split in ("train", "held_out")
    )
    assert torch.equal(train.truth.basis, held_out.truth.basis)
    assert train.truth.residual(held_out.read_all()["x0"]).abs().max() < 1e-5
    fresh = train.truth.sample(500, seed=3)
    assert fresh.shape == (500, 1, 8, 8)
    assert train.truth.residual(fresh).abs().max() < 1e-5


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_the_plane_is_uniform_on_a_square_in_an_orthonormal_basis(dim):
    plane = build_dataset("plane", dim=dim, seed=4)
    x0, truth = plane.read_all()["x0"], plane.truth
    assert x0.shape == (8192, dim)
    torch.testing.assert_close(truth.basis @ truth.basis.T, torch.eye(2), atol=1e-6, rtol=0)
    assert truth.residual(x0).abs().max() < 1e-6
    u = truth.coordinates(x0)
    assert u.abs().max() <= 1 + 1e-6
    assert truth.in_manifold_std_true == 1 / math.sqrt(3)
    assert u.std(0).tolist() == pytest.approx([1 / math.sqrt(3)] * 2, rel=0.02)
    share, _ = np.histogram(u[:, 0], bins=4, range=(-1, 1))
    assert share / len(u) == pytest.approx([0.25] * 4, abs=0.02)
    assert abs(float(torch.corrcoef(u.T)[0, 1])) < 0.04


@pytest.mark.parametrize("name", ANALYTIC)
def test_points_are_fixed_by_the_seed_and_fresh_samples_are_others(name):
    first, again = build_dataset(name, n_points=64), build_dataset(name, n_points=64)
    other = build_dataset(name, n_points=64, seed=1)
    held_out = build_dataset(name, "held_out", n_points=64)
    both = build_dataset(name, "all", n_points=64)
    x0 = first.read_all()["x0"]
    assert torch.equal(x0, again.read_all()["x0"])
    assert first.fingerprint() == again.fingerprint()
    assert other.fingerprint() != first.fingerprint()
    assert torch.equal(both.read_all()["x0"], torch.cat([x0, held_out.read_all()["x0"]]))
    fresh = first.truth.sample(64, seed=0)
    assert torch.equal(fresh, again.truth.sample(64, seed=0))
    assert not torch.isin(fresh[:, 0], both.read_all()["x0"][:, 0]).any()


@pytest.mark.parametrize(
    ("name", "fields"),
    [*((name, {"n_points": 64}) for name in ANALYTIC), ("digits_subspace", {"n_components": 4}),
     ("digits", {"resolution": 16})],
)  # fmt: skip
def test_what_is_computed_is_known_by_its_settings_not_by_its_last_digit(name, fields):
    """So a run that was moved to another processor goes on, and its figures are compared."""
    here, there = build_dataset(name, **fields), build_dataset(name, **fields)
    there.x0 = torch.nextafter(there.x0, there.x0 + 1)
    assert here.fingerprint() == there.fingerprint()
    some = [each.select(torch.arange(10, 20)).fingerprint() for each in (here, there)]
    assert some[0] == some[1] != here.fingerprint()
    changes = [{"split": "all"}, {"max_train_samples": 40}]
    if name in ANALYTIC:
        changes += [{"n_points": 65}, {"seed": 1}, {"dim": 4 if name != "two_moons" else 2}]
    seen = {
        here.fingerprint(),
        *(build_dataset(name, **{**fields, **c}).fingerprint() for c in changes),
    }
    assert len(seen) == 1 + len([c for c in changes if c != {"dim": 2}])
    exact, other = build_dataset("digits"), build_dataset("digits")
    other.x0 = torch.nextafter(other.x0, other.x0 + 1)
    assert exact.fingerprint() != other.fingerprint()


def test_the_mixture_has_the_density_it_says():
    mixture = build_dataset("gaussian_mixture", n_components=5, n_points=4000)
    truth, batch = mixture.truth, mixture.read_all()
    assert mixture.num_classes == 5
    for k in range(5):
        cluster = batch["x0"][batch["label"] == k]
        torch.testing.assert_close(cluster.mean(0), truth.means[k], atol=0.01, rtol=0)
        assert cluster.std(0).tolist() == pytest.approx([0.05, 0.05], rel=0.1)
    centres = torch.distributions.MultivariateNormal(truth.means, 0.05**2 * torch.eye(2))
    uniform = torch.distributions.Categorical(torch.ones(5))
    oracle = torch.distributions.MixtureSameFamily(uniform, centres)
    x = batch["x0"][:50]
    torch.testing.assert_close(truth.log_density(x), oracle.log_prob(x), atol=1e-3, rtol=1e-4)
    # The circle of means keeps its size on a random plane of more dimensions.
    means = build_dataset("gaussian_mixture", dim=6, n_components=5).truth.means
    torch.testing.assert_close(torch.cdist(means, means), torch.cdist(truth.means, truth.means))


def test_the_swiss_roll_lies_on_its_spiral():
    for dim in (2, 3):
        x = build_dataset("swiss_roll", dim=dim).read_all()["x0"].double() * 4.5 * math.pi
        t = torch.hypot(x[:, 0], x[:, -1])  # on the spiral the distance from the axis is t
        assert (t.min() - 1.5 * math.pi).abs() < 0.02
        assert (t.max() - 4.5 * math.pi).abs() < 0.02
        torch.testing.assert_close(x[:, 0], t * t.cos(), atol=1e-4, rtol=0)
        torch.testing.assert_close(x[:, -1], t * t.sin(), atol=1e-4, rtol=0)
        assert float(t.mean()) == pytest.approx(3 * math.pi, rel=0.01)
    assert x[:, 1].std() / (4.5 * math.pi) == pytest.approx(1 / math.sqrt(3), rel=0.02)
    turned = build_dataset("swiss_roll", dim=5, n_points=100).read_all()["x0"]
    assert torch.linalg.matrix_rank(turned, atol=1e-3) == 3


def test_the_moons_are_half_circles_of_radius_one():
    batch = build_dataset("two_moons").read_all()
    x, label = batch["x0"] + torch.tensor([0.5, 0.25]), batch["label"]
    for moon, centre, side in ((0, (0.0, 0.0), 1), (1, (1.0, 0.5), -1)):
        arc = x[label == moon] - torch.tensor(centre)
        torch.testing.assert_close(arc.norm(dim=1), torch.ones(len(arc)), atol=1e-5, rtol=0)
        assert (side * arc[:, 1] >= -1e-5).all()
        assert abs(float(arc[:, 0].mean())) < 0.05
    assert float(label.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_max_train_samples_takes_some_of_train_only():
    few = build_dataset("digits", max_train_samples=100)
    assert len(few) == 100
    assert len(build_dataset("digits", "held_out", max_train_samples=100)) == 297
    assert len(build_dataset("digits", max_train_samples=10**6)) == 1500
    train = _sorted_rows(build_dataset("digits").read_all()["x0"].flatten(1))
    assert set(_sorted_rows(few.read_all()["x0"].flatten(1))) <= set(train)


def test_the_model_range_is_minus_one_to_one_for_images_only():
    digits = build_dataset("digits")
    seen = ModelRange(digits)
    torch.testing.assert_close(seen[5]["x0"], digits[5]["x0"] * 2 - 1)
    assert float(seen.read_all()["x0"].min()) == -1
    assert float(seen.read_all()["x0"].max()) == 1
    assert (seen.sample_shape, seen.num_classes) == ((1, 8, 8), 10)
    plane = build_dataset("plane")
    assert torch.equal(ModelRange(plane)[5]["x0"], plane[5]["x0"])
    assert ModelRange(plane).truth is plane.truth


def test_training_data_stacks_set_contamination_and_range():
    seen = training_data(
        {"name": "digits", "split": "train", "resolution": None, "center_crop": True},
        {"kind": "gaussian", "rate": 1.0, "sigma": 0.2, "seed": 0, "clip": False, "eps": None},
    )
    clean = ModelRange(build_dataset("digits")).read_all()["x0"]
    assert float((seen.read_all()["x0"] - clean).std()) == pytest.approx(0.4, rel=0.01)
    untouched = training_data({"name": "digits"}, {"kind": "none", "rate": 0.9})
    assert torch.equal(untouched.read_all()["x0"], clean)


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("mnist", {}, "data.name must be one of digits, .*, got 'mnist'"),
        ("digits", {"split": "test"}, "data.split must be one of train, held_out, all, got 'test'"),
        ("digits", {"dim": 3}, "data.dim does not apply to digits"),
        ("plane", {"n_components": 3}, r"n_components does not apply to plane .it takes dim, n_po"),
        ("plane", {"dim": 1}, "dim must be >= 2, got 1"),
        ("swiss_roll", {"dim": 1}, "dim must be >= 2"),
        ("two_moons", {"n_points": 0}, "n_points must be >= 1"),
        ("digits_subspace", {"n_components": 65}, "n_components must be in 1..61"),
        ("digits_subspace", {"resolution": 16}, "resolution does not apply to digits_subspace"),
        ("digits", {"n_channels": 4}, r"n_channels must be 1 .grey. or 3 .RGB., got 4"),
        ("digits", {"max_train_samples": 0}, "max_train_samples must be >= 1"),
    ],
)
def test_wrong_fields_are_refused(name, fields, says):
    with pytest.raises(ValueError, match=says):
        build_dataset(name, **fields)


def test_reading_fields_are_accepted_everywhere():
    for name in sets.names():
        if find(name).is_bundled:
            build_dataset(name, center_crop=True, random_flip=False, dataloader_num_workers=2)
