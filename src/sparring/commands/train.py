"""`sparring train CONFIG.yaml`: from settings to a finished run."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from ..build import (
    Shape,
    build_dataset,
    build_denoiser,
    build_network,
    build_objective,
    build_teacher,
    scheduler_config,
    train_settings,
)
from ..config import RunConfig, dump
from ..config_sections import BUNDLED
from ..data.base import ModelRange
from ..data.contamination import noise_of, write_manifest
from ..denoiser import Denoiser
from ..errors import UserError
from ..model_card import model_card
from ..objectives import Oracle
from ..pretrained import Model, describe, describe_run, save, usage
from ..sampling import grid, sample
from ..schedules import schedule_from_config
from ..training import open_run, train

N_SHOWN = 64


def train_command(config: RunConfig) -> dict[str, Any]:
    """Train, and leave the run folder.

    Returns:
        What training.json holds.

    Raises:
        UserError: one line that says what to change.
    """
    settings = train_settings(config)
    _check_hub(config)
    if settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    run = open_run(
        str(config.training.output_dir),
        settings.resume_from_checkpoint,
        settings.overwrite_output_dir,
    )
    dataset = build_dataset(config)
    denoiser, scheduler = build_denoiser(config, dataset.sample_shape, dataset.num_classes)
    objective = build_objective(config, denoiser.schedule)
    denoiser.boundary = objective.boundary
    if isinstance(objective, Oracle):
        objective.told(noise_of(dataset))
    num_classes = dataset.num_classes if config.model.class_conditional else None
    model = describe(denoiser, scheduler, dataset.sample_shape, num_classes)
    if PartialState().is_main_process:
        describe_run(run.path, model)
        _write_text(run.path / "config.yaml", dump(_as_kept(config)))
        if run.checkpoint is None:
            _describe_data(dataset, run.path / "data")
    summary = train(
        denoiser,
        objective,
        dataset,
        settings,
        run,
        teacher=build_teacher(config, denoiser),
        condition_fn=_class_labels if num_classes is not None else None,
        sample_fn=_sampler(config, dataset, scheduler, num_classes) if dataset.is_image else None,
        save_fn=lambda finished: _save(
            finished, run.path, config, scheduler, dataset.sample_shape, num_classes
        ),
        random_flip=config.data.random_flip and dataset.is_image,
        n_workers=config.data.dataloader_num_workers,
        config=config.model_dump(mode="json"),
    )
    if PartialState().is_main_process:
        if config.training.push_to_hub:
            _push(run.path, str(config.training.hub_model_id or run.path.name))
        seconds = summary["train_seconds"]
        print(f"Trained {summary['n_steps']} steps in {seconds / 60:.1f} min: {run.path}")
        print(f"Next: sparring evaluate {run.path}")
    return summary


def dry_run_text(config: RunConfig) -> str:
    """The resolved run as YAML, below a summary in comments; nothing is downloaded or written.

    Raises:
        UserError: for what the network, the scheduler or the objective refuse.
    """
    training = config.training
    lines = [f"run folder    {training.output_dir}"]
    if config.model.pretrained_model_name_or_path is None:
        shape, num_classes = _shape_of(config)
        with torch.device("meta"):
            network = build_network(config, shape, num_classes)
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        schedule = schedule_from_config(scheduler_config(config))
        lines.append(f"network       {type(network).__name__}, {n_parameters:,} parameters")
        lines.append(f"samples       {' x '.join(map(str, shape))}")
        n_updates = build_objective(config, schedule).n_updates
    else:
        name = config.model.pretrained_model_name_or_path
        lines.append(f"network       from {name}" + _where_it_is(name))
        assumed = schedule_from_config({"_class_name": "DDPMScheduler"})
        n_updates = build_objective(config, assumed).n_updates
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    n_global = training.train_batch_size * training.gradient_accumulation_steps * n_processes
    n_batches = -(-training.max_train_steps // n_updates)
    contamination = config.contamination
    dirty = "clean" if contamination.kind == "none" else (
        f"{100 * contamination.rate:g} % {contamination.kind}"
    )  # fmt: skip
    lines += [
        f"data          {config.data.name}, {dirty}",
        f"objective     {config.objective.name}"
        + (f", {n_updates} updates to a batch" if n_updates > 1 else ""),
        f"training      {training.max_train_steps:,} steps, {n_global} samples to a batch "
        f"({n_processes} process(es)), {n_batches * n_global:,} samples seen",
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n" + dump(config).rstrip()


def _as_kept(config: RunConfig) -> RunConfig:
    """The settings that describe the run, without those that say how this start begins."""
    kept = config.model_copy(deep=True)
    kept.training.resume_from_checkpoint = None
    kept.training.overwrite_output_dir = False
    return kept


def _shape_of(config: RunConfig) -> tuple[Shape, int | None]:
    """Shape and classes of the data: read where they are bundled, else as configured."""
    if config.data.name in BUNDLED:
        clean = config.model_copy(deep=True)
        clean.contamination.kind = "none"
        dataset = build_dataset(clean)
        conditional = config.model.class_conditional
        return dataset.sample_shape, dataset.num_classes if conditional else None
    words = config.model.network or {}
    n_channels = config.data.n_channels or words.get("in_channels", 3)
    side = config.data.resolution or words.get("sample_size")
    if not isinstance(side, int):
        raise UserError("data.resolution is missing: say to which size the images are resized")
    drops = config.training.conditioning_dropout_prob > 0
    n_labels = words.get("num_class_embeds")
    num_classes = n_labels - drops if n_labels and config.model.class_conditional else None
    return (n_channels, side, side), num_classes


def _where_it_is(name: str) -> str:
    if Path(name).exists():
        return ""
    if name.startswith(("runs/", "./", "/")) or name.count("/") > 1:
        return " (not there yet: train it first)"
    return " (a name on the hub)"


def _class_labels(batch: dict[str, Any]) -> dict[str, Tensor]:
    return {"class_labels": batch["label"]}


def _describe_data(dataset: ModelRange, folder: Path) -> None:
    """What was trained on, for the report: pictures and the manifest. Training does not read it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(dataset, folder / "manifest.jsonl")
    if dataset.is_image:
        shown = dataset.__getitems__(range(min(N_SHOWN, len(dataset))))["x0"]
        grid(shown).save(folder / "training_samples.png")


def _sampler(
    config: RunConfig, dataset: ModelRange, scheduler: dict[str, Any], num_classes: int | None
) -> Callable[[Denoiser, Path], None]:
    """Writes a grid of samples at the same noise every time."""
    chosen = config.sampling

    def write(denoiser: Denoiser, path: Path) -> None:
        model = Model(denoiser, scheduler, dataset.sample_shape, num_classes, source=str(path))
        samples = sample(
            model,
            chosen.n_images,
            scheduler=chosen.scheduler,
            num_inference_steps=chosen.num_inference_steps,
            seed=chosen.seed,
            guidance_scale=chosen.guidance_scale if denoiser.null_condition else 1.0,
            eps_scale=chosen.eps_scale,
            eta=chosen.eta,
            clip_sample=chosen.clip_sample,
            stop_ratio=chosen.stop_ratio,
            grid_power=chosen.grid_power,
            ratios=chosen.ratios,
            batch_size=chosen.batch_size,
        )
        grid(samples).save(path)

    return write


def _save(
    denoiser: Denoiser,
    folder: Path,
    config: RunConfig,
    scheduler: dict[str, Any],
    sample_shape: Shape,
    num_classes: int | None,
) -> None:
    """The finished model at the run's root, with its card."""
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    command = info["command"]
    card = model_card(
        folder.name,
        run=config.model_dump(mode="json"),
        command=command if isinstance(command, str) else shlex.join(command),
        versions={"sparring": info["version"], **info["versions"]},
        usage=usage(describe(denoiser, scheduler, sample_shape, num_classes), folder.name),
    )
    save(folder, denoiser, scheduler, sample_shape, num_classes, card)


def _check_hub(config: RunConfig) -> None:
    """Ask for what pushing needs before hours of training, not after."""
    if config.training.push_to_hub:
        from huggingface_hub import get_token

        if get_token() is None:
            raise UserError(
                "training.push_to_hub needs a token: run `hf auth login` or set HF_TOKEN"
            )


def _push(folder: Path, hub_model_id: str) -> None:
    """Upload the finished model and its samples, not the checkpoints and logs."""
    from huggingface_hub import create_repo, upload_folder
    from huggingface_hub.errors import HfHubHTTPError

    try:
        repo_id = create_repo(hub_model_id, exist_ok=True).repo_id
        upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Upload the finished model",
            ignore_patterns=["checkpoints/**", "logs/**", "data/**", "*.jsonl"],
        )
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the model is finished in {folder} but could not be pushed to {hub_model_id}: {reason}"
        ) from error
    print(f"Pushed to https://huggingface.co/{repo_id}")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
