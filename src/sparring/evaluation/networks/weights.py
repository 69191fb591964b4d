"""Weights of published networks: known by their checksum, kept as safetensors, read from those."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...support.errors import UserError
from ...support.whole_files import sha256_of, whole_file


def existing(path: Path, place: str) -> Path:
    """The path of a file, or a UserError that names the option `place`."""
    if not path.is_file():
        raise UserError(f"{place}: there is no file {path}")
    return path


def read_published(path: Path, sums: Mapping[str, str], place: str, name: object = None) -> Any:
    """What a .pth file holds, if its SHA-256 begins as one of these.
    `sums` are those of the published files, or their first digits -> more words on the file. The
    option `place` names it, as `name` or by its path. Raises UserError for any other file."""
    found = sha256_of(path)
    if not found.startswith(tuple(sums)):
        known = " or ".join(f"{digits[:8]}...{called}" for digits, called in sums.items())
        raise UserError(
            f"{place}: {name or path} has SHA-256 {found[:8]}..., the public file has {known}: it "
            "was not read (other weights are read from .safetensors only)"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def read_weights(path: Path, place: str, advice: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file; a UserError with the advice if it cannot be read."""
    try:
        return safetensors.torch.load_file(existing(path, place))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place}: {path} cannot be read ({error}){advice}") from error


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file that is whole or not there; raises OSError or SafetensorError."""
    with whole_file(path) as half:
        own = {name: value.contiguous() for name, value in tensors.items()}
        safetensors.torch.save_file(own, half, metadata)
