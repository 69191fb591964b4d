"""Several processes are one: the same run for the same global batch, sharded or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_run
import pytest
import torch
from distributed_cases import CASES, LONG, SHARDED
from safetensors.torch import load_file
from tiny_runs import assert_same, metrics, outcome

from sparring.training.checkpoint import Checkpoint

# the runs are made once, in one of the test processes
pytestmark = pytest.mark.xdist_group("processes")


def launch(folder: Path, n_processes: int, *parts: str) -> Path:
    folder.mkdir()
    if n_processes == 1:
        distributed_run.main(folder, 16, *parts)
        return folder
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [
        "--nproc_per_node",
        str(n_processes),
        distributed_run.__file__,
        str(folder),
        "16",
        *parts,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    one = launch(folder / "one", 1, "gradients", "long")
    return one, launch(folder / "two", 2, "gradients", "long", "sharded", f"resumed={one / 'long'}")


@pytest.fixture(scope="module")
def four(one_and_two):
    _, two = one_and_two
    sharded = two / "sharded"
    return launch(two.parent / "four", 4, "long", f"resumed={sharded}", f"groups={sharded}")


@pytest.fixture(scope="module")
def again(one_and_two):
    """One process that goes on from what two have sharded."""
    _, two = one_and_two
    return launch(two.parent / "again", 1, f"resumed={two / 'sharded'}")


def test_two_processes_took_part(one_and_two):
    for folder, n_processes in zip(one_and_two, (1, 2), strict=True):
        reports = sorted(folder.glob("took-part-*.json"))
        assert [json.loads(path.read_text())["world_size"] for path in reports] == (
            [n_processes] * n_processes
        )


@pytest.mark.parametrize("label", CASES)
def test_gradients_of_every_update_are_equal(one_and_two, label):
    one, two = (load_file(folder / f"{label}.safetensors") for folder in one_and_two)
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        assert gradient.dtype == torch.float64 or name.startswith("kept|")
        difference = gradient.double() - two[name].double()
        assert difference.norm() <= 1e-9 * gradient.double().norm(), name
    assert sum(float(value.norm()) for name, value in one.items() if "kept" not in name) > 1e-3
    for a, b in zip(*(numbers(folder / label) for folder in one_and_two), strict=True):
        assert a == pytest.approx(b, rel=1e-9)


def numbers(run_dir: Path) -> list[dict[str, float]]:
    """The log without the gradients of calls, which are of the main process's rows."""
    own = ("balance/early", "balance/middle", "balance/late")
    return [
        {key: value for key, value in line.items() if key not in own} for line in metrics(run_dir)
    ]


def last(run_dir: Path) -> Path:
    """The checkpoint after 20 updates, or after 7 x 3."""
    return next(run_dir.glob("checkpoints/checkpoint-2?"))


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages, moments, counts and log after 20 updates, to a relative 1e-6."""
    ends = [Checkpoint(last(run)) for run in (one, other)]
    for name in ("model", "ema", "optimizer", "discriminator", "discriminator-optimizer"):
        first, second = (end.tensors(name) for end in ends)
        assert first.keys() == second.keys()
        assert len(first) > 0 or "discriminator" in name
        for key, value in first.items():
            assert value.dtype == torch.float64 or key.endswith("|step")
            assert (value - second[key]).norm() <= 1e-6 * value.norm(), f"{name}: {key}"
    first, second = ({**end.state, "window": {}} for end in ends)
    assert first["players"] == second["players"]
    for name in ("step", "n_batches", "n_images"):
        assert first["progress"][name] == second["progress"][name]
    lines, after = numbers(one), numbers(other)  # of a resumed run the second half
    assert len(after) >= 3
    for line, same in zip(lines[-len(after) :], after, strict=True):
        assert line == pytest.approx(same, rel=1e-6)
    handed = [json.loads((run / "handed.json").read_text()) for run in (one, other)]
    assert handed[0] == pytest.approx(handed[1], rel=1e-6)


@pytest.mark.parametrize("label", LONG)
def test_two_processes_end_where_one_does(one_and_two, label):
    one, two = one_and_two
    assert_same_run(one / "long" / label, two / "long" / label)


@pytest.mark.parametrize("label", SHARDED)
def test_a_sharded_run_is_the_same_and_each_process_writes_its_rows(one_and_two, label):
    one, two = one_and_two
    assert_same_run(one / "long" / label, two / "sharded" / label)
    folder = last(two / "sharded" / label)
    files = {path.name for path in folder.iterdir()}
    assert "model.safetensors" not in files
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("model", "ema", "optimizer"):
        shards = [f"{name}.shard-{process}.safetensors" for process in (0, 1)]
        assert files >= {*shards, "shards-0.json", "shards-1.json"}
        assert listed.keys() >= set(shards)
        halves = [load_file(folder / shard) for shard in shards]
        weights = [key for key in halves[1] if halves[1][key].dim()]
        assert len(weights) >= 14
        for key in weights:
            n_rows = Checkpoint(folder).tensors(name).shape(key)[0]
            assert len(halves[0][key]) == -(-n_rows // 2)
            assert len(halves[0][key]) + len(halves[1][key]) == n_rows


@pytest.mark.parametrize("label", SHARDED)
def test_two_sharded_processes_go_on_from_one(one_and_two, label):
    one, two = one_and_two
    assert_same_run(one / "long" / label, two / "resumed" / label)


@pytest.mark.parametrize("label", SHARDED)
def test_one_process_goes_on_from_two_sharded(one_and_two, again, label):
    one, _ = one_and_two
    assert_same_run(one / "long" / label, again / "resumed" / label)
    assert (last(again / "resumed" / label) / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("label", LONG)
def test_four_processes_end_where_one_does(one_and_two, four, label):
    one, _ = one_and_two
    reports = sorted(four.glob("took-part-*.json"))
    assert [json.loads(path.read_text())["world_size"] for path in reports] == [4] * 4
    assert_same_run(one / "long" / label, four / "long" / label)


@pytest.mark.slow
@pytest.mark.parametrize("label", SHARDED)
@pytest.mark.parametrize("how", ["resumed", "groups"])
def test_four_sharded_processes_go_on_from_two(one_and_two, four, label, how):
    one, _ = one_and_two
    assert_same_run(one / "long" / label, four / how / label)
    written = {path.name for path in last(four / how / label).glob("model.shard-*")}
    writers = range(4 if how == "resumed" else 2)  # the second group holds the same rows
    assert written == {f"model.shard-{process}.safetensors" for process in writers}


def test_bad_sample_of_one_process_stops_both(one_and_two):
    _, two = one_and_two
    words = [(two / f"stopped-{rank}.txt").read_text() for rank in (0, 1)]
    assert words[0] == words[1]
    assert "of 1 of 8 samples is not finite: indices 5." in words[0]


def test_a_disk_that_is_full_for_one_process_is_full_for_both(one_and_two):
    for folder, n_processes in zip(one_and_two, (1, 2), strict=True):
        words = [(folder / f"full-{rank}.txt").read_text() for rank in range(n_processes)]
        assert len(set(words)) == 1
        assert "checkpoint-12 could not be written (No space left on device)" in words[0]
        assert list((folder / "full" / "checkpoints").iterdir()) == []


def test_all_processes_hear_of_the_lock(one_and_two):
    for folder, n_processes in zip(one_and_two, (1, 2), strict=True):
        for name, said in (("held", "is being written by process"), ("lost", "no longer this")):
            words = [(folder / f"{name}-{rank}.txt").read_text() for rank in range(n_processes)]
            assert len(set(words)) == 1
            assert said in words[0]


def test_two_processes_resume_to_the_bit(one_and_two):
    for folder in one_and_two:
        assert_same(outcome(folder / "whole"), outcome(folder / "cut"))
    files = {path.name for path in (one_and_two[1] / "cut/checkpoints/checkpoint-10").iterdir()}
    assert {"random-0.json", "random-1.json"} <= files
