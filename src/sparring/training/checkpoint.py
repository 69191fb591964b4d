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

Of a sharded run each process writes its rows, see `sharded_tensors`; any number of processes reads
either kind. It is written under a temporary name of its start's own, synced to disk and renamed, so
a killed run leaves a whole checkpoint or none. One whose SHA-256 is no longer what was written is
passed over and put aside as `damaged-checkpoint-<step>`.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from ..models.lora import lora_config, lora_weights, restore_lora_weights
from ..objectives.base import Objective
from ..support.errors import NotSaved, UserError
from ..support.sharded_tensors import (
    StoredTensors,
    is_dealt,
    load_weights,
    weights_of,
    write_shards,
)
from ..support.shared_errors import FULL, first_failure
from ..support.whole_files import sha256_of
from .lock import Writer
from .players import Player
from .random_states import random_states, set_random_states
from .sharding import is_sharded

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
FORMAT = 1
_HALF, _OLD, _BEFORE = ".half-", ".old-", ".before-"  # being written, deleted, replaced


def write_checkpoint(
    folder: Path,
    step: int,
    network: nn.Module,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    n_kept: int | None = None,
    writer: Writer | None = None,
) -> Path:
    """Write `folder/checkpoint-<step>`; to be called by all processes together.

    The network is saved whole (tied weights once), with LoRA what it has learned; of the other
    tensors, by file, empty ones get no file and sharded ones one of each process. Older checkpoints
    beyond `n_kept` are deleted. The `writer` looks whether it may write (else LockLost) before
    anything appears under the checkpoint's name; what it has half written is not mixed with another
    start's. NotSaved if the disk does not take it; earlier checkpoints are untouched.
    """
    processes = PartialState()
    whose = "" if writer is None else f"{writer.token}-"
    target, half = folder / f"checkpoint-{step}", folder / f"{_HALF}{whose}checkpoint-{step}"

    def begin() -> None:
        if processes.is_main_process:
            remove_leftovers(folder)
            half.mkdir(parents=True)

    def write() -> None:
        own = half / f"random-{processes.process_index}.json"
        own.write_text(json.dumps(random_states()))
        kept, written = dict(tensors), [own]
        if is_sharded(network):
            kept["model"] = weights_of(network)
            dealt = {name: kept.pop(name) for name in list(kept) if is_dealt(kept[name])}
            written += write_shards(half, processes.process_index, dealt)
        sums.update((path.name, _sum(path)) for path in written)
        if not processes.is_main_process:
            return
        if lora_config(network) is not None:
            kept["model"] = lora_weights(network)
        elif not is_sharded(network):
            save_model(network, str(half / "model.safetensors"))
        for name, contents in kept.items():
            if contents:
                whole = {key: value.detach().contiguous() for key, value in contents.items()}
                save_file(whole, half / f"{name}.safetensors")
        (half / "state.json").write_text(json.dumps(state, indent=1))

    def finish() -> None:
        if not processes.is_main_process:
            return
        _seal(half, sums)
        if target.exists():
            target.rename(folder / f"{_BEFORE}{target.name}")
        half.rename(target)
        _sync(folder)
        older = [path for path in complete_checkpoints(folder) if path != target]
        for path in [] if n_kept is None else older[: len(older) + 1 - n_kept]:
            path.rename(folder / f"{_OLD}{path.name}")
        remove_leftovers(folder)

    sums: dict[str, dict[str, Any]] = {}
    for stage in (begin, write, finish):
        reason = first_failure(stage)
        if stage is write:
            sums = dict(gather_object(list(sums.items())))
        if reason is not None:
            if processes.is_main_process:  # the half that is there takes up the space
                shutil.rmtree(half, ignore_errors=True)
            if writer is not None:
                writer.check()  # whoever took the folder over has removed the half
            advice = "free some space and " if reason in FULL else ""
            advice += "continue with training.resume_from_checkpoint=latest"
            raise NotSaved(f"checkpoint {target} could not be written ({reason}): {advice}")
        if stage is write and writer is not None:
            writer.check()
    return target


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writes and deletions have left.

    A checkpoint that was moved out of the way of its successor, which never came, comes back.
    """
    for path in folder.glob(f"{_BEFORE}checkpoint-*"):
        target = folder / path.name.removeprefix(_BEFORE)
        if not target.exists() and damage(path, check_contents=True) is None:
            path.rename(target)
    for path in folder.glob(".*checkpoint-*"):
        if path.name.startswith((_HALF, _OLD, _BEFORE)):
            shutil.rmtree(path)


def _sum(path: Path) -> dict[str, Any]:
    _sync(path)
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _seal(folder: Path, sums: Mapping[str, dict[str, Any]]) -> None:
    """Write the manifest last, with the sums of what all processes wrote."""
    files = {path.name: sums.get(path.name) or _sum(path) for path in sorted(folder.iterdir())}
    for name in sums.keys() - files.keys():
        advice = "training.output_dir must be a folder that all machines share"
        raise OSError(f"{name} of another process is not there: {advice}")
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
    _sync(folder / MANIFEST)
    _sync(folder)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle to sync a folder through
    # Windows syncs what is open for writing only
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name, -1 for another name."""
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match[1]) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """All of a folder, whole or not, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if checkpoint_step(path) >= 0]
    return sorted(found, key=checkpoint_step)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The usable checkpoints, oldest first; incomplete ones are passed over."""
    return [path for path in checkpoints(folder) if damage(path) is None]


def latest_checkpoint(run_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a run, None if it has none."""
    return next(reversed(complete_checkpoints(Path(run_dir) / CHECKPOINTS)), None)


def put_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it neither counts as one nor is lost."""
    name = f"damaged-{path.name}"
    n_before = sum(1 for _ in path.parent.glob(f"{name}*"))
    return path.rename(path.with_name(name if n_before == 0 else f"{name}-{n_before + 1}"))


def damage(path: Path, *, check_contents: bool = False) -> str | None:
    """Why a checkpoint cannot be used, in words; None if it is complete.

    With `check_contents` each file's SHA-256 is compared too, which reads them all.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = {name: (one["size"], one["sha256"]) for name, one in manifest["files"].items()}
        written_as = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"it has no readable {MANIFEST}, so it was not written to the end"
    if written_as != FORMAT:
        return f"it has format {written_as!r}, this version reads format {FORMAT}"
    if "state.json" not in files or not {"model.safetensors", "shards-0.json"} & files.keys():
        return f"its {MANIFEST} does not name model.safetensors and state.json"
    try:
        for name, (size, sha256) in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if check_contents and sha256_of(file) != sha256:
                return f"{name} is not what was written (its SHA-256 differs)"
    except (OSError, ValueError) as error:  # a sector that cannot be read, a name with a null
        return f"it cannot be read ({error})"
    return None


class Checkpoint:
    """A checkpoint to read from; its contents are verified first, unless that was done already.

    UserError if it is damaged, or of another network, player or objective than is to be restored.
    """

    def __init__(self, path: Path, *, is_verified: bool = False) -> None:
        reason = None if is_verified else damage(path, check_contents=True)
        if reason is not None:
            advice = "an earlier one with training.resume_from_checkpoint=<its folder>"
            raise UserError(f"checkpoint {path} cannot be used: {reason}; resume from {advice}")
        self.path = path
        self.state: dict[str, Any] = json.loads((path / "state.json").read_text())

    def tensors(self, name: str) -> StoredTensors:
        """The tensors of one name, whole or in pieces, read when asked for, on the CPU."""
        return StoredTensors(self.path, name)

    def restore_network(self, network: nn.Module) -> None:
        """Load the weights into a network of the same shape."""
        try:
            if lora_config(network) is not None:
                restore_lora_weights(network, dict(self.tensors("model")))
            else:
                load_weights(network, self.tensors("model"))
        except RuntimeError as error:
            raise self._is_of_another("network", error) from error

    def restore_player(self, name: str, player: Player, *, may_begin_average: bool = False) -> None:
        """Continue a player's optimiser and average; the weights too, of all but the model."""
        if name not in self.state["players"]:
            advice = "resume with the objective it was written with"
            raise UserError(f"checkpoint {self.path} has no {name}: {advice}")
        tensors = {file: self.tensors(_file(name, file)) for file in ("optimizer", "ema")}
        if name != "model":
            try:
                player.network.load_state_dict(self.tensors(name))
            except RuntimeError as error:
                raise self._is_of_another(name, error) from error
        state = self.state["players"][name]
        player.restore(tensors, state, may_begin_average=may_begin_average)

    def _is_of_another(self, what: str, error: RuntimeError) -> UserError:
        line = " ".join(str(error).split())
        return UserError(f"checkpoint {self.path} holds another {what}: {line}")

    def restore_objective(self, objective: Objective) -> None:
        try:
            objective.load_state_dict(self.tensors("objective"))
        except KeyError as error:
            advice = "with the objective and the training.timestep_sampling it was written with"
            why = f"checkpoint {self.path} has no {error} for this objective"
            raise UserError(f"{why}: resume {advice}") from error

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
