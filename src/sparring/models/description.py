"""What model.json says of a model, and what diffusers is told of it: classes and schedulers."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor, nn

from .. import __version__
from ..diffusion.denoiser import unwrapped
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..diffusion.precision import WORDS
from ..diffusion.schedules import betas_of
from ..options.value_types import VP_SCHEDULERS
from ..support.errors import UserError
from . import networks
from .lora import lora_config
from .model import Model

_WORDS = {kind: word for word, kind in DIFFUSERS_KINDS.items()}
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Schedules of betas that each scheduler class of diffusers knows."""


def describe(model: Model, base: str | None = None) -> dict[str, Any]:
    """What model.json holds: all that is needed to build the model without its weights.

    `base` is the pipeline that a latent model started from, a path or a hub name: the parts that
    are not trained come from there, and the null condition from its text encoder. UserError if the
    network does not say how it is built (an attribute `config` of its constructor's arguments).
    """
    denoiser, shape = model.denoiser, model.sample_shape
    null = denoiser.null_condition
    if base is not None:
        tables = ("encoder_hidden_states", "pooled_projections", "added_cond_kwargs")
        null = {name: value for name, value in null.items() if name not in tables}
    nested = [name for name, value in null.items() if isinstance(value, Mapping)]
    if nested:
        raise UserError(f"a nested null condition cannot be saved: {', '.join(nested)}")
    return {
        "format": 1,
        "sparring": __version__,
        "network": _network_config(unwrapped(denoiser.network), shape),
        "kind": denoiser.kind,
        "learned_variance": denoiser.learned_variance,
        "boundary": denoiser.boundary,
        "autocast": "no" if denoiser.autocast is None else WORDS[denoiser.autocast],
        "sample_shape": list(shape),
        "num_classes": model.num_classes,
        "class_names": list(model.class_names),
        "absent_classes": list(model.absent_classes),
        "null_condition": {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in null.items()
            if not is_table(value)
        },
        "scheduler": dict(model.scheduler_config)
        if base is not None
        else _saved_scheduler(model.scheduler_config, denoiser.kind, clips=len(shape) == 3),
        "base": base,
        "lora": lora_config(unwrapped(denoiser.network)),
    }


def _network_config(network: nn.Module, sample_shape: tuple[int, ...]) -> dict[str, Any]:
    """The arguments that build a network, with the size of what it draws, where diffusers looks."""
    name = type(network).__name__
    config = getattr(network, "config", None)
    if not isinstance(config, Mapping):
        advice = "give it an attribute `config`, a mapping of its constructor's arguments"
        raise UserError(f"{name} cannot be saved: {advice}")
    if isinstance(network, ModelMixin):
        kept = json.loads(network.to_json_string())
        if "UNet" in name and "sample_size" in kept and len(sample_shape) == 3:
            _, *side = sample_shape
            kept["sample_size"] = side[0] if side[0] == side[1] else side
        return {key: value for key, value in kept.items() if key != "_name_or_path"}
    known = getattr(networks, name, None) is type(network)
    file = None if known else inspect.getsourcefile(type(network))
    return {"_class_name": name if file is None else f"{Path(file).resolve()}:{name}", **config}


def component_of(class_name: str) -> str | None:
    """Where a network of diffusers lies in a pipeline folder; None for other networks."""
    if ".py:" in class_name or not hasattr(diffusers, class_name):
        return None
    return "unet" if class_name.startswith("UNet") else "transformer"


def is_table(null: Any) -> bool:
    return isinstance(null, Tensor) and null.numel() > 1


def plain_pipeline(description: Mapping[str, Any]) -> str | None:
    """diffusers' own pipeline that samples this model rightly, or None."""
    scheduler = description["scheduler"]["_class_name"]
    is_plain = (
        description["network"]["_class_name"] == "UNet2DModel"
        and description["num_classes"] is None
        and description["kind"] in ("eps", "x0", "v", "flow")
        and description["boundary"] != "ddim"
        and not description["learned_variance"]
    )
    if not is_plain:
        return None
    if scheduler == "DDIMScheduler" and not samples_with_lcm(description):
        return "DDIMPipeline"
    # DDPMPipeline only calls set_timesteps and step, which is all that flow needs too
    by_steps = scheduler in ("DDPMScheduler", "FlowMatchEulerDiscreteScheduler")
    return "DDPMPipeline" if by_steps or samples_with_lcm(description) else None


def _saved_scheduler(
    config: Mapping[str, Any], kind: str, *, clips: bool = False
) -> dict[str, Any]:
    """Every value of the scheduler that a model of this kind was trained with; what only sampling
    reads is as `sample` has it, which `clips` its estimate of x0, where it can."""
    words = {key: value for key, value in config.items() if not key.startswith("_")}
    cls = getattr(diffusers, config.get("_class_name") or "DDPMScheduler")
    parameters = inspect.signature(cls.__init__).parameters
    if kind in _WORDS and kind != "flow" and "prediction_type" in parameters:
        words["prediction_type"] = _WORDS[kind]
    words |= {"timestep_spacing": "trailing", "set_alpha_to_one": True, "thresholding": False}
    words["clip_sample"] = clips and kind in ("eps", "x0", "v")
    if words.get("beta_schedule", "linear") not in _BETAS:  # as numbers, which every class takes
        words["trained_betas"] = betas_of(config)
    if "beta_start" in parameters and words.get("trained_betas") is None:
        # classes differ in their defaults; a schedule without numbers means DDPM's
        words = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", **words}
    scheduler = cls(**{key: value for key, value in words.items() if key in parameters})
    return json.loads(scheduler.to_json_string())


def samples_with_lcm(description: Mapping[str, Any]) -> bool:
    """Whether a model is a consistency model that diffusers' LCMScheduler samples."""
    is_vp = description["scheduler"]["_class_name"] in VP_SCHEDULERS
    is_known = is_vp and description["kind"] in _WORDS and not description["learned_variance"]
    return description["boundary"] == "lcm" and is_known


def sampling_scheduler(description: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own scheduler, or LCMScheduler on the same noise schedule."""
    if not samples_with_lcm(description):
        return description["scheduler"]
    config = _saved_scheduler(description["scheduler"], description["kind"])
    known = inspect.signature(LCMScheduler.__init__).parameters
    words = {key: value for key, value in config.items() if key in known}
    own = {"timestep_spacing": "leading", "clip_sample": False}  # as LCM's pipelines have it
    own["original_inference_steps"] = min(50, config["num_train_timesteps"])
    return json.loads(LCMScheduler(**{**words, **own}).to_json_string())
