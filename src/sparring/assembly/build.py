"""From settings to objects: data, denoiser, objective. The objects take plain arguments only.

run = resolve("configs/digits.yaml")
dataset = build_dataset(run)
denoiser, scheduler_config = build_denoiser(run, dataset.sample_shape, dataset.num_classes)
objective = build_objective(run, denoiser.schedule)
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..config.schema import RunConfig
from ..data.base import ModelRange
from ..data.dirt.contaminated import check_contamination, training_data
from ..diffusion.denoiser import Denoiser
from ..diffusion.guidance import with_guidance_embedding
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..diffusion.randomness import derive_seed
from ..diffusion.schedules import (
    Schedule,
    VPSchedule,
    check_numbers,
    kind_from_config,
    schedule_from_config,
)
from ..models.latents import latent_shape
from ..models.lora import add_lora, lora_config, merge_lora
from ..objectives import TIMES, Objective
from ..objectives.base import RunFacts
from ..options.sections import options_of
from ..sampling.known_answer import check_ends_in_noise, check_sampler
from ..sampling.sample import check_sampling
from ..sampling.schedulers import make_scheduler
from ..sampling.settings import Sampling
from ..support.errors import UserError, did_you_mean
from ..support.user_code import load_from_file
from .network_sizes import check_sides, trial

if TYPE_CHECKING:
    from ..models.pretrained import Model

Shape = tuple[int, ...]
MOST_PARAMETERS_TRIED = 2**24
"""Of a network that is built once more with memory, only to see whether it takes a size."""
N_STEPS_OF_DIFFUSERS = 50
"""What its pipelines take where nobody says."""


@contextmanager
def one_line_errors(
    place: str, kinds: tuple[type[Exception], ...] = (ValueError, TypeError, NotImplementedError)
) -> Iterator[None]:
    """What a constructor refuses becomes one line that names the place in the config."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(reason if place in reason else f"{place}: {reason}") from error


def build_dataset(config: RunConfig) -> ModelRange:
    """The training data: contaminated, in the model's range."""
    contamination = config.contamination.model_dump(exclude_none=True)
    with one_line_errors("contamination"):
        check_contamination(contamination)
    with one_line_errors("data"):
        return training_data(config.data.model_dump(exclude_none=True), contamination)


def build_network(config: RunConfig, sample_shape: Shape, num_classes: int | None) -> nn.Module:
    """The network of `model.network`; what it leaves out and the data know is filled in.

    Weights follow from training.seed.

    Args:
        config: The run.
        sample_shape: (C, H, W) of an image or (d,) of a vector.
        num_classes: Classes of the data, used where model.class_conditional is true.

    Raises:
        UserError: for an unknown class or argument (the nearest one is named), or a number of
            channels that is not the data's.
    """
    words = dict(config.model.network or {})
    name = words.pop("_class_name")
    words = _own_words(words)
    build = _network_class(name)
    known = _arguments(build)
    if known is not None:
        for key in words:
            if key not in known:
                raise UserError(f"unknown key 'model.network.{key}'{did_you_mean(key, known)}")
        for key, value in _from_data(config, sample_shape, num_classes).items():
            if key in known and words.get(key) is None:
                words[key] = value
    _check_sizes(words, config, sample_shape, num_classes)
    if name == "DiTTransformer2DModel" and len({*sample_shape[1:]}) > 1:
        _, height, width = sample_shape
        raise UserError(
            f"model.network: {name} makes square images, the data are {width}x{height}: set "
            "data.resolution"
        )
    # whatever a class of diffusers, or the user's own, makes of wrong arguments
    with (
        one_line_errors(f"model.network ({name})", (Exception,)),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(derive_seed(config.training.seed, "weights"))
        return build(**words)


def build_denoiser(
    config: RunConfig, sample_shape: Shape, num_classes: int | None
) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser to train, and the diffusers config of the scheduler it is trained with.

    Raises:
        UserError: see `build_model`.
    """
    model = build_model(config, sample_shape, num_classes)
    return model.denoiser, model.scheduler_config


def build_model(config: RunConfig, sample_shape: Shape, num_classes: int | None) -> Model:
    """The model to train, with the parts around it that are not trained: VAE and text encoder.

    Args:
        config: The run.
        sample_shape: Shape of the data; a latent model's own is that of the images' latents.
        num_classes: Classes of the data, used where model.class_conditional is true.

    Raises:
        UserError: if the config, the data and a pretrained model do not go together.
    """
    from ..models.pretrained import Model

    if not config.model.class_conditional:
        num_classes = None
    elif num_classes is None:
        raise UserError(
            f"model.class_conditional needs labels, and {config.data.name} has none: "
            "set data.label_column, or class_conditional to false"
        )
    if config.model.pretrained_model_name_or_path is not None:
        return _pretrained(config, sample_shape, num_classes)
    scheduler = scheduler_config(config)
    with one_line_errors("model.scheduler", (Exception,)):
        schedule, kind = schedule_from_config(scheduler), kind_from_config(scheduler)
    check_network(config, sample_shape, num_classes, schedule, kind)
    network = build_network(config, sample_shape, num_classes)
    drops = config.training.conditioning_dropout_prob > 0
    null = {"class_labels": num_classes} if num_classes is not None and drops else None
    with one_line_errors("model"):
        denoiser = Denoiser(
            network,
            schedule,
            kind,
            learned_variance=bool(config.model.learned_variance),
            null_condition=null,
        )
    return Model(denoiser, scheduler, sample_shape, num_classes, source=config.data.name)


def check_network(
    config: RunConfig, sample_shape: Shape, num_classes: int | None, schedule: Schedule, kind: str
) -> None:
    """Refuses samples that the network of `model.network` does not take, before anything starts.

    Raises:
        UserError: one line with the nearest sizes that it takes.
    """
    condition = {} if num_classes is None else {"class_labels": torch.zeros(1, dtype=torch.long)}
    n_outputs = 2 if config.model.learned_variance else 1

    def build(shape: Shape) -> nn.Module:
        return build_network(config, shape, num_classes)

    try:
        with torch.device("meta"):
            n_parameters = sum(weight.numel() for weight in build(sample_shape).parameters())
    except UserError:  # `meta` will say so
        n_parameters = 0
    meta, real = (
        trial(build, schedule, kind, condition, n_outputs, device) for device in ("meta", "cpu")
    )
    real = real if n_parameters <= MOST_PARAMETERS_TRIED else None
    name = (config.model.network or {})["_class_name"]
    check_sides(meta, real, sample_shape, f"model.network ({name})")


def scheduler_config(config: RunConfig) -> dict[str, Any]:
    """`model.scheduler` with every value written out, as diffusers saves it.

    Raises:
        UserError: for an argument that the scheduler's class does not have; the nearest is named.
    """
    import diffusers

    words = dict(config.model.scheduler or {})
    name = words.pop("_class_name")
    build = getattr(diffusers, name)
    known = _arguments(build) or []
    words = _own_words(words)
    for key in words:
        if key not in known:
            raise UserError(f"unknown key 'model.scheduler.{key}'{did_you_mean(key, known)}")
    if config.model.prediction_type in DIFFUSERS_KINDS and "prediction_type" in known:
        words["prediction_type"] = config.model.prediction_type
    if config.model.learned_variance and "variance_type" in known:
        words.setdefault("variance_type", "learned_range")
    with one_line_errors(f"model.scheduler ({name})", (Exception,)):
        check_numbers(words)
        return {"_class_name": name} | _plain(dict(build(**words).config))


def build_objective(config: RunConfig, schedule: Schedule, model: Model | None = None) -> Objective:
    """The objective with its leaves and its sampler of times.

    Args:
        config: The run.
        schedule: The model's.
        model: Who learns; it says how the scheduler of a trained path is built. Without, the
            objective is good for looking at, not for training.

    Raises:
        UserError: for a value or a run that it refuses.
    """
    training = config.training
    given = {
        "mean": training.timestep_mean,
        "std": training.timestep_std,
        "history": training.timestep_history,
        "uniform_prob": training.timestep_uniform_prob,
    }
    with one_line_errors(f"training.timestep_sampling {training.timestep_sampling}"):
        sampler = cast(Any, TIMES[training.timestep_sampling])
        options = {key: value for key, value in given.items() if value is not None}
        for key in options.keys() - options_of(sampler).keys():
            raise ValueError(f"takes no timestep_{key}")
        times = sampler(schedule, **options)
    section, method = config.objective, config.objective.method
    arguments = {key: getattr(section, key) for key in section.arguments}
    facts = _facts_of(config, model)
    for key, of_run in method.of_the_run.items():
        if arguments.get(key, 0) is None:
            arguments[key] = of_run(facts)
    if method.needs_scheduler:
        arguments["scheduler"] = _scheduler_of(config, model)
    if "cond_dropout" in options_of(method):
        arguments["cond_dropout"] = training.conditioning_dropout_prob
    with one_line_errors(f"objective {section.name}"):
        objective = method(schedule, times, **arguments)
        objective.check_run(facts)
    return objective


def _facts_of(config: RunConfig, model: Model | None) -> RunFacts:
    facts = RunFacts(
        n_steps=config.training.max_train_steps,
        n_rows=config.training.train_batch_size,
        has_lora=config.model.lora is not None,
    )
    if model is None:
        return facts
    return dataclasses.replace(
        facts,
        has_condition=model.text is not None or model.num_classes is not None,
        has_null_condition=bool(model.denoiser.null_condition),
    )


def make_student(model: Model, objective: Objective) -> None:
    """What the objective asks of the network: boundary, input for the guidance scale.

    Raises:
        UserError: if the network cannot be told the guidance scale, or if the pipeline that a
            latent model is saved in could not draw it.
    """
    model.denoiser.boundary = objective.boundary
    if objective.boundary == "ddim" and model.vae is not None:
        raise UserError(
            "objective.boundary ddim is for pixels: a latent model is saved in its pipeline, whose "
            "LCMScheduler draws by the boundary lcm - set objective.boundary=lcm"
        )
    if not objective.needs_guidance_input:
        return
    with one_line_errors("objective.guidance_embedding"):
        model.denoiser.network = with_guidance_embedding(model.denoiser.network)


def check_samplers(config: RunConfig, model: Model) -> None:
    """Refuses a schedule or a sampler that would draw a known Gaussian wrongly.

    Those are the sampler of the run's grids, that of the objective, and the one that a model
    trained from scratch is saved with, since plain diffusers draws with that.

    Args:
        config: The run.
        model: Its network is not called, so it may be without memory.

    Raises:
        UserError: one line that names the section and what works.
    """
    if config.model.pretrained_model_name_or_path is None:
        check_ends_in_noise(model.denoiser.schedule)
        if model.denoiser.boundary is None:
            advice = "take num_train_timesteps=1000, the time that the network sees at pure noise"
            _check_sampler(model, "model.scheduler", None, N_STEPS_OF_DIFFUSERS, advice)
    with _named("sampling"):
        check_sampling(model, config.sampling.settings)
    section = config.objective
    if section.method.needs_scheduler:
        name, n_steps = section.scheduler, section.num_inference_steps
        _check_sampler(model, "objective.scheduler", name, n_steps)


def _check_sampler(
    model: Model, place: str, name: str | None, n_steps: int, advice: str | None = None
) -> None:
    denoiser = model.denoiser
    if isinstance(denoiser.schedule, VPSchedule):
        n_steps = min(n_steps, denoiser.schedule.n_train_timesteps)
    with _named(place):
        chosen = Sampling(name, n_steps)
        check_sampler(chosen, model.scheduler_config, denoiser.kind, advice=advice)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Errors become one line that begins with the place in the config."""
    try:
        yield
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{place}: {' '.join(str(error).split())}") from error


def spare_memory(config: RunConfig, model: Model, teacher: Denoiser | None) -> None:
    """What training holds in memory, as `training` asks.

    With gradient_checkpointing the blocks of the network, and of a decoder that is trained through,
    are computed again on the way back. With LoRA
    and mixed_precision bf16 all that never learns is held in bfloat16: the base's weights, the VAE,
    the text encoders and the teacher. LoRA's own weights stay float32; so does everything under
    fp16, where XL's VAE would overflow.

    Raises:
        UserError: if the network knows no gradient checkpointing.
    """
    network: Any = model.denoiser.network
    if config.training.gradient_checkpointing:
        if not getattr(network, "_supports_gradient_checkpointing", False):
            raise UserError(
                f"training.gradient_checkpointing: {type(network).__name__} cannot, set it to false"
            )
        vae: Any = model.vae
        for part in (network, vae):
            if part is not None:
                part.enable_gradient_checkpointing()
    if config.model.lora is None or config.training.mixed_precision != "bf16":
        return
    for part in (network, model.vae, model.text, teacher):
        for parameter in () if part is None else part.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    if model.text is not None:
        model.denoiser.null_condition = model.text.null()


def build_teacher(config: RunConfig, student: Model) -> Denoiser | None:
    """The teacher of `objective.teacher`, by default the model that the student starts from.

    Raises:
        UserError: if an objective that needs one is told none, or it does not go with the student.
    """
    if not config.objective.method.needs_teacher:
        return None
    name = config.objective.teacher or config.model.pretrained_model_name_or_path
    if name is None:
        raise UserError(
            "objective.teacher is missing: name a trained model, or start from one with "
            "model.pretrained_model_name_or_path"
        )
    from ..models import pretrained

    model = pretrained.load(name)
    model.resize(student.sample_shape)
    teacher, u = model.denoiser, torch.linspace(0.01, 0.99, 50)
    schedules = (student.denoiser.schedule, teacher.schedule)
    own, its = (schedule.ratio(schedule.times(u)) for schedule in schedules)
    if not torch.allclose(own, its):
        raise UserError(f"objective.teacher {name} was trained on another noise schedule")
    if teacher.boundary is not None:
        raise UserError(f"objective.teacher {name} is a consistency model: name a diffusion model")
    return teacher


def _scheduler_of(config: RunConfig, model: Model | None) -> Any:
    """The scheduler whose path is trained; None for the objective's own, its name without a model.

    Raises:
        UserError: for a sampler of another family.
    """
    name = config.objective.scheduler
    if name is None or model is None:
        return name
    with one_line_errors("objective.scheduler"):
        return make_scheduler(Sampling(name), model.scheduler_config, model.denoiser.kind)


def check_no_lora(name: str, found: Mapping[str, Any] | None) -> None:
    """Refuse to put LoRA on a model that has it already; `found` says so."""
    if found is not None:
        raise UserError(
            f"{name} holds LoRA weights already: start from the pipeline it started from, or "
            "set model.lora to null to train the whole network, with these weights merged"
        )


def _pretrained(config: RunConfig, sample_shape: Shape, num_classes: int | None) -> Model:
    from ..models import pretrained

    name = str(config.model.pretrained_model_name_or_path)
    model = pretrained.load(name)
    if (found := lora_config(model.denoiser.network)) is not None:
        if config.model.lora is not None:
            check_no_lora(name, found)
        merge_lora(model.denoiser.network)
    if model.vae is not None:
        sample_shape = latent_shape(model.vae, sample_shape)
        model.resize(sample_shape)
    if tuple(model.sample_shape) != tuple(sample_shape):
        raise UserError(
            f"{name} makes samples of shape {tuple(model.sample_shape)} but the data are "
            f"{tuple(sample_shape)}: set data.resolution and data.n_channels, or take another"
        )
    if (model.num_classes is None) != (num_classes is None):
        has = "has no classes" if model.num_classes is None else f"has {model.num_classes} classes"
        raise UserError(f"{name} {has}: set model.class_conditional accordingly")
    if num_classes is not None and model.num_classes != num_classes:
        raise UserError(f"{name} has {model.num_classes} classes, the data have {num_classes}")
    wanted, own = config.model.prediction_type, model.denoiser.kind
    if wanted is not None and DIFFUSERS_KINDS.get(wanted, wanted) != own:
        raise UserError(
            f"{name} was trained with prediction type {own}: leave model.prediction_type out (null)"
        )
    learned = config.model.learned_variance
    if learned is not None and learned != model.denoiser.learned_variance:
        raise UserError(f"{name}: learned_variance is {not learned}; leave it out (null)")
    drops = config.training.conditioning_dropout_prob > 0
    if drops and num_classes is not None and not model.denoiser.null_condition:
        raise UserError(f"{name} has no null class: set training.conditioning_dropout_prob to 0")
    if config.model.lora is None:
        model.denoiser.requires_grad_(True)
    elif model.text is None:
        raise UserError(
            f"model.lora adapts Stable Diffusion 1.x, 2.x, XL and 3, and {name} is none of them"
        )
    else:
        words = config.model.lora.model_dump()
        add_lora(model.denoiser.network, **words, seed=config.training.seed)
    return model


def _network_class(name: str) -> Callable[..., nn.Module]:
    import diffusers

    from ..models import networks

    if ".py:" in name:
        return load_from_file(name, "model.network")
    own = getattr(networks, name, None)
    if inspect.isclass(own) and issubclass(own, nn.Module):
        return own
    found = getattr(diffusers, name, None) if name in dir(diffusers) else None
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        known = ["MLP", *(one for one in dir(diffusers) if one.endswith("Model"))]
        hint = did_you_mean(name, known)
        hint = hint if "did you mean" in hint else " (a model class of diffusers, or MLP)"
        raise UserError(f"model.network._class_name: unknown network {name!r}{hint}")
    return found


_OF_DIFFUSERS = ("_diffusers_version", "_name_or_path", "_use_default_values", "_commit_hash")
"""What diffusers writes into its config files beside the arguments."""


def _own_words(words: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in words.items() if key not in _OF_DIFFUSERS}


def _from_data(config: RunConfig, shape: Shape, num_classes: int | None) -> dict[str, Any]:
    """What the data know about a network, in the words of every network class."""
    known: dict[str, Any] = {}
    if len(shape) == 1:
        known["dim"] = shape[0]
    else:
        n_out = shape[0] * (2 if config.model.learned_variance else 1)
        known |= {"in_channels": shape[0], "out_channels": n_out, "sample_size": shape[-1]}
    if num_classes is not None:
        n_labels = num_classes + (config.training.conditioning_dropout_prob > 0)
        known |= {"num_class_embeds": n_labels, "num_classes": n_labels}
        known["num_embeds_ada_norm"] = num_classes  # DiT adds the null class itself
    return known


def _check_sizes(
    words: Mapping[str, Any], config: RunConfig, shape: Shape, num_classes: int | None
) -> None:
    """The sizes that a config states must be the data's."""
    expected = _from_data(config, shape, num_classes)
    told = {
        "dim": f"the data have {shape[0]} dimensions",
        "in_channels": f"the images have {shape[0]} channel(s)",
        "out_channels": f"the images have {shape[0]} channel(s)"
        + (", and a learned variance doubles them" if config.model.learned_variance else ""),
    }
    for key, reason in told.items():
        if words.get(key) is not None and words[key] != expected.get(key, words[key]):
            raise UserError(
                f"model.network.{key} is {words[key]} but {reason}: it must be {expected[key]}, "
                "or leave it out"
            )
    for key in ("num_class_embeds", "num_classes"):
        stated, needed = words.get(key), expected.get(key)
        if stated is not None and needed is None:
            raise UserError(f"model.network.{key} is set: set model.class_conditional to true too")
        if stated is not None and needed is not None and stated < needed:
            raise UserError(
                f"model.network.{key} is {stated} but needs {needed}: {num_classes} classes"
                + (" and the null class" if needed > (num_classes or 0) else "")
            )


def _arguments(build: Callable[..., Any]) -> list[str] | None:
    """Names of the arguments, None where any name is taken."""
    parameters = inspect.signature(build).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        own = inspect.isclass(build) and not hasattr(build, "ignore_for_config")
        return None if own else [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return [parameter.name for parameter in parameters]


def _plain(value: Any) -> Any:
    """A config as YAML and JSON can hold it."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items() if not str(key).startswith("_use_")}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value
