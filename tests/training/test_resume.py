"""A run that breaks off and is resumed is the run that never did, to the bit."""

import json
import signal
from typing import Any

import pytest
import torch
from tiny_runs import (
    Points,
    PointsEye,
    assert_same,
    make_objective,
    metrics,
    outcome,
    run,
    tiny_denoiser,
)

from sparring.adversarial.discriminators import Discriminator, Heads
from sparring.support.errors import UserError


class PowerCutError(Exception):
    pass


def power_cut(denoiser, path):
    raise PowerCutError


CASES = {
    "dropout, EMA, cosine with warm-up, accumulation": (
        ("plain", "uniform", {}),
        {
            "dropout": 0.3,
            "lr_scheduler": "cosine",
            "lr_warmup_steps": 4,
            "gradient_accumulation_steps": 2,
        },
    ),
    "a time sampler with a memory": (("plain", "loss_second_moment", {}), {"use_ema": False}),
    "several updates a batch": (("dro", "uniform", {}), {"dropout": 0.3}),
    "shared dropout masks": (("smoothing_adversarial", "uniform", {}), {"dropout": 0.3}),
    "levels that double": (
        ("consistency_training", "uniform", {"max_train_steps": 21}),
        {"dropout": 0.3},
    ),
    "two players": (
        ("adt", "uniform", {"warmup_batches": 2, "discriminator_steps": 2}),
        {"dropout": 0.3, "gradient_accumulation_steps": 2},
    ),
    "workers that read": (("detail", "uniform", {}), {"n_workers": 1, "ema_decay": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_repeats_the_uninterrupted_one(tmp_path, case):
    (name, times, fields), settings = CASES[case]
    settings |= {"max_train_steps": 21, "checkpointing_steps": 6, "log_every_steps": 5}
    run(tmp_path / "whole", make_objective(name, times, **fields), **settings)
    with pytest.raises(PowerCutError):  # at step 16, after checkpoint 12 and a line at 15
        run(
            tmp_path / "cut",
            make_objective(name, times, **fields),
            **settings,
            validation_steps=16,
            sample_fn=power_cut,
        )
    # everything that a new Python process would not have is gone
    torch.manual_seed(12345)
    run(
        tmp_path / "cut",
        make_objective(name, times, **fields),
        **settings,
        resume_from_checkpoint="latest",
    )
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    assert whole["progress"]["step"] == 21
    assert [line["step"] for line in whole["metrics"]] == (
        [6, 12, 15, 21] if name == "dro" else [5, 10, 15, 20, 21]
    )
    assert_same(whole, cut)


def test_the_comparison_is_not_blind(tmp_path):
    run(tmp_path / "one", dropout=0.3)
    run(tmp_path / "other", dropout=0.3, seed=1)
    with pytest.raises(AssertionError):
        assert_same(outcome(tmp_path / "one"), outcome(tmp_path / "other"))


def test_finished_run_resumes_to_the_same_model(tmp_path):
    first, again = {}, {}
    run(tmp_path, save_fn=lambda denoiser: first.update(copy_of(denoiser)))
    before = outcome(tmp_path)
    run(
        tmp_path,
        denoiser=tiny_denoiser(seed=5),
        resume_from_checkpoint="latest",
        save_fn=lambda denoiser: again.update(copy_of(denoiser)),
    )
    assert_same(before, outcome(tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_resumed_run_obeys_a_new_learning_rate_and_says_so(tmp_path, capsys):
    run(tmp_path, checkpointing_steps=6, config={"training": {"learning_rate": 1e-2}})
    run(
        tmp_path,
        max_train_steps=20,
        learning_rate=5e-3,
        resume_from_checkpoint="latest",
        config={"training": {"learning_rate": 5e-3}},
    )
    rates = {line["step"]: line["lr"] for line in metrics(tmp_path)}
    assert rates == {5: 1e-2, 10: 1e-2, 12: 1e-2, 15: 5e-3, 20: 5e-3}
    assert "resuming: training.learning_rate was 0.01 and is now 0.005" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": Points(99)}, r"data, and .* \(fingerprint\) was points-100 and is now points-99"),
        ({"train_batch_size": 4}, "samples per global batch .* was 8 and is now 4"),
        ({"seed": 1}, "training.seed was 0 and is now 1"),
    ],
)
def test_another_run_is_not_continued(tmp_path, changes, words):
    run(tmp_path)
    with pytest.raises(UserError, match=words):
        run(tmp_path, resume_from_checkpoint="latest", max_train_steps=20, **changes)


def test_another_network_is_not_continued(tmp_path):
    run(tmp_path)
    other = tiny_denoiser()
    other.network.last[-1] = torch.nn.Linear(16, 3, bias=False)
    with pytest.raises(UserError, match="holds another network"):
        run(tmp_path, resume_from_checkpoint="latest", denoiser=other)


def test_another_discriminator_is_not_continued(tmp_path):
    run(tmp_path, make_objective("adt"))
    other = Discriminator(PointsEye(), Heads([6], "patches", 4))
    with pytest.raises(UserError, match="holds another discriminator"):
        run(
            tmp_path,
            make_objective("adt"),
            resume_from_checkpoint="latest",
            max_train_steps=20,
            discriminator=other,
        )


def test_a_run_of_one_player_is_not_continued_by_two(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="has no discriminator"):
        run(tmp_path, make_objective("adt"), max_train_steps=20, resume_from_checkpoint="latest")


def test_a_run_that_stops_in_the_warm_up_goes_on_there(tmp_path, capsys):
    """And says once that there is one."""

    class Interrupted(Points):
        n_read = 0

        def __getitems__(self, keys: list[Any]) -> dict[str, Any]:
            self.n_read += 1
            if self.n_read == 3:
                signal.raise_signal(signal.SIGTERM)
            return super().__getitems__(keys)

    def objective():
        return make_objective("adt", warmup_batches=6)

    run(tmp_path / "whole", objective(), gradient_accumulation_steps=2)
    said = "sparring: the discriminator learns alone for the first 6 batches"
    assert capsys.readouterr().err.count(said) == 1
    words = {"gradient_accumulation_steps": 2, "checkpointing_steps": 6}
    with pytest.raises(UserError, match="after step 0; a checkpoint is written"):
        run(tmp_path / "cut", objective(), data=Interrupted(), **words)
    capsys.readouterr()
    run(tmp_path / "cut", objective(), resume_from_checkpoint="latest", **words)
    assert said not in capsys.readouterr().err
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))


def test_another_time_sampler_is_not_continued(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match=r"has no 'times.losses' for this objective"):
        run(
            tmp_path,
            make_objective(times="loss_second_moment"),
            resume_from_checkpoint="latest",
            max_train_steps=20,
        )


def test_run_json_tells_of_each_start(tmp_path):
    run(tmp_path)
    run(tmp_path, resume_from_checkpoint="latest", max_train_steps=15)
    start = json.loads((tmp_path / "run.json").read_text())
    assert start["n_processes"] == 1
    assert [again["step"] for again in start["resumed"]] == [12]


def copy_of(denoiser):
    return {name: value.clone() for name, value in denoiser.state_dict().items()}
