"""Checkpoints: all that a run needs to continue as if it had never stopped.

A checkpoint is a folder `checkpoints/checkpoint-<step>` of safetensors and JSON:

    model.safetensors       the network's weights and buffers; with LoRA its LoRA weights alone
    ema.safetensors         their moving average, by parameter name
    optimizer.safetensors   AdamW's moments, as "<parameter name>|<moment>"
    objective.safetensors   what the objective remembers, if anything
    discriminator.safetensors, discriminator-optimizer.safetensors   of a second player
    state.json              counts, schedule, scaler, open log window, fingerprint
    random-<process>.json   states of the generators that dropout draws from
    manifest.json           size and SHA-256 of each of the files above

Of a sharded run each process writes its rows of the weights, the average and the moments, as
model.shard-<process>.safetensors and so on with shards-<process>.json beside them (see `shards`).
Any number of processes reads either kind, sharded or not.

It is written under a temporary name, synced to disk and renamed, so a killed run leaves either a
whole checkpoint or none; what is left of a killed write is never read and goes at the next start.
"""

import base64
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..errors import UserError
from ..lora import lora_config, lora_weights, restore_lora_weights
from ..objectives.base import Objective
from ..shards import StoredTensors, load_weights, weights_of, write_shards
from .players import Player
from .sharding import is_sharded

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
FORMAT = 1
_HALF, _OLD = ".half-", ".old-"  # being written; being deleted


# Write


def write_checkpoint(
    folder: Path,
    step: int,
    network: nn.Module,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    n_kept: int | None = None,
) -> Path:
    """Write `folder/checkpoint-<step>`; to be called by all processes together.

    Args:
        folder: The run's folder of checkpoints.
        step: Updates of the model so far.
        network: The bare network, saved whole (tied weights once); with LoRA what it has learned.
        tensors: Further tensors by file; empty ones get no file, sharded ones one of each process.
        state: Whatever JSON can hold.
        n_kept: Older checkpoints beyond this number are deleted, the newest never.

    Raises:
        UserError: if the disk does not take it; earlier checkpoints are untouched.
    """
    processes = PartialState()
    target, half = folder / f"checkpoint-{step}", folder / f"{_HALF}checkpoint-{step}"
    try:
        if processes.is_main_process:
            remove_leftovers(folder)
            half.mkdir(parents=True)
        processes.wait_for_everyone()
        own = half / f"random-{processes.process_index}.json"
        own.write_text(json.dumps(random_states()))
        written = [own]
        if is_sharded(network):
            dealt = {"model": weights_of(network)} | {
                name: contents
                for name, contents in tensors.items()
                if any(isinstance(value, DTensor) for value in contents.values())
            }
            written += write_shards(half, processes.process_index, dealt)
            tensors = {name: value for name, value in tensors.items() if name not in dealt}
        if processes.is_main_process:
            if lora_config(network) is not None:
                tensors = {**tensors, "model": lora_weights(network)}
            elif not is_sharded(network):
                save_model(network, str(half / "model.safetensors"))
            for name, contents in tensors.items():
                if contents:
                    whole = {key: value.detach().contiguous() for key, value in contents.items()}
                    save_file(whole, half / f"{name}.safetensors")
            (half / "state.json").write_text(json.dumps(state, indent=1))
        sums = _sums_of_all(written)
        if processes.is_main_process:
            _seal(half, sums)
            if target.exists():
                target.rename(folder / f"{_OLD}{target.name}")
            half.rename(target)
            _sync(folder)
            for path in [] if n_kept is None else complete_checkpoints(folder)[:-n_kept]:
                path.rename(folder / f"{_OLD}{path.name}")
            remove_leftovers(folder)
        processes.wait_for_everyone()
    except OSError as error:
        raise UserError(
            f"checkpoint {target} could not be written ({error.strerror or error}): free some "
            "space and continue with training.resume_from_checkpoint=latest"
        ) from error
    return target


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writes and deletions have left."""
    for path in folder.glob(".*checkpoint-*"):
        if path.name.startswith((_HALF, _OLD)):
            shutil.rmtree(path)


def _sums_of_all(written: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What each process wrote, brought to the disk, with size and SHA-256; no one does it all."""
    return dict(gather_object([(path.name, _sum(path)) for path in written]))


def _sum(path: Path) -> dict[str, Any]:
    _sync(path)
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _seal(folder: Path, sums: Mapping[str, dict[str, Any]]) -> None:
    """Write the manifest last, with the sums of what all processes wrote."""
    files = {path.name: sums.get(path.name) or _sum(path) for path in sorted(folder.iterdir())}
    lost = [name for name in sums if name not in files]
    if lost:
        raise UserError(
            f"{folder.parent} has no {lost[0]}, which another process wrote: put "
            "training.output_dir where all machines see the same files"
        )
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
    _sync(folder / MANIFEST)
    _sync(folder)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle to sync a folder through
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Find and read


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name, -1 for another name."""
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match else -1


def complete_checkpoints(folder: Path) -> list[Path]:
    """The usable checkpoints, oldest first; incomplete ones are passed over."""
    found = [path for path in folder.glob("checkpoint-*") if checkpoint_step(path) >= 0]
    return sorted((path for path in found if damage(path) is None), key=checkpoint_step)


def latest_checkpoint(run_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a run, None if it has none."""
    complete = complete_checkpoints(Path(run_dir) / CHECKPOINTS)
    return complete[-1] if complete else None


def damage(path: Path, *, check_contents: bool = False) -> str | None:
    """Why a checkpoint cannot be used, in words; None if it is complete.

    Args:
        path: The checkpoint's folder.
        check_contents: Also compare each file's SHA-256, which reads them all.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"it has no readable {MANIFEST}, so it was not written to the end"
    if manifest.get("format") != FORMAT:
        return f"it has format {manifest.get('format')}, this version reads format {FORMAT}"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["size"]:
            return f"{name} has {file.stat().st_size} bytes instead of {expected['size']}"
        if check_contents and _sha256(file) != expected["sha256"]:
            return f"{name} is not what was written (its SHA-256 differs)"
    return None


class Checkpoint:
    """A checkpoint to read from; its contents are verified first.

    Raises:
        UserError: if a file is missing or differs from what was written.
    """

    def __init__(self, path: Path) -> None:
        reason = damage(path, check_contents=True)
        if reason is not None:
            raise UserError(
                f"checkpoint {path} cannot be used: {reason}; resume from an earlier one with "
                "training.resume_from_checkpoint=<its folder>"
            )
        self.path = path
        self.state: dict[str, Any] = json.loads((path / "state.json").read_text())

    def tensors(self, name: str) -> StoredTensors:
        """The tensors of one name, whole or in pieces, read when asked for, on the CPU."""
        return StoredTensors(self.path, name)

    def restore_network(self, network: nn.Module) -> None:
        """Load the weights into a network of the same shape.

        Raises:
            UserError: if its parameters are others.
        """
        try:
            if lora_config(network) is not None:
                restore_lora_weights(network, dict(self.tensors("model")))
            elif is_sharded(network) or not (self.path / "model.safetensors").exists():
                load_weights(network, self.tensors("model"))
            else:
                load_model(network, str(self.path / "model.safetensors"))
        except RuntimeError as error:
            raise self._is_of_another("network", error) from error

    def restore_player(self, name: str, player: Player) -> None:
        """Continue a player's optimiser and average; the weights too, of all but the model.

        Raises:
            UserError: if the checkpoint has no such player, or one of another shape.
        """
        if name not in self.state["players"]:
            raise UserError(
                f"checkpoint {self.path} has no {name}: resume with the objective it was written "
                "with"
            )
        tensors = {file: self.tensors(_file(name, file)) for file in ("optimizer", "ema")}
        if name != "model":
            try:
                player.network.load_state_dict(self.tensors(name))
            except RuntimeError as error:
                raise self._is_of_another(name, error) from error
        player.restore(tensors, self.state["players"][name])

    def _is_of_another(self, what: str, error: RuntimeError) -> UserError:
        line = " ".join(str(error).split())
        return UserError(f"checkpoint {self.path} holds another {what}: {line}")

    def restore_objective(self, objective: Objective) -> None:
        """Give the objective back what it remembered.

        Raises:
            UserError: if the checkpoint is of an objective that remembered something else.
        """
        try:
            objective.load_state_dict(self.tensors("objective"))
        except KeyError as error:
            raise UserError(
                f"checkpoint {self.path} has no {error} for this objective: resume with the "
                "objective and the training.timestep_sampling it was written with"
            ) from error

    def restore_random_states(self) -> bool:
        """Continue this process's random states; False if the checkpoint has none for it."""
        file = self.path / f"random-{PartialState().process_index}.json"
        if not file.exists():
            return False
        set_random_states(json.loads(file.read_text()))
        return True


def kept_tensors(players: Mapping[str, Player]) -> dict[str, Mapping[str, Tensor]]:
    """What a checkpoint holds of the players beside the model's own weights, by file."""
    kept: dict[str, Mapping[str, Tensor]] = {}
    for name, player in players.items():
        kept |= {_file(name, file): value for file, value in player.tensors().items()}
        if name != "model":
            kept[name] = player.network.state_dict()
    return kept


def _file(player: str, name: str) -> str:
    return name if player == "model" else f"{player}-{name}"


# Random states


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's own generators, as JSON can hold them."""
    version, numbers, gauss = random.getstate()
    legacy = np.random.get_state(legacy=True)
    assert isinstance(legacy, tuple)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [legacy[0], np.asarray(legacy[1]).tolist(), *legacy[2:]],
        "torch": _to_text(torch.get_rng_state()),
        "cuda": [_to_text(state) for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Undo of `random_states`."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_from_text(states["torch"]))
    if torch.cuda.is_available():
        n_devices = min(len(states["cuda"]), torch.cuda.device_count())
        torch.cuda.set_rng_state_all([_from_text(text) for text in states["cuda"][:n_devices]])


@contextmanager
def unchanged_random_states() -> Iterator[None]:
    """Whatever is drawn inside, training goes on as if nothing had been."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def _to_text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _from_text(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
