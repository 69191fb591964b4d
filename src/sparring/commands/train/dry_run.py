"""What a run would do, said before it is begun: nothing is downloaded, trained or written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from ...assembly.build import build_dataset, build_objective, check_samplers
from ...assembly.dirt_knowledge import words_of
from ...assembly.estimate import estimate, memory_from_scratch, parts_of
from ...assembly.network import Shape, build_network, check_network, scheduler_config
from ...assembly.pretrained import check_no_lora
from ...config.read import dump
from ...config.schema import RunConfig
from ...data.datasets import find
from ...data.dirt.contaminated import check_contamination
from ...data.dirt.section import ContaminationSection
from ...diffusion.denoiser import Denoiser
from ...diffusion.schedules import kind_from_config, schedule_from_config
from ...models.folder import DESCRIPTION
from ...models.latents import check_multiple
from ...models.pretrained import Model
from ...sampling.known_answer import check_sampler
from ...sampling.settings import Sampling
from ...support.errors import UserError, one_line_errors
from ...training.launcher import as_launched
from .run import check_places


def dry_run_text(config: RunConfig) -> str:
    """The resolved run as YAML, below a summary in comments; nothing is downloaded or written.

    Raises:
        UserError: for what the network, the scheduler or the objective refuse.
    """
    config = as_launched(config)
    check_places(config)
    training = config.training
    lines = [f"run folder    {training.output_dir}"]
    if config.model.pretrained_model_name_or_path is None:
        shape, num_classes = _shape_of(config)
        with torch.device("meta"):
            network = build_network(config, shape, num_classes)
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        scheduler = scheduler_config(config)
        with one_line_errors("model.scheduler", (Exception,)):
            schedule, kind = schedule_from_config(scheduler), kind_from_config(scheduler)
        with one_line_errors("contamination"):
            check_contamination(config.contamination.model_dump(), is_image=len(shape) > 1)
        check_network(config, shape, num_classes, schedule, kind)
        lines.append(f"network       {type(network).__name__}, {n_parameters:,} parameters")
        lines.append(f"samples       {' x '.join(map(str, shape))}")
        objective = build_objective(config, schedule)
        denoiser = Denoiser(network, schedule, kind, boundary=objective.boundary)
        check_samplers(config, Model(denoiser, scheduler, shape, num_classes, config.data.name))
        needs = [f"memory        {memory_from_scratch(config, network, shape, objective)}"]
    else:
        name, lora = config.model.pretrained_model_name_or_path, config.model.lora
        learns = "" if lora is None else f", LoRA of rank {lora.rank}"
        lines.append(f"network       from {name}" + _where_it_is(name) + learns)
        assumed = schedule_from_config({"_class_name": "DDPMScheduler"})
        objective = build_objective(config, assumed)
        _check_pretrained(config, Path(name), objective.boundary)
        needs = []
        with one_line_errors("contamination"):
            check_contamination(config.contamination.model_dump())
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    n_global = training.train_batch_size * training.gradient_accumulation_steps * n_processes
    n_updates, n_batches = objective.n_updates, objective.n_batches(training.max_train_steps)
    contamination = config.contamination
    dirty = "clean" if contamination.kind == "none" else (
        f"{100 * contamination.rate:g} % {contamination.kind}"
    )  # fmt: skip
    lines += [
        f"data          {config.data.name}, {dirty}",
        f"objective     {config.objective.name}"
        + (f", {n_updates} updates to a batch" if n_updates > 1 else ""),
        *(f"dirt          {words}" for words in words_of(config)),
        f"training      {training.max_train_steps:,} steps, {n_global} samples to a batch "
        f"({n_processes} process(es)), {n_batches * n_global:,} samples seen",
        *estimate(config, objective),
        *needs,
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n" + dump(config).rstrip()


def _check_pretrained(config: RunConfig, folder: Path, boundary: str | None) -> None:
    """What can be seen of a pipeline's configs alone: the size of the images, and the sampler."""
    parts, side = parts_of(str(folder)), config.data.resolution
    if parts is not None and side is not None:
        factor = 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
        factor *= parts["network"].get("patch_size") or 1
        check_multiple(side, side, factor, str(folder))
    description = folder / DESCRIPTION
    if config.model.lora is not None and description.is_file():
        check_no_lora(str(folder), json.loads(description.read_text(encoding="utf-8")).get("lora"))
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return
    scheduler = json.loads(file.read_text(encoding="utf-8"))
    sampling = config.sampling
    try:
        chosen = Sampling(sampling.scheduler, sampling.num_inference_steps)
        check_sampler(chosen, scheduler, kind_from_config(scheduler), boundary=boundary)
    except (UserError, ValueError) as error:
        raise UserError(f"sampling: {error}") from error


def _shape_of(config: RunConfig) -> tuple[Shape, int | None]:
    """Shape and classes of the data: as configured, or read: bundled ones and folders that say no
    size."""
    words = config.model.network or {}
    side = config.data.resolution or words.get("sample_size")
    folder = getattr(config.data, "train_data_dir", None)
    if find(config.data.name).is_bundled or (side is None and folder and Path(folder).is_dir()):
        clean = config.model_copy(deep=True)
        clean.contamination = ContaminationSection()
        dataset = build_dataset(clean)
        conditional = config.model.class_conditional
        return dataset.sample_shape, dataset.num_classes if conditional else None
    n_channels = config.data.n_channels or words.get("in_channels", 3)
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
