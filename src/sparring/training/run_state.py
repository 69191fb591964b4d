"""A run under way: how far it is, what it says of itself, and its checkpoints."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..support.errors import TrainingStopped
from . import tracking
from .checkpoint import CHECKPOINTS, Checkpoint, kept_tensors, write_checkpoint
from .feed import BatchAddress
from .players import Player
from .processes import finished_weights, keep_finished, say
from .replay import keep_batch
from .resume_check import check_same_run
from .roles import Trained, restore
from .run_folder import RunFolder
from .settings import TrainSettings
from .stopping import Boundary, StopRequest, check_finite, not_finite
from .tracking import Log, Window, flat, write_json
from .turns import Update


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # updates of the model
    n_batches: int = 0  # global batches
    n_images: int = 0  # samples in these, of all processes
    seconds: float = 0.0  # spent on batches; sample grids and checkpoints do not count
    logged: int = 0  # step of the last line of the log
    shown: int = 0  # step of the last samples


@dataclass(frozen=True)
class Hooks:
    """What training calls from above: in the main process, in eval mode, without gradients, with
    the finished weights swapped in."""

    sample_fn: Callable[[Denoiser, Path], None] | None = None
    """Writes a grid of samples to the given PNG file, every `validation_steps`."""
    evaluate_fn: Callable[[Denoiser], Mapping[str, float]] | None = None
    """Numbers to log at the same steps, as evaluation/<name>."""
    save_fn: Callable[[Denoiser], None] | None = None  # saves the finished model


class RunState:
    """How far a run is, its log and its checkpoints; it goes on from one if its folder says so.

    The players go by their roles; `data` is the data set's fingerprint, and the resolved config is
    kept in checkpoints, to tell what a resumed run changes. UserError if the run cannot go on from
    its checkpoint, TrainingStopped if a number in that is not finite.
    """

    def __init__(
        self,
        folder: RunFolder,
        trained: Trained,
        players: dict[str, Player],
        settings: TrainSettings,
        accelerator: Accelerator,
        data: str,
        config: Mapping[str, Any] | None,
    ) -> None:
        self.folder, self.settings, self.accelerator = folder, settings, accelerator
        self.denoiser, self.objective = trained.denoiser, trained.objective
        self.players, self.model, self.config = players, players["model"], config
        n_own = settings.train_batch_size * settings.gradient_accumulation_steps
        self.n_global = n_own * accelerator.num_processes
        self.fingerprint = {"data": data, "n_global": self.n_global, "seed": settings.seed}
        self.progress, self.window, self.unreadable = Progress(), Window(), set[str]()
        self.boundary = Boundary(self.objective)
        self.checkpoint: Checkpoint | None = None
        if folder.checkpoint is not None:
            self._go_on_from(folder.checkpoint)
        folder.check()
        self.log = Log(folder.path / "metrics.jsonl", accelerator, after_step=self.progress.step)
        tracking.start_tracker(
            accelerator, settings, config or settings.model_dump(), self.progress.step
        )
        record_start(folder, accelerator, self.progress.step)
        is_shown = accelerator.is_main_process
        self.bar = tracking.progress_bar(settings.max_train_steps, self.progress.step, is_shown)

    def _go_on_from(self, path: Path) -> None:
        checkpoint, is_fork = Checkpoint(path, is_verified=True), self.folder.is_fork
        check_same_run(checkpoint, self.fingerprint, self.config, self.accelerator, is_fork=is_fork)
        for what in restore(checkpoint, self.players, self.objective, is_fork=is_fork):
            say(self.accelerator, f"{path} does not hold {what}, which begins afresh")
        self.progress = Progress(**checkpoint.state["progress"])
        self.window = Window(**checkpoint.state["window"])
        check_finite(self.players, f"{path} cannot be gone on from")
        self.checkpoint = checkpoint

    def restore_random_states(self) -> None:
        """Dropout goes on where the checkpoint's process left it."""
        if self.checkpoint is not None and not self.checkpoint.restore_random_states():
            say(self.accelerator, "the checkpoint is of fewer processes: dropout masks will differ")

    @property
    def is_finished(self) -> bool:
        return self.progress.step >= self.settings.max_train_steps

    def begin_batch(self) -> BatchAddress:
        """The clock starts, and what a batch that fails goes back to is remembered."""
        self._started, self._step_before = time.perf_counter(), self.progress.step
        self.boundary.begin()
        return self.address()

    def address(self) -> BatchAddress:
        return BatchAddress(
            self.settings.seed, self.progress.step, self.progress.n_batches, 0, self.n_global,
            self.settings.train_batch_size, self.settings.gradient_accumulation_steps,
            self.accelerator.num_processes,
        )  # fmt: skip

    def count_update(self, role: str, update: Update) -> None:
        """A player's update, in the log's window and in the count of steps."""
        whose = "" if role == "model" else f"{role}/"
        numbers = {f"{whose}loss": sum(update.terms.values())}
        numbers |= {f"{whose}grad_norm": update.grad_norm}
        self.window.add(numbers | {f"loss/{name}": term for name, term in update.terms.items()})
        self.progress.step += role == "model"

    def end_batch(self) -> None:
        """The batch is counted, and the bar shows it."""
        seconds = time.perf_counter() - self._started
        self.progress.n_batches += 1
        for counts in (self.progress, self.window):
            counts.n_images += self.n_global
            counts.seconds += seconds
        self.boundary.end()
        self.bar.update(self.progress.step - self._step_before)
        if self.window.values:
            means = self.window.means()
            loss = means.get("loss", means.get("discriminator/loss"))
            speed = f"{self.window.images_per_second:.0f} images/s"
            self.bar.set_postfix_str(f"loss {loss:.4g}, {speed}", refresh=False)

    def _due(self, every: int | None, since: int) -> bool:
        """Whether a multiple of `every` lies in the updates after step `since`."""
        return every is not None and self.progress.step // every > since // every

    def write_line(self) -> None:
        """A line of the log, if one is due and not there yet."""
        is_due = self._due(self.settings.log_every_steps, self.progress.logged)
        if not (self.window.values and (is_due or self.is_finished)):
            return
        self.folder.check()
        means = self.window.means()
        means |= {"lr": self.model.last_lr, "images_per_second": self.window.images_per_second}
        means |= {"seconds": self.progress.seconds, **self.objective.found()}
        if self.model.scaler is not None:
            means |= {"n_skipped": self.model.n_skipped}
        self.log.write(self.progress.step, means)
        self.progress.logged, self.window = self.progress.step, Window()
        self._note_unreadable()

    def show(self, hooks: Hooks) -> None:
        """Samples at fixed noise and figures of an evaluation, if they are due and not there."""
        step = self.progress.step
        if not self._due(self.settings.validation_steps, self.progress.shown):
            return
        self.folder.check()
        self.boundary.doing = "sampling"
        with finished_weights(self.denoiser, self.model, self.accelerator):
            if self.accelerator.is_main_process and hooks.sample_fn is not None:
                path = self.folder.path / "samples" / f"step-{step}.png"
                path.parent.mkdir(exist_ok=True)
                hooks.sample_fn(self.denoiser, path)
                self.log.image(step, path)
            if self.accelerator.is_main_process and hooks.evaluate_fn is not None:
                figures = hooks.evaluate_fn(self.denoiser)
                self.log.write(step, {f"evaluation/{k}": v for k, v in figures.items()})
        self.progress.shown = step
        self.boundary.doing = "training"

    def _note_unreadable(self) -> None:
        tracking.note_unreadable(self.folder.path, self.unreadable, self.accelerator)

    def save_if_due(self, *, now: bool) -> None:
        """A checkpoint every `checkpointing_steps`, and at the end of the run or of this start."""
        every = self.settings.checkpointing_steps
        if now or self.is_finished or self._due(every, self._step_before):
            self.save()

    def save(self) -> Path:
        """Write a checkpoint of finite numbers; by all processes together."""
        self.folder.check()
        check_finite(self.players, f"no checkpoint of step {self.progress.step} is written")
        self.log.sync()
        self._note_unreadable()
        return self._write(
            self.folder.path / CHECKPOINTS, self.progress.step, self.objective.state_dict(),
            n_kept=self.settings.checkpoints_total_limit, writer=self.folder,
        )  # fmt: skip

    def _write(
        self, place: Path, step: int, remembered: Mapping[str, Tensor], **words: Any
    ) -> Path:
        """A checkpoint with what the objective remembers; `words` are `write_checkpoint`'s."""
        state = {
            "progress": asdict(self.progress),
            "players": {name: player.state() for name, player in self.players.items()},
            "window": vars(self.window),
            "fingerprint": self.fingerprint,
            "config": None if self.config is None else flat(self.config),
            "n_processes": self.accelerator.num_processes,
            "mixed_precision": self.settings.mixed_precision,
        }
        tensors = kept_tensors(self.players) | {"objective": remembered}
        return write_checkpoint(place, step, self.model.network, tensors, state, **words)

    def stopped(
        self, address: BatchAddress, batches: list[dict[str, Any]], update: Update, player: Player
    ) -> TrainingStopped:
        """Keep the batch whose update is not finite for `sparring replay`; the error to raise."""
        self.folder.check()

        def write_weights(place: Path) -> None:
            self._write(place, address.step, self.boundary.remembered)

        is_kept = keep_batch(self.folder.path, address, batches, write_weights)
        return not_finite(
            self.folder.path, self.progress.step, batches, update, self.players,
            n_skipped_in_a_row=player.n_skipped_in_a_row, is_kept=is_kept,
        )  # fmt: skip

    def finish(self, stop: StopRequest, hooks: Hooks) -> dict[str, Any]:
        """Hand the finished model over and write training.json, which is returned.

        Interrupted if the run was told to stop before its last update.
        """
        parameters = self.model.network.parameters()
        summary = {
            "train_seconds": self.progress.seconds,
            "n_steps": self.progress.step,
            "n_images": self.progress.n_images,
            "n_parameters": sum(parameter.numel() for parameter in parameters),
            "n_skipped": self.model.n_skipped,
            "n_processes": self.accelerator.num_processes,
            "seconds_per_step": self.progress.seconds / max(self.progress.step, 1),
            "finished": self.is_finished,
        }
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.folder.check()
        if self.is_finished:
            keep_finished(self.denoiser, self.model, self.accelerator, hooks.save_fn)
        if self.accelerator.is_main_process:
            write_json(self.folder.path / "training.json", summary)
        if not self.is_finished:
            raise stop.interrupted(self.progress.step)
        self.accelerator.wait_for_everyone()
        return summary


def record_start(run: RunFolder, accelerator: Accelerator, step: int) -> None:
    """run.json: who runs what where; a resumed run is added to the first start."""
    if not accelerator.is_main_process:
        return
    for name in ("training.json", "stopped.json"):  # how an earlier start ended
        (run.path / name).unlink(missing_ok=True)
    path, start = run.path / "run.json", tracking.describe(accelerator)
    if run.is_fork:
        start["forked_from"] = str(run.checkpoint)
    elif step > 0 and path.exists():
        try:
            first = dict(json.loads(path.read_text()))
            first.setdefault("resumed", []).append({"step": step, **start})
            start = first
        except (ValueError, TypeError, AttributeError):
            say(accelerator, f"{path} is damaged and is written anew, from this start on")
    write_json(path, start)
