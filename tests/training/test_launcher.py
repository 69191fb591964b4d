"""What `accelerate launch` is told is honoured, or refused in one line that names both."""

import json
import os
import subprocess
import sys

import pytest
from accelerate import DistributedType
from click.testing import CliRunner
from tiny_runs import tiny_settings

from sparring.cli import main
from sparring.commands.shared.options import default_device
from sparring.commands.train.dry_run import dry_run_text
from sparring.commands.train.run import train_command
from sparring.config.read import dump, resolve
from sparring.support.errors import UserError
from sparring.training import launcher
from sparring.training.launcher import as_launched, asked_for
from sparring.training.processes import make_accelerator

TINY = """
model: {network: {_class_name: MLP, width: 8, n_blocks: 1}}
data: {name: plane, n_points: 64}
training: {train_batch_size: 4, max_train_steps: 2, checkpointing_steps: null, log_every_steps: 1,
           validation_steps: null, report_to: none, n_threads: 1}
"""
EXPORTED = {  # by `accelerate launch` without an option
    "ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
}  # fmt: skip


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """A process as `accelerate launch OPTIONS` with this environment would have started it."""
    (tmp_path / "a.yaml").write_text(TINY)

    def launch(*options, **environment):
        for name, value in {**EXPORTED, **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(launcher, "_words_of_launcher", lambda: [*options, "-m", "sparring"])
        return lambda *overrides: as_launched(resolve(tmp_path / "a.yaml", overrides)).training

    return launch


def test_what_is_exported_by_default_asks_for_nothing(launched):
    training = launched("--num_processes", "1")
    assert asked_for() == {}
    assert training("training.mixed_precision=bf16").mixed_precision == "bf16"
    assert training("training.gradient_accumulation_steps=3").gradient_accumulation_steps == 3
    assert training("training.compile=true").compile is True


@pytest.mark.parametrize(
    ("options", "environment", "leaf", "value", "other"),
    [
        ((), {"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision", "bf16", "fp16"),
        ((), {"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision", "fp16", "no"),
        (("--gradient_accumulation_steps", "4"), {}, "gradient_accumulation_steps", 4, 2),
        (("--gradient-accumulation-steps=4",), {}, "gradient_accumulation_steps", 4, 1),
        (
            (), {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            "gradient_accumulation_steps", 4, 2,
        ),
        (("--gradient_clipping", "0.5"), {}, "max_grad_norm", 0.5, 1.0),
        ((), {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "compile", True, "false"),
        ((), {"ACCELERATE_USE_FSDP": "true"}, "sharding", "fsdp2", "none"),
    ],
)  # fmt: skip
def test_taken_where_the_config_is_silent_and_refused_where_it_says_otherwise(
    launched, options, environment, leaf, value, other
):
    training = launched(*options, **environment)
    assert asked_for() == {leaf: value}
    assert getattr(training(), leaf) == value
    said = str(value).lower()
    assert getattr(training(f"training.{leaf}={said}"), leaf) == value
    with pytest.raises(
        UserError, match=rf"training.{leaf} is {other} .*accelerate asks for {said}"
    ):
        training(f"training.{leaf}={other}")


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        ((), {"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed precision fp8"),
        ((), {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ((), {"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ((), {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism"),
        (("--zero_stage", "3"), {}, "--zero_stage of DeepSpeed"),
        ((), {"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, "compile with eager"),
        (
            (), {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_MODE": "max-autotune"},
            "--dynamo_mode max-autotune",
        ),
        (
            (),
            {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "True"},
            "--dynamo_use_fullgraph",
        ),
        (("--gradient_accumulation_steps", "0"), {}, "gradient accumulation steps"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(launched, options, environment, said):
    training = launched(*options, **environment)
    with pytest.raises(UserError, match=said):
        training()


def test_fsdp_goes_with_the_other_way_to_shard(launched):
    training = launched(ACCELERATE_USE_FSDP="true")
    assert training("training.sharding=hsdp").sharding == "hsdp"


def test_a_run_records_what_accelerate_chose_and_resumes_with_it(launched, tmp_path, monkeypatch):
    launched("--gradient_accumulation_steps", "4", ACCELERATE_MIXED_PRECISION="bf16")
    words = [f"training.output_dir={tmp_path / 'run'}"]
    config = resolve(tmp_path / "a.yaml", words)
    assert "16 samples to a batch" in dry_run_text(config)
    assert train_command(config)["n_images"] == 2 * 4 * 4
    kept = resolve(tmp_path / "run" / "config.yaml")
    assert (kept.training.mixed_precision, kept.training.gradient_accumulation_steps) == ("bf16", 4)
    asked = json.loads((tmp_path / "run" / "run.json").read_text())["asked_by_accelerate"]
    assert asked == {"mixed_precision": "bf16", "gradient_accumulation_steps": 4}
    assert as_launched(kept) == kept
    launched("--gradient_accumulation_steps", "2", ACCELERATE_MIXED_PRECISION="bf16")
    with pytest.raises(UserError, match="gradient_accumulation_steps is 4"):
        as_launched(kept)
    assert resolve(tmp_path / "a.yaml", words).training.mixed_precision == "auto"
    assert dump(config) == dump(
        resolve(tmp_path / "a.yaml", words)
    )  # the caller's own is not changed


def test_accelerate_itself_does_none_of_it(launched, tmp_path):
    """It would divide the loss by the number of micro-batches, and compile as well."""
    launched(
        ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4", ACCELERATE_DYNAMO_BACKEND="INDUCTOR",
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    accelerator = make_accelerator(tiny_settings(), tmp_path)
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.state.dynamo_plugin.backend.value == "NO"
    assert accelerator.device.type == "cpu"
    assert accelerator.distributed_type == DistributedType.NO
    assert os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "4"


def test_gpus_are_left_alone_where_accelerate_is_told_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_device().startswith("cuda")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert default_device() == "cpu"


def test_other_commands_say_that_they_take_no_notice(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    told = CliRunner().invoke(main, ["sample", "no-such-model"])
    assert "sample computes in the precision of the weights" in told.stderr


@pytest.mark.slow
def test_options_of_a_real_launch(tmp_path):
    (tmp_path / "a.yaml").write_text(TINY)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["--mixed_precision", "bf16", "--gradient_accumulation_steps", "4"]
    command += ["-m", "sparring", "train", "a.yaml"]
    for said, code in (["training.seed=1"], 0), (["training.mixed_precision=no"], 2):
        done = subprocess.run(
            [*command, *said, f"training.output_dir=run-{code}"], capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode != 0) == (code != 0), done.stderr[-2000:]
    assert "training.mixed_precision is no in the run's config" in done.stderr
    kept = resolve(tmp_path / "run-0" / "config.yaml").training
    assert (kept.mixed_precision, kept.gradient_accumulation_steps) == ("bf16", 4)


@pytest.mark.parametrize("steps", ["many", "2.5", "0", "-1"])
def test_steps_that_are_no_number_are_refused(launched, steps):
    with pytest.raises(UserError, match=f"accelerate asks for {steps} gradient accumulation"):
        launched(ACCELERATE_GRADIENT_ACCUMULATION_STEPS=steps)()
