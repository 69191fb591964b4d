"""A checkpoint is whole or it is not there; what is asked for and missing is an error."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from tiny_runs import metrics, outcome, run, tiny_denoiser

from sparring.support.errors import UserError
from sparring.training import latest_checkpoint, open_run
from sparring.training.checkpoint import (
    Checkpoint,
    complete_checkpoints,
    damage,
    write_checkpoint,
)
from sparring.training.random_states import random_states, set_random_states


def names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def write(folder, step, n_kept=None):
    return write_checkpoint(folder, step, tiny_denoiser().network, {}, {"step": step}, n_kept)


def test_rotation_keeps_the_newest(tmp_path):
    run(tmp_path, checkpointing_steps=3, checkpoints_total_limit=2, max_train_steps=14)
    assert names(tmp_path) == ["checkpoint-12", "checkpoint-14"]


def test_rotation_counts_steps_not_letters(tmp_path):
    for step in (2, 9, 10, 11):
        write(tmp_path, step, n_kept=2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == [
        "checkpoint-10",
        "checkpoint-11",
    ]


def test_no_pickle(tmp_path):
    run(tmp_path, checkpointing_steps=6)
    folder = latest_checkpoint(tmp_path)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_half_written_checkpoint_is_ignored_and_cleaned(tmp_path):
    run(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(checkpoints / "checkpoint-12", checkpoints / ".half-checkpoint-15")
    shutil.copytree(checkpoints / "checkpoint-12", checkpoints / "checkpoint-18")
    (checkpoints / "checkpoint-18" / "manifest.json").unlink()
    assert open_run(tmp_path, "latest").checkpoint == (checkpoints / "checkpoint-12").resolve()
    assert names(tmp_path) == ["checkpoint-12", "damaged-checkpoint-18"]


def test_write_that_fails_leaves_the_earlier_ones(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparring.training.checkpoint.save_model", no_space)
    with pytest.raises(UserError, match=r"checkpoint-2 could not be written .No space left"):
        write(tmp_path, 2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-1"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damage_is_named(tmp_path, file):
    run(tmp_path)
    folder = latest_checkpoint(tmp_path)
    contents = (folder / file).read_bytes()
    (folder / file).write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    assert damage(folder) is None  # the size is right
    with pytest.raises(UserError, match=f"{file} is not what was written"):
        Checkpoint(folder)
    (folder / file).write_bytes(contents[:-1])
    with pytest.raises(UserError, match=f"{file} has {len(contents) - 1} bytes instead of"):
        open_run(tmp_path, str(folder))
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} is missing"):
        Checkpoint(folder)
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        open_run(tmp_path, "latest")


def test_resume_from_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        run(tmp_path / "new", resume_from_checkpoint="latest")
    assert not (tmp_path / "new").exists()
    run(tmp_path / "old")
    with pytest.raises(UserError, match=r"no checkpoint checkpoint-7 .* has: checkpoint-12"):
        run(tmp_path / "old", resume_from_checkpoint="checkpoint-7")


def test_existing_run_is_not_overwritten_unless_asked(tmp_path):
    run(tmp_path, seed=3)
    (tmp_path / "notes.txt").write_text("mine")
    before = outcome(tmp_path)
    with pytest.raises(UserError, match="holds a run already"):
        run(tmp_path)
    assert outcome(tmp_path)["metrics"] == before["metrics"]
    run(tmp_path, overwrite_output_dir=True, max_train_steps=3)
    assert [line["step"] for line in metrics(tmp_path)] == [3]
    assert names(tmp_path) == ["checkpoint-3"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folder_of_a_model_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="holds a model that is no run"):
        run(tmp_path, overwrite_output_dir=True)
    assert (tmp_path / "model_index.json").exists()


def test_histories_do_not_mix(tmp_path):
    run(tmp_path, checkpointing_steps=4, checkpoints_total_limit=None)
    with pytest.raises(UserError, match=r"has checkpoints after the one .*up to checkpoint-12"):
        run(tmp_path, resume_from_checkpoint="checkpoint-4")
    run(
        tmp_path,
        resume_from_checkpoint="checkpoint-4",
        overwrite_output_dir=True,
        max_train_steps=6,
    )
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]
    assert [line["step"] for line in metrics(tmp_path)] == [5, 6]


def test_another_runs_checkpoint_starts_a_new_run(tmp_path):
    run(tmp_path / "a", checkpointing_steps=4, checkpoints_total_limit=None)
    checkpoint = tmp_path / "a" / "checkpoints" / "checkpoint-8"
    run(tmp_path / "b", resume_from_checkpoint=str(checkpoint))
    a, b = outcome(tmp_path / "a"), outcome(tmp_path / "b")
    assert a.pop("metrics")[1:] == b.pop("metrics")  # from step 10 on
    assert all(
        torch.equal(value, b["tensors"]["model"][name])
        for name, value in a["tensors"]["model"].items()
    )


@pytest.mark.parametrize("kind", ["a file is in the way", "read-only"])
def test_folder_that_cannot_be_written(tmp_path, kind, monkeypatch):
    place = tmp_path / "place"
    if kind == "read-only":
        place.mkdir()
        monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    else:
        place.write_text("")
    with pytest.raises(UserError, match=r"cannot write in .*place .*choose another"):
        run(place / "run")


def test_random_states_survive_json():
    set_random_states(json.loads(json.dumps(random_states())))
    states = json.loads(json.dumps(random_states()))
    first = random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist()
    set_random_states(states)
    again = random.random(), np.random.randn(3).tolist(), torch.rand(3).tolist()
    assert first == again


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(3, 3)
            self.b = torch.nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x, t):
            return self.b(self.a(x))

    from sparring.diffusion.denoiser import Denoiser

    def tied(seed):
        torch.manual_seed(seed)
        return Denoiser(Tied(), tiny_denoiser().schedule)

    run(tmp_path / "whole", denoiser=tied(0), max_train_steps=16)
    run(tmp_path / "cut", denoiser=tied(0), max_train_steps=8)
    denoiser = tied(1)
    run(tmp_path / "cut", denoiser=denoiser, max_train_steps=16, resume_from_checkpoint="latest")
    assert denoiser.network.a.weight is denoiser.network.b.weight
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    for name, value in whole["tensors"]["model"].items():
        assert torch.equal(value, cut["tensors"]["model"][name])
