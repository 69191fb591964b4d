"""What is gathered by itself, and what FSDP2 is refused with; the runs are in test_processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import tiny_denoiser, tiny_settings
from torch import nn

from sparring.support.errors import UserError
from sparring.training.sharding import Sharding, blocks_of, wanted_sharding

DIGITS = Path(__file__).parents[2] / "configs" / "digits.yaml"
BY_ACCELERATE = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


class Nested(nn.Module):
    """Blocks of 12, in groups of 24 and 12 + 20, beside 12 of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.groups = nn.ModuleList()
        for n_more in (0, 20):
            group = nn.Module()
            n_blocks = 1 if n_more else 2
            group.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(n_blocks))
            if n_more:
                group.other = nn.Linear(4, 4)
            self.groups.append(group)


@pytest.mark.parametrize(
    ("n_least", "expected"),
    [
        (12, ["groups.0.blocks.0", "groups.0.blocks.1", "groups.1", "groups.1.blocks.0"]),
        (13, ["groups.0", "groups.1"]),
        (25, ["groups.1"]),
        (33, []),
    ],
)
def test_blocks_are_chosen_from_the_inside_out(n_least, expected):
    network = Nested()
    names = {id(module): name for name, module in network.named_modules()}
    found = [names[id(one)] for one in blocks_of(network, Sharding(n_least=n_least))]
    assert sorted(found) == expected
    for inner in found:  # FSDP wants the inner ones first
        for outer in found[: found.index(inner)]:
            assert not inner.startswith(f"{outer}.")


def test_blocks_by_their_class():
    network = tiny_denoiser().network
    found = blocks_of(network, Sharding(("Sequential",)))
    assert {id(one) for one in found} == {
        id(one) for one in network.modules() if isinstance(one, nn.Sequential)
    }
    with pytest.raises(UserError, match="MLP has no Transformer: correct fsdp_transformer"):
        blocks_of(network, Sharding(("Transformer",)))


def test_the_wish_is_a_setting_or_the_users_accelerate_config(monkeypatch):
    assert wanted_sharding(tiny_settings(), 4) is None
    assert wanted_sharding(tiny_settings(sharding="fsdp2"), 1) is None
    bf16 = tiny_settings(sharding="fsdp2", mixed_precision="bf16")
    assert wanted_sharding(bf16, 4) == Sharding(bf16=True)
    for name, value in BY_ACCELERATE.items():
        monkeypatch.setenv(name, value)
    assert wanted_sharding(tiny_settings(), 2) == Sharding()
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP")
    monkeypatch.setenv("FSDP_MIN_NUM_PARAMS", "1000")
    assert wanted_sharding(tiny_settings(), 2) == Sharding(n_least=1000)
    monkeypatch.setenv("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "DownBlock2D, UpBlock2D")
    assert wanted_sharding(tiny_settings(), 2) == Sharding(("DownBlock2D", "UpBlock2D"))


@pytest.mark.parametrize(
    ("told", "settings", "line"),
    [
        ({"FSDP_VERSION": "1"}, {}, "FSDP version 1: choose fsdp_version 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params must be false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "use training.gradient_checkpointing"),
        ({"FSDP_IGNORED_MODULES": "first"}, {}, "fsdp_ignored_modules must be left out"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "false"}, {}, "fsdp_reshard_after_forward must be true"),
        ({}, {"compile": True}, "does not go with training.compile=true"),
        ({}, {"mixed_precision": "fp16"}, "does not go with training.mixed_precision=fp16"),
    ],
)
def test_what_cannot_be_is_said(monkeypatch, told, settings, line):
    for name, value in {**BY_ACCELERATE, **told}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=line):
        wanted_sharding(tiny_settings(**settings), 2)


def launched(tmp_path, *options):
    """`accelerate launch OPTIONS -m sparring train`, two steps."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    command += ["-m", "sparring", "train", str(DIGITS), "training.max_train_steps=2"]
    command += ["training.train_batch_size=4", f"training.output_dir={tmp_path / 'run'}"]
    command += ["training.validation_steps=null"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_accelerate_launch_on_several_cpus_says_that_it_started_one_process(tmp_path):
    done = launched(tmp_path, "--cpu", "--num_processes", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "several processes were asked for and this is the only one" in done.stderr


@pytest.mark.slow
def test_accelerate_launch_with_fsdp2_shards_a_unet_over_two_processes(tmp_path):
    options = ["--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    options += ["--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
    options += ["--fsdp_transformer_layer_cls_to_wrap", "DownBlock2D,UpBlock2D"]
    done = launched(tmp_path, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = tmp_path / "run/checkpoints/checkpoint-2"
    assert len(list(checkpoint.glob("model.shard-*.safetensors"))) == 2
    assert (tmp_path / "run/unet/diffusion_pytorch_model.safetensors").exists()


def test_groups_are_those_of_a_machine(monkeypatch):
    settings = tiny_settings(sharding="hsdp")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert wanted_sharding(settings, 8) == Sharding(n_within=4)
    with pytest.raises(UserError, match="as many processes on each machine, got 4 here of 6"):
        wanted_sharding(settings, 6)
