"""The two ways a run stops early: somebody asks for it, or the numbers are no longer finite."""

import math
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..errors import TrainingStopped
from .checkpoint import latest_checkpoint
from .tracking import write_json

N_NAMED = 32  # samples in the message; stopped.json has them all


class StopRequest:
    """Inside the context, the first SIGINT or SIGTERM is remembered, the second acts at once.

    Outside the main thread Python allows no signal handlers, and nothing is caught.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def not_finite(
    batches: Sequence[Mapping[str, Any]],
    losses: Sequence[Mapping[str, Tensor]],
    grad_norm: float,
    step: int,
    n_skipped_in_a_row: int,
    run_dir: Path,
    accelerator: Accelerator,
) -> TrainingStopped:
    """The error that names the step, the samples and what to do; to be made by all processes.

    It also writes `stopped.json` with all indices of the batch, those of non-finite loss first.

    Args:
        batches: The own micro-batches, with "index".
        losses: Their terms, per sample.
        grad_norm: Before clipping.
        step: Updates done, all of them finite.
        n_skipped_in_a_row: fp16 overflows before this one and with it; 0 without fp16.
        run_dir: Where stopped.json goes.
        accelerator: To hear of the other processes' samples.
    """
    own = []
    for batch, terms in zip(batches, losses, strict=True):
        columns = {name: values.tolist() for name, values in terms.items()}
        for row, index in enumerate(batch["index"].tolist()):
            bad = {
                name: values[row]
                for name, values in columns.items()
                if not math.isfinite(values[row])
            }
            own.append((index, bad))
    rows: list[tuple[int, dict[str, float]]] = gather_object(own)
    rows.sort(key=lambda row: not row[1])
    n_bad = sum(bool(bad) for _, bad in rows)
    if accelerator.is_main_process:
        write_json(
            run_dir / "stopped.json",
            {
                "step": step,
                "grad_norm": repr(grad_norm),
                "samples": [
                    {"index": index, "loss": {name: repr(value) for name, value in bad.items()}}
                    for index, bad in rows
                ],
            },
        )

    named = ", ".join(str(index) for index, _ in rows[: min(n_bad or len(rows), N_NAMED)])
    left = (n_bad or len(rows)) - N_NAMED
    named += f" and {left} more" if left > 0 else ""
    if n_bad:
        terms = ", ".join(sorted({name for _, bad in rows for name in bad}))
        what = (
            f"the loss ({terms}) of {n_bad} of {len(rows)} samples is not finite: indices {named}"
        )
    else:
        what = (
            f"the gradient norm is {grad_norm}, though every loss is finite; batch: indices {named}"
        )
    advice = "look at these samples and lower training.learning_rate"
    if n_skipped_in_a_row:
        what = f"fp16 overflowed {n_skipped_in_a_row} times in a row; {what}"
        advice += "; training.mixed_precision=bf16 has the range that fp16 lacks"
    go_on = "training.resume_from_checkpoint=latest"
    if latest_checkpoint(run_dir) is None:
        go_on = "training.overwrite_output_dir=true (there is no checkpoint yet)"
    return TrainingStopped(
        f"training stopped before update {step + 1}: {what}. The weights were not changed. To go "
        f"on, {advice}, then use {go_on} "
        f"(all indices: {run_dir / 'stopped.json'})"
    )
