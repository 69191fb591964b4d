"""Why a run stops early: somebody asks, a number is not finite, or the machine refuses."""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from ..models.lora import lora_config
from ..objectives.base import Objective
from ..support.errors import (
    Interrupted,
    LockLost,
    NotSaved,
    TrainingStopped,
    UserError,
    is_out_of_memory,
)
from ..support.sharded_tensors import own_rows
from ..support.shared_errors import DISK_ERRORS, in_words
from .checkpoint import latest_checkpoint
from .players import Player
from .settings import TrainSettings
from .tracking import write_json
from .turns import Update

N_NAMED = 32  # samples in the message; stopped.json has them all


class StopRequest:
    """Inside the context, the first SIGINT or SIGTERM is remembered, the second acts at once.

    Outside the main thread Python allows no signal handlers, and nothing is caught.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers_before = ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, self._remember)
                self._handlers_before.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers_before.close()

    def _remember(self, number: int, _: object) -> None:
        self.number = number
        self._handlers_before.close()

    def interrupted(self, step: int) -> Interrupted:
        """The error that ends the run after its checkpoint; another process may have been told."""
        number = signal.SIGTERM if self.number is None else self.number
        who = "another process" if self.number is None else signal.Signals(number).name
        advice = "a checkpoint is written: continue with training.resume_from_checkpoint=latest"
        return Interrupted(f"stopped by {who} after step {step}; {advice}", number)


def not_finite(
    run_dir: Path,
    step: int,
    batches: Sequence[Mapping[str, Any]],
    update: Update,
    players: Mapping[str, Player],
    *,
    n_skipped_in_a_row: int,
    is_kept: bool,
) -> TrainingStopped:
    """The error that names the step, the samples and what to do; to be made by all processes.

    It also writes `stopped.json` with all indices of the batch, those of non-finite loss first.
    `step` updates are done; fp16 overflowed `n_skipped_in_a_row` times, this one included; the
    batch was kept for `sparring replay` or was not.
    """
    pairs = zip(batches, update.losses, strict=True)
    own = [row for batch, terms in pairs for row in bad_terms(batch["index"], terms)]
    rows: list[tuple[int, dict[str, float]]] = gather_object(own)
    rows.sort(key=lambda row: not row[1])
    n_bad = sum(bool(bad) for _, bad in rows)
    if PartialState().is_main_process:
        words = [(index, {name: repr(loss) for name, loss in bad.items()}) for index, bad in rows]
        samples = [{"index": index, "loss": losses} for index, losses in words]
        found = {"step": step, "grad_norm": repr(update.grad_norm), "samples": samples}
        write_json(run_dir / "stopped.json", found)

    suspects = [str(index) for index, _ in rows[: n_bad or len(rows)]]
    left = len(suspects) - N_NAMED
    named = ", ".join(suspects[:N_NAMED]) + (f" and {left} more" if left > 0 else "")
    terms = ", ".join(sorted({name for _, bad in rows for name in bad}))
    what = f"the loss ({terms}) of {n_bad} of {len(rows)} samples is not finite: indices {named}"
    if not n_bad:
        what = f"the gradient norm is {update.grad_norm}, though every loss is finite"
        what += f"; batch: indices {named}"
    advice = "look at these samples and lower training.learning_rate"
    broken = not_finite_state(players)
    if broken:
        what = f"{broken}, so nothing that they compute is"
        advice = "resume from a checkpoint in which they are"
    if n_skipped_in_a_row:
        what = f"fp16 overflowed {n_skipped_in_a_row} times in a row; {what}"
        advice += "; training.mixed_precision=bf16 has the range that fp16 lacks"
    where = f"all indices: {run_dir / 'stopped.json'}"
    where += f"; where it began: sparring replay {run_dir}" if is_kept else ""
    return TrainingStopped(
        f"training stopped before update {step + 1}: {what}. The weights were not changed. To go "
        f"on, {advice}, then use {how_to_go_on(run_dir)} ({where})"
    )


def bad_terms(index: Tensor, terms: Mapping[str, Tensor]) -> list[tuple[int, dict[str, float]]]:
    """(index, {term: value} of those that are not finite) of each sample; terms are (B,)."""
    columns = {name: values.tolist() for name, values in terms.items()}
    return [
        (number, {name: v[row] for name, v in columns.items() if not math.isfinite(v[row])})
        for row, number in enumerate(index.tolist())
    ]


def not_finite_state(players: Mapping[str, Player]) -> str | None:
    """Which weights, averages or moments are not finite in any process, in words, if any."""
    found = gather_object([_not_finite(players)])
    return next((reason for reason in found if reason is not None), None)


def _not_finite(players: Mapping[str, Player]) -> str | None:
    for role, player in players.items():
        kept = {"weights": dict(player.parameters), "average": player.averages()}
        kept["moments"] = player.tensors()["optimizer"]
        for what, tensors in kept.items():
            flags = {name: own_rows(value)[0].isfinite().all() for name, value in tensors.items()}
            bad = [name for name, flag in flags.items() if not bool(flag)]
            if bad:
                how_many = f"{len(bad)} of {len(flags)} {what} of the {role}"
                return f"{how_many} are not finite (the first is {bad[0]})"
    return None


def check_finite(players: Mapping[str, Player], consequence: str) -> None:
    """Raise TrainingStopped, with what cannot be done, if a weight, average or moment is not."""
    broken = not_finite_state(players)
    if broken is not None:
        advice = "training.resume_from_checkpoint and training.overwrite_output_dir=true"
        advice = f"Resume from an earlier checkpoint, with its folder as {advice}"
        raise TrainingStopped(f"{consequence}: {broken}. {advice}")


def how_to_go_on(run_dir: Path) -> str:
    """What to say to the next start."""
    if latest_checkpoint(run_dir) is None:
        return "training.overwrite_output_dir=true (there is no checkpoint yet)"
    return "training.resume_from_checkpoint=latest"


class Boundary:
    """Where the loop stands: between two batches, in one, or past the first update of one.

    It keeps what the objective remembers at the beginning of a batch, to go back to.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.is_whole = True  # weights, averages and counts are those of the end of a batch
        self.doing = "training"  # what goes on, in a word
        self.remembered: dict[str, Tensor] = {}
        self._random: list[Tensor] | None = None

    def begin(self) -> None:
        """A batch begins: its draws and forward passes move the random states."""
        state = self.objective.state_dict()
        self.remembered = {name: value.clone() for name, value in state.items()}
        self._random = [torch.get_rng_state()]
        self._random += torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def end(self) -> None:
        self.is_whole, self._random = True, None

    def go_back(self) -> None:
        """To the end of the last batch, if no update was made since."""
        if self._random is not None and self.is_whole:
            torch.set_rng_state(self._random[0])
            if len(self._random) > 1:
                torch.cuda.set_rng_state_all(self._random[1:])
            if self.remembered:
                self.objective.load_state_dict(self.remembered)
            self._random = None


@contextmanager
def rescued(
    place: Boundary,
    save: Callable[[], Path],
    network: nn.Module,
    settings: TrainSettings,
    run_dir: Path,
) -> Iterator[None]:
    """Inside, what data or machine refuse ends the run with one line, and with nothing lost.

    Memory, disk, a worker or another process: the error says what it was and what to change. If the
    loop stands at the end of a batch and is alone (a checkpoint is written by all processes
    together, and the others know of nothing), `save` writes a checkpoint first.
    """
    try:
        yield
    except (TrainingStopped, Interrupted, NotSaved, LockLost):
        raise
    except Exception as error:
        reason = reason_of(error, place.doing, network, settings)
        if reason is None:
            raise
        saved = None
        if place.is_whole and PartialState().num_processes == 1:
            place.go_back()
            with suppress(UserError, *DISK_ERRORS):
                saved = save()
        kept = "" if saved is None else f"{saved.name} is written, nothing is lost; "
        raise UserError(f"{reason}; {kept}then continue with {how_to_go_on(run_dir)}") from error


def reason_of(
    error: Exception, doing: str, network: nn.Module, settings: TrainSettings
) -> str | None:
    """What went wrong and what to change, in words; None if it is a fault in the program."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if is_out_of_memory(error):
        return f"out of memory while {doing}: {advice_on_memory(doing, network, settings)}"
    if isinstance(error, dist.DistError) or any(word in text for word in LOST_CONNECTION):
        return f"another process of this run is gone ({text[:200]})"
    if isinstance(error, DISK_ERRORS):
        place = getattr(error, "filename", None)
        return f"{place or 'the disk'}: {in_words(error)}"
    return None


LOST_CONNECTION = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed",
    "Timed out waiting", "NCCL error", "gloo/transport",
)  # fmt: skip


def advice_on_memory(doing: str, network: nn.Module, settings: TrainSettings) -> str:
    """What to change, in order of effect, leaving what is learned as it is where possible."""
    if doing == "sampling":
        return "lower sampling.batch_size (the samples stay the same), or sampling.n_images"
    advice = []
    rows, micros = settings.train_batch_size, settings.gradient_accumulation_steps
    if rows % 2 == 0:
        halves = f"training.gradient_accumulation_steps={2 * micros} (the same batch)"
        advice.append(f"training.train_batch_size={rows // 2} {halves}")
    known: Any = network
    can_checkpoint = getattr(known, "_supports_gradient_checkpointing", False)
    if can_checkpoint and not known.is_gradient_checkpointing:
        advice.append("training.gradient_checkpointing=true (the same gradients)")
    if settings.mixed_precision == "no":
        advice.append("training.mixed_precision=bf16")
    if lora_config(network) is None:
        advice.append("model.lora={rank: 16} in a new run, where the model is a pretrained one")
    if settings.use_ema:
        advice.append("training.use_ema=false in a new run")
    return "in this order, set " + ", ".join(advice) if advice else "use a smaller model"
