"""`sparring train CONFIG.yaml`: from settings to a finished run."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..assembly.build import (
    Shape,
    build_dataset,
    build_model,
    build_network,
    build_objective,
    build_teacher,
    check_network,
    check_no_lora,
    check_samplers,
    make_student,
    one_line_errors,
    scheduler_config,
    spare_memory,
)
from ..assembly.dirt_knowledge import known_lines, levels_in, with_knowledge, words_of
from ..assembly.discriminator import build_discriminator
from ..assembly.estimate import estimate, memory_from_scratch, parts_of
from ..config.read import dump
from ..config.schema import RunConfig
from ..data.base import Dataset, Digests, ModelRange
from ..data.captions import first_of
from ..data.datasets import find
from ..data.dirt.contaminated import check_contamination
from ..data.dirt.manifest import write_manifest
from ..data.dirt.section import ContaminationSection
from ..diffusion.denoiser import Denoiser
from ..diffusion.schedules import kind_from_config, schedule_from_config
from ..models.card import model_card
from ..models.description import describe
from ..models.folder import DESCRIPTION, describe_run
from ..models.latents import LatentEncoder, check_multiple, decode
from ..models.pretrained import Model, save
from ..models.text import TextEncoder, check_captions, check_prompts, sizes_of
from ..objectives import Objective
from ..sampling.images import grid
from ..sampling.known_answer import check_sampler
from ..sampling.sample import sample
from ..sampling.settings import Sampling
from ..support.cache import TensorCache
from ..support.errors import UserError
from ..support.terminal import echo
from ..training import (
    ConditionFn,
    Feed,
    Hooks,
    RunFolder,
    Trained,
    TrainSettings,
    open_run,
    train,
)
from ..training.launcher import as_launched, asked_for
from ..training.settings import START, start_of

N_SHOWN = 64
N_CAPTIONS_SHOWN = 8
"""Of the training data, in the grids of a text-to-image model without sampling.prompts."""


def train_command(config: RunConfig) -> dict[str, Any]:
    """Train, and leave the run folder.

    Returns:
        What training.json holds.

    Raises:
        UserError: one line that says what to change.
    """
    config = as_launched(config)
    if (asked := asked_for()) and os.environ.get("RANK", "0") == "0":
        words = ", ".join(f"training.{name}={value}" for name, value in asked.items())
        echo(f"sparring: as accelerate asks: {words}", err=True)
    settings = config.training
    _check_places(config)
    _check_hub(config)
    if settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    with open_run(str(config.training.output_dir), **start_of(settings)) as run:
        return _train(config, settings, run)


def _check_places(config: RunConfig) -> None:
    """A run in the folder of its own images would learn from its own pictures the next time."""
    data, output = config.data.train_data_dir, str(config.training.output_dir)
    if data and _is_one_place(data, output):
        raise UserError(
            f"training.output_dir {output} is the folder of the images, where the run's own "
            "pictures would be learned from: choose another"
        )


def _is_one_place(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _train(config: RunConfig, settings: TrainSettings, run: RunFolder) -> dict[str, Any]:
    """The training itself, in a folder that is ours to write."""
    dataset = build_dataset(config)
    model, trained = trained_of(config, dataset, run.path)
    objective = trained.objective
    dataset = with_knowledge(config, dataset, run, is_latent=model.vae is not None)
    _name_classes(model, dataset, config.model.pretrained_model_name_or_path is None)
    known, objective.teaching_levels = known_lines(dataset), levels_in(dataset)
    encode, cached = _latent_encoder(config, model, dataset)
    run.check()  # it may have taken minutes
    if PartialState().is_main_process:
        describe_run(run.path, describe(model, _base(model, config)))
        _write_text(run.path / "config.yaml", dump(_as_kept(config)))
        if run.is_new:
            _describe_data(dataset, run.path / "data")
            _show_the_start(config, model, dataset, run.path)
    feed = Feed(
        cached,
        random_flip=config.data.random_flip and dataset.is_image,
        encode_fn=encode,
        condition_fn=_conditions(model, objective),
        n_workers=config.data.dataloader_num_workers,
    )
    hooks = Hooks(
        sample_fn=_sampler(config, model, dataset) if dataset.is_image else None,
        save_fn=lambda finished: _save(replace(model, denoiser=finished), run.path, config, known),
    )
    summary = train(trained, feed, settings, run, hooks, config.model_dump(mode="json"))
    if PartialState().is_main_process:
        if config.training.push_to_hub:
            _push(run.path, str(config.training.hub_model_id or run.path.name))
        seconds = summary["train_seconds"]
        echo(f"Trained {summary['n_steps']} steps in {seconds / 60:.1f} min: {run.path}")
        echo(f"Next: sparring evaluate {run.path}")
    return summary


def trained_of(config: RunConfig, dataset: ModelRange, run_dir: Path) -> tuple[Model, Trained]:
    """The model, and all that the loop trains it with.

    Raises:
        UserError: if they do not go together.
    """
    model = build_model(config, dataset.sample_shape, dataset.num_classes)
    objective = build_objective(config, model.denoiser.schedule, model)
    make_student(model, objective)
    check_samplers(config, model)
    teacher = build_teacher(config, model)
    spare_memory(config, model, teacher)
    rival = build_discriminator(config, model, dataset, run_dir / "data" / "features.safetensors")
    if rival is not None:
        with one_line_errors("objective adt"):  # the loop does this too, with the run under way
            objective.set_up(model.denoiser, rival[0])
    discriminator, numbers = rival or (None, None)
    return model, Trained(model.denoiser, objective, teacher, discriminator, numbers)


def _name_classes(model: Model, dataset: Dataset, from_scratch: bool) -> None:
    """The classes of a conditional model are those of the data; another meaning is said.

    Absent is a class that neither these data nor those of a pretrained model hold.
    """
    if model.num_classes is None:
        return
    before = [] if from_scratch else list(model.class_names)
    names = list(dataset.class_names)
    renamed = [i for i, name in enumerate(names[: len(before)]) if name != before[i]]
    if renamed and PartialState().is_main_process:
        echo(
            f"sparring: {len(renamed)} of {len(names)} classes have another name than in "
            f"{model.source}: '{before[renamed[0]]}' becomes '{names[renamed[0]]}'",
            err=True,
        )
    never = {*range(len(names))} if from_scratch else {*model.absent_classes, *renamed}
    model.class_names = names
    model.absent_classes = [i for i in dataset.absent_classes if i in never]


def dry_run_text(config: RunConfig) -> str:
    """The resolved run as YAML, below a summary in comments; nothing is downloaded or written.

    Raises:
        UserError: for what the network, the scheduler or the objective refuse.
    """
    config = as_launched(config)
    _check_places(config)
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


def _as_kept(config: RunConfig) -> RunConfig:
    """The settings that describe the run, without those that say how this start begins."""
    kept = config.model_copy(deep=True)
    # a fork is one once: its own checkpoints know where it comes from, and so does run.json
    for name in START:
        setattr(kept.training, name, False if name == "overwrite_output_dir" else None)
    return kept


def _shape_of(config: RunConfig) -> tuple[Shape, int | None]:
    """Shape and classes of the data: as configured, or read: bundled ones and folders that say no
    size."""
    words = config.model.network or {}
    side = config.data.resolution or words.get("sample_size")
    folder = config.data.train_data_dir
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


def _latent_encoder(
    config: RunConfig, model: Model, dataset: ModelRange
) -> tuple[LatentEncoder | None, Dataset]:
    """What makes latents of images, and the data set as it needs it; None for other models."""
    if model.text is not None:
        check_captions(dataset.captions, dataset.name)
        _say_what_is_cut(model.text, dataset, config.sampling.prompts or ())
    elif config.sampling.prompts is not None:
        raise UserError("sampling.prompts needs a text-to-image model: leave it out (null)")
    folder = config.data.latents_cache
    if model.vae is None:
        if folder is not None or config.data.latents != "sample":
            raise UserError("data.latents and data.latents_cache go with latent models only")
        return None, dataset
    if folder is not None and not config.data.center_crop:
        raise UserError(
            "data.latents_cache keeps what is seen again, and random crops never are: set "
            "data.center_crop to true, or data.latents_cache to null"
        )
    for part in (model.vae, model.text):
        if part is not None:
            part.to(PartialState().device)
    cache = None if folder is None else TensorCache(folder)
    if model.text is not None:
        model.text.cache = cache
    encoder = LatentEncoder(model.vae, sample=config.data.latents == "sample", cache=cache)
    return encoder, dataset if cache is None else Digests(dataset)


def _say_what_is_cut(text: TextEncoder, dataset: ModelRange, prompts: Sequence[str]) -> None:
    """On stderr and among the data's remarks, before training: which texts are not seen whole.

    Raises:
        UserError: for a prompt that is no text.
    """
    check_prompts(prompts)
    if not PartialState().is_main_process:
        return
    captions = [
        text
        for one in dataset.captions or ()
        for text in (one if isinstance(one, tuple) else (one,))
        if text is not None
    ]
    cut = text.cut(captions)
    dataset.remarks = [*dataset.remarks, *cut]
    for sentence in [*cut, *text.cut(prompts, "prompts")]:
        echo(sentence, err=True)


def _conditions(model: Model, objective: Objective) -> ConditionFn | None:
    """The condition of a batch: captions (and sizes, of XL), class labels, or none."""
    text = model.text
    if text is not None and objective.needs_discriminator:
        return lambda batch: text.both(batch["caption"], sizes_of(batch))
    if text is not None:
        return lambda batch: (text(batch["caption"], sizes_of(batch)), {})
    if model.num_classes is not None:
        return lambda batch: ({"class_labels": batch["label"]}, {"class_labels": batch["label"]})
    return None


def _describe_data(dataset: ModelRange, folder: Path) -> None:
    """What was trained on, for the report: pictures and the manifest. Training does not read it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(dataset, folder / "manifest.jsonl")
    if dataset.remarks:
        _write_text(folder / "remarks.json", json.dumps(list(dataset.remarks), indent=2) + "\n")
    if dataset.is_image:
        shown = dataset.__getitems__(range(min(N_SHOWN, len(dataset))))["x0"]
        grid(shown).save(folder / "training_samples.png")


def _sampler(
    config: RunConfig, model: Model, dataset: ModelRange
) -> Callable[[Denoiser, Path], None]:
    """Writes a grid of samples at the same noise every time, of prompts or the first captions."""
    prompts, guidance = config.sampling.prompts, config.sampling.guidance_scale
    if model.text is not None and prompts is None:
        captions = dict.fromkeys(map(first_of, dataset.captions or ()))
        prompts = [caption for caption in captions if caption is not None][:N_CAPTIONS_SHOWN]

    def write(denoiser: Denoiser, path: Path) -> None:
        samples = sample(
            replace(model, denoiser=denoiser),
            config.sampling.n_images,
            config.sampling.settings,
            prompts=prompts,
            guidance_scale=guidance if denoiser.null_condition else 1.0,
        )
        grid(samples if model.vae is None else decode(model.vae, samples)).save(path)

    return write


def _show_the_start(config: RunConfig, model: Model, dataset: ModelRange, folder: Path) -> None:
    """What a model drew before this run, at the noise of the grids to come."""
    started = config.model.pretrained_model_name_or_path is not None
    if started and dataset.is_image and config.training.validation_steps is not None:
        (folder / "samples").mkdir(exist_ok=True)
        model.denoiser.to(PartialState().device)
        _sampler(config, model, dataset)(model.denoiser, folder / "samples" / "step-0.png")


def _base(model: Model, config: RunConfig) -> str | None:
    """Of a latent model, the pipeline whose other parts belong to it: a full path or a hub name."""
    name = config.model.pretrained_model_name_or_path
    if model.vae is None or name is None:
        return None
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _save(model: Model, folder: Path, config: RunConfig, known: Sequence[str]) -> None:
    """The finished model at the run's root, with its card, which says what is known of the data."""
    info, base = json.loads((folder / "run.json").read_text(encoding="utf-8")), _base(model, config)
    command = info["command"]
    card = model_card(
        folder.name,
        describe(model, base),
        run=config.model_dump(mode="json"),
        command=command if isinstance(command, str) else shlex.join(command),
        versions={"sparring": info["version"], **info["versions"]},
        text=model.text,
        known=known,
    )
    save(folder, model, card, base)


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
            ignore_patterns=[".lock/**", "checkpoints/**", "logs/**", "data/**", "*.jsonl"],
        )
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the model is finished in {folder} but could not be pushed to {hub_model_id}: {reason}"
        ) from error
    echo(f"Pushed to https://huggingface.co/{repo_id}")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
