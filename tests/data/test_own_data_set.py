"""A data set of one's own is one file: a user's, named in a config, or one beside ours."""

from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from sparring.assembly.build import build_dataset
from sparring.cli import main
from sparring.commands.shared.data_words import sections_of
from sparring.config.read import resolve
from sparring.support.errors import UserError
from support import with_a_file_more

DATA = '''\
"""Points on a line."""

from collections.abc import Mapping
from typing import Any

import torch

from sparring.data.base import InMemory
from sparring.data.data_set import DataSet, limited
from sparring.options.value_types import Count, Positive


class Line(DataSet):
    is_bundled = True

    def __init__(
        self, *, slope: Positive = 1.0, n_points: Count = 32, words: str = "", **rest: Any
    ) -> None:
        self.slope, self.n_points, self.words = slope, n_points, words

    def read(self, split: str, fields: Mapping[str, Any]) -> InMemory:
        u = torch.linspace(-1, 1, self.n_points)
        points = torch.stack([u, self.slope * u], 1)
        return limited(InMemory("line", points), split, fields)
'''
RUN = {
    "model": {"network": {"_class_name": "MLP", "dim": 2, "width": 8, "n_blocks": 1}},
    "training": {
        "max_train_steps": 3, "train_batch_size": 8, "report_to": "none",
        "validation_steps": None, "checkpointing_steps": None,
    },
}  # fmt: skip


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lines.py").write_text(DATA)
    data = {"name": "lines.py:Line", "slope": 2.0}
    Path("run.yaml").write_text(yaml.safe_dump(RUN | {"data": data}))
    return Path("run.yaml")


def test_a_file_of_ones_own_is_trained_on_by_a_config(config):
    said = CliRunner().invoke(main, ["train", "run.yaml", "data.n_points=010"])
    assert said.exit_code == 0, said.output
    kept = yaml.safe_load(Path("runs/run/config.yaml").read_text())["data"]
    assert (kept["slope"], kept["n_points"]) == (2.0, 10)
    said = CliRunner().invoke(main, ["report", "runs/run", "-o", "page.html"])
    assert said.exit_code == 0, said.output
    assert "picture" not in said.output  # vectors have none, and the report knows it


def test_its_samples_are_those_of_the_file(config):
    x0 = build_dataset(resolve(config)).__getitems__([0, 31])["x0"]
    assert torch.equal(x0, torch.tensor([[-1.0, -2.0], [1.0, 2.0]]))
    assert resolve(config, ["data.words=007"]).data.words == "007"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.slop=1", "unknown key 'data.slop' - did you mean 'slope'?"),
        ("data.resolutio=1", "unknown key 'data.resolutio' - did you mean 'resolution'?"),
        ("data.slope=-1", "data.slope must be > 0, got -1"),
        ("data.n_points=0", "data.n_points must be >= 1, got 0"),
        ("data={name: swiss_roll, dim: 1}", "data.dim must be >= 2, got 1"),
        ("data.name=lines.py:Lin", "has no 'Lin' - did you mean 'Line'?"),
        ("data.name=lines.py:Count", "is no subclass of sparring.data.data_set.DataSet"),
        ("data.name=nowhere.py:Line", "there is no file nowhere.py"),
        ("data.name=digit", "got 'digit' - did you mean 'digits'?"),
    ],
)
def test_a_wrong_key_is_one_line(config, override, said):
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        resolve(config, [override])
    assert said in str(caught.value)


def test_a_missing_method_is_one_line(config):
    Path("lines.py").write_text(DATA.replace("def read", "def raed"))
    with pytest.raises(UserError, match=r"lines.py:Line has no method read"):
        resolve(config)


def test_a_file_beside_ours_is_a_built_in_data_set(tmp_path):
    command = with_a_file_more(tmp_path, "data/sets/line.py", DATA)
    data = {"name": "line", "slope": 3.0}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN | {"data": data}))
    told = command("train", "run.yaml", "--dry-run")
    assert yaml.safe_load(told)["data"]["slope"] == 3.0
    assert "# samples       2" in told


def test_a_bundled_set_is_known_by_its_name_alone():
    assert sections_of("two_moons", [], "gaussian", "inspect")[0]["name"] == "two_moons"
