"""The protocol beside each figure: everything that must be alike for two figures to be compared.

    protocol = {"data": "digits", "split": "all", "n_real": 1797, "extractor": "classifier", ...}
    differences(protocol_of_a, protocol_of_b)   ->  ["steps: 50 and 10"]

A protocol has two halves. One says how samples are measured: data, extractor, what each metric
adds; comparing figures that differ there is refused. `GENERATION` says how the samples were drawn;
it is refused as well unless the sampling is what is compared. Figures that differ in what is
`RECORDED` may be compared. Nothing here needs torch: the report reads protocols too.
"""

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from ..support.errors import UserError

_SAMPLER = ("sampler", "steps", "guidance", "eta", "eps_scale", "clip_sample")
_GRID = ("stop_ratio", "grid_power", "ratios")
# precision: of the network while sampling; labels and prompts: themselves, or where they came from
GENERATION = (*_SAMPLER, *_GRID, "precision", "class_labels", "prompts")
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
    """What keeps figures of two protocols from being compared, as "key: one and the other".
    `sampling` is false where it is what is compared: then only the measurement must be alike."""
    apart = RECORDED if sampling else (*RECORDED, *GENERATION)
    keys = [key for key in {**first, **second} if key not in apart]
    pairs = {key: (first.get(key), second.get(key)) for key in keys}
    return [
        f"{key}: {' and '.join('not said' if one is None else str(one) for one in pair)}"
        for key, pair in pairs.items()
        if pair[0] != pair[1]
    ]


def require_alike(protocols: Mapping[str, Mapping[str, Any]], *, sampling: bool = True) -> None:
    """Refuse to put figures of unlike protocols, by the models' names, side by side.
    Raises UserError naming the two models and every difference."""
    first, *others = protocols
    for name in others:
        if found := differences(protocols[first], protocols[name], sampling=sampling):
            raise UserError(
                f"figures of {first} and {name} cannot be compared ({'; '.join(found)}): "
                "evaluate them alike, with the same overrides, or one at a time"
            )
