"""benchmarks/proximal.py: which runs are compared, and how well a distance chooses among them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import proximal  # type: ignore


def row(folder, dirt, method, seed=0, reads="dirty"):
    where = folder / dirt / method / str(seed)
    where.mkdir(parents=True)
    (where / "training.json").write_text('{"finished": true}')
    command = f"sparring train x.yaml data.train_data_dir={reads} 'training.output_dir={where}'"
    return {
        "data": "digits", "dirt": dirt, "method": method, "seed": seed, "features": "classifier",
        "command": command,
    }  # fmt: skip


def test_runs_of_one_kind_and_seed_are_compared_and_the_floor_beside_them(tmp_path):
    rows = [
        row(tmp_path, "jpeg", "plain"), row(tmp_path, "jpeg", "oracle", reads="clean"),
        row(tmp_path, "jpeg", "detail"), row(tmp_path, "jpeg", "plain", seed=1),
        row(tmp_path, "none", "floor", reads="clean"), row(tmp_path, "none", "detail"),
    ]  # fmt: skip
    first, second = proximal.groups(rows, "digits/jpeg")
    assert [one["method"] for one in first.rows] == ["plain", "oracle", "detail", "floor"]
    assert [one["method"] for one in second.rows] == ["plain"]
    assert list(proximal.groups(rows, "digits/blur")) == []
    (tmp_path / "jpeg" / "oracle" / "0" / "training.json").write_text('{"finished": false}')
    begun_anew, _ = proximal.groups(rows, "digits/jpeg")
    assert [one["method"] for one in begun_anew.rows] == ["plain", "detail", "floor"]
    assert first.table() is None
    for method, is_of_these_files in (("oracle", False), ("detail", True)):
        table = tmp_path / "jpeg" / method / "0" / "data" / "dirt.csv"
        table.parent.mkdir()
        table.write_text("index\n")
        assert first.table() == (table if is_of_these_files else None)


def test_the_table_of_the_docs_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- proximal -->\nold\n<!-- /proximal -->\n\nb\n")
    for _ in range(2):
        proximal.put_in(page, ["new", "table"])
    marked = "<!-- proximal -->\nnew\ntable\n<!-- /proximal -->"
    assert page.read_text() == f"a\n\n{marked}\n\nb\n"


def test_groups_that_are_there_stay_until_they_are_measured_again(tmp_path):
    def group(name, value):
        return {"group": name, "features": "classifier", "value": value}

    path = tmp_path / "proximal.json"
    assert proximal.with_those_of(path, [group("a", 1)]) == [group("a", 1)]
    path.write_text(json.dumps({"groups": [group("a", 1), group("b", 1)]}))
    found = proximal.with_those_of(path, [group("a", 2), group("c", 2)])
    assert found == [group("b", 1), group("a", 2), group("c", 2)]


def test_the_parts_of_a_mixture_are_named_kinds():
    kinds = {"blur": {"kind": "blur", "rate": 0.05}, "all": {"kind": "mixture", "parts": ["blur"]}}
    assert proximal.with_parts(kinds["all"], kinds) == {
        "kind": "mixture", "parts": [{"kind": "blur"}],
    }  # fmt: skip
    assert proximal.with_parts(kinds["blur"], kinds) == kinds["blur"]


def test_a_choice_is_as_good_as_the_run_that_it_chooses():
    true, seen = (3.0, 4.0, 6.0, 9.0), (2.0, 1.0, 5.0, 7.0)
    runs = {
        name: {"frechet_distance": a, "seen": b}
        for name, a, b in zip("abcd", true, seen, strict=True)
    }
    found = proximal.choice(runs, "seen")
    # 1 - 6 sum of squared differences of the ranks / (n (n^2 - 1)), Spearman's formula
    assert found["rank_correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert (found["chosen"], found["best"]) == ("b", "a")
    assert (found["distance_of_chosen"], found["distance_of_best"]) == (4, 3)
