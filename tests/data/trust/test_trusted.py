"""What is known of an image reaches training in the model's units, whoever reads the batch."""

import pickle

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device

import sparring
from sparring.data.audit.audit import audit_images
from sparring.data.audit.table import NUMBERS, Table, clean_table, consistent
from sparring.data.base import InMemory, ModelRange, joined
from sparring.data.batches import make_loader
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import Contaminated, contaminate
from sparring.data.trust.trust import Trust
from sparring.data.trust.trusted import (
    ByTable,
    ByTruth,
    Trusted,
    fingerprint_of,
    levels_besides_noise,
    trust_of,
)

N = 40
GREY = InMemory("grey", torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
PARTS = [
    {"kind": "gaussian", "sigma": [0.1, 0.3]},
    {"kind": "poisson_gaussian", "photons": 20},
    {"kind": "salt_and_pepper", "share": 0.2},
    {"kind": "missing_blocks", "block_size": 0.5},
    {"kind": "outlier"},
]


def mixed(**words) -> Contaminated:
    dirty = contaminate(GREY, {"kind": "mixture", "parts": PARTS, "rate": 0.5, **words})
    assert isinstance(dirty, Contaminated)
    return dirty


def trusted(dataset) -> ModelRange:
    return ModelRange(Trusted(dataset, ByTruth(dataset)))


def assert_same_trust(one: Trust, other: Trust) -> None:
    for name, value in one._asdict().items():
        again = getattr(other, name)
        assert value.dtype == again.dtype, name
        assert torch.equal(value, again), name


def test_a_value_s_variance_is_the_same_in_the_model_s_units():
    """var(2 v - 1) = 4 var(v) at every brightness."""
    table = clean_table(1)
    table.sigma[:], table.slope[:] = 0.1, 0.05
    trust = trust_of(table, torch.ones(1, dtype=torch.bool), None, 2.0, (1, 8, 8))
    for v in (0.0, 0.3, 1.0):
        own = float(table.sigma[0] ** 2 + table.slope[0] * v)
        there = trust.sigma**2 + trust.slope * ((2 * v - 1) + 1)
        assert float(there[0]) == pytest.approx(4 * own, rel=1e-6)


def test_levels_follow_from_jpeg_and_blur_unless_the_table_says_one():
    table = clean_table(4, ("outlier",))
    table.quality[:] = 0, 50, 50, 0
    table.blur_sigma[:] = 0, 0, 1.0, 0
    table.level[:] = 0, 0, 0.5, 0.7
    table.lost[:] = 9, 0, 3, 0
    table.kinds["outlier"][:] = 0, 0.4, 0, 0.6
    trust = trust_of(table, torch.ones(4, dtype=torch.bool), None, 2.0, (3, 32, 32))
    assert trust.level.numpy() == pytest.approx([0, 1.03, 0.5, 0.7])
    assert trust.weight.tolist() == [1, 1, 1, 0]
    table.lost[1] = 2.0
    trust = trust_of(table, torch.ones(4, dtype=torch.bool), None, 2.0, (3, 32, 32))
    assert float(trust.level[1]) == pytest.approx(2 / 19**0.5)


@pytest.mark.parametrize("knows", ["truth", "audit"])
def test_levels_of_jpeg_are_measured_on_the_set_s_clean_images(knows):
    """Digits are all edges: JPEG takes more from them than the published levels know."""
    clean = build_dataset("digits")
    dirty = contaminate(clean, {"kind": "jpeg", "quality": [10, 20], "clip": True})
    table = ByTruth(dirty).table if knows == "truth" else audit_images(dirty).table
    has = table.quality > 0
    missing = 2 * (dirty.read_all()["x0"] - clean.read_all()["x0"])[has]
    needed = (missing.square().flatten(1).sum(1).mean() / 19).sqrt()
    level = levels_besides_noise(table, clean.sample_shape)
    assert level[has].mean() == pytest.approx(float(needed), rel=0.15)
    assert not level[table.is_clean].any()


def test_the_truth_is_what_was_done():
    dirty = mixed()
    batch = trusted(dirty).read_all()
    trust, clean = batch["trust"], ~dirty.dirty
    for name in ("sigma", "slope", "correlation", "level"):
        assert not getattr(trust, name)[clean].any()
    assert trust.seen[clean].all()
    assert not trust.clipped[clean].any()
    assert (trust.weight[clean] == 1).all()
    kinds = {}
    for index in dirty.dirty.nonzero().flatten().tolist():
        said = dirty.details(index)
        kinds.setdefault(said["kind"], []).append(index)
        if said["kind"] == "gaussian":
            assert float(trust.sigma[index]) == pytest.approx(2 * said["sigma"], rel=1e-6)
            assert trust.clipped[index]
    assert len(kinds) == 5
    assert torch.allclose(trust.slope[kinds["poisson_gaussian"]], torch.tensor(0.1))
    assert (trust.weight[kinds["outlier"]] == 0).all()
    assert (~trust.seen[kinds["missing_blocks"]]).sum() == 16 * len(kinds["missing_blocks"])
    others = sorted(set(range(N)) - {*kinds["missing_blocks"], *kinds["salt_and_pepper"]})
    assert trust.seen[others].all()
    table = ByTruth(dirty).table
    assert {kind: np.flatnonzero(table.has(kind)).tolist() for kind in kinds} == kinds


def test_hidden_pixels_are_filled_and_seen_ones_stay():
    dirty = contaminate(GREY, {"kind": "missing_blocks", "rate": 1.0, "fill": 0.0})
    batch, before = trusted(dirty).read_all(), ModelRange(dirty).read_all()
    seen = batch["trust"].seen
    assert torch.equal(batch["x0"][seen], before["x0"][seen])
    assert (before["x0"][~seen] == -1).all()
    assert (batch["x0"][~seen] > -1).all()


def test_noise_that_leaves_the_range_was_not_clipped():
    words = {"kind": "gaussian", "rate": 1.0, "sigma": 0.4}
    files, floats = contaminate(GREY, words), contaminate(GREY, {**words, "clip": False})
    assert trusted(files).read_all()["trust"].clipped.all()
    assert not trusted(floats).read_all()["trust"].clipped.any()


def test_two_layers_of_dirt_on_one_sample_teach_nothing():
    once = contaminate(GREY, {"kind": "gaussian", "rate": 0.5})
    twice = contaminate(once, {"kind": "blur", "rate": 0.5})
    table = ByTruth(twice).table
    both = (once.dirty & twice.dirty).numpy()
    assert both.any()
    assert np.array_equal(table.weight == 0, both)
    assert np.array_equal(table.sigma > 0, (once.dirty & ~twice.dirty).numpy())


def test_vectors_keep_their_unit():
    points = InMemory("points", torch.randn(20, 3))
    dirty = contaminate(points, {"kind": "gaussian", "rate": 0.5, "sigma": 0.3})
    trust = trusted(dirty).read_all()["trust"]
    assert torch.allclose(trust.sigma, torch.where(dirty.dirty, 0.3, 0.0))
    assert trust.seen is None
    assert not trust.clipped.any()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_workers_processes_and_micro_batches_change_nothing(n_workers):
    dataset = trusted(mixed())
    whole = next(iter(make_loader(dataset, 0, 16, n_batches=1)))
    parts = []
    for micro in range(2):
        for rank in range(2):
            loader = make_loader(
                dataset, 0, 16, n_micro=2, rank=rank, world_size=2, n_batches=1, n_workers=n_workers
            )
            parts.append(list(loader)[micro])
    assert_same_trust(joined(parts)["trust"], whole["trust"])
    assert_same_trust(Trust.joined([part["trust"] for part in parts]), whole["trust"])


def test_accelerate_moves_it_like_a_tensor():
    batch = next(iter(make_loader(trusted(mixed()), 0, 4, n_batches=1)))
    moved = send_to_device(batch, torch.device("meta"))["trust"]  # pyright: ignore
    assert isinstance(moved, Trust)
    assert {value.device.type for value in moved} == {"meta"}
    alone = send_to_device({"trust": batch["trust"]._replace(seen=None)}, torch.device("meta"))
    assert alone["trust"].seen is None  # pyright: ignore


def test_a_mirrored_image_sees_mirrored():
    seen = torch.zeros(2, 1, 2, 3, dtype=torch.bool)
    seen[:, :, 0, 0] = True
    trust = trust_of(clean_table(2), torch.ones(2, dtype=torch.bool), ~seen, 2.0, (1, 2, 3))
    turned = trust.mirrored(torch.tensor([True, False]))
    assert turned.seen is not None
    assert turned.seen[0, 0, 0].tolist() == [False, False, True]
    assert turned.seen[1, 0, 0].tolist() == [True, False, False]
    assert_same_trust(turned._replace(seen=seen), trust)


def test_one_sample_and_some_rows():
    dataset = trusted(mixed())
    whole = dataset.read_all()["trust"]
    one = dataset[7]["trust"]
    assert one.sigma == whole.sigma[7]
    assert torch.equal(one.seen, whole.seen[7])
    assert_same_trust(whole.rows(torch.tensor([3, 1])), dataset.__getitems__([3, 1])["trust"])


def test_the_fingerprint_changes_with_any_value_of_the_table():
    def known(**changes) -> str:
        table = clean_table(N, ("gaussian",))
        for name, value in changes.items():
            column = table.kinds[name] if name in table.kinds else getattr(table, name)
            column[5] = value
        return ModelRange(Trusted(GREY, ByTable(table))).fingerprint()

    changes: list[dict[str, float]] = [{}, {"gaussian": 1}]
    changes += [{name: 0.5} for name in ("sigma", "slope", "correlation", "quality", "blur_sigma")]
    changes += [{"level": 0.5}, {"weight": 0.5}, {"clipped": False}]
    prints = [known(**each) for each in changes]
    assert len({*prints, ModelRange(GREY).fingerprint()}) == len(prints) + 1
    assert known(sigma=0.5) == known(sigma=0.5)


def test_a_table_goes_to_workers_and_back():
    source = pickle.loads(pickle.dumps(ByTable(clean_table(N, ("gaussian",)))))
    assert isinstance(source.table, Table)
    assert source.fingerprint() == fingerprint_of(clean_table(N, ("gaussian",)))
    assert not source.hides


def columns_of(table: Table) -> dict[str, object]:
    """As a loader makes them of `sparring export`'s table: tensors of doubles, and lists."""
    numbers = {name: torch.tensor(getattr(table, name)).double() for name in NUMBERS}
    kinds = {kind: p.tolist() for kind, p in table.kinds.items()}
    return {**numbers, **kinds, "clipped": table.clipped, "text": ["a photo"] * len(table)}


def test_a_batch_of_anybody_s_loader_is_told_what_a_data_set_s_is():
    dirty = mixed()
    source = ByTable(ByTruth(dirty).table)
    expected = ModelRange(Trusted(dirty, source)).read_all()
    images, trust = sparring.trusted(
        ModelRange(dirty).read_all()["x0"], columns_of(consistent(source.table))
    )
    torch.testing.assert_close(images, expected["x0"])
    assert_same_trust(trust, expected["trust"])
    assert trust.seen is not None
    assert not bool(trust.seen.all())


def test_without_hidden_pixels_the_images_are_the_very_same():
    x0 = 2 * GREY.read_all()["x0"] - 1
    images, trust = sparring.trusted(x0, {"sigma": np.full(N, 0.1), "label": ["a"] * N})
    assert images is x0
    assert trust.seen is None
    assert trust.sigma.tolist() == pytest.approx([0.2] * N)
    assert trust.clipped.all()
    latent = trust.of_latents()
    assert latent.sigma.sum() == 0
    assert not latent.clipped.any()
    assert torch.equal(latent.level, trust.level)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"]}, "no column says anything of dirt, got text"),
        ({"sigma": [0.1]}, "sigma must have a number in .* for each of 2 images"),
        ({"sigma": [0.1, float("nan")]}, "sigma must have"),
        ({"weight": [0.5, 1.5]}, "weight must have a number in .0, 1. for each of 2 images"),
        ({"jpeg": [0.5, -1.0]}, "jpeg must have"),
    ],
)
def test_a_wrong_column_is_named(columns, words):
    with pytest.raises(ValueError, match=words):
        sparring.trusted(torch.zeros(2, 1, 8, 8), columns)
