"""The network and the scheduler that a config describes, and whether the network takes the data.

A U-Net halves the sides once a level and a transformer cuts them into patches; a side that does not
come out even ends in a traceback of shapes, or in samples of another size. So the network is built
on torch's device "meta", called once, and its answer must have the shape of the data.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..config.schema import RunConfig
from ..diffusion.denoiser import Denoiser
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..diffusion.randomness import derive_seed
from ..diffusion.schedules import Schedule, check_numbers
from ..support.errors import UserError, did_you_mean, nearest, one_line_errors
from ..support.user_code import load_from_file

Shape = tuple[int, ...]
Trial = Callable[[Shape], str | UserError | None]
"""Shape of a sample -> why the network does not take it; None: it does."""
MOST_PARAMETERS_TRIED = 2**24
"""Of a network that is built once more with memory, only to see whether it takes a size."""
N_ALIKE = 6  # sizes that are tried before a reason that does not change is believed
_STEPS = (*range(2, 17), 20, 24, 28, 32, 48, 64, 96, 128)  # of what sides may have to be multiples
_OF_DIFFUSERS = ("_diffusers_version", "_name_or_path", "_use_default_values", "_commit_hash")
"""What diffusers writes into its config files beside the arguments."""


def build_network(config: RunConfig, sample_shape: Shape, num_classes: int | None) -> nn.Module:
    """The network of `model.network`; what it leaves out and the data know is filled in.

    Weights follow from training.seed. Shape is (C, H, W) of an image or (d,) of a vector; classes
    are those of the data, used where model.class_conditional is true.
    """
    name, words = _name_and_words(config.model.network)
    build = _network_class(name)
    known = _arguments(build)
    if known is not None:
        _check_known("model.network", words, known)
        for key, value in _from_data(config, sample_shape, num_classes).items():
            if key in known and words.get(key) is None:
                words[key] = value
    _check_sizes(words, config, sample_shape, num_classes)
    if name == "DiTTransformer2DModel" and len({*sample_shape[1:]}) > 1:
        raise UserError(
            f"model.network: {name} makes square images, the data are {_x(sample_shape[:0:-1])}: "
            "set data.resolution"
        )
    # whatever a class of diffusers, or the user's own, makes of wrong arguments
    place = one_line_errors(f"model.network ({name})", (Exception,))
    with place, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "weights"))
        return build(**words)


def check_network(
    config: RunConfig, sample_shape: Shape, num_classes: int | None, schedule: Schedule, kind: str
) -> None:
    """Refuses samples that the network of `model.network` does not take, before anything starts."""
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
    name, _ = _name_and_words(config.model.network)
    check_sides(meta, real, sample_shape, f"model.network ({name})")


def scheduler_config(config: RunConfig) -> dict[str, Any]:
    """`model.scheduler` with every value written out, as diffusers saves it."""
    import diffusers

    name, words = _name_and_words(config.model.scheduler)
    build = getattr(diffusers, name)
    known = _arguments(build) or []
    _check_known("model.scheduler", words, known)
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
    known = [one for one in dir(diffusers) if one.endswith("Model")]
    own = getattr(networks, name, None)
    for found in (own, getattr(diffusers, name, None) if name in dir(diffusers) else None):
        if inspect.isclass(found) and issubclass(found, nn.Module):
            return found
    hint = nearest(name, ["MLP", *known]) or " (a model class of diffusers, or MLP)"
    raise UserError(f"model.network._class_name: unknown network {name!r}{hint}")


def _name_and_words(described: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """The class and the arguments of a network or scheduler."""
    words = {key: value for key, value in (described or {}).items() if key not in _OF_DIFFUSERS}
    return words.pop("_class_name"), words


def _check_known(place: str, words: Mapping[str, Any], known: list[str]) -> None:
    for key in words:
        if key not in known:
            raise UserError(f"unknown key '{place}.{key}'{did_you_mean(key, known)}")


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
    doubled = ", and a learned variance doubles them" if config.model.learned_variance else ""
    told = {
        "dim": f"the data have {shape[0]} dimensions",
        "in_channels": f"the images have {shape[0]} channel(s)",
        "out_channels": f"the images have {shape[0]} channel(s){doubled}",
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
    named = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    takes_any = inspect.isclass(build) and not hasattr(build, "ignore_for_config")
    return None if len(named) < len(parameters) and takes_any else named


def _plain(value: Any) -> Any:
    """A config as YAML and JSON can hold it."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items() if not str(key).startswith("_use_")}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def trial(
    build: Callable[[Shape], nn.Module],
    schedule: Schedule,
    kind: str,
    condition: Mapping[str, Tensor],
    n_outputs: int = 1,
    device: str = "meta",
) -> Trial:
    """One call, as training makes it, of a network that is built for the occasion.

    The condition has one row; `n_outputs` is 2 for a learned variance, whose output has twice the
    channels. The device is "meta", or "cpu" for networks that look at numbers.
    """

    def answer(shape: Shape) -> str | UserError | None:
        expected = (1, n_outputs * shape[0], *shape[1:])
        t = schedule.times(torch.tensor([0.5])).to(device)
        own = {name: value.to(device) for name, value in condition.items()}
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device(device):
                denoiser = Denoiser(build(shape).eval(), schedule, kind)
                came = tuple(denoiser.output(torch.zeros(1, *shape), t, **own).shape)
        except UserError as error:  # its constructor does not take such a side, or anything else
            return error
        except Exception as error:  # whatever a network makes of a shape
            return " ".join(str(error).split()) or type(error).__name__
        return None if came == expected else f"it answers with {_x(came[1:])}"

    return answer


def check_sides(meta: Trial, real: Trial | None, shape: Shape, place: str) -> None:
    """Refuses samples that the network does not take, with the nearest that it does.

    The call with memory has the last word where the network takes no other shape without. None: the
    network is too large for that, and the answer without memory counts unless it is about the
    missing memory.
    """
    reason = meta(shape)
    if reason is None:
        return
    near = near_shapes(meta, shape)
    if not near and isinstance(reason, UserError):
        raise reason
    if not near and real is None and "meta" in str(reason).lower():
        return
    if not near and real is not None:
        reason = real(shape)
        if reason is None:
            return
        near = near_shapes(real, shape)
    what = f"{'vectors' if len(shape) == 1 else 'images'} of {_x(shape[:0:-1] or shape)}"
    if not near:
        raise UserError(f"{place} does not take {what}: {reason}")
    if all(len(set(one[1:])) == 1 for one in (shape, *near)):
        words = "data.resolution " + " or ".join(str(one[-1]) for one in near)
    else:
        words = " or ".join(_x(one[:0:-1]) for one in near) + " (width x height)"
    if isinstance(reason, UserError):
        raise UserError(f"{reason}; the nearest that it takes: {words}")
    raise UserError(f"{place} does not take {what}, which do not come out even: use {words}")


def near_shapes(fits: Trial, shape: Shape) -> list[Shape]:
    """The nearest smaller and larger shapes that fit, of sides that are multiples of one number.
    A network that gives one and the same reason for `N_ALIKE` sizes does not mind the size."""
    if len(shape) != 3:
        return []
    found: list[Shape] = []
    reasons: dict[Shape, str] = {}

    def is_taken(one: Shape) -> bool:
        if one not in reasons:
            reasons[one] = str(fits(one) or "")
        return not reasons[one]

    for step in _STEPS:
        below = tuple(side // step * step for side in shape[1:])
        above = tuple(-(-side // step) * step for side in shape[1:])
        pair = [(shape[0], *one) for one in (below, above) if min(one) > 0 and one != shape[1:]]
        fitting = [one for one in pair if is_taken(one)]
        if len(fitting) == 2 or (len(fitting) == 1 and not min(below)):
            return fitting
        found = found or fitting
        if len(reasons) >= N_ALIKE and len(set(reasons.values())) == 1:
            return []
    if not found and shape[1] != shape[2]:
        squares = [(shape[0], side, side) for side in sorted(shape[1:])]
        found = [one for one in squares if is_taken(one)]
    return found


def _x(sides: Shape) -> str:
    return "x".join(map(str, sides))
