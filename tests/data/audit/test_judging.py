"""From images to rows of a table, by detectors that can be followed by hand."""

import pickle

import numpy as np
import pytest
import torch

from simple_detectors import Bright, Dark, Dead
from sparring.data.audit import audit as audits
from sparring.data.audit import judging, registry
from sparring.data.audit.audit import Audit, audit_images, sample_of
from sparring.data.audit.contract import Detector
from sparring.data.audit.judging import fit_hiding, look
from sparring.data.audit.known import compare, is_changed
from sparring.data.audit.summary import found_in, lines_of, suggestion
from sparring.data.audit.table import NUMBERS, clean_table
from sparring.data.base import InMemory, Wrapper
from sparring.data.dirt.contaminated import Contaminated

pytestmark = pytest.mark.usefixtures("simple_detectors")


def fit(seen):
    """Where nothing hides pixels."""
    return judging.fit(seen, fit_hiding(seen))


@pytest.fixture
def x():
    """Forty grey images; the brighter half is over the mean, a quarter has a bright corner."""
    x = torch.linspace(0.1, 0.9, 40)[:, None, None, None].expand(40, 1, 8, 8).clone()
    x[:, 0, 0, 0] = 0
    x[::4, 0, 0, 0], x[::4, 0, 0, 1] = 0.9, 0.5
    return x


def test_columns_are_those_of_all_rules(x):
    judge = fit(look(x))
    table = judge(x, np.arange(40))
    mean = x.flatten(1).mean(1).numpy()
    assert list(table.kinds) == ["gaussian", "jpeg", "outlier"]
    bright = mean > mean.mean()
    assert table.kinds["gaussian"].tolist() == bright.astype(float).tolist()
    # a size counts where there is something of that size
    assert table.sigma == pytest.approx(np.where(bright, mean / 10, 0), abs=6e-6)
    assert table.quality.tolist() == [50.0 if i % 4 == 0 else 0.0 for i in range(40)]
    assert table.kinds["outlier"][:2] == pytest.approx([0.81, 0])
    assert table.clipped.all()


def test_a_detector_reads_what_those_before_it_said(x, monkeypatch):
    """Also one whose name comes before theirs, and of those that hide pixels."""
    found = {"dark": Dark(), "dead": Dead(), "zebra": Bright()}
    monkeypatch.setattr(Bright, "look", lambda self, x: Dark().look(x))
    monkeypatch.setattr(Bright, "fit", lambda self, seen: lambda seen: {
        "gaussian": (seen["zebra.mean"] > 0.5).float(), "sigma": seen["zebra.mean"]
    })  # fmt: skip
    monkeypatch.setattr(registry, "all_detectors", lambda: found)
    order = registry.in_order(found)
    assert sorted(order) == list(found)
    assert order.index("zebra") < order.index("dark")
    x[1, 0, 1, :] = 0  # enough of dead pixels
    judge = fit(look(x))
    table = judge(x, np.arange(40))
    left = ~table.has("gaussian") & ~table.has("salt_and_pepper")
    mean = x.flatten(1).mean(1).numpy()
    assert not left[1]
    assert left.sum() > 5
    assert table.kinds["watermark"] == pytest.approx(np.where(left, 1 - mean, 0), abs=1e-5)


def test_a_kind_without_its_size_says_nothing(x):
    x[0, 0, 0, 1] = 0  # a JPEG of quality 0
    table = fit(look(x))(x, np.arange(40))
    assert table.kinds["jpeg"][:5] == pytest.approx([0.5, 0, 0, 0, 0.9])
    assert not table.has("jpeg")[0]


def test_values_beyond_the_range_were_not_clipped(x):
    x[3, 0, 4, 4], x[4, 0, 4, 4] = 1.001, -0.001
    assert np.flatnonzero(~fit(look(x))(x, np.arange(40)).clipped).tolist() == [3, 4]


def test_a_judge_says_the_same_of_an_image_in_any_batch_and_after_a_trip(x):
    judge = fit(look(x))
    whole = judge(x, np.arange(40))
    other = pickle.loads(pickle.dumps(judge))
    for first in range(0, 40, 7):
        rows = np.arange(first, min(first + 7, 40))
        part = other(x[torch.from_numpy(rows)], rows)
        assert part.index.tolist() == rows.tolist()
        for name in NUMBERS:
            assert getattr(part, name).tobytes() == getattr(whole, name)[rows].tobytes()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("gausian", torch.zeros(40), "detector wrong: column 'gausian' must be one of"),
        ("gaussian", torch.full((40,), 1.5), r"column 'gaussian' .* a number in \[0, 1\]"),
        ("gaussian", torch.full((40,), torch.nan), "column 'gaussian'"),
        ("sigma", torch.zeros(3), "column 'sigma' .* for each of 40 images"),
    ],
)
def test_what_no_table_can_hold_is_refused(x, simple_detectors, column, values, message):
    class Wrong(Detector):
        kinds = ()

        def look(self, x):
            return {"nothing": torch.zeros(len(x))}

        def fit(self, seen):
            return lambda seen: {column: values}

    simple_detectors["wrong"] = Wrong()
    with pytest.raises(ValueError, match=message):
        fit(look(x))(x, np.arange(40))


@pytest.mark.parametrize("bad", [torch.tensor([0.0, torch.inf]), torch.zeros(3), torch.zeros(2).double()])  # noqa: E501  # fmt: skip
def test_statistics_are_finite_float32_of_every_image(simple_detectors, bad):
    class Wrong(Detector):
        def look(self, x):
            return {"odd": bad}

        def fit(self, seen):
            raise NotImplementedError

    simple_detectors["wrong"] = Wrong()
    with pytest.raises(ValueError, match=r"wrong\.odd must be finite float32 numbers of 2 images"):
        look(torch.zeros(2, 1, 8, 8))


class Files(Wrapper):
    """Image 5 cannot be read: the next one stands in."""

    def rows(self, indices, positions):
        used = torch.where(indices == 5, 6, indices)
        unreadable = ["five.png"] if (indices == 5).any() else []
        return {**self.dataset.rows(used, positions), "unreadable": unreadable}

    def where(self, index):
        return f"{index}.png"

    def fingerprint(self):
        return "files"


def columns(audit: Audit) -> dict[str, list[float]]:
    table = audit.table
    numbers = {name: getattr(table, name).tolist() for name in NUMBERS}
    return numbers | {kind: p.tolist() for kind, p in table.kinds.items()}


def test_every_readable_image_is_judged_in_its_place(x, monkeypatch):
    files = Files(InMemory("x", x))
    whole = audit_images(files)
    kept = np.arange(40) != 5
    expected = fit(look(x[torch.from_numpy(kept)]))(x, np.arange(40))
    assert whole.table.weight[5] == 0
    assert whole.table.sigma[5] == 0
    assert whole.is_readable.tolist() == kept.tolist()
    assert whole.unreadable == ["five.png"]
    assert whole.table.sigma[kept].tolist() == expected.sigma[kept].tolist()
    assert whole.sizes == {(8, 8): 39}
    assert whole.is_whole
    monkeypatch.setattr(audits, "CHUNK", 7)
    assert columns(audit_images(files)) == columns(whole)


def test_workers_change_nothing(x):
    files = Files(InMemory("x", x))
    alone, helped = audit_images(files), audit_images(files, n_workers=1)
    assert columns(helped) == columns(alone)
    assert helped.digests.tolist() == alone.digests.tolist()
    assert helped.unreadable == alone.unreadable


def test_what_hides_pixels_is_taken_out_before_the_others_look(x, simple_detectors):
    """Dead pixels make images darker: their noise is a tenth of the mean of what they leave."""
    simple_detectors["dead"] = Dead()
    dirty = x.clone()
    dirty[::2, 0, 3:5, 3:6] = 0.0
    clean, audit = audit_images(InMemory("x", x)), audit_images(InMemory("x", dirty))
    assert audit.table.has("salt_and_pepper").tolist() == [i % 2 == 0 for i in range(40)]
    assert audit.table.sigma == pytest.approx(clean.table.sigma, abs=2e-3)
    assert audit.judge.rules["bright"].threshold == pytest.approx(
        clean.judge.rules["bright"].threshold, abs=2e-2
    )
    on_the_fly = pickle.loads(pickle.dumps(audit.judge))(dirty, np.arange(40))
    assert on_the_fly.sigma.tolist() == audit.table.sigma.tolist()
    some = audit_images(InMemory("x", dirty), n_sample=20)
    assert some.table.sigma == pytest.approx(
        np.where(some.table.has("gaussian"), x.flatten(1).mean(1).numpy() / 10, 0), abs=2e-3
    )


def test_a_sample_decides_the_thresholds(x):
    dataset = InMemory("x", x)
    audit = audit_images(dataset, n_sample=10, seed=3)
    sample = sample_of(dataset, 10, 3)
    assert len(set(sample.tolist())) == 10
    judge = fit(look(x[torch.from_numpy(sample)]))
    assert audit.judge.rules["bright"] == judge.rules["bright"]
    assert columns(audit)["sigma"] == judge(x, np.arange(40)).sigma.tolist()
    assert sample_of(dataset, 10, 4).tolist() != sample.tolist()
    assert sample_of(dataset, 99).tolist() == list(range(40))


def test_a_stream_is_looked_at_in_many_places(x):
    dataset = InMemory("x", torch.zeros(10_000, 1, 1, 2))
    dataset.sharding = object()
    sample = sample_of(dataset)
    assert len(sample) == 2048
    assert np.bincount(sample // 1000, minlength=10).min() > 150
    assert (np.diff(sample) == 1).mean() > 0.95  # neighbours, which are cheap to read
    audit = audit_images(dataset, n_sample=64)
    assert not audit.is_whole
    assert audit.table.index.tolist() == sample_of(dataset, 64).tolist()
    assert len(audit_images(dataset, n_sample=64, whole_stream=True).table) == 10_000


def test_the_whole_set_is_said_in_a_line_per_kind():
    table = clean_table(1000, ["gaussian", "jpeg", "blur"])
    table.kinds["gaussian"][:900] = 1
    table.sigma[:900] = np.linspace(0.05, 0.35, 900)
    table.kinds["jpeg"][:90] = 0.6
    table.quality[:90] = 30
    table.kinds["blur"][:] = 0.5
    assert lines_of(table) == [
        "gaussian: 900 images (90 %), sigma 0.065 to 0.335, median 0.2",
        "jpeg: 90 images (9 %), quality 30",
        "clean: 100 images (10 %)",
    ]
    advice = suggestion(found_in(table))
    assert advice["overrides"] == ["objective=detail"]
    assert "100 clean images are too few" in advice["because"][1]
    half = np.arange(1000) >= 500
    assert [one.n_images for one in found_in(table, half)] == [400, 100]
    assert suggestion(found_in(clean_table(9)))["objective"] == "plain"


def test_what_was_done_is_compared_with_what_was_found():
    n = 200
    clean = InMemory("grey", torch.full((n, 1, 8, 8), 128 / 255))
    parts = [{"kind": "gaussian", "sigma": 0.2}, {"kind": "jpeg"}, {"kind": "blur"}]
    dirty = Contaminated(clean, "mixture", 0.6, 0, parts=parts)
    kinds = np.full(n, "", dtype=object)
    rows = dirty.dirty.numpy()
    kinds[rows] = [dirty.details(i)["kind"] for i in np.flatnonzero(rows).tolist()]
    noisy = kinds == "gaussian"  # JPEG and blur leave grey images as they are: those are clean
    table = clean_table(n, ["gaussian", "outlier"])
    table.kinds["gaussian"][noisy] = 0.9
    table.sigma[noisy] = 0.23
    first = np.flatnonzero(noisy)[:10]
    table.kinds["outlier"][first] = 0.95
    table.kinds["outlier"][np.flatnonzero(~noisy)[:8]] = 0.7
    found = compare(table, dirty)
    assert found["rate"] == noisy.mean() == 0.2
    assert found["called_dirty"] == pytest.approx(8 / 160)
    assert found["auc"] == 1
    one = found["kinds"].pop("gaussian")
    assert found["kinds"] == {}
    assert (one["n_images"], one["found"], one["auc"]) == (40, 1, 1)
    assert one["called"] == {"outlier": pytest.approx(0.25)}
    assert one["confused"] == 0
    table.kinds["gaussian"][first[:4]] = 0.4
    assert compare(table, dirty)["kinds"]["gaussian"]["confused"] == pytest.approx(0.1)
    assert one["sigma_rmse"] == pytest.approx(0.03)
    assert compare(table, clean) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 40), (1, 8, 8), (3, 9, 33)])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_the_real_detectors_take_any_shape_and_few_images(monkeypatch, shape, n):
    monkeypatch.undo()
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(n)).mul(255).round() / 255
    for images in (x, torch.zeros_like(x), torch.full_like(x, 128 / 255)):
        table = audit_images(InMemory("x", images)).table
        assert list(table.kinds) == list(registry.kinds())
        if min(shape[1:]) < 8:
            assert table.is_clean.all()


def test_an_image_is_dirty_from_two_changed_pixels_on():
    grey = InMemory("grey", torch.full((300, 3, 8, 8), 128 / 255))
    dirty = Contaminated(grey, "salt_and_pepper", 1.0, 0, share=0.02)
    n_changed = (dirty.read_all()["x0"] != grey.x0).any(1).flatten(1).sum(1).numpy()
    assert {0, 1, 2} <= set(n_changed.tolist())
    assert is_changed(dirty, np.arange(300)).tolist() == (n_changed >= 2).tolist()


def test_the_folder_of_detectors_is_walked(monkeypatch):
    monkeypatch.undo()
    assert {"noise", "holes"} <= registry.all_detectors().keys()
    assert not any(name.startswith("_") for name in registry.all_detectors())
    assert len(set(registry.kinds())) == len(registry.kinds())
