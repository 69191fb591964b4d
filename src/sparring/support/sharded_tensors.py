"""Tensors in pieces: each process writes the rows it holds, and reads the rows it needs.

A folder holds the tensors `name` either whole or in pieces along their first dimension:

    <name>.safetensors                    whole, one process wrote it
    <name>.shard-<process>.safetensors    the rows that this process held, by key
    shards-<process>.json                 beside them {name: {key: {"shape": [...], "start": i}}}:
                                          the shape of the whole and the first row of the piece

Whoever reads asks for rows, so what 2 processes wrote is read by 4, by 1, or by any other number,
alone or together. pyproject.toml says why torch.distributed.checkpoint does not do it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard


def own_rows(value: Tensor) -> tuple[Tensor, int]:
    """The rows of a tensor that this process holds, sharing its memory, and the first one's number.

    Rows are dealt as `torch.chunk` deals them: ceil(n / processes) each, the last ones fewer.

    Raises:
        ValueError: if it is distributed in another way than along its first dimension.
    """
    if not isinstance(value, DTensor):
        return value.detach(), 0
    *copies, dealt = value.placements
    if dealt != Shard(0) or any(one != Replicate() for one in copies):
        raise ValueError(f"sharded along its first dimension only, got {value.placements}")
    mesh = value.device_mesh
    n_each = -(-len(value) // mesh.size(mesh.ndim - 1))
    start = min(n_each * mesh.get_local_rank(mesh.ndim - 1), len(value))
    return value.to_local().detach(), start


def as_rows_of(rows: Tensor, like: Tensor) -> Tensor:
    """The own rows of a tensor that is distributed as `like`, sharing their memory."""
    if not isinstance(like, DTensor):
        return rows
    mesh, layout = like.device_mesh, like.placements
    size = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(rows, mesh, layout, run_check=False, **size)


def whole(value: Tensor) -> Tensor:
    """All rows; to be called by all processes together."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach()


def is_dealt(tensors: Mapping[str, Tensor]) -> bool:
    """Whether some of them are distributed."""
    return any(isinstance(value, DTensor) for value in tensors.values())


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """What a network saves, tied weights once."""
    saved = network.state_dict().keys()
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: value for name, value in named.items() if name in saved}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers of the same kind, not-a-numbers included."""
    one, other = (value.detach().cpu().contiguous() for value in (one, other))
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def write_shards(
    folder: Path, process: int, tensors: Mapping[str, Mapping[str, Tensor]]
) -> list[Path]:
    """Write this process's rows of tensors by name and key, and return the files.
    The keys are the same in all processes; what is not distributed is written by process 0."""
    index: dict[str, dict[str, Any]] = {}
    files = []
    for name, contents in tensors.items():
        index[name], pieces = {}, {}
        for key, value in contents.items():
            rows, start = own_rows(value)
            is_mine = process == 0
            if isinstance(value, DTensor):
                is_mine = len(rows) > 0 and _is_first(value)
            if is_mine:
                pieces[key] = rows.contiguous()
                index[name][key] = {"shape": list(value.shape), "start": start}
        if pieces:
            files.append(folder / f"{name}.shard-{process}.safetensors")
            save_file(pieces, files[-1])
    files.append(folder / f"shards-{process}.json")
    files[-1].write_text(json.dumps(index))
    return files


def _is_first(value: DTensor) -> bool:
    """Whether this process is of the first of several groups that hold the same rows."""
    mesh = value.device_mesh
    return all(mesh.get_local_rank(dim) == 0 for dim in range(mesh.ndim - 1))


class _Piece(NamedTuple):
    """Rows of a tensor, from `start` to `stop`; no rows in a tensor without dimensions."""

    start: int
    stop: int
    file: Path


class StoredTensors(Mapping[str, Tensor]):
    """The tensors `name` of a folder by key, whole or in pieces; read when asked for, on the CPU.
    Empty if the folder has none of that name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._pieces: dict[str, list[_Piece]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, Any] = {}
        file = folder / f"{name}.safetensors"
        if file.is_file():
            handle = self._handle(file)
            for key in handle.keys():  # noqa: SIM118 - a safe_open is no mapping
                self._add(key, file, handle.get_slice(key).get_shape(), 0)
        for path in sorted(folder.glob("shards-*.json")):
            process = path.stem.removeprefix("shards-")
            file = folder / f"{name}.shard-{process}.safetensors"
            for key, entry in json.loads(path.read_text()).get(name, {}).items():
                self._add(key, file, entry["shape"], entry["start"])

    def _add(self, key: str, file: Path, shape: list[int], start: int) -> None:
        self._shapes[key] = tuple(shape)
        n_rows = self._handle(file).get_slice(key).get_shape()[0] if shape else 0
        self._pieces.setdefault(key, []).append(_Piece(start, start + n_rows, file))

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file]

    def __getitem__(self, key: str) -> Tensor:
        return self.rows(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def shape(self, key: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        return self._shapes[key]

    def rows(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows [start, stop) of a tensor, all of them by default.

        Raises:
            KeyError: if there is no such tensor.
            RuntimeError: if a piece of it is missing.
        """
        pieces, shape = sorted(self._pieces[key]), self.shape(key)
        first = self._handle(pieces[0].file)
        if not shape:
            return first.get_tensor(key)
        stop = shape[0] if stop is None else stop
        found, reached = [], start
        for piece in pieces:
            last = min(stop, piece.stop)
            if piece.start <= reached < last:
                part = self._handle(piece.file).get_slice(key)
                found.append(part[reached - piece.start : last - piece.start])
                reached = last
        if reached < stop:
            raise RuntimeError(f"row {reached} of {key} is in none of its pieces")
        if not found:
            return first.get_slice(key)[:0]
        return found[0] if len(found) == 1 else torch.cat(found)


def read_like(stored: Mapping[str, Tensor], key: str, like: Tensor) -> Tensor:
    """A stored tensor, distributed as `like` where they have one shape, else whole.

    Raises:
        RuntimeError: if a distributed one has another shape.
    """
    if not isinstance(like, DTensor):
        return stored[key]
    pieces = cast("StoredTensors", stored)
    if pieces.shape(key) != tuple(like.shape):
        raise RuntimeError(f"{key} has shape {pieces.shape(key)}, not {tuple(like.shape)}")
    rows, start = own_rows(like)
    found = pieces.rows(key, start, start + len(rows))
    return as_rows_of(found.to(like.device), like)


@torch.no_grad()
def load_weights(network: nn.Module, stored: StoredTensors) -> None:
    """Load a network's own rows of its weights, all of them where it is not distributed.

    Raises:
        RuntimeError: if its weights are others.
    """
    names: dict[int, list[str]] = {}  # of tied weights several
    for named in (network.named_parameters, network.named_buffers):
        for name, value in named(remove_duplicate=False):
            names.setdefault(id(value), []).append(name)
    own = weights_of(network)
    keys = {name: [one for one in names[id(own[name])] if one in stored] for name in own}
    missing = [name for name, known in keys.items() if not known]
    spare = [key for key in stored if not any(key in known for known in keys.values())]
    if missing or spare:
        raise RuntimeError(f"missing: {', '.join(missing[:5])}; unexpected: {', '.join(spare[:5])}")
    for name, value in own.items():
        key = keys[name][0]
        if stored.shape(key) != tuple(value.shape):
            raise RuntimeError(f"{name} has shape {stored.shape(key)}, not {tuple(value.shape)}")
        rows, start = own_rows(value)
        rows.copy_(stored.rows(key, start, start + len(rows)) if rows.dim() else stored[key])
