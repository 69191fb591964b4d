"""The batch at which a run stopped, kept so that it can be looked at again.

    RUN/stopped/batch-<process>-<micro>.safetensors   the own rows, as the objective got them
    RUN/stopped/batch-<process>-<micro>.json          what of them is text
    RUN/stopped/checkpoint-<step>                     the weights before the update that failed
    RUN/stopped/replay.json                           which batch, rows, turn

All random numbers follow from (seed, batch, row), so this is the whole step. Only the earlier turns
of the same batch are missing (Free-AT): their updates are in the weights already.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data.trust.trust import Trust
from ..objectives.base import Objective
from ..support.errors import UserError
from ..support.shared_errors import first_failure
from .feed import BatchAddress
from .players import Player
from .stopping import bad_terms
from .turns import backward

FOLDER = "stopped"


def keep_batch(
    run_dir: Path,
    address: BatchAddress,
    batches: Sequence[Mapping[str, Any]],
    write_weights: Callable[[Path], Any],
) -> bool:
    """Write all of it, by all processes together; whether the disk took it.

    `write_weights` writes a checkpoint from before the own micro-batches into a folder.
    """
    folder, state = run_dir / FOLDER, PartialState()

    def clear() -> None:
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "replay.json").write_text(json.dumps(asdict(address), indent=1) + "\n")

    def write() -> None:
        for micro, batch in enumerate(batches):
            tensors, words = _apart(batch)
            name = folder / f"batch-{state.process_index}-{micro}"
            save_file(tensors, name.with_suffix(".safetensors"))
            name.with_suffix(".json").write_text(json.dumps(words))

    if first_failure(clear) is not None or first_failure(write) is not None:
        return False
    try:
        write_weights(folder)
    except UserError:
        return False
    return True


def read_address(run_dir: Path) -> BatchAddress:
    """Which batch `keep_batch` wrote; UserError if the run did not stop that way."""
    path = run_dir / FOLDER / "replay.json"
    if not path.is_file():
        when = f"a run keeps one in {FOLDER}/ when a loss or a gradient is not finite"
        raise UserError(f"{run_dir} has no stopped batch: {when}")
    try:
        return BatchAddress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_batch(
    run_dir: Path, process: int, micro: int, device: torch.device | str
) -> dict[str, Any]:
    """One micro-batch as the objective got it; UserError if it is not there."""
    name = run_dir / FOLDER / f"batch-{process}-{micro}"
    try:
        tensors = load_file(name.with_suffix(".safetensors"), device=str(device))
        batch: dict[str, Any] = json.loads(name.with_suffix(".json").read_text())
    except Exception as error:  # safetensors has errors of its own beside the system's
        raise UserError(f"{name}.safetensors cannot be read: {error}") from error
    for key, value in tensors.items():
        *path, last = key.split("|")
        place = batch
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    if "trust" in batch:
        batch["trust"] = Trust(**batch["trust"])
    return batch


def _apart(batch: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by "name|of|place", and the rest as JSON holds it."""
    tensors: dict[str, Tensor] = {}
    words: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value.detach().cpu().contiguous().clone()
        elif isinstance(value, Mapping | Trust):
            value = value._asdict() if isinstance(value, Trust) else value
            inner, said = _apart(value, f"{prefix}{name}|")
            tensors |= inner
            words[name] = said
        else:
            words[name] = value
    return tensors, words


@dataclass
class Finding:
    """What one micro-batch of one turn gave."""

    process: int
    micro: int
    turn: int
    player: str  # who would have learned
    n_rows: int
    terms: dict[str, float]  # mean of each loss term
    bad_rows: list[tuple[int, dict[str, float]]]  # as `bad_terms`, of those that have some
    first_module: str | None  # first layer that made a non-finite output of finite inputs
    bad_gradients: list[str]  # parameters whose gradient is not finite

    @property
    def is_finite(self) -> bool:
        return not (self.bad_rows or self.first_module or self.bad_gradients)


def replay(
    run_dir: Path,
    address: BatchAddress,
    objective: Objective,
    nets: Mapping[str, Any],
    players: Mapping[str, Player],
    accelerator: Accelerator,
) -> Iterator[Finding]:
    """Take the turns of the stopped batch again, without updating anything.

    The objective has the state it had before the batch, the networks have the stopped weights and
    are prepared for training.
    """
    remembered = {name: value.clone() for name, value in objective.state_dict().items()}
    for process in range(address.n_processes):
        for micro in range(address.n_micro):
            batch = read_batch(run_dir, process, micro, accelerator.device)
            if remembered:
                objective.load_state_dict(remembered)
            rng = address.random(process, micro, accelerator.device)
            s = objective.draw(batch, rng, address.step)
            for number, turn in enumerate(objective.turns(nets, s)):
                if number > address.turn:
                    break
                player = players[turn.player]
                with first_non_finite(player.network) as bad_modules:
                    (terms,) = backward([turn], nets[turn.player].network, accelerator)
                yield Finding(
                    process, micro, number, turn.player, len(batch["index"]),
                    {name: float(term.mean()) for name, term in terms.items()},
                    [row for row in bad_terms(batch["index"], terms) if row[1]],
                    next(iter(bad_modules), None),
                    [name for name, value in player.parameters.items()
                     if value.grad is not None and not bool(value.grad.isfinite().all())],
                )  # fmt: skip
                for each in players.values():
                    each.optimizer.zero_grad(set_to_none=True)


@contextmanager
def first_non_finite(network: nn.Module) -> Iterator[list[str]]:
    """Inside, the layers that make something non-finite of finite inputs, in order of their calls.

    Layers are those without children; a layer is named by its place and class.
    """
    found: list[str] = []

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if _is_finite([output]) or not _is_finite(inputs):
                return
            own = "" if _is_finite(module.parameters()) else ", its weights are not finite"
            found.append(f"{name} ({type(module).__name__}{own})")

        return hook

    layers = [(name, one) for name, one in network.named_modules() if not any(one.children())]
    hooks = [module.register_forward_hook(watch(name, module)) for name, module in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _is_finite(values: Iterable[Any]) -> bool:
    """Whether all tensors of floating-point numbers among them are."""
    tensors = [one for one in values if isinstance(one, Tensor) and one.is_floating_point()]
    return all(bool(one.isfinite().all()) for one in tensors)
