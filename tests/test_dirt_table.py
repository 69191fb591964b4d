"""The table of `make bench-dirt`: the same pixels for all methods, rows that stay, its ratios."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml

from sparring.commands.contaminate.copies import contaminate as write_copy
from sparring.commands.demo.side_by_side import Run
from sparring.config.files import find
from sparring.config.read import resolve
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import check_contamination, contaminate
from sparring.support.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import dirt  # type: ignore


def table(root, file="dirt.yaml", **settings):
    raw = yaml.safe_load((dirt.HERE / file).read_text())
    if settings:
        raw["settings"] = {
            name: raw["settings"][name] | changed for name, changed in settings.items()
        }
    return dirt.Table(raw, Path(root))


@pytest.mark.parametrize("file", ["dirt.yaml", "cifar10.yaml"])
def test_every_cell_is_a_config_of_known_dirt(tmp_path, monkeypatch, file):
    monkeypatch.setattr(dirt, "clean_rows", lambda folder: list(range(200)))
    whole = table(tmp_path, file)
    cells = whole.cells([], [0])
    for cell in cells:
        assert resolve(find(cell.own["config"]), cell.words)
        check_contamination(cell.contamination, is_image=True)
        assert all(whole.raw["extractors"][name] for name in cell.own["features"])
    assert {cell.setting for cell in cells} == set(whole.raw["settings"])
    assert {cell.method for cell in cells} == set(whole.raw["methods"])


def test_the_photographs_of_the_first_runs_are_clean_then_nine_tenths_dirty(tmp_path):
    cells = table(tmp_path, "cifar10.yaml").cells([], None)
    first = [(cell.kind, cell.rate, cell.method) for cell in cells[:5]]
    assert first[:2] == [("none", 0, "floor"), ("none", 0, "detail")]
    assert first[2:] == [("gaussian", 0.9, one) for one in ("plain", "throw_away_told", "detail")]
    assert {cell.rate for cell in cells if cell.setting == "cifar10_99"} == {0, 0.99}


def test_only_the_oracle_is_told_what_was_done(tmp_path):
    (plain,), (oracle,) = (
        table(tmp_path).cells([f"^digits/jpeg/{method}$"], [1]) for method in ("plain", "oracle")
    )
    assert resolve(find("digits.yaml"), plain.words).contamination.kind == "none"
    assert resolve(find("digits.yaml"), oracle.words).contamination.model_dump() == {
        "kind": "jpeg", "rate": 0.9, "seed": 1, "clip": None, "quality": [10, 40],
    }  # fmt: skip
    assert (plain.reads, oracle.reads) == (plain.dirty, plain.clean)


def test_nothing_is_kept_where_nothing_is_clean_and_clean_data_are_for_floor_and_detail(tmp_path):
    every = table(tmp_path).cells(["^fashion_all/"], [0])
    methods = {cell.method for cell in every if cell.kind != dirt.CLEAN}
    assert not methods & {"throw_away", "throw_away_told", "detail_trusted", "floor"}
    assert {cell.method for cell in every if cell.kind == dirt.CLEAN} == {"floor", "detail"}


def test_seeds_of_the_first_kinds_and_methods_only(tmp_path):
    cells = table(tmp_path).cells(["^fashion_tenth/(jpeg|poisson)/(plain|published)$"], None)
    found = [(cell.kind, cell.method, cell.seed) for cell in cells]
    assert sorted(found) == [
        ("jpeg", "plain", 0), ("jpeg", "plain", 1), ("jpeg", "plain", 2), ("jpeg", "published", 0),
        ("poisson", "plain", 0), ("poisson", "published", 0),
    ]  # fmt: skip
    with pytest.raises(UserError, match="nothing is called snow"):
        table(tmp_path).cells(["snow"], None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A table of held-out digits, a third of them dirty, and its files."""
    root = tmp_path_factory.mktemp("dirt")
    small = table(root, digits={"rate": 1 / 3, "outliers": "digits"})
    held_out = {"name": "digits", "split": "held_out"}
    small.raw["sets"]["digits"] = {"train": held_out, "test": held_out}
    for kind in ("jpeg", "together"):
        (cell,) = small.cells([f"^digits/{kind}/throw_away_told$"], [0])
        cell.write()
    return small


@pytest.mark.parametrize("kind", ["jpeg", "together"])
def test_files_and_memory_hold_the_same_pixels(files, kind):
    (oracle,) = files.cells([f"^digits/{kind}/oracle$"], [0])
    clean = build_dataset(**dirt.clean_words(oracle.clean))
    in_memory = contaminate(clean, oracle.contamination)
    on_disk = build_dataset(**dirt.clean_words(oracle.dirty))
    dirt.assert_same(on_disk, in_memory)
    with pytest.raises(AssertionError):
        dirt.assert_same(on_disk, clean)


def test_a_copy_that_differs_from_what_memory_holds_is_refused(files, tmp_path, monkeypatch):
    def wrong(data, contamination, folder):
        return write_copy(data, contamination | {"seed": 5}, folder)

    monkeypatch.setattr(dirt, "write_copy", wrong)
    gaussian = {"kind": "gaussian", "sigma": 0.1, "rate": 0.5, "seed": 0}
    with pytest.raises(AssertionError):
        dirt.write_dirty(files.clean("digits"), gaussian, tmp_path / "copy")


def test_what_is_told_clean_are_the_clean_files_and_no_other(files):
    (told,) = files.cells(["^digits/jpeg/throw_away_told$"], [0])
    clean = build_dataset(**dirt.clean_words(told.clean)).read_all()["x0"]
    kept = build_dataset(**dirt.clean_words(told.reads)).read_all()["x0"]
    rows = dirt.clean_rows(told.dirty)
    assert len(rows) == 297 - 99
    assert torch.equal(kept, clean[rows])


def test_kinds_of_one_rate_share_the_run_that_is_told(files):
    jpeg, together = files.cells(["^digits/(jpeg|together)/throw_away_told$"], [0])
    assert jpeg.folder == together.folder
    assert dirt.clean_rows(jpeg.dirty) == dirt.clean_rows(together.dirty)


@dataclass
class Made:
    """A cell whose run only writes a file, or fails."""

    folder: Path
    value: float
    words: str = "open('done', 'w')"
    own: dict = field(default_factory=dict)

    def run(self, data):
        log = self.folder.parent / f"{self.folder.name}.txt"
        command = [sys.executable, "-c", f"import os; os.chdir({str(self.folder)!r}); {self.words}"]
        is_done = (self.folder / "done").is_file()
        name = self.folder.name
        return Run(name, name, self.folder, log, [command], 1, stage=int(is_done))

    def rows(self):
        if (self.folder / "done").is_file():
            yield {
                "data": "made", "dirt": "none", "method": self.folder.name, "seed": 0,
                "features": "pixels", "frechet_distance": self.value,
            }  # fmt: skip


def test_a_run_that_fails_does_not_keep_others_from_running_and_rows_stay(tmp_path):
    path = tmp_path / "results" / "dirt.json"
    cells = [Made(tmp_path / "a", 1.0, "1 / 0"), Made(tmp_path / "b", 2.0)]
    for cell in cells:
        cell.folder.mkdir()
    (said,) = dirt.run_all(cells, tmp_path, 1, path)
    assert "ZeroDivisionError" in said
    assert [row["method"] for row in dirt.read_rows(path)] == ["b"]
    later = Made(tmp_path / "a", 3.0)
    assert dirt.run_all([later], tmp_path, 1, path) == []
    assert [row["frechet_distance"] for row in dirt.read_rows(path)] == [3.0, 2.0]
    later.value = 4.0  # the same run measured again takes its row's place
    dirt.keep(path, [later])
    assert [row["frechet_distance"] for row in dirt.read_rows(path)] == [4.0, 2.0]


def rows(**by_method):
    """Rows of digits with Gaussian noise; the floor's dirt is none."""
    return [
        {
            "data": "digits", "features": "classifier", "seed": seed, "method": method,
            "dirt": dirt.CLEAN if method == "floor" else "gaussian", "frechet_distance": value,
            "leftover_noise": 0.1, "recall": 0.5, "coverage": 0.25, "near_duplicates": 0.01,
            "n_samples": 10, "reference": "all", "rate": 0.0 if method == "floor" else 0.9,
        }
        for method, values in by_method.items() for seed, value in enumerate(values)
    ]  # fmt: skip


def test_ratios_are_of_the_same_seeds():
    found = dirt.Found(rows(detail=[4.0, 9.0], plain=[8.0, 6.0, 100.0]))
    mean, error = found.ratio("gaussian", "detail", "plain")
    assert mean == pytest.approx((0.5 + 1.5) / 2)
    assert error == pytest.approx(0.5)  # deviation sqrt(1/2) of two, by sqrt 2
    assert found.ratio("gaussian", "detail", "oracle") is None


def test_what_is_told_which_images_are_clean_counts_for_all_kinds_of_its_rate():
    found = rows(throw_away_told=[8.0], detail=[6.0])
    jpeg, few = ({**rows(detail=[4.0])[0], "dirt": kind} for kind in ("jpeg", "outliers"))
    found = dirt.Found([*found, jpeg, {**few, "rate": 0.05}])
    assert found.ratio("jpeg", "detail", "throw_away_told") == (0.5, 0.0)
    assert found.ratio("outliers", "detail", "throw_away_told") is None


def test_the_distance_above_the_floor_is_that_of_means():
    found = dirt.Found(rows(detail=[6.0, 8.0], oracle=[5.0], floor=[3.0]))
    assert found.above_floor("gaussian", "detail", "oracle") == pytest.approx((7 - 3) / (5 - 3))
    assert dirt.Found(rows(detail=[6.0])).above_floor("gaussian", "detail", "oracle") is None


def test_the_report_puts_the_must_beside_the_ratio():
    raw = yaml.safe_load((dirt.HERE / "dirt.yaml").read_text())
    text = dirt.report(raw, rows(throw_away_told=[10.0], detail=[6.0], oracle=[5.0], floor=[3.0]))
    assert "| gaussian | throw_away_told | 0.60 | 0.5 | 0.42 | 0.50 | 1.50 |" in text
    assert "**6**<br>0.100, 0.50, 0.25, 1.0 %" in text


def test_the_short_table_goes_between_the_marks_of_a_page(tmp_path):
    raw = yaml.safe_load((dirt.HERE / "dirt.yaml").read_text())
    short = dirt.short_table(raw, rows(plain=[10.0, 12.0], detail=[6.04], floor=[3.0]))
    assert short[2:] == [
        "| gaussian | 11.0 ± 1.4 |  | 6.0 |  |", "", "Plain training on clean files: 3.0.",
    ]  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- dirt -->\nold\n<!-- /dirt -->\nb\n")
    dirt.put_in(page, ["new", "table"])
    assert page.read_text() == "a\n<!-- dirt -->\nnew\ntable\n<!-- /dirt -->\nb\n"
    (tmp_path / "other.md").write_text("a\n<!-- dirt -->\nb\n")
    with pytest.raises(UserError, match=r"other\.md has no"):
        dirt.put_in(tmp_path / "other.md", ["new"])


def test_rows_hold_what_other_checks_read(tmp_path):
    (cell,) = table(tmp_path).cells(["^digits/sizes/plain$"], [2])
    (cell.folder / "measured").mkdir(parents=True)
    (cell.folder / "training.json").write_text(json.dumps({"train_seconds": 90, "n_images": 640}))
    figures = {
        "frechet_distance": 7.0, "empty_pixel_rms": 0.125, "recall": 0.5, "coverage": 0.25,
        "memorization": {"near_duplicates": 0.02, "near_duplicates_of_calibration": 0.01,
            "extractor": "classifier"},
        "protocol": {"n_fake": 1797, "n_real": 1796}, "commit": "abc1234+",
    }  # fmt: skip
    (cell.folder / "measured" / "classifier.json").write_text(json.dumps(figures))
    (row,) = cell.rows()
    wanted = {
        "data": "digits", "dirt": "sizes", "rate": 0.9, "method": "plain", "seed": 2,
        "frechet_distance": 7.0, "leftover_noise": 0.125, "features": "classifier",
        "n_samples": 1797, "minutes": 1.5, "commit": "abc1234+",
    }  # fmt: skip
    assert row | wanted == row
    assert "1796" in row["reference"]
    assert row["command"].startswith("sparring train configs/digits.yaml data.name=image_folder")
    del figures["commit"]  # measured before commits were noted
    (cell.folder / "measured" / "classifier.json").write_text(json.dumps(figures))
    assert next(cell.rows())["commit"] is None


def test_the_commit_of_a_checkout_says_whether_it_was_changed(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        told = ["git", *who, *words]
        return subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert dirt.commit_of(tmp_path) is None
    git("init")
    results = tmp_path / "benchmarks" / "results" / "dirt.json"
    results.parent.mkdir(parents=True)
    for file in (tmp_path / "a", results, tmp_path / "README.md"):
        file.write_text("1")
    git("add", ".")
    git("commit", "-m", "a")
    commit = git("rev-parse", "HEAD").stdout.strip()
    found = dirt.commit_of(tmp_path)
    assert commit.startswith(found)
    for file in (results, tmp_path / "README.md", tmp_path / "new"):
        file.write_text("what a benchmark writes is no change of the code")
    assert dirt.commit_of(tmp_path) == found
    (tmp_path / "a").write_text("2")
    assert dirt.commit_of(tmp_path) == f"{found}+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dirt.commit_of(tmp_path) is None
