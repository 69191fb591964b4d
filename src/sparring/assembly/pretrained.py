"""Trained models that a run starts from or learns from, and whether they go with its data."""

from collections.abc import Mapping
from typing import Any

import torch

from ..config.schema import RunConfig
from ..diffusion.denoiser import Denoiser
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..models.latents import latent_shape
from ..models.lora import add_lora, lora_config, merge_lora
from ..models.pretrained import Model, load
from ..support.errors import UserError
from .network import Shape


def build_teacher(config: RunConfig, student: Model) -> Denoiser | None:
    """The teacher of `objective.teacher`, by default the model that the student starts from."""
    if not config.objective.method.needs_teacher:
        return None
    name = config.objective.teacher or config.model.pretrained_model_name_or_path
    if name is None:
        raise UserError(
            "objective.teacher is missing: name a trained model, or start from one with "
            "model.pretrained_model_name_or_path"
        )
    model = load(name)
    model.resize(student.sample_shape)
    teacher, u = model.denoiser, torch.linspace(0.01, 0.99, 50)
    own, its = (one.schedule.ratio(one.schedule.times(u)) for one in (student.denoiser, teacher))
    if not torch.allclose(own, its):
        raise UserError(f"objective.teacher {name} was trained on another noise schedule")
    if teacher.boundary is not None:
        raise UserError(f"objective.teacher {name} is a consistency model: name a diffusion model")
    return teacher


def check_no_lora(name: str, found: Mapping[str, Any] | None) -> None:
    """Refuse to put LoRA on a model that has it already; `found` says so."""
    if found is not None:
        raise UserError(
            f"{name} holds LoRA weights already: start from the pipeline it started from, or "
            "set model.lora to null to train the whole network, with these weights merged"
        )


def pretrained_model(config: RunConfig, sample_shape: Shape, num_classes: int | None) -> Model:
    """The model that a run starts from, as its config wants it; see `build.build_model`."""
    name = str(config.model.pretrained_model_name_or_path)
    model = load(name)
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
