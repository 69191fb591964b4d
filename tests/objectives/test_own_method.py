"""An objective of one's own is one file: a user's, named in a config, or one beside ours."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sparring.assembly.build import build_objective
from sparring.cli import main
from sparring.config.read import resolve
from sparring.diffusion.schedules import schedule_from_config
from sparring.objectives import OBJECTIVES
from sparring.support.errors import UserError
from support import with_a_file_more

METHOD = '''\
"""Denoising whose loss is multiplied by a number."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sparring.objectives import Draws, Objective, Times, Turn
from sparring.diffusion.schedules import Schedule
from sparring.options.value_types import Positive


class Jitter(Objective):
    name = "jitter"
    of_the_run = {"late": lambda run: run.n_steps // 2}

    def __init__(
        self,
        schedule: Schedule,
        times: Times | None = None,
        *,
        strength: Positive = 1.0,
        kind: Literal["soft", "hard"] = "soft",
        late: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schedule, times, **common)
        self.strength, self.kind, self.late = strength, kind, late

    def turns(self, nets: Mapping[str, Any], s: Draws) -> Iterator[Turn]:
        model = self.bind(nets["model"], s)

        def part():
            terms = self.denoising(model(s.x_t), s)
            return {"jitter": self.strength * terms["denoise"]}

        yield Turn("model", [part])
'''
RUN = {
    "model": {"network": {"_class_name": "MLP", "dim": 3, "width": 8, "n_blocks": 1}},
    "data": {"name": "plane", "n_points": 64},
    "training": {
        "max_train_steps": 6, "train_batch_size": 8, "log_every_steps": 1, "report_to": "none",
        "validation_steps": None, "checkpointing_steps": None,
    },
}  # fmt: skip


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_method.py").write_text(METHOD)
    Path("run.yaml").write_text(yaml.safe_dump(RUN | {"objective": "my_method.py:Jitter"}))
    return Path("run.yaml")


def test_a_file_of_ones_own_is_trained_by_a_config(config):
    said = CliRunner().invoke(main, ["train", "run.yaml", "objective.strength=2"])
    assert said.exit_code == 0, said.output
    (log,) = Path("runs/run").glob("*.jsonl")
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("jitter" in key for line in logged for key in line)
    kept = yaml.safe_load(Path("runs/run/config.yaml").read_text())["objective"]
    assert kept == {
        "name": "my_method.py:Jitter", "snr_gamma": None, "vlb_weight": None,
        "strength": 2.0, "kind": "soft", "late": None,
    }  # fmt: skip


def test_what_nobody_says_follows_from_the_run(config):
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    assert build_objective(resolve(config), schedule).late == 3
    assert build_objective(resolve(config, ["objective.late=1"]), schedule).late == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective.strenght=1", "unknown key 'objective.strenght' - did you mean 'strength'?"),
        ("objective.strength=-1", "objective.strength must be > 0, got -1"),
        ("objective.strength=much", "objective.strength must be a number, got 'much'"),
        ("objective.kind=hart", "must be one of soft, hard, got 'hart' - did you mean 'hard'?"),
        ("objective.late=1.5", "objective.late must be a whole number, got 1.5"),
        ("objective=my_method.py:Jiter", "has no 'Jiter' - did you mean 'Jitter'?"),
        ("objective=nowhere.py:Jitter", "there is no file nowhere.py"),
        ("objective=my_method.py:Positive", "is no subclass of sparring.objectives.Objective"),
    ],
)
def test_a_wrong_leaf_is_one_line(config, override, said):
    with pytest.raises(UserError, match=r"^override '[^\n]*$") as caught:
        resolve(config, [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def turns", "def turn", "my_method.py:Jitter has no method turns"),
        ("Positive = 1.0", "'Positiv' = 1.0", "the types of Jitter's options: name 'Positiv' is"),
        ("class Jitter", "class Jitter(", "my_method.py cannot be imported (SyntaxError"),
    ],
)
def test_a_file_that_is_no_objective_is_one_line(config, old, new, said):
    Path("my_method.py").write_text(METHOD.replace(old, new))
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        resolve(config)
    assert said in str(caught.value)


def test_an_option_that_must_be_given_is_asked_for(config):
    Path("my_method.py").write_text(METHOD.replace("Positive = 1.0", "Positive"))
    with pytest.raises(UserError, match=r"key 'objective.strength' is missing"):
        resolve(config)


def test_a_file_beside_ours_is_a_built_in_objective(tmp_path):
    command = with_a_file_more(tmp_path, "objectives/jitter.py", METHOD)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN | {"objective": "jitter"}))
    told = command("train", "run.yaml", "objective.kind=hard", "--dry-run")
    resolved = yaml.safe_load(told)
    assert resolved["objective"]["kind"] == "hard"
    assert resolved["objective"]["name"] == "jitter"
    assert "# objective     jitter" in told


def test_options_are_checked_where_the_class_is_called_too(vp):
    for name, bad in (("plain", {"snr_gamma": -1.0}), ("dro", {"target": "x"})):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            OBJECTIVES[name](vp, **bad)
    with pytest.raises(TypeError, match="lamb"):
        OBJECTIVES["detail"](vp, lamb=1.0)
