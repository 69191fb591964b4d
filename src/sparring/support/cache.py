"""Tensors that are computed once and kept on disk: latents of images, hidden states of captions."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from .home_folder import expanded_path
from .whole_files import whole_file, written


class TensorCache:
    """A folder of small files, one per key, with a few named tensors each; it may be deleted.

    A key is the digest of all that decides the values, so what is found is never stale: other
    weights or other pixels have other keys. Processes may share a folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded_path(folder)

    def batch(
        self,
        keys: Sequence[str],
        compute: Callable[[int], dict[str, Tensor]],
        device: torch.device | str,
    ) -> dict[str, Tensor]:
        """The tensors of all keys, stacked, (B, *) each, by name, on a device.

        `compute` gives the tensors of one row, (1, *) each, by its number. A row's values must not
        depend on the others, or what is found would depend on what was asked before.
        """
        rows = []
        for number, key in enumerate(keys):
            file = self.folder / key[:2] / f"{key}.safetensors"
            try:
                row = load(file.read_bytes())
            except (OSError, SafetensorError):  # not there, or not whole: it is computed again
                row = compute(number)
                self._write(file, row)
            rows.append({name: value.to(device) for name, value in row.items()})
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _write(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        advice = ": name another folder, or null to encode anew in every epoch"
        with written(f"data.latents_cache: {self.folder}", advice), whole_file(file) as half:
            half.write_bytes(save({name: _plain(one) for name, one in tensors.items()}))


def cache_folder() -> Path:
    """$SPARRING_CACHE, or ~/.cache/sparring."""
    folder = os.environ.get("SPARRING_CACHE")
    return expanded_path(folder) if folder else Path.home() / ".cache" / "sparring"


def key_of(*parts: object) -> str:
    """Thirty-two hex digits of anything: bytes and tensors by content, the rest as JSON."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            state.update(f"{part.dtype} {tuple(part.shape)}".encode())
            raw = _plain(part).reshape(-1).view(torch.uint8).numpy().data
        else:
            raw = part if isinstance(part, bytes) else json.dumps(part, default=str).encode()
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """A key that changes with a module's class, its configuration and any of its weights."""
    config: Any = getattr(module, "config", {})
    words = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    # entries that differ between copies of the same model say nothing about it
    told = {"transformers_version", "dtype", "torch_dtype"}
    kept = {name: words[name] for name in sorted({*words} - told) if not name.startswith("_")}
    weights = [part for item in sorted(module.state_dict().items()) for part in item]
    return key_of(type(module).__name__, kept, *weights)


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()
