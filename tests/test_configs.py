"""Every YAML of configs/ is read and built, without data, downloads or memory for the weights."""

from pathlib import Path

import pytest
import torch
import yaml

from sparring.assembly.build import build_network, build_objective, scheduler_config, train_settings
from sparring.commands.train import dry_run_text
from sparring.config.read import resolve
from sparring.diffusion.schedules import schedule_from_config

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


def names(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_a_config_builds(path):
    run = resolve(path)
    train_settings(run)
    start = run.model.pretrained_model_name_or_path
    if run.model.lora is not None:  # a pipeline of the hub: nothing of it can be built here
        assert build_objective(run, schedule_from_config({"_class_name": "DDPMScheduler"}))
        assert f"LoRA of rank {run.model.lora.rank}" in dry_run_text(run)
        return
    if start is not None:  # its own config says what the network is
        start = Path(start.partition("/checkpoints/")[0])
        earlier = resolve(FOLDER / f"{start.name}.yaml")
        assert Path(str(earlier.training.output_dir)) == start
        assert earlier.data == run.data
        run.model = earlier.model
    schedule = schedule_from_config(scheduler_config(run))
    assert build_objective(run, schedule).schedule is schedule
    with torch.device("meta"):
        side = run.data.resolution or 8
        shape = (run.data.dim,) if run.data.dim else (3 if run.data.resolution else 1, side, side)
        classes = (run.model.network or {}).get("num_class_embeds")
        network = build_network(run, shape, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1e5


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_a_config_opens_with_its_command_its_source_and_the_expected_figure(path):
    text = path.read_text()
    header = text.partition("\n\n")[0]
    assert f"sparring train configs/{path.name}" in header
    assert "# Source: " in header
    assert "# Expected" in header


def test_the_papers_settings_are_there():
    stems = set(names(CONFIGS))
    for data in ("cifar10", "celeba", "lsun_bedroom", "imagenet64"):
        for kind in ("clean", "p50_s01", "p50_s02", "p90_s01", "p90_s02"):
            assert f"smoothing_{data}_{kind}" in stems
    assert {"dro_cifar10_scratch", "dro_cifar10_finetuned", "smoothing_cifar10_finetuned"} <= stems
    assert {"smoothing_cifar10_late_start", "dro_imagenet64_finetuned", "plane", "digits"} <= stems
    rates = {
        stem: resolve(FOLDER / f"smoothing_cifar10_{stem}.yaml").contamination
        for stem in ("clean", "p50_s01", "p90_s02")
    }
    assert rates["clean"].kind == "none"
    assert (rates["p50_s01"].rate, rates["p50_s01"].sigma) == (0.5, 0.1)
    assert (rates["p90_s02"].rate, rates["p90_s02"].sigma) == (0.9, 0.2)


def test_paper_1s_cifar_run_has_its_scripts_numbers():
    run = resolve(FOLDER / "dro_cifar10_finetuned.yaml")
    assert (run.objective.n_passes, run.objective.step_size, run.objective.max_norm) == (
        3,
        0.1,
        0.1,
    )
    assert run.objective.target == "corrected_detached"
    assert (run.training.train_batch_size, run.training.learning_rate) == (32, 1e-4)
    assert (run.training.ema_decay, run.training.adam_weight_decay) == (0.9999, 0)
    assert (run.training.timestep_sampling, run.training.max_grad_norm) == (
        "loss_second_moment",
        None,
    )
    start = resolve(FOLDER / "dro_cifar10_baseline.yaml").model
    assert (start.learned_variance, start.network["dropout"]) == (True, 0.3)
    assert start.scheduler["beta_schedule"] == "squaredcos_cap_v2"


def test_the_plane_has_one_weight_for_the_published_attacks_and_defaults_for_the_others():
    for name in ("plain", "detail", "smoothing_random", "smoothing_adversarial", "invariance"):
        chosen = resolve(FOLDER / "plane.yaml", [f"objective={name}"]).objective
        default = name in ("plain", "detail")
        assert chosen == type(chosen)(**({} if default else {"lam_scaling": "relative", "lam": 1}))


@pytest.mark.parametrize("name", ["plane", "digits", "dro_cifar10_finetuned"])
def test_a_dry_run_says_what_would_happen_and_prints_the_resolved_run(name):
    text = dry_run_text(resolve(FOLDER / f"{name}.yaml", ["training.seed=5"]))
    assert yaml.safe_load(text)["training"]["seed"] == 5  # the summary is comments
    expected = {
        "plane": [
            "MLP, 261,903 parameters",
            "4,000 steps, 512 samples to a batch",
            "2,048,000 sam",
        ],
        "digits": ["UNet2DModel", "90 % gaussian"],
        "dro_cifar10_finetuned": [
            "3 updates to a batch",
            "train it first",
            "6,400,000 samples seen",
        ],
    }
    for part in expected[name]:
        assert part in text
