"""The network and the scheduler that a config describes, and whether the network takes the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..config.schema import RunConfig
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..diffusion.randomness import derive_seed
from ..diffusion.schedules import Schedule, check_numbers
from ..support.errors import UserError, did_you_mean, one_line_errors
from ..support.user_code import load_from_file
from .network_sizes import check_sides, trial

Shape = tuple[int, ...]
MOST_PARAMETERS_TRIED = 2**24
"""Of a network that is built once more with memory, only to see whether it takes a size."""
_OF_DIFFUSERS = ("_diffusers_version", "_name_or_path", "_use_default_values", "_commit_hash")
"""What diffusers writes into its config files beside the arguments."""


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
