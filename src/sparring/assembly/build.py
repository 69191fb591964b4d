"""From settings to objects: data, denoiser, objective. The objects take plain arguments only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from ..config.schema import RunConfig
from ..data.base import ModelRange
from ..data.dirt.contaminated import check_contamination, training_data
from ..diffusion.denoiser import Denoiser
from ..diffusion.guidance import with_guidance_embedding
from ..diffusion.schedules import Schedule, VPSchedule, kind_from_config, schedule_from_config
from ..models.pretrained import Model
from ..objectives import TIMES, Objective
from ..objectives.base import RunFacts
from ..options.sections import options_of
from ..sampling.known_answer import check_ends_in_noise, check_sampler
from ..sampling.sample import check_sampling
from ..sampling.schedulers import make_scheduler
from ..sampling.settings import Sampling
from ..support.errors import UserError, one_line_errors
from .network import Shape, build_network, check_network, scheduler_config
from .pretrained import pretrained_model

N_STEPS_OF_DIFFUSERS = 50  # what its pipelines take where nobody says


def build_dataset(config: RunConfig) -> ModelRange:
    """The training data: contaminated, in the model's range."""
    contamination = config.contamination.model_dump(exclude_none=True)
    with one_line_errors("contamination"):
        check_contamination(contamination)
    with one_line_errors("data"):
        return training_data(config.data.model_dump(exclude_none=True), contamination)


def build_model(config: RunConfig, sample_shape: Shape, num_classes: int | None) -> Model:
    """The model to train, with the parts around it that are not trained: VAE and text encoder.
    Shape and classes are those of the data; a latent model's own shape is that of their latents."""
    if not config.model.class_conditional:
        num_classes = None
    elif num_classes is None:
        raise UserError(
            f"model.class_conditional needs labels, and {config.data.name} has none: "
            "set data.label_column, or class_conditional to false"
        )
    if config.model.pretrained_model_name_or_path is not None:
        return pretrained_model(config, sample_shape, num_classes)
    return model_from_scratch(config, sample_shape, num_classes)


def model_from_scratch(
    config: RunConfig, sample_shape: Shape, num_classes: int | None, device: str = "cpu"
) -> Model:
    """The same of a model that the config describes itself; on "meta" it has no memory."""
    scheduler = scheduler_config(config)
    with one_line_errors("model.scheduler", (Exception,)):
        schedule, kind = schedule_from_config(scheduler), kind_from_config(scheduler)
    check_network(config, sample_shape, num_classes, schedule, kind)
    with torch.device(device):
        network = build_network(config, sample_shape, num_classes)
    drops = config.training.conditioning_dropout_prob > 0
    null = {"class_labels": num_classes} if num_classes is not None and drops else None
    learned = bool(config.model.learned_variance)
    with one_line_errors("model"):
        denoiser = Denoiser(network, schedule, kind, learned_variance=learned, null_condition=null)
    return Model(denoiser, scheduler, sample_shape, num_classes, source=config.data.name)


def build_objective(config: RunConfig, schedule: Schedule, model: Model | None = None) -> Objective:
    """The objective with its leaves and its sampler of times.
    Without the model that learns, it is good for looking at, not for training."""
    training, section = config.training, config.objective
    with one_line_errors(f"training.timestep_sampling {training.timestep_sampling}"):
        sampler = cast(Any, TIMES[training.timestep_sampling])
        given = {key: getattr(training, f"timestep_{key}") for key in OF_TIMES}
        options = {key: value for key, value in given.items() if value is not None}
        for key in options.keys() - options_of(sampler).keys():
            raise ValueError(f"takes no timestep_{key}")
        times = sampler(schedule, **options)
    method = section.method
    arguments = {key: getattr(section, key) for key in section.arguments}
    facts = RunFacts(
        n_steps=training.max_train_steps,
        n_rows=training.train_batch_size,
        has_lora=config.model.lora is not None,
        has_condition=model and (model.text is not None or model.num_classes is not None),
        has_null_condition=model and bool(model.denoiser.null_condition),
    )
    for key, of_run in method.of_the_run.items():
        if arguments.get(key, 0) is None:
            arguments[key] = of_run(facts)
    if method.needs_scheduler:
        arguments["scheduler"] = section.scheduler
        if section.scheduler is not None and model is not None:
            with one_line_errors("objective.scheduler"):
                chosen, kind = Sampling(section.scheduler), model.denoiser.kind
                arguments["scheduler"] = make_scheduler(chosen, model.scheduler_config, kind)
    if "cond_dropout" in options_of(method):
        arguments["cond_dropout"] = training.conditioning_dropout_prob
    with one_line_errors(f"objective {section.name}"):
        objective = method(schedule, times, **arguments)
        objective.check_run(facts)
    return objective


OF_TIMES = ("mean", "std", "history", "uniform_prob")
"""Of section training, `timestep_` and these are options of a sampler of times."""


def make_student(model: Model, objective: Objective) -> None:
    """What the objective asks of the network: boundary, input for the guidance scale."""
    model.denoiser.boundary = objective.boundary
    if objective.boundary == "ddim" and model.vae is not None:
        raise UserError(
            "objective.boundary ddim is for pixels: a latent model is saved in its pipeline, whose "
            "LCMScheduler draws by the boundary lcm - set objective.boundary=lcm"
        )
    if objective.needs_guidance_input:
        with one_line_errors("objective.guidance_embedding"):
            model.denoiser.network = with_guidance_embedding(model.denoiser.network)


def check_samplers(config: RunConfig, model: Model) -> None:
    """Refuses a schedule or a sampler that would draw a known Gaussian wrongly; the network is not
    called.

    Those are the sampler of the run's grids, that of the objective, and the one that a model
    trained from scratch is saved with, since plain diffusers draws with that.
    """
    if config.model.pretrained_model_name_or_path is None:
        check_ends_in_noise(model.denoiser.schedule)
        if model.denoiser.boundary is None:
            advice = "take num_train_timesteps=1000, the time that the network sees at pure noise"
            _check_sampler(model, "model.scheduler", None, N_STEPS_OF_DIFFUSERS, advice)
    with named("sampling"):
        check_sampling(model, config.sampling.settings)
    section = config.objective
    if section.method.needs_scheduler:
        name, n_steps = section.scheduler, section.num_inference_steps
        _check_sampler(model, "objective.scheduler", name, n_steps)


def _check_sampler(
    model: Model, place: str, name: str | None, n_steps: int, advice: str | None = None
) -> None:
    schedule, kind = model.denoiser.schedule, model.denoiser.kind
    if isinstance(schedule, VPSchedule):
        n_steps = min(n_steps, schedule.n_train_timesteps)
    with named(place):
        check_sampler(Sampling(name, n_steps), model.scheduler_config, kind, advice=advice)


@contextmanager
def named(place: str) -> Iterator[None]:
    """Errors become one line that begins with the place in the config."""
    try:
        yield
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{place}: {' '.join(str(error).split())}") from error


def spare_memory(config: RunConfig, model: Model, teacher: Denoiser | None) -> None:
    """What training holds in memory, as `training` asks.

    With gradient_checkpointing the blocks of the network, and of a decoder that is trained through,
    are computed again on the way back. With LoRA and mixed_precision bf16 all that never learns is
    held in bfloat16: the base's weights, the VAE, the text encoders and the teacher. LoRA's own
    weights stay float32; so does everything under fp16, where XL's VAE would overflow.
    """
    network: Any = model.denoiser.network
    vae: Any = model.vae
    if config.training.gradient_checkpointing:
        if not getattr(network, "_supports_gradient_checkpointing", False):
            raise UserError(
                f"training.gradient_checkpointing: {type(network).__name__} cannot, set it to false"
            )
        network.enable_gradient_checkpointing()
        if vae is not None:
            vae.enable_gradient_checkpointing()
    if config.model.lora is None or config.training.mixed_precision != "bf16":
        return
    for part in (network, vae, model.text, teacher):
        for parameter in () if part is None else part.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    if model.text is not None:
        model.denoiser.null_condition = model.text.null()
