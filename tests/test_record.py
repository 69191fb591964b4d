"""Every objective still does what benchmarks/results/record.json says, on any processor."""

import sys
from pathlib import Path

import pytest

from sparring.objectives import OBJECTIVES

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import record  # type: ignore

QUICK = (
    "digits/plain", "digits/smoothing_adversarial", "digits/dro", "digits/detail_alone",
    "digits/consistency_training", "digits/adt", "plane/plain", "sd/plain",
)  # fmt: skip
"""About half a minute; the other runs are slow tests."""
ITEMS = ("config", "log", "model", "ema", "discriminator", "samples")
"""Compared by value: kernels of another processor round differently."""


@pytest.fixture(scope="module")
def recorded():
    return record.read()["runs"]


def assert_close(entry, recorded, tolerance=0.01):
    assert entry.keys() == recorded.keys()
    for key in [key for key in ITEMS if key in entry]:
        ours, theirs = entry[key]["values"], recorded[key]["values"]
        assert ours.keys() == theirs.keys(), key
        for word, value in theirs.items():
            if key in ("model", "ema", "discriminator", "samples") and word == "sum":
                spread = tolerance * theirs["rms"] * theirs["n"]
                assert ours[word] == pytest.approx(value, abs=spread), (key, word)
            elif isinstance(value, float):
                assert ours[word] == pytest.approx(value, rel=tolerance, abs=1e-3), (key, word)
            else:
                assert ours[word] == value, (key, word)
    if "figures" in entry:
        ours, theirs = (e["figures"]["values"] for e in (entry, recorded))
        assert ours.keys() == theirs.keys()
        key = next(key for key in ("frechet_distance", "off_manifold_rms") if key in ours)
        assert ours[key] == pytest.approx(theirs[key], rel=0.05)


def test_the_quick_runs_agree_with_the_record(recorded, tmp_path):
    entries = record.record(QUICK, tmp_path, say=lambda name: None)
    for name in QUICK:
        assert_close(entries[name], recorded[name])


@pytest.mark.slow
def test_the_other_runs_agree_with_the_record(recorded, tmp_path):
    others = [name for name in record.RUNS if name not in QUICK]
    entries = record.record(others, tmp_path, say=lambda name: None)
    for name in others:
        assert_close(entries[name], recorded[name])


def test_every_run_is_recorded_and_every_objective_has_a_run(recorded):
    assert list(recorded) == list(record.RUNS)
    of = {entry["config"]["values"]["objective.name"] for entry in recorded.values()}
    assert of == set(OBJECTIVES)


def test_what_differs_is_said(recorded):
    log = recorded["digits/plain"]["log"]
    values = {**log["values"], "loss": 9.0}
    changed = {"digits/plain": {"log": {"sha256": "another", "values": values}}}
    (gone, *_, line) = record.differences({"digits/plain": {"ema": log, "log": log}}, changed)
    assert gone == "digits/plain ema: is gone"
    assert line == f"digits/plain log: loss {log['values']['loss']} -> 9.0"
    same = {"digits/plain": recorded["digits/plain"]}
    assert record.differences(recorded, same) == []
