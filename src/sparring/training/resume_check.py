"""May this run go on from that checkpoint: what must be equal, what may change, what is said."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from ..support.errors import UserError
from .checkpoint import Checkpoint
from .processes import say
from .settings import START
from .tracking import flat

LEARNED = ("model.", "objective.", "data.", "contamination.")
"""Sections that say what is learned from what; the rest says how, and for how long."""
FREE = (
    "data.dataloader_num_workers", "data.latents_cache", "objective.max_train_steps",
    "objective.dirt",
)  # fmt: skip
"""Among them; what `objective.dirt` says is part of the data's fingerprint."""
STARTS = ("training.output_dir", *(f"training.{name}" for name in START))
"""How this start begins and where the run lies: no part of what it is."""
CHOOSERS = (
    "objective.name", "data.name", "contamination.kind", "model.network._class_name",
    "model.scheduler._class_name",
)  # fmt: skip
"""Keys that say what a section is; with another value its other keys cannot be compared."""


def check_same_run(
    checkpoint: Checkpoint,
    fingerprint: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    accelerator: Accelerator,
    *,
    is_fork: bool = False,
) -> None:
    """Refuse to resume on other data, another batch, model or objective; say what else changed.

    A fork may change all of it, and says so.
    """
    words = {
        "data": "data, and what is known of them (fingerprint)",
        "n_global": "samples per global batch (batch size x accumulation x processes)",
        "seed": "training.seed",
    }
    refused, told = [], []
    for name, now in fingerprint.items():
        before = checkpoint.state["fingerprint"][name]
        if before != now:
            refused.append(f"{words[name]} was {before} and is now {now}")
    before, now = checkpoint.state["config"] or {}, flat(config or {})
    for key in sorted(before.keys() | now.keys() if before and now else ()):
        was, is_now = (_shown(settings.get(key, "not set")) for settings in (before, now))
        if was == is_now or key in STARTS or _goes_with_another(key, before, now):
            continue
        fixed = key.startswith(LEARNED) and key not in FREE
        (refused if fixed else told).append(f"{key} was {was} and is now {is_now}")
    if refused and not is_fork:
        advice = f"with --fork {checkpoint.path} and another training.output_dir"
        why = f"cannot resume from {checkpoint.path}: {'; '.join(refused)}"
        raise UserError(f"{why}. Start a new run from it {advice}")
    for difference in [*refused, *told]:
        say(accelerator, f"{'forking' if is_fork else 'resuming'}: {difference}")


def _goes_with_another(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a key belongs to a section that is another one altogether, which says enough."""
    for chooser in CHOOSERS:
        section = chooser.rpartition(".")[0]
        if key != chooser and key.startswith(f"{section}."):
            return before.get(chooser) != now.get(chooser)
    return False


def _shown(value: Any) -> Any:
    return "null" if value == "None" else value
