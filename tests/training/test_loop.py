"""The loop against what it must equal."""

import importlib.util
import json
import os
import signal

import pytest
import torch
from PIL import Image
from tiny_runs import (
    Points,
    assert_same,
    make_objective,
    metrics,
    outcome,
    run,
    tiny_denoiser,
    vp_schedule,
)

from sparring.data.trust.trust import Trust
from sparring.objectives.base import Objective, Turn
from sparring.support.errors import TrainingStopped, UserError
from sparring.training.feed import mirror


def tensors(run_dir, name="model"):
    return outcome(run_dir)["tensors"][name]


@pytest.mark.parametrize("name", ["plain", "smoothing_random", "detail", "dro"])
def test_accumulation_is_one_big_batch(tmp_path, name):
    sizes = {"big": (16, 1), "small": (4, 4)}
    for label, (size, n_micro) in sizes.items():
        run(
            tmp_path / label,
            make_objective(name),
            denoiser=tiny_denoiser().double(),
            train_batch_size=size,
            gradient_accumulation_steps=n_micro,
        )
    for kind in ("model", "ema"):
        big, small = tensors(tmp_path / "big", kind), tensors(tmp_path / "small", kind)
        for key, value in big.items():
            assert torch.allclose(value, small[key], rtol=1e-7, atol=1e-10), key
    for big, small in zip(metrics(tmp_path / "big"), metrics(tmp_path / "small"), strict=True):
        assert big == pytest.approx(small, rel=1e-6)


class Scripted(Objective):
    """Terms that are known beforehand: 'a' is the step, 'b' (from step 4 on) is 10."""

    def turns(self, nets, s):
        def part():
            prediction = nets["model"](s.x_t, s.t)
            graph = 0 * prediction.output.mean(1)
            terms = {"a": graph + s.step}
            return terms | ({"b": graph + 10.0} if s.step >= 4 else {})

        yield Turn("model", [part])


def test_every_term_is_logged_as_a_mean_over_the_window(tmp_path):
    run(tmp_path, Scripted(vp_schedule()), max_train_steps=10, log_every_steps=5)
    first, second = metrics(tmp_path)
    assert first["loss/a"] == 2
    assert second["loss/a"] == 7
    assert first["loss/b"] == 10
    assert second["loss/b"] == 10
    assert first["loss"] == 4
    assert second["loss"] == 17
    assert first["grad_norm"] == 0


class Parts(Objective):
    """Two parts that together are the plain loss."""

    def turns(self, nets, s):
        model = self.bind(nets["model"], s)
        half = lambda: {"denoise": 0.5 * self.denoising(model(s.x_t), s)["denoise"]}  # noqa: E731
        yield Turn("model", [half, half])


def test_parts_add_up(tmp_path):
    run(tmp_path / "one", denoiser=tiny_denoiser().double())
    run(tmp_path / "two", Parts(vp_schedule()), denoiser=tiny_denoiser().double())
    for name, value in tensors(tmp_path / "one").items():
        assert torch.allclose(value, tensors(tmp_path / "two")[name], rtol=1e-7, atol=1e-10)
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two)


@pytest.mark.parametrize(("n_passes", "n_steps", "n_batches"), [(1, 10, 10), (3, 12, 4)])
def test_a_step_is_an_update_and_runs_end_with_whole_batches(
    tmp_path, n_passes, n_steps, n_batches
):
    summary = run(
        tmp_path,
        make_objective("dro", n_passes=n_passes),
        max_train_steps=10,
        log_every_steps=4,
        checkpointing_steps=4,
        checkpoints_total_limit=None,
    )
    assert summary["n_steps"] == n_steps
    assert summary["n_images"] == 8 * n_batches
    logged = [line["step"] for line in metrics(tmp_path)]
    assert logged == ([4, 8, 10] if n_passes == 1 else [6, 9, 12])
    assert outcome(tmp_path)["players"]["model"]["n_updates"] == n_steps
    assert outcome(tmp_path)["players"]["model"]["n_averaged"] == n_steps


class CallsAverage(Objective):
    needs_ema = True

    def turns(self, nets, s):
        self.seen = [parameter.clone() for parameter in nets["ema"].parameters()]
        assert not any(parameter.requires_grad for parameter in nets["ema"].parameters())
        yield Turn("model", [lambda: self.denoising(nets["model"](s.x_t, s.t), s)])


def test_live_average_is_the_average(tmp_path):
    objective = CallsAverage(vp_schedule())
    settings = {"max_train_steps": 8, "checkpointing_steps": 7, "ema_decay": 0.5}
    run(tmp_path, objective, **settings, checkpoints_total_limit=None)
    before_last = tmp_path / "checkpoints" / "checkpoint-7" / "ema.safetensors"
    from safetensors.torch import load_file

    for seen, average in zip(objective.seen, load_file(before_last).values(), strict=False):
        assert any(torch.equal(seen, value) for value in load_file(before_last).values()), average
    with pytest.raises(UserError, match=r"set training.use_ema=true"):
        run(tmp_path / "without", CallsAverage(vp_schedule()), use_ema=False)


# Stops


@pytest.mark.parametrize("n_micro", [1, 2])
def test_bad_sample_stops_before_the_step_and_is_named(tmp_path, n_micro):
    settings = {"gradient_accumulation_steps": n_micro, "max_train_steps": 30}
    denoiser, bad = tiny_denoiser(), (17, 42)
    with pytest.raises(TrainingStopped) as stopped:
        run(tmp_path, denoiser=denoiser, data=Points(100, bad), **settings)
    report = json.loads((tmp_path / "stopped.json").read_text())
    step, indices = report["step"], [sample["index"] for sample in report["samples"]]
    assert len(indices) == 8 * n_micro
    named = [sample["index"] for sample in report["samples"] if sample["loss"]]
    assert named
    assert set(named) <= set(bad)
    assert indices[: len(named)] == named
    assert f"before update {step + 1}: the loss (denoise) of {len(named)} of" in str(stopped.value)
    assert f"indices {', '.join(map(str, named))}." in str(stopped.value)
    assert "learning_rate" in str(stopped.value)
    assert "\n" not in str(stopped.value)

    # the weights are those of a run that ends one step earlier
    if step:
        run(tmp_path / "shorter", use_ema=False, **(settings | {"max_train_steps": step}))
        for name, value in tensors(tmp_path / "shorter").items():
            assert torch.equal(value, denoiser.network.state_dict()[name])


class InfiniteGradient(Objective):
    """A finite loss that hides an infinite gradient, from the given step on."""

    def turns(self, nets, s):
        def part():
            terms = self.denoising(nets["model"](s.x_t, s.t), s)
            if s.step >= 3:
                bias = nets["model"].network.last[-1].bias
                terms["root"] = ((bias - bias.detach()).abs().sum() ** 0.5).expand(len(s.x0))
            return terms

        yield Turn("model", [part])


def test_finite_loss_with_bad_gradient_stops(tmp_path):
    with pytest.raises(TrainingStopped, match=r"before update 4: the gradient norm is (nan|inf)"):
        run(tmp_path, InfiniteGradient(vp_schedule()))


def with_fp16_scaler(monkeypatch, init_scale):
    """A CPU run with the scaler that fp16 has on a GPU."""
    from sparring.training import processes

    def make(settings, run_dir, make=processes.make_accelerator):
        accelerator = make(settings, run_dir)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        return accelerator

    monkeypatch.setattr("sparring.training.loop.make_accelerator", make)


class Loud(Objective):
    """The plain loss, 100 times."""

    def turns(self, nets, s):
        def part():
            return {"denoise": 100 * self.denoising(nets["model"](s.x_t, s.t), s)["denoise"]}

        yield Turn("model", [part])


def test_fp16_skips_are_counted_and_training_goes_on(tmp_path, monkeypatch):
    with_fp16_scaler(monkeypatch, init_scale=2.0**127)  # float32 overflows at 2^128
    summary = run(tmp_path, Loud(vp_schedule()), max_train_steps=10)
    assert summary["n_skipped"] >= 3
    assert summary["n_steps"] == 10
    assert summary["n_images"] == 8 * (10 + summary["n_skipped"])
    state = outcome(tmp_path)["players"]["model"]
    assert state["n_averaged"] == 10
    assert state["n_skipped_in_a_row"] == 0
    assert metrics(tmp_path)[-1]["n_skipped"] == summary["n_skipped"]


def test_twenty_skips_in_a_row_stop(tmp_path, monkeypatch):
    with_fp16_scaler(monkeypatch, init_scale=4.0)
    denoiser = tiny_denoiser()
    with pytest.raises(TrainingStopped, match=r"fp16 overflowed 20 times in a row.*bf16"):
        run(tmp_path, InfiniteGradient(vp_schedule()), denoiser=denoiser, max_train_steps=200)
    assert json.loads((tmp_path / "stopped.json").read_text())["step"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_batch_writes_a_checkpoint_and_says_so(tmp_path, number):
    def interrupt(denoiser, path):
        os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    settings = {"max_train_steps": 12, "validation_steps": 7}
    with pytest.raises(UserError, match=f"stopped by {number.name} after step 8; a checkpoint"):
        run(tmp_path / "cut", **settings, sample_fn=interrupt)
    assert signal.getsignal(number) is handler
    assert json.loads((tmp_path / "cut" / "training.json").read_text())["finished"] is False
    run(tmp_path / "cut", **settings, resume_from_checkpoint="latest")
    assert json.loads((tmp_path / "cut" / "training.json").read_text())["finished"] is True
    run(tmp_path / "whole", **settings)
    assert_same(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"))


# Samples, evaluation, the finished model


def test_looking_at_samples_changes_nothing(tmp_path):
    looked = []

    def sample(denoiser, path):
        assert not denoiser.training
        assert not torch.is_grad_enabled()
        torch.rand(100)
        looked.append({name: value.clone() for name, value in denoiser.state_dict().items()})
        Image.new("L", (4, 4)).save(path)

    settings = {"dropout": 0.5, "validation_steps": 4, "checkpointing_steps": 4}
    kept = {"checkpoints_total_limit": None, "report_to": "tensorboard"}
    run(tmp_path / "a", **settings, **kept, sample_fn=sample, evaluate_fn=lambda d: {"error": 2.0})
    run(tmp_path / "b", **settings)
    assert sorted(path.name for path in (tmp_path / "a" / "samples").iterdir()) == [
        "step-12.png",
        "step-4.png",
        "step-8.png",
    ]
    a, b = outcome(tmp_path / "a"), outcome(tmp_path / "b")
    evaluations = [line for line in a["metrics"] if "evaluation/error" in line]
    assert [line["step"] for line in evaluations] == [4, 8, 12]
    a["metrics"] = [line for line in a["metrics"] if line not in evaluations]
    assert_same(a, b)
    # what was looked at were the averages
    from safetensors.torch import load_file

    average = load_file(tmp_path / "a" / "checkpoints" / "checkpoint-8" / "ema.safetensors")
    for name, value in average.items():
        assert torch.equal(looked[1][f"network.{name}"], value)


@pytest.mark.parametrize("use_ema", [True, False])
def test_finished_model_has_the_averaged_weights(tmp_path, use_ema):
    saved = {}
    denoiser = tiny_denoiser()
    run(
        tmp_path,
        denoiser=denoiser,
        use_ema=use_ema,
        save_fn=lambda d: saved.update({k: v.clone() for k, v in d.network.state_dict().items()}),
    )
    expected = tensors(tmp_path, "ema" if use_ema else "model")
    assert expected.keys() == saved.keys()
    for name, value in expected.items():
        assert torch.equal(value, saved[name])
        assert torch.equal(value, denoiser.network.state_dict()[name])


def test_mirror_flips_left_and_right_where_u_is_small():
    x0 = torch.arange(12.0).reshape(2, 1, 2, 3)
    mirrored = mirror(x0, torch.tensor([0.4, 0.5]))
    assert mirrored[0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert torch.equal(mirrored[1], x0[1])


def test_unreadable_samples_are_listed(tmp_path):
    class Broken(Points):
        def __getitems__(self, keys):
            batch = super().__getitems__(keys)
            replaced = [f"image-{index}.png" for index in batch["index"].tolist() if index < 3]
            return batch | {"unreadable": replaced}

    run(tmp_path, data=Broken(8))
    found = json.loads((tmp_path / "data" / "unreadable.json").read_text())
    assert found == ["image-0.png", "image-1.png", "image-2.png"]


def test_bf16_is_close_to_the_plain_run(tmp_path):
    run(tmp_path / "no", max_train_steps=5)
    run(tmp_path / "bf16", max_train_steps=5, mixed_precision="bf16")
    one, other = metrics(tmp_path / "no")[0], metrics(tmp_path / "bf16")[0]
    assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
    assert one["loss"] != other["loss"]  # it was used


@pytest.mark.slow  # compiling takes a minute, and needs a C++ compiler
@pytest.mark.parametrize("name", ["plain", "smoothing_adversarial"])
def test_compiled_run_is_the_plain_run(tmp_path, name):
    for label, compiled in (("eager", False), ("compiled", True)):
        denoiser = tiny_denoiser().double()
        run(tmp_path / label, make_objective(name), denoiser=denoiser, compile=compiled)
        assert denoiser.network._compiled_call_impl is None
    for key, value in tensors(tmp_path / "eager").items():
        assert torch.allclose(value, tensors(tmp_path / "compiled")[key], rtol=1e-7, atol=1e-10)


def test_fp16_on_a_cpu_and_missing_trackers_are_refused(tmp_path):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        run(tmp_path, mixed_precision="fp16")
    if importlib.util.find_spec("trackio") is None:
        with pytest.raises(UserError, match="pip install trackio"):
            run(tmp_path / "other", report_to="trackio")


def test_what_a_mirrored_sample_shows_is_mirrored_too(tmp_path):
    class Masked(Points):
        def __getitems__(self, keys):
            batch = super().__getitems__(keys)
            n, none = len(keys), torch.zeros(len(keys))
            seen = (batch["x0"] > 0).view(n, 1, 1, 3)
            return {**batch, "trust": Trust(none, none, none, none > 0, none, none + 1, seen)}

    looks = []

    def look(batch):
        looks.append(batch)
        return {}, {}

    run(tmp_path, data=Masked(), random_flip=True, condition_fn=look)
    for batch in looks:
        assert torch.equal(batch["trust"].seen.flatten(1), batch["x0"] > 0)
    turned = torch.cat([batch["mirrored"] for batch in looks])
    assert 0 < turned.float().mean() < 1
