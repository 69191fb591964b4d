"""What a run would do, said before it is begun: nothing is downloaded, trained or written."""

import json
import os
from pathlib import Path

from ...assembly import build
from ...assembly.dirt_knowledge import words_of
from ...assembly.estimate import estimate, memory_from_scratch, parts_of
from ...assembly.network import Shape
from ...assembly.pretrained import check_no_lora
from ...config.read import dump
from ...config.schema import RunConfig
from ...data.datasets import find
from ...data.dirt.contaminated import check_contamination
from ...data.dirt.section import ContaminationSection
from ...diffusion.schedules import kind_from_config, schedule_from_config
from ...models.folder import DESCRIPTION
from ...models.latents import check_multiple
from ...sampling.known_answer import check_sampler
from ...sampling.settings import Sampling
from ...support.errors import UserError, one_line_errors
from ...training.launcher import as_launched
from ...training.precision import precision_here
from .run import check_places

_LARGE = (4, 64, 64)  # latents of a pipeline that may not be here


def dry_run_text(config: RunConfig) -> str:
    """The resolved run as YAML, below a summary in comments."""
    config = as_launched(config)
    check_places(config)
    training, contamination = config.training, config.contamination
    name, lora = config.model.pretrained_model_name_or_path, config.model.lora
    if name is None:
        shape, num_classes = _shape_of(config)
        model = build.model_from_scratch(config, shape, num_classes, device="meta")
        with one_line_errors("contamination"):
            check_contamination(contamination.model_dump(), is_image=len(shape) > 1)
        objective = build.build_objective(config, model.denoiser.schedule)
        model.denoiser.boundary = objective.boundary
        build.check_samplers(config, model)
        network = model.denoiser.network
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        lines = [f"network       {type(network).__name__}, {n_parameters:,} parameters"]
        lines += [f"samples       {' x '.join(map(str, shape))}"]
        here = _with_precision(config, shape)
        needs = [f"memory        {memory_from_scratch(here, network, shape, objective)}"]
    else:
        learns = "" if lora is None else f", LoRA of rank {lora.rank}"
        here = _with_precision(config, _LARGE)
        lines, needs = [f"network       from {name}{_where_it_is(name)}{learns}"], []
        assumed = schedule_from_config({"_class_name": "DDPMScheduler"})
        objective = build.build_objective(config, assumed)
        _check_pretrained(config, Path(name), objective.boundary)
        with one_line_errors("contamination"):
            check_contamination(contamination.model_dump())
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    n_global = training.train_batch_size * training.gradient_accumulation_steps * n_processes
    n_updates, n_batches = objective.n_updates, objective.n_batches(training.max_train_steps)
    dirty = f"{100 * contamination.rate:g} % {contamination.kind}"
    lines += [
        f"data          {config.data.name}, {'clean' if contamination.kind == 'none' else dirty}",
        f"objective     {config.objective.name}"
        + (f", {n_updates} updates to a batch" if n_updates > 1 else ""),
        *(f"dirt          {words}" for words in words_of(config)),
        f"training      {training.max_train_steps:,} steps, {n_global} samples to a batch "
        f"({n_processes} process(es)), {n_batches * n_global:,} samples seen",
        f"precision     {here.training.mixed_precision}",
        *estimate(here, objective),
        *needs,
    ]
    summary = "".join(f"# {line}\n" for line in [f"run folder    {training.output_dir}", *lines])
    return f"{summary}\n{dump(config).rstrip()}"


def _with_precision(config: RunConfig, shape: Shape) -> RunConfig:
    """The config with the precision that a new run would have on this machine."""
    if config.training.mixed_precision != "auto":
        return config
    found = {"mixed_precision": precision_here(shape)}
    return config.model_copy(update={"training": config.training.model_copy(update=found)})


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
    if file.is_file():
        scheduler = json.loads(file.read_text(encoding="utf-8"))
        with build.named("sampling"):
            chosen = Sampling(config.sampling.scheduler, config.sampling.num_inference_steps)
            check_sampler(chosen, scheduler, kind_from_config(scheduler), boundary=boundary)


def _shape_of(config: RunConfig) -> tuple[Shape, int | None]:
    """Shape and classes of the data: as configured, or read: bundled ones and folders that say no
    size."""
    words = config.model.network or {}
    conditional = config.model.class_conditional
    side = config.data.resolution or words.get("sample_size")
    folder = getattr(config.data, "train_data_dir", None)
    if find(config.data.name).is_bundled or (side is None and folder and Path(folder).is_dir()):
        clean = config.model_copy(update={"contamination": ContaminationSection()})
        dataset = build.build_dataset(clean)
        return dataset.sample_shape, dataset.num_classes if conditional else None
    if not isinstance(side, int):
        raise UserError("data.resolution is missing: say to which size the images are resized")
    n_channels = config.data.n_channels or words.get("in_channels", 3)
    drops, n_labels = config.training.conditioning_dropout_prob > 0, words.get("num_class_embeds")
    return (n_channels, side, side), n_labels - drops if n_labels and conditional else None


def _where_it_is(name: str) -> str:
    if Path(name).exists():
        return ""
    if name.startswith(("runs/", "./", "/")) or name.count("/") > 1:
        return " (not there yet: train it first)"
    return " (a name on the hub)"
