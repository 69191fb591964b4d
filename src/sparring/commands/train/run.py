"""From settings to a finished run."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ...assembly.build import (
    build_dataset,
    build_model,
    build_objective,
    check_samplers,
    make_student,
    spare_memory,
)
from ...assembly.dirt_knowledge import epoch_of, known_lines, levels_in, with_knowledge
from ...assembly.discriminator import build_discriminator
from ...assembly.pretrained import build_teacher
from ...config.read import dump
from ...config.schema import RunConfig
from ...data.base import Dataset, Digests, ModelRange
from ...data.workers import n_readers
from ...diffusion.precision import SHORT
from ...models.description import describe
from ...models.folder import describe_run
from ...models.latents import LatentEncoder
from ...models.pretrained import Model
from ...models.text import TextEncoder, check_captions, check_prompts, sizes_of
from ...objectives import Objective
from ...support.cache import TensorCache
from ...support.errors import UserError, one_line_errors
from ...support.terminal import echo
from ...training import ConditionFn, Feed, Hooks, RunFolder, Trained, TrainSettings, open_run, train
from ...training.launcher import as_launched, asked_for
from ...training.precision import settled
from ...training.settings import START, start_of
from ..shared.files import replace_text
from .run_files import base_of, describe_data, grid_writer, push, save_model, show_the_start


def train_command(config: RunConfig) -> dict[str, Any]:
    """Train, and leave the run folder; what training.json holds."""
    config = as_launched(config)
    if (asked := asked_for()) and os.environ.get("RANK", "0") == "0":
        words = ", ".join(f"training.{name}={value}" for name, value in asked.items())
        echo(f"sparring: as accelerate asks: {words}", err=True)
    settings = config.training
    check_places(config)
    _check_hub(config)
    if settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    with open_run(str(config.training.output_dir), **start_of(settings)) as run:
        return _train(config, settings, run)


def check_places(config: RunConfig) -> None:
    """A run in the folder of its own images would learn from its own pictures the next time."""
    data, output = getattr(config.data, "train_data_dir", None), str(config.training.output_dir)
    if data and os.path.realpath(data) == os.path.realpath(output):
        raise UserError(
            f"training.output_dir {output} is the folder of the images, where the run's own "
            "pictures would be learned from: choose another"
        )


def _train(config: RunConfig, settings: TrainSettings, run: RunFolder) -> dict[str, Any]:
    """The training itself, in a folder that is ours to write."""
    dataset = build_dataset(config)
    config.training = settings = settled(settings, run, dataset.sample_shape)
    model, trained = trained_of(config, dataset, run.path)
    objective = trained.objective
    dataset = with_knowledge(config, dataset, run, is_latent=model.vae is not None)
    _name_classes(model, dataset, config.model.pretrained_model_name_or_path is None)
    known, objective.teaching_levels = known_lines(dataset), levels_in(dataset)
    encode, cached = _latent_encoder(config, model, dataset)
    run.check()  # it may have taken minutes
    is_main = PartialState().is_main_process
    if is_main:
        describe_run(run.path, describe(model, base_of(model, config)))
        replace_text(run.path / "config.yaml", dump(_as_kept(config)))
        if run.is_new:
            describe_data(dataset, run.path / "data")
            show_the_start(config, model, dataset, run.path)
    feed = Feed(
        cached,
        random_flip=config.data.random_flip and dataset.is_image,
        encode_fn=encode,
        condition_fn=_conditions(model, objective),
        numbers=epoch_of(objective, dataset),
        n_workers=n_readers(
            config.data.dataloader_num_workers,
            cached.is_decoded,
            str(PartialState().device).startswith("cuda"),
            PartialState().num_processes,
        ),
    )
    hooks = Hooks(
        sample_fn=grid_writer(config, model, dataset) if dataset.is_image else None,
        save_fn=lambda finished: save_model(
            replace(model, denoiser=finished), run.path, config, known
        ),
    )
    summary = train(trained, feed, settings, run, hooks, config.model_dump(mode="json"))
    if is_main:
        if config.training.push_to_hub:
            push(run.path, str(config.training.hub_model_id or run.path.name))
        minutes = summary["train_seconds"] / 60
        echo(f"Trained {summary['n_steps']} steps in {minutes:.1f} min: {run.path}")
        echo(f"Next: sparring evaluate {run.path}")
    return summary


def trained_of(config: RunConfig, dataset: ModelRange, run_dir: Path) -> tuple[Model, Trained]:
    """The model, and all that the loop trains it with."""
    model = build_model(config, dataset.sample_shape, dataset.num_classes)
    model.denoiser.autocast = SHORT.get(config.training.mixed_precision)
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
    Absent is a class that neither these data nor those of a pretrained model hold."""
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


def _as_kept(config: RunConfig) -> RunConfig:
    """The settings that describe the run, without those that say how this start begins."""
    kept = config.model_copy(deep=True)
    # a fork is one once: its own checkpoints know where it comes from, and so does run.json
    for name in START:
        setattr(kept.training, name, False if name == "overwrite_output_dir" else None)
    return kept


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
    cache = None if folder is None else TensorCache(folder)
    model.vae.to(PartialState().device)
    if model.text is not None:
        model.text.to(PartialState().device)
        model.text.cache = cache
    encoder = LatentEncoder(model.vae, sample=config.data.latents == "sample", cache=cache)
    return encoder, dataset if cache is None else Digests(dataset)


def _say_what_is_cut(text: TextEncoder, dataset: ModelRange, prompts: Sequence[str]) -> None:
    """On stderr and among the data's remarks, before training: which texts are not seen whole."""
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


def _check_hub(config: RunConfig) -> None:
    """Ask for what pushing needs before hours of training, not after."""
    if config.training.push_to_hub:
        from huggingface_hub import get_token

        if get_token() is None:
            raise UserError(
                "training.push_to_hub needs a token: run `hf auth login` or set HF_TOKEN"
            )
