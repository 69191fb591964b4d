"""Training on shards: cut and resumed it is the same run, on one process and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from streamed_run import streamed_run
from tiny_runs import assert_same, outcome

from shards import N, write_parquet, write_tars
from sparring.data.audit import judging, registry

SCRIPT = Path(__file__).with_name("streamed_run.py")
N_STEPS = 2 * N // 16  # two epochs


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(folder / "cache"))
        patch.setenv("HF_HOME", str(folder / "hf"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "hf"))
        yield {
            "webdataset": {"name": "webdataset", "data_files": write_tars(folder)},
            "parquet": {
                "name": "parquet", "data_files": write_parquet(folder), "streaming": True,
            },
        }  # fmt: skip


@pytest.fixture(autouse=True)
def its_own_detectors(monkeypatch):
    """`streamed_run` puts one in place of all."""
    monkeypatch.setattr(registry, "all_detectors", registry.all_detectors)
    monkeypatch.setattr(judging, "LEAST_SIDE", judging.LEAST_SIDE)


@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_a_run_that_was_cut_in_a_shard_is_the_whole_run(fields, tmp_path, name):
    whole = streamed_run(tmp_path / "whole", fields[name], N_STEPS)
    first = streamed_run(tmp_path / "cut", fields[name], 7, n_workers=2)
    torch.manual_seed(99)
    rest = streamed_run(tmp_path / "cut", fields[name], N_STEPS, n_workers=2, resume=True)
    assert first + rest == whole
    flat = [index for batch in whole for index, _ in batch]
    assert sorted(flat[:N]) == sorted(flat[N:]) == list(range(N))
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))
    noise, again = (dict(row for batch in half for row in batch) for half in _epochs(whole))
    assert noise == again
    assert 0 < sum(sigma > 0 for sigma in noise.values()) < N


def _epochs(batches):
    """The batches of the first and of the second epoch."""
    return batches[: N // 16], batches[N // 16 :]


@pytest.mark.parametrize("name", ["webdataset", pytest.param("parquet", marks=pytest.mark.slow)])
def test_two_processes_read_the_batches_of_one(fields, tmp_path, name):
    """torchrun with two processes and two workers each: cut, resumed, and one process's batches."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(SCRIPT), str(tmp_path / "two")]
    command += [json.dumps(fields[name]), str(N_STEPS)]
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    said = [json.loads((tmp_path / f"two/long-{rank}.json").read_text()) for rank in (0, 1)]
    assert said == [["0", "refused"]] * 2
    one = streamed_run(tmp_path / "one", fields[name], N_STEPS)
    two = [json.loads((tmp_path / f"two/indices-{rank}.json").read_text()) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == one
    expected, found = (outcome(tmp_path / run)["tensors"]["model"] for run in ("one", "two"))
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-5), key
