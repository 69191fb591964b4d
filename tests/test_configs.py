"""Every config and row that comes with sparring is read and built, without data, downloads or
memory for the weights."""

from pathlib import Path

import pytest
import torch
import yaml

from sparring.assembly.build import build_objective
from sparring.assembly.network import build_network, scheduler_config
from sparring.commands.train.dry_run import dry_run_text
from sparring.config.files import BUNDLED, bundled
from sparring.config.read import resolve
from sparring.diffusion.schedules import schedule_from_config

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))
RUNS = {
    str(resolve(name, words).training.output_dir).removeprefix("runs/"): (name, words)
    for name, of in bundled().items()
    for words in ([[f"row={row}"] for row in of["rows"]] or [[]])
}
"""Name of the run -> config and row."""


def test_the_bundled_configs_are_those_of_the_repository():
    assert BUNDLED == FOLDER
    assert list(bundled()) == [path.stem for path in CONFIGS]


@pytest.mark.parametrize("name", RUNS)
def test_a_config_builds(name):
    run = resolve(*RUNS[name])
    start = run.model.pretrained_model_name_or_path
    if run.model.lora is not None:  # a pipeline of the hub: nothing of it can be built here
        assert build_objective(run, schedule_from_config({"_class_name": "DDPMScheduler"}))
        assert f"LoRA of rank {run.model.lora.rank}" in dry_run_text(run)
        return
    if start is not None:  # its own config says what the network is
        earlier = resolve(*RUNS[Path(start.partition("/checkpoints/")[0]).name])
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


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_config_opens_with_its_command_its_source_and_the_expected_figure(path):
    text = path.read_text()
    header = text.partition("\n\n")[0]
    assert f"sparring train {path.stem}" in header
    assert "# Source: " in header
    assert "# Expected" in header


def test_the_papers_tables_are_there_row_by_row():
    grid = {"p50_s01": (0.5, 0.1), "p50_s02": (0.5, 0.2), "p90_s01": (0.9, 0.1),
            "p90_s02": (0.9, 0.2)}  # fmt: skip
    sets = {"cifar10": "uoft-cs/cifar10", "celeba": "nielsr/CelebA-faces",
            "lsun_bedroom": "pcuenq/lsun-bedrooms",
            "imagenet64": "benjamin-paine/imagenet-1k-64x64"}  # fmt: skip
    for name, dataset in sets.items():
        clean = resolve(*RUNS[f"smoothing_{name}_clean"])
        assert (clean.data.dataset_name, clean.contamination.kind) == (dataset, "none")
        for row, (rate, sigma) in grid.items():
            run = resolve(*RUNS[f"smoothing_{name}_{row}"])
            dirt = run.contamination
            assert (dirt.kind, dirt.rate, dirt.sigma, dirt.clip) == ("gaussian", rate, sigma, False)
            run.contamination = clean.contamination
            run.training.output_dir = clean.training.output_dir
            assert run == clean
    late = [resolve(*RUNS[f"smoothing_{name}_late_start"]) for name in ("cifar10", "celeba")]
    assert [run.objective.start_step for run in late] == [460938, 341720]
    assert [run.contamination.sigma for run in late] == [0.2, 0.2]
    tuned = resolve(*RUNS["smoothing_cifar10_finetuned"])
    assert (tuned.training.max_train_steps, tuned.contamination.rate) == (39062, 0.9)
    assert resolve(*RUNS["smoothing_cifar10_baseline"]).objective.name == "plain"
    rows = ("baseline", "finetuned", "pgd", "scratch")
    papers = [resolve(*RUNS[f"dro_cifar10_{row}"]) for row in rows]
    assert [run.objective.name for run in papers] == ["plain", "dro", "dro_pgd", "dro"]
    steps = [run.training.max_train_steps for run in papers]
    assert steps == [250_000, 600_000, 200_000, 850_000]
    assert resolve(*RUNS["dro_imagenet64_finetuned"]).objective.name == "dro"


def test_the_clean_twins_differ_in_what_their_rows_say():
    noisy, clean = resolve("digits"), resolve("digits", ["row=clean"])
    assert (noisy.contamination.kind, clean.contamination.kind) == ("gaussian", "none")
    assert clean.training.checkpoints_total_limit is None
    assert resolve("fashion_mnist", ["row=clean"]).training.checkpointing_steps == 300
    assert resolve("adt_digits").contamination == clean.contamination
    names = [f"consistency_digits{row}" for row in ("", "_adversarial", "_easy")]
    plain, adversarial, easy = (resolve(*RUNS[name]) for name in names)
    assert (plain.objective.n_passes, adversarial.objective.n_passes) == (1, 2)
    assert (easy.objective.name, easy.training.ema_decay) == ("easy_consistency_tuning", 0.99)


def test_paper_1s_cifar_run_has_its_scripts_numbers():
    run = resolve(*RUNS["dro_cifar10_finetuned"])
    adversary = run.objective
    assert (adversary.n_passes, adversary.step_size, adversary.max_norm) == (3, 0.1, 0.1)
    assert (adversary.step_per, adversary.units) == ("image", "sample")
    assert run.objective.target == "corrected_detached"
    assert (run.training.train_batch_size, run.training.learning_rate) == (32, 1e-4)
    assert (run.training.ema_decay, run.training.adam_weight_decay) == (0.9999, 0)
    assert (run.training.timestep_sampling, run.training.max_grad_norm) == (
        "loss_second_moment",
        None,
    )
    start = resolve(*RUNS["dro_cifar10_baseline"]).model
    assert (start.learned_variance, start.network["dropout"]) == (True, 0.3)
    assert start.scheduler["beta_schedule"] == "squaredcos_cap_v2"


def test_the_plane_has_one_weight_for_the_published_attacks_and_defaults_for_the_others():
    for name in ("plain", "detail", "smoothing_random", "smoothing_adversarial", "invariance"):
        chosen = resolve("plane", [f"objective={name}"]).objective
        default = name in ("plain", "detail")
        assert chosen == type(chosen)(**({} if default else {"lam_scaling": "relative", "lam": 1}))


@pytest.mark.parametrize("name", ["plane", "digits", "dro_cifar10_finetuned"])
def test_a_dry_run_says_what_would_happen_and_prints_the_resolved_run(name):
    text = dry_run_text(resolve(RUNS[name][0], [*RUNS[name][1], "training.seed=5"]))
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
