"""The protocol beside each figure: everything that must be alike for two figures to be compared.

    protocol = {"data": "digits", "split": "all", "n_real": 1797, "extractor": "classifier", ...}
    differences(protocol_of_a, protocol_of_b)   ->  ["steps: 50 and 10"]

A protocol has two halves. One says how samples are measured: data, extractor, what each metric
adds; figures that differ there are numbers on different scales, and comparing them is refused.
`GENERATION` says how the samples were drawn; it is refused as well unless the caller says that the
sampling is what they compare. Figures that differ in what is `RECORDED` may be compared.

Nothing here needs torch: the report reads protocols too.
"""

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from ..support.errors import UserError

GENERATION = (
    "sampler",
    "steps",
    "guidance",
    "eta",
    "eps_scale",
    "clip_sample",
    "stop_ratio",
    "grid_power",
    "ratios",
    "precision",  # number format of the model's weights while sampling
    "class_labels",  # where the labels of a class-conditional model came from
    "prompts",  # of a text-to-image model, or where they came from
)
RECORDED = (
    "read_as",  # size and channels of the reference's images, and what was asked for
    "seeds",
    "versions",
    "classifier_held_out_accuracy",
    "n_resamples",
    "frechet_distance_is",
    "memorization_extractor",
    "lpips",  # network, checksum and resize of lpips_diversity
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in ("sparring", "torch", "diffusers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], *, sampling: bool = True
) -> list[str]:
    """What keeps two figures from being compared, as "key: one and the other"; [] if nothing does.

    Args:
        first: A protocol.
        second: Another one.
        sampling: False where the sampling itself is what is compared: then only the measurement
            must be alike.
    """
    apart = RECORDED if sampling else (*RECORDED, *GENERATION)
    keys = [key for key in {**first, **second} if key not in apart]
    return [
        f"{key}: {_said(first, key)} and {_said(second, key)}"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def require_alike(protocols: Mapping[str, Mapping[str, Any]], *, sampling: bool = True) -> None:
    """Refuse to put figures of unlike protocols side by side.

    Args:
        protocols: Protocol by the model's name.
        sampling: See `differences`.

    Raises:
        UserError: naming the two models and every difference.
    """
    names = list(protocols)
    for name in names[1:]:
        found = differences(protocols[names[0]], protocols[name], sampling=sampling)
        if found:
            raise UserError(
                f"figures of {names[0]} and {name} cannot be compared ({'; '.join(found)}): "
                "evaluate them alike, with the same overrides, or one at a time"
            )


def _said(protocol: Mapping[str, Any], key: str) -> str:
    value = protocol.get(key)
    return "not said" if value is None else str(value)
