"""recipes/mismatch.py: means, spreads and pairs of hand-made curves."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from sparring.errors import UserError

_FILE = Path(__file__).parents[1] / "recipes" / "mismatch.py"
_SPEC = importlib.util.spec_from_file_location("mismatch_recipe", _FILE)
recipe = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(recipe)


def make_run(folder, seed, distances):
    """A run whose curve has these mean distances by steps, twice that at the last call."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"training": {"seed": seed}}))
    key = "sliced_wasserstein"
    curves = [
        {
            "times": [{key: 0.0}, {key: 2 * distance, f"{key}_of_reference": 0.01}],
            "mean": {key: distance, f"{key}_of_reference": 0.02, "mmd_squared": 0.005},
            "protocol": {"steps": steps, "data": "plane", "data_fingerprint": f"of seed {seed}"},
        }
        for steps, distance in distances.items()
    ]
    content = {"sliced_wasserstein": 1.0, "mismatch": curves}
    (folder / "evaluation" / "figures.json").write_text(json.dumps(content))
    return str(folder)


def test_means_spreads_and_pairs(tmp_path):
    plain = [make_run(tmp_path / f"p{s}", s, {50: 0.1 + 0.1 * s, 10: 0.5}) for s in (0, 1, 2)]
    dro = [make_run(tmp_path / f"d{s}", s, {10: 0.2, 50: 0.05 + 0.1 * s}) for s in (2, 0)]
    text = recipe.main(tmp_path / "out" / "table", {"plain": plain, "dro": dro})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [row[:3] for row in rows[2:]] == [
        ["10", "plain", "0, 1, 2"], ["10", "dro", "2, 0"],
        ["50", "plain", "0, 1, 2"], ["50", "dro", "2, 0"],
    ]  # fmt: skip
    mean = rows[0].index("mean over t")
    assert rows[4][mean] == "0.200 ± 0.1"  # 0.1, 0.2, 0.3
    assert rows[4][mean + 2] == "0.400 ± 0.2"
    assert rows[4][rows[0].index("MMD² x 1000")] == "5.00 ± 0"
    assert rows[5][-1] == "0.0500 ± 0"  # seed by seed, though the seeds' order differs
    assert rows[3][-1] == "0.300 ± 0"
    assert (tmp_path / "out" / "table.md").read_text() == text + "\n"
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())) == 4


def test_what_is_missing_or_double_is_said(tmp_path):
    run = make_run(tmp_path / "a", 0, {10: 0.1})
    same_seed = make_run(tmp_path / "b", 0, {10: 0.1})
    with pytest.raises(UserError, match="another run of its group has seed 0"):
        recipe.main(tmp_path / "t", {"plain": [run, same_seed]})
    (tmp_path / "a" / "evaluation" / "figures.json").unlink()
    with pytest.raises(UserError, match=r"has no curve: sparring evaluate .*mismatch=true"):
        recipe.main(tmp_path / "t", {"plain": [run]})
