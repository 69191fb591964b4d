"""What breaks from outside ends in the same bits or in one clear line, and nothing is lost."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import (
    assert_same,
    make_objective,
    metrics,
    outcome,
    run,
    tiny_denoiser,
    tiny_discriminator,
    vp_schedule,
)

from sparring.objectives.base import Objective, Turn
from sparring.support.errors import Interrupted, TrainingStopped, UserError
from sparring.training import latest_checkpoint, open_run
from sparring.training.checkpoint import Checkpoint, write_checkpoint
from sparring.training.stopping import reason_of

SETTINGS = {"checkpointing_steps": 4, "checkpoints_total_limit": 2, "dropout": 0.3}


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def flip(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


# Checkpoints


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "state.json"])
def test_a_flipped_byte_costs_a_checkpoint_and_no_bit(tmp_path, capsys, file):
    run(tmp_path / "whole", **SETTINGS, max_train_steps=20)
    run(tmp_path / "cut", **SETTINGS, max_train_steps=12)
    flip(tmp_path / "cut" / "checkpoints" / "checkpoint-12" / file)
    capsys.readouterr()
    run(tmp_path / "cut", **SETTINGS, max_train_steps=20, resume_from_checkpoint="latest")
    said = capsys.readouterr().err
    assert f"damaged-checkpoint-12: {file} is not what was written" in said
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))
    assert names(tmp_path / "cut") == ["checkpoint-16", "checkpoint-20", "damaged-checkpoint-12"]


def test_rotation_never_removes_the_newest_good_one(tmp_path):
    """The damaged one has a higher step than those written after it."""
    run(tmp_path, **SETTINGS, max_train_steps=12)
    flip(tmp_path / "checkpoints" / "checkpoint-12" / "model.safetensors")
    changes = {"checkpoints_total_limit": 1, "checkpointing_steps": 3, "max_train_steps": 9}
    run(tmp_path, **(SETTINGS | changes), resume_from_checkpoint="latest")
    assert names(tmp_path) == ["checkpoint-9", "damaged-checkpoint-12"]
    assert latest_checkpoint(tmp_path).name == "checkpoint-9"


def test_nothing_good_is_one_line_with_the_reasons(tmp_path):
    run(tmp_path, **SETTINGS)
    flip(tmp_path / "checkpoints" / "checkpoint-12" / "model.safetensors")
    (tmp_path / "checkpoints" / "checkpoint-8" / "manifest.json").write_text('{"files": []}')
    with pytest.raises(UserError) as error:
        open_run(tmp_path, "latest")
    assert "checkpoint-12 cannot be used: model.safetensors is not what" in str(error.value)
    assert "checkpoint-8 cannot be used: it has no readable manifest" in str(error.value)
    assert names(tmp_path) == ["checkpoint-12", "checkpoint-8"]


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path, monkeypatch):
    """The kill between the two renames of a write over a checkpoint of the same step."""
    run(tmp_path / "whole", **SETTINGS, max_train_steps=12)
    run(tmp_path / "cut", **SETTINGS, max_train_steps=8)
    folder = tmp_path / "cut" / "checkpoints"
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name == ".half-checkpoint-8":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(folder, 8, tiny_denoiser().network, {}, {})
    monkeypatch.undo()
    assert "checkpoint-8" not in names(tmp_path / "cut")
    run(tmp_path / "cut", **SETTINGS, max_train_steps=12, resume_from_checkpoint="latest")
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    assert cut.pop("metrics")[:1] == whole.pop("metrics")[:1]  # a run that ends writes a line
    assert_same(whole, cut)


def test_a_full_disk_is_one_line_and_takes_no_space(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*args: Any) -> None:
        raise SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space '
                              'left on device" })')  # fmt: skip

    run(tmp_path / "whole", **SETTINGS, max_train_steps=10)
    with monkeypatch.context() as patch:
        patch.setattr("sparring.training.checkpoint.save_file", full)
        with pytest.raises(UserError, match=r"checkpoint-4 could not be .*\(No space left on dev"):
            run(tmp_path / "cut", **SETTINGS, max_train_steps=10)
        assert names(tmp_path / "cut") == []
    run(tmp_path / "cut", **SETTINGS, max_train_steps=10, overwrite_output_dir=True)
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    from sparring.training.tracking import Log

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", full)
        with pytest.raises(UserError, match=r"metrics.jsonl: No space .*checkpoint-5 is written"):
            run(tmp_path / "cut", **SETTINGS)
    run(tmp_path / "cut", **SETTINGS, resume_from_checkpoint="latest")
    run(tmp_path / "whole", **SETTINGS)
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))


def test_spoilt_lines_of_the_log_and_run_json_are_passed_over(tmp_path, capsys):
    run(tmp_path / "whole", **SETTINGS, max_train_steps=20)
    run(tmp_path / "cut", **SETTINGS, max_train_steps=12)
    log = tmp_path / "cut" / "metrics.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 12, "lo\xff')
    (tmp_path / "cut" / "run.json").write_bytes(b"\xff{")
    run(tmp_path / "cut", **SETTINGS, max_train_steps=20, resume_from_checkpoint="latest")
    assert "run.json is damaged" in capsys.readouterr().err
    whole, cut = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    assert cut[:2] == whole[:2]
    assert [line["step"] for line in cut] == [5, 10, 12, 15, 20]


def test_auto_begins_goes_on_and_never_begins_again_in_silence(tmp_path, capsys):
    settings = {**SETTINGS, "resume_from_checkpoint": "auto"}
    run(tmp_path / "whole", **SETTINGS, max_train_steps=20)
    run(tmp_path / "cut", **settings, max_train_steps=10)
    run(tmp_path / "cut", **settings, max_train_steps=20)
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    assert cut.pop("metrics") == whole.pop("metrics")
    assert_same(whole, cut)
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        flip(path / "model.safetensors")
    with pytest.raises(UserError, match=r"no checkpoint to resume from .*is not what was written"):
        run(tmp_path / "cut", **settings)

    # killed before its first checkpoint
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "run.json").write_text("{}")
    capsys.readouterr()
    run(tmp_path / "early", **settings)
    assert "early has no checkpoint yet: the run begins again" in capsys.readouterr().err
    # and what is no run of ours is not deleted
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="holds a model that is no run"):
        run(tmp_path / "other", **settings)


# Memory, workers, signals


class OutOfMemory(Objective):
    """The plain loss, until memory ends in the middle of a batch."""

    def __init__(self, *args: Any, at_step: int | None, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.at_step = at_step

    def turns(self, nets, s):
        def part():
            terms = self.denoising(nets["model"](s.x_t, s.t), s)
            if s.step == self.at_step:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return terms

        yield Turn("model", [part])


@pytest.mark.parametrize("times", ["uniform", "loss_second_moment"])
def test_out_of_memory_says_what_to_change_and_loses_nothing(tmp_path, times):
    from sparring.objectives import TIMES

    def objective(at_step: int | None = None) -> Objective:
        return OutOfMemory(vp_schedule(), TIMES[times](vp_schedule()), at_step=at_step)

    run(tmp_path / "whole", objective(), **SETTINGS)
    with pytest.raises(UserError) as error:
        run(tmp_path / "cut", objective(at_step=6), **SETTINGS)
    said = str(error.value)
    first = said.index("training.train_batch_size=4 training.gradient_accumulation_steps=2")
    assert first < said.index("mixed_precision=bf16") < said.index("training.use_ema=false")
    assert "checkpoint-6 is written, nothing is lost" in said
    run(tmp_path / "cut", objective(), **SETTINGS, resume_from_checkpoint="latest")
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))


def test_out_of_memory_in_sampling_names_the_samples_and_draws_them_later(tmp_path):
    def too_much(denoiser, path):
        raise MemoryError

    def draw(denoiser, path):
        weights = torch.cat([value.flatten() for value in denoiser.parameters()])[:64]
        Image.fromarray(weights.mul(100).byte().view(8, 8).numpy()).save(path)

    settings = {**SETTINGS, "validation_steps": 6}
    with pytest.raises(UserError, match=r"while sampling: lower sampling.batch_size.*nothing is"):
        run(tmp_path / "cut", **settings, sample_fn=too_much)
    run(tmp_path / "cut", **settings, sample_fn=draw, resume_from_checkpoint="latest")
    run(tmp_path / "whole", **settings, sample_fn=draw)
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))
    for name in ("step-6.png", "step-12.png"):
        one, other = (tmp_path / run_dir / "samples" / name for run_dir in ("whole", "cut"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_exit_code_is_a_shells(tmp_path, number):
    with pytest.raises(Interrupted) as error:
        run(
            tmp_path,
            validation_steps=7,
            sample_fn=lambda *_: os.kill(os.getpid(), number),
        )
    assert error.value.exit_code == 128 + number


def test_a_fault_of_the_program_is_not_dressed_up():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    network = tiny_denoiser().network
    from tiny_runs import tiny_settings

    assert reason_of(error, "training", network, tiny_settings()) is None


# Numbers that are not finite


def test_weights_that_are_not_finite_are_named(tmp_path):
    run(tmp_path, **SETTINGS)
    denoiser = tiny_denoiser()
    with torch.no_grad():
        denoiser.network.last[-1].bias[0] = torch.nan
    with pytest.raises(TrainingStopped, match=r"1 of \d+ weights of the model are not finite"):
        run(tmp_path / "new", denoiser=denoiser)


def test_a_perturbation_that_is_not_finite_stops_before_the_update(tmp_path, monkeypatch):
    from sparring.objectives import smoothing

    monkeypatch.setattr(smoothing, "pgd", lambda _, omega, *rest: omega * torch.inf)
    denoiser = tiny_denoiser()
    before = {name: value.clone() for name, value in denoiser.network.state_dict().items()}
    with pytest.raises(TrainingStopped, match=r"update 1: the loss \(equivariance\) of 8 of 8"):
        run(tmp_path, make_objective("smoothing_adversarial"), denoiser=denoiser)
    for name, value in denoiser.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_discriminators_score_that_is_not_finite_stops_both_players(tmp_path):
    rival = tiny_discriminator()
    with torch.no_grad():
        next(rival.network.parameters()).fill_(torch.nan)
    denoiser = tiny_denoiser()
    before = {name: value.clone() for name, value in denoiser.network.state_dict().items()}
    with pytest.raises(TrainingStopped, match=r"weights of the discriminator are not finite"):
        run(tmp_path, make_objective("adt"), denoiser=denoiser, discriminator=rival)
    for name, value in denoiser.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_average_that_is_not_finite_is_not_saved(tmp_path, monkeypatch):
    from sparring.training.players import Player

    step = Player.step

    def spoilt(player: Player) -> None:
        step(player)
        if player.n_updates == 7:
            next(iter(player.averages().values())).fill_(torch.inf)

    monkeypatch.setattr(Player, "step", spoilt)
    with pytest.raises(TrainingStopped, match=r"step 8 is written: 1 of \d+ average of the model"):
        run(tmp_path, **SETTINGS)
    assert latest_checkpoint(tmp_path).name == "checkpoint-4"


# Resuming something else


def test_differences_are_shown_and_a_fork_may_have_them(tmp_path, capsys):
    def config(**changes: Any) -> dict[str, Any]:
        return {
            "objective": {"name": "plain", "snr_gamma": None},
            "training": {"learning_rate": 1e-2, "output_dir": "a"},
        } | changes

    run(tmp_path / "a", config=config(), **SETTINGS)
    other = {"config": config(objective={"name": "plain", "snr_gamma": 5.0}), "seed": 1}
    with pytest.raises(UserError) as error:
        run(tmp_path / "a", **SETTINGS, **other, resume_from_checkpoint="latest")
    assert "training.seed was 0 and is now 1" in str(error.value)
    assert "objective.snr_gamma was null and is now 5.0" in str(error.value)
    assert "--fork" in str(error.value)

    capsys.readouterr()
    run(tmp_path / "b", **SETTINGS, **other, fork_from=str(tmp_path / "a"), max_train_steps=16)
    said = capsys.readouterr().err
    assert "forking: objective.snr_gamma was null and is now 5.0" in said
    assert [line["step"] for line in metrics(tmp_path / "b")] == [15, 16]
    told = json.loads((tmp_path / "b" / "run.json").read_text())
    assert told["forked_from"].endswith("a/checkpoints/checkpoint-12")
    assert latest_checkpoint(tmp_path / "a").name == "checkpoint-12"
    # and the fork goes on as itself
    run(tmp_path / "b", **SETTINGS, **other, resume_from_checkpoint="latest", max_train_steps=20)
    with pytest.raises(UserError, match=r"names .* itself"):
        run(tmp_path / "b", fork_from=str(tmp_path / "b"), overwrite_output_dir=True)


def test_another_section_is_one_difference(tmp_path):
    def config(objective: dict[str, Any]) -> dict[str, Any]:
        return {"objective": objective, "model": {"network": {"_class_name": "MLP", "width": 16}}}

    run(tmp_path, config=config({"name": "plain", "snr_gamma": None}))
    other = config({"name": "detail", "lam": 3.0, "snr_gamma": 5.0})
    with pytest.raises(UserError) as error:
        run(tmp_path, config=other, resume_from_checkpoint="latest")
    said = str(error.value).partition("checkpoint-12: ")[2]
    assert said.startswith("objective.name was plain and is now detail. Start a new run")


def test_a_fork_may_have_a_second_player_an_average_and_another_batch(tmp_path, capsys):
    run(tmp_path / "a", use_ema=False)
    run(
        tmp_path / "b",
        make_objective("adt", warmup_batches=0),
        fork_from=str(tmp_path / "a" / "checkpoints" / "checkpoint-12"),
        max_train_steps=14,
        train_batch_size=4,
    )
    assert "does not hold the discriminator, which begins afresh" in capsys.readouterr().err
    kept = Checkpoint(latest_checkpoint(tmp_path / "b"))
    assert kept.state["players"]["model"]["n_updates"] == 14
    assert kept.state["players"]["discriminator"]["n_updates"] == 2
    assert kept.state["players"]["model"]["n_averaged"] == 2


@pytest.mark.parametrize("max_train_steps", [12, 16])
def test_a_checkpoint_with_a_weight_that_is_not_finite_is_refused(tmp_path, max_train_steps):
    """Also that of a finished run, which would not take another step."""
    denoiser = tiny_denoiser()
    run(tmp_path, denoiser=denoiser)
    with torch.no_grad():
        denoiser.network.skip.bias[0] = torch.nan
    folder = tmp_path / "checkpoints"
    players = Checkpoint(folder / "checkpoint-12")
    tensors = {name: dict(players.tensors(name)) for name in ("ema", "optimizer")}
    write_checkpoint(folder, 12, denoiser.network, tensors, players.state)
    with pytest.raises(TrainingStopped, match=r"cannot be gone on from: 1 of \d+ weights of the"):
        run(tmp_path, resume_from_checkpoint="latest", max_train_steps=max_train_steps)
