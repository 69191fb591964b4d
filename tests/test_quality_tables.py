"""The tables of `make bench-quality` name only what there is."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from sparring.build import build_network, build_objective, scheduler_config, train_settings
from sparring.config import resolve
from sparring.errors import UserError
from sparring.schedules import schedule_from_config

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
    for cell in quality.cells(table(name), tmp_path, seeds=1):
        run = resolve(cell.config, cell.words)
        train_settings(run)
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
    assert steps["plain"] / steps["detail"] == pytest.approx((2 + 1.21) / 3, abs=0.01)


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFAR10", raising=False)
    with pytest.raises(UserError, match=r"data_files=\$CIFAR10 names a variable that is not set"):
        quality.cells(table("quality_gpu"), tmp_path)
