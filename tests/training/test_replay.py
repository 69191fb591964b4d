"""The batch at which a run stopped is kept, and looking at it again finds where it began."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import Points, make_objective, run, tiny_denoiser, tiny_settings

from sparring.data.trust.trust import Trust
from sparring.diffusion.randomness import StepRandom
from sparring.support.errors import TrainingStopped, UserError
from sparring.training.checkpoint import Checkpoint
from sparring.training.feed import BatchAddress
from sparring.training.processes import distributed, make_accelerator
from sparring.training.replay import first_non_finite, keep_batch, read_address, read_batch, replay
from sparring.training.roles import Trained, restore, roles


def replayed(folder, objective, denoiser):
    where = read_address(folder)
    accelerator = make_accelerator(tiny_settings(), folder)
    nets, players = roles(Trained(denoiser, objective), tiny_settings(), accelerator)
    restore(Checkpoint(folder / "stopped" / f"checkpoint-{where.step}"), players, objective)
    with distributed(nets, players, accelerator, compiled=False):
        return where, list(replay(folder, where, objective, nets, players, accelerator))


@pytest.mark.parametrize("times", ["uniform", "loss_second_moment"])
def test_replay_is_the_step_that_failed(tmp_path, times):
    """The same samples, times and noise, and the weights before the update."""
    seen = []

    def objective():
        made = make_objective(times=times)
        draw = made.draw

        def remember(*args):
            seen.append(draw(*args))
            return seen[-1]

        made.draw = remember
        return made

    denoiser, bad = tiny_denoiser(), (17, 42)
    settings = {"gradient_accumulation_steps": 2, "train_batch_size": 4, "max_train_steps": 60}
    with pytest.raises(TrainingStopped, match=r"where it began: sparring replay"):
        run(tmp_path, objective(), denoiser=denoiser, data=Points(100, bad), **settings)
    weights = {name: value.clone() for name, value in denoiser.network.state_dict().items()}
    failed, seen[:] = seen[-2:], []

    where, findings = replayed(tmp_path, objective(), other := tiny_denoiser(seed=3))
    assert json.loads((tmp_path / "stopped.json").read_text())["step"] == where.step
    for name, value in other.network.state_dict().items():
        assert torch.equal(value, weights[name])
    for one, again in zip(failed, seen, strict=True):
        for value in ("eps", "t", "weight"):
            assert torch.equal(getattr(one, value), getattr(again, value))
    rows = [index for finding in findings for index, _ in finding.bad_rows]
    assert rows
    assert set(rows) <= set(bad)
    assert all(finding.is_finite == (not finding.bad_rows) for finding in findings)


def test_what_is_kept_comes_back(tmp_path):
    where = BatchAddress(3, 10, 4, 0, 8, 4, 1, 1)
    fields = [torch.rand(4) for _ in range(6)]
    fields[3] = fields[3] < 0.5
    trust = Trust(*fields, seen=torch.rand(4, 1, 1, 3) < 0.5)
    batch = {
        "trust": trust,
        "x0": torch.randn(4, 3), "index": torch.arange(4), "caption": ["a", "ü", "", "d"],
        "cond": {"text": torch.randn(4, 2), "added": {"ids": torch.arange(4)}}, "unreadable": [],
    }  # fmt: skip
    written = []
    assert keep_batch(tmp_path, where, [batch], written.append)
    assert written == [tmp_path / "stopped"]
    assert read_address(tmp_path) == where
    back = read_batch(tmp_path, 0, 0, "cpu")
    assert back.keys() == batch.keys()
    assert back["caption"] == batch["caption"]
    assert torch.equal(back["cond"]["added"]["ids"], torch.arange(4))
    assert torch.equal(back["cond"]["text"], batch["cond"]["text"])
    assert isinstance(back["trust"], Trust)
    for name, value in trust._asdict().items():
        assert torch.equal(getattr(back["trust"], name), value)
        assert getattr(back["trust"], name).dtype == value.dtype
    batch = {**batch, "trust": trust._replace(seen=None)}
    assert keep_batch(tmp_path, where, [batch], written.append)
    assert read_batch(tmp_path, 0, 0, "cpu")["trust"].seen is None
    whole = StepRandom(3, 4, 8).normal("eps", (3,))
    assert torch.equal(replace(where, n_processes=2).random(1, 0, "cpu").normal("eps", (3,)),
                       whole[4:])  # fmt: skip


def test_the_first_layer_that_makes_infinity_is_named():
    class Overflows(torch.nn.Module):
        def forward(self, x):
            return x * 1e38 * 1e38

    network = torch.nn.Sequential(torch.nn.Linear(2, 2), Overflows(), torch.nn.Linear(2, 2))
    with first_non_finite(network) as found:
        network(torch.ones(1, 2))
    assert found == ["1 (Overflows)"]
    with torch.no_grad():
        network[0].weight[0, 0] = torch.nan
    with first_non_finite(network) as found:
        network(torch.ones(1, 2))
    assert found == ["0 (Linear, its weights are not finite)"]


def test_a_run_that_did_not_stop_has_nothing_to_replay(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="has no stopped batch"):
        read_address(tmp_path)


CONFIG = """
data: {name: plane, n_points: 64}
model: {network: {_class_name: MLP, width: 8, n_blocks: 1}}
training: {train_batch_size: 8, max_train_steps: 8, learning_rate: 1e30, max_grad_norm: null,
           report_to: none, lr_warmup_steps: 4, checkpointing_steps: 1}
"""


def test_command(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "sparring"]
    words = ["train", "run.yaml", "training.output_dir=out"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "sparring: error: training stopped before update" in done.stderr
    found = subprocess.run(
        [*command, "replay", "out", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert Path(result["run"]) == Path("out")
    assert len(result["findings"]) == 1
    assert result["findings"][0]["bad_rows"]
