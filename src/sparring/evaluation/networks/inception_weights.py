r"""The public weights of Inception-v3, which are no part of this package.

The file (95 MB) comes from `evaluation.weights=PATH`, from $SPARRING_CACHE, or from its public
address; it is verified by its checksum and kept as safetensors with batch norm folded in. A
safetensors file that ends earlier serves the features up to where it ends.
"""

import logging
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from itertools import takewhile
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ...support.cache import cache_folder
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from .inception import EXTRACTORS, LAST_STAGE, STAGES, InceptionV3
from .weights import existing, read_published, read_weights, write_weights

log = logging.getLogger(__name__)

PLACE = "evaluation.weights"
URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BN_EPS = 1e-3
TIMEOUT_SECONDS = 30


def load_inception(n_features: int = 2048, weights: str | Path | None = None) -> InceptionV3:
    """The network with the public weights, in evaluation mode, float32, on the CPU.

    `weights` is the public file, or safetensors with its names (whole or up to some layer); None:
    from $SPARRING_CACHE or the public address. Raises UserError for a file that is not there, not
    what it should be, or ends too early.
    """
    path = _safetensors_of(expanded_path(weights)) if weights else public_weights()
    again = "; delete it to have it made anew" if path == converted_path() else ""
    try:
        state = fold(read_weights(path, PLACE, again))
    except KeyError as error:
        raise UserError(f"{PLACE}: {path} lacks {error}") from error
    return network_of(n_features, state, path)


def network_of(n_features: int, state: Mapping[str, Tensor], path: Path) -> InceptionV3:
    """The network with folded weights, of which the path is told where they do not fit."""
    network = InceptionV3(n_features)
    expected = network.state_dict()
    wrong = f"{PLACE}: {path} is not the Inception-v3 of 2015-12-05"
    if any(name.startswith("AuxLogits") for name in state):
        raise UserError(f"{wrong} but torchvision's, whose features give another number than FID")
    for name in expected.keys() & state.keys():
        if state[name].shape != expected[name].shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            raise UserError(f"{wrong}: {name} has shape {shapes}")
    last = last_stage(state)
    if last is None:
        raise UserError(f"{wrong}: it has no layer Conv2d_1a_3x3")
    missing = sorted({name.partition(".")[0] for name in expected.keys() - state.keys()})
    if missing:
        raise UserError(
            f"{PLACE}: {path} ends at {last}, {n_features} features also need "
            f"{', '.join(missing)}: use the whole file, or evaluation.extractor={_largest(last)}"
        )
    if last != "fc":
        log.warning(
            "%s ends at %s: it serves %s at most, whose distance is not comparable with FID",
            path, last, _largest(last),
        )  # fmt: skip
    network.load_state_dict({name: state[name].float() for name in expected})
    return network.requires_grad_(False).eval()


def last_stage(state: Mapping[str, Tensor]) -> str | None:
    """The last stage up to which no weight is missing, `fc` of a whole file; None without any."""
    with torch.device("meta"):  # names only
        whole = InceptionV3().state_dict()
    missing = {name.partition(".")[0] for name in whole.keys() - state.keys()}
    reached = list(takewhile(lambda stage: stage not in missing, [*STAGES, "fc"]))
    return reached[-1] if reached else None


def _largest(last: str) -> str:
    """The extractor with most features among those that need no layer behind `last`."""
    order, stages = [*STAGES, "fc"], LAST_STAGE | {2048: "fc"}
    reached = order[: order.index(last) + 1]
    found = (name for name, n in EXTRACTORS.items() if stages[n] in reached)
    return next(found, "classifier or pixels")


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Batch norms folded into the convolutions before them; other weights stay as they are.

    w' = w s,   b' = beta - mean s,   s = gamma / sqrt(var + 1e-3)

    `NAME.conv.weight` and `NAME.bn.{weight, bias, running_mean, running_var}` become `NAME.weight`
    and `NAME.bias`, float32 (computed in float64).
    """
    folded = {key: value for key, value in state.items() if not {"conv", "bn"} & {*key.split(".")}}
    for key in state:
        name, found, _ = key.partition(".conv.weight")
        if not found:
            continue
        gamma, beta, mean, var = (
            state[f"{name}.bn.{part}"].double()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        s = gamma / (var + BN_EPS).sqrt()
        folded[f"{name}.weight"] = (state[key].double() * s[:, None, None, None]).float()
        folded[f"{name}.bias"] = (beta - mean * s).float()
    return folded


def public_weights() -> Path:
    """The public weights as safetensors in the cache, brought from their address at first."""
    converted = converted_path()
    if converted.is_file():
        return converted
    log.info("downloading %s (95 MB)", URL)
    try:
        converted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=converted.parent) as folder:
            half = Path(folder) / "weights.pth"
            page = urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS)
            with page, half.open("wb") as file:
                shutil.copyfileobj(page, file)
            return _convert(half, URL)
    except (OSError, HTTPException, SafetensorError) as error:
        raise UserError(
            f"the Inception weights are not in {converted.parent} and could not be brought there "
            f"({error}): download {URL} and name it as evaluation.weights=PATH"
        ) from error


def converted_path() -> Path:
    return cache_folder() / f"inception-2015-12-05-{SHA256[:8]}.safetensors"


def _safetensors_of(path: Path) -> Path:
    """The file itself if it is safetensors; the public .pth file is converted into the cache."""
    if path.suffix == ".safetensors":
        return path
    try:
        return _convert(existing(path, PLACE), str(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{PLACE}: {path} cannot be converted ({error})") from error


def _convert(path: Path, name: str) -> Path:
    """Verify the public file, then read it and write its folded weights as safetensors."""
    state, converted = read_published(path, {SHA256: ""}, PLACE, name), converted_path()
    if not converted.is_file():
        write_weights(converted, fold(state), {"sha256": SHA256})
    return converted
