"""The tables of `make bench-quality` name only what there is."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from sparring.assembly.build import build_objective
from sparring.assembly.network import build_network, scheduler_config
from sparring.config.read import resolve
from sparring.diffusion.schedules import schedule_from_config
from sparring.support.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import quality  # type: ignore

VARIABLES = {"CIFAR10": "cifar10/*.parquet", "INCEPTION": "inception.safetensors"}


def table(name):
    return yaml.safe_load((quality.HERE / f"{name}.yaml").read_text())


@pytest.fixture
def variables(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["quality_cpu", "quality_gpu", "adt_cpu", "consistency_gpu"])
def test_every_cell_is_a_config_that_evaluates(name, variables, tmp_path):
    for cell in quality.cells(table(name), tmp_path, seeds=[0]):
        resolve(cell.config, cell.words)
        for more in cell.evaluations.values():
            resolve(cell.config, [*cell.words, *more])


def test_the_gpu_table_is_of_ten_million_parameters_and_near_equal_work(variables, tmp_path):
    cells = quality.cells(table("quality_gpu"), tmp_path)
    steps = {}
    for cell in cells:
        run = resolve(cell.config, cell.words)
        assert run.data.data_files == VARIABLES["CIFAR10"]
        assert f"evaluation.weights={VARIABLES['INCEPTION']}" in cell.evaluations["FID-768"]
        schedule = schedule_from_config(scheduler_config(run))
        assert build_objective(run, schedule)
        with torch.device("meta"):
            network = build_network(run, (3, 32, 32), None)
        assert sum(p.numel() for p in network.parameters()) > 10_000_000
        steps[cell.method] = run.training.max_train_steps
    assert steps["plain"] / steps["detail"] == pytest.approx((2 + 1.28) / 3, abs=0.01)


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR10", raising=False)
    with pytest.raises(UserError, match=r"data_files=\$CIFAR10 names a variable that is not set"):
        quality.cells(table("quality_gpu"), tmp_path)


def test_seeds_measured_elsewhere_stay_in_the_table(tmp_path):
    figures = ["fid", "share.max"]

    def cell(seed, word="objective=plain"):
        folder = tmp_path / "runs" / str(seed)
        words = [word, f"training.output_dir={folder}"]
        return quality.Cell(
            "digits", "plain", seed, Path("digits.yaml"), words, {"": []}, figures, folder
        )

    def finish(seed, fid):
        measured = tmp_path / "runs" / str(seed) / "evaluation" / "as_configured" / "a.json"
        measured.parent.mkdir(parents=True)
        measured.write_text(f'{{"fid": {fid}, "share": [0.1, 0.2]}}')
        (tmp_path / "runs" / str(seed) / "training.json").write_text('{"train_seconds": 120}')

    finish(1, 5.0)
    finish(2, 8.0)
    before = {
        "experiment": "digits", "method": "plain", "evaluation": "", "seeds": [0, 1],
        "fid": {"each": [2.0, 100.0]}, "share.max": {"each": [0.4, 0.5]},
        "minutes": {"each": [5.0, 9.0]},
        "command": "sparring train digits.yaml objective=plain training.output_dir=another/place",
    }  # fmt: skip
    cells = [cell(seed) for seed in (0, 1, 2)]
    (row,) = quality.rows(cells, [before])
    assert row["seeds"] == [0, 1, 2]
    assert row["fid"] == {"mean": 5.0, "each": [2.0, 5.0, 8.0], "spread": 3.0}
    assert row["share.max"]["each"] == [0.4, 0.2, 0.2]
    assert row["minutes"]["each"] == [5.0, 2.0, 2.0]
    # one without the figure says nothing
    assert next(quality.rows(cells, [before | {"share.max": None}]))["seeds"] == [1, 2]
    # nor does one of another run
    (row,) = quality.rows([cell(seed, "objective=huber") for seed in (0, 1, 2)], [before])
    assert row["seeds"] == [1, 2]
    known = {("digits", "plain", "", 1), ("digits", "plain", "stop", 1)}
    assert [one.lacks(known, as_configured=True) for one in cells] == [True, False, True]
