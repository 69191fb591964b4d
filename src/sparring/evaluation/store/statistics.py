"""Features of a reference in a file, so that a large one is read once and not at every evaluation.

    sparring evaluate RUN --save-reference reference.safetensors
    sparring evaluate OTHER evaluation.statistics=reference.safetensors

The file holds the features, their mean `mu` and covariance `sigma` (pytorch-fid's names), the
labels, the empty pixels, and its claims: data and their fingerprint, rows, extractor and its
checksum, resize. A file whose claims differ from what is asked for is refused; then the first rows
are computed again and compared. Statistics of other programs make no claims and are not read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...support.errors import UserError
from ..feature_sets import Gaussian

CLAIMS = (
    "data", "data_fingerprint", "split", "n_real",
    "resize", "range", "extractor", "extractor_checksum",
)  # fmt: skip
TOLERANCE = 1e-2  # relative, of features computed again: another device differs by 1e-3


def save_statistics(
    path: str | Path,
    features: Tensor,
    is_empty: Tensor,
    labels: Tensor | None,
    claims: Mapping[str, Any],
) -> None:
    """Write features (N, D), empty pixels (C, H, W), labels (N,) and the claims as safetensors."""
    whole = Gaussian.of(features)
    tensors = {"features": features, "mu": whole.mean, "sigma": whole.covariance}
    tensors |= {"is_empty": is_empty} | ({} if labels is None else {"labels": labels})
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, path, {"claims": json.dumps(dict(claims))})


def claims_of(path: str | Path) -> dict[str, Any] | None:
    """What a file was computed from; None where it is no file of `save_statistics`."""
    try:
        return _opened(path)[0]
    except (OSError, KeyError, TypeError, ValueError, SafetensorError):
        return None


def _opened(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        found = json.loads((file.metadata() or {})["claims"])
        return dict(found), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def load_statistics(
    path: str | Path, claims: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features (N, D), empty pixels and labels of a file that makes these claims.
    Raises UserError for a file that cannot be read, or is of other data or another extractor."""
    place = f"evaluation.statistics: {path}"
    if not Path(path).is_file():
        raise UserError(f"{place} is no file: make it with --save-reference")
    try:
        found, tensors = _opened(path)
        features, is_empty = tensors["features"], tensors["is_empty"]
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise UserError(f"{place} is no file of --save-reference ({error})") from error
    unlike = [
        f"{key}: {found.get(key, 'not said')} in the file, {value} asked for"
        for key, value in claims.items()
        if found.get(key) != value
    ]
    if unlike:
        raise UserError(f"{place} is of another reference ({'; '.join(unlike)}): make it anew")
    return features, is_empty, tensors.get("labels")


def check_features(path: str | Path, saved: Tensor, computed: Tensor) -> None:
    """Refuse saved features (n, D) that differ, by |saved - computed| / |computed|."""
    difference = f"{tuple(saved.shape)} and not {tuple(computed.shape)}"
    if saved.shape == computed.shape:
        relative = (saved - computed).norm() / computed.norm().clamp(min=1e-12)
        if relative <= TOLERANCE:
            return
        difference = f"by a relative {relative:.2g}"
    raise UserError(
        f"evaluation.statistics: {path} holds other features than its data give ({difference}): "
        "make it anew with --save-reference"
    )
