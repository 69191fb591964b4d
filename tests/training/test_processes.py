"""Two processes are one: the same gradients for the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_cases import CASES
from safetensors.torch import load_file
from tiny_runs import assert_same, metrics, outcome

SCRIPT = Path(__file__).with_name("distributed_run.py")


def launch(folder: Path, n_processes: int) -> Path:
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(n_processes), str(SCRIPT), str(folder), "16"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return launch(folder / "one", 1), launch(folder / "two", 2)


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
    """The log without the balance, which is of the main process's rows."""
    return [
        {key: value for key, value in line.items() if not key.startswith("balance")}
        for line in metrics(run_dir)
    ]


def test_bad_sample_of_one_process_stops_both(one_and_two):
    _, two = one_and_two
    words = [(two / f"stopped-{rank}.txt").read_text() for rank in (0, 1)]
    assert words[0] == words[1]
    assert "of 1 of 8 samples is not finite: indices 5." in words[0]


def test_two_processes_resume_to_the_bit(one_and_two):
    for folder in one_and_two:
        assert_same(outcome(folder / "whole"), outcome(folder / "cut"))
    files = {path.name for path in (one_and_two[1] / "cut/checkpoints/checkpoint-10").iterdir()}
    assert {"random-0.json", "random-1.json"} <= files
