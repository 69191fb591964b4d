"""The training loop, one for all methods."""

import inspect
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any, ParamSpec

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor

from ..adversarial.discriminators import Discriminator
from ..data.batches import make_loader, rows_of
from ..diffusion.denoiser import Denoiser
from ..diffusion.parametrization import column
from ..diffusion.randomness import StepRandom
from ..objectives.base import Objective
from .checkpoint import CHECKPOINTS, Checkpoint, kept_tensors, write_checkpoint
from .processes import (
    distributed,
    finished_weights,
    keep_finished,
    make_accelerator,
    mean_over_processes,
    say,
)
from .replay import Where, keep
from .resume_check import check_same_run
from .roles import restore, roles
from .run_folder import RunFolder, open_run
from .settings import TrainSettings
from .stopping import (
    Boundary,
    StopRequest,
    check_finite,
    not_finite,
    rescued,
)
from .tracking import (
    Log,
    Window,
    describe,
    flat,
    note_unreadable,
    progress_bar,
    start_tracker,
    write_json,
)
from .turns import backward

MAX_SKIPPED_IN_A_ROW = 20
P = ParamSpec("P")
ConditionFn = Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Updates of the model.
        n_batches: Global batches.
        n_images: Samples in these batches, of all processes.
        seconds: Time spent on batches; sample grids and checkpoints do not count.
        logged, shown: Steps of the last line of the log, and of the last samples.
    """

    step: int = 0
    n_batches: int = 0
    n_images: int = 0
    seconds: float = 0.0
    logged: int = 0
    shown: int = 0


def with_its_run_open(train: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
    """A path given as `run_dir` is opened, and closed at the end, however that comes."""

    @wraps(train)
    def opened(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        given = inspect.signature(train).bind(*args, **kwargs).arguments
        run_dir, settings = given["run_dir"], given["settings"]
        if isinstance(run_dir, RunFolder):
            return train(*args, **kwargs)
        with open_run(
            run_dir,
            settings.resume_from_checkpoint,
            settings.overwrite_output_dir,
            settings.fork_from,
            settings.wait_for_lock,
        ) as run:
            return train(**{**given, "run_dir": run})  # pyright: ignore[reportCallIssue]

    return opened


@with_its_run_open
def train(
    denoiser: Denoiser,
    objective: Objective,
    dataset: Any,
    settings: TrainSettings,
    run_dir: str | Path | RunFolder,
    *,
    teacher: Denoiser | None = None,
    discriminator: Discriminator | None = None,
    discriminator_settings: TrainSettings | None = None,
    condition_fn: ConditionFn | None = None,
    encode_fn: Callable[[dict[str, Any], StepRandom], Tensor] | None = None,
    sample_fn: Callable[[Denoiser, Path], None] | None = None,
    evaluate_fn: Callable[[Denoiser], Mapping[str, float]] | None = None,
    save_fn: Callable[[Denoiser], None] | None = None,
    random_flip: bool = False,
    n_workers: int = 0,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a denoiser with an objective on a data set.

    On several processes, all of them call it with the same arguments. When it returns, the denoiser
    holds the finished weights: the average if there is one (with FSDP2 in the main process only,
    on the CPU). `sample_fn`, `evaluate_fn` and `save_fn` are called in the main process, in eval
    mode, without gradients, with those weights swapped in.

    Args:
        denoiser: What learns.
        objective: What it learns from.
        dataset: Samples, as in `sparring.data`; x0 as the model is to see it.
        settings: The numbers of the run.
        run_dir: The run's folder, or what `open_run` made of it.
        teacher: Of distillation; it is frozen and in eval mode.
        discriminator: Of adversarial diffusion tuning; its heads learn.
        discriminator_settings: Its optimiser's numbers; None: those of `settings`. It keeps no
            average.
        condition_fn: The conditions of a batch from the data set, by the network's argument names:
            as training tells them, and as sampling does ({} where nothing is sampled).
        encode_fn: x0 as the model is to see it, such as latents, of a batch and the step's random
            numbers; the batch's x0 is mirrored already, where `mirrored` (B,) says so.
        sample_fn: Writes a grid of samples to the given PNG file, every `validation_steps`.
        evaluate_fn: Numbers to log at the same steps, as evaluation/<name>.
        save_fn: Saves the finished model.
        random_flip: Mirror each image with probability 1/2.
        n_workers: Processes that read data, per training process; 0 reads in this one.
        config: The resolved config, kept in checkpoints to tell what a resumed run changes.

    Returns:
        The contents of training.json.

    Raises:
        UserError: if the run cannot start or resume as asked, or data or machine refuse.
        LockLost: if another start has taken the folder over; nothing was written since.
        Interrupted: if it was told to stop by a signal; a checkpoint is written.
        TrainingStopped: if a loss or gradient is not finite; the weights are those before it, and
            the batch is kept for `sparring replay`.
    """
    # Processes, device and precision.
    run = run_dir
    assert isinstance(run, RunFolder)
    accelerator = make_accelerator(settings, run.path)
    device, n_processes, process = (
        accelerator.device, accelerator.num_processes, accelerator.process_index,
    )  # fmt: skip
    n_own, n_micro = settings.train_batch_size, settings.gradient_accumulation_steps
    n_global = n_own * n_micro * n_processes

    # Who learns, and the networks by role.
    nets, players = roles(
        denoiser,
        objective,
        settings,
        accelerator,
        teacher=teacher,
        discriminator=discriminator,
        discriminator_settings=discriminator_settings,
    )
    model = players["model"]
    network = model.network

    # Go on from a checkpoint.
    progress, window, unreadable = Progress(), Window(), set[str]()
    fingerprint = {"data": dataset.fingerprint(), "n_global": n_global, "seed": settings.seed}
    checkpoint = None
    if run.checkpoint is not None:
        checkpoint = Checkpoint(run.checkpoint, is_verified=True)
        check_same_run(checkpoint, fingerprint, config, accelerator, is_fork=run.is_fork)
        for what in restore(checkpoint, players, objective, is_fork=run.is_fork):
            say(accelerator, f"{run.checkpoint} does not hold {what}, which begins afresh")
        progress = Progress(**checkpoint.state["progress"])
        window = Window(**checkpoint.state["window"])
        check_finite(players, f"{run.checkpoint} cannot be gone on from")

    def state() -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        return {
            "progress": asdict(progress),
            "players": {name: player.state() for name, player in players.items()},
            "window": vars(window),
            "fingerprint": fingerprint,
            "config": None if config is None else flat(config),
            "n_processes": n_processes,
        }

    def save() -> Path:
        """Write a checkpoint of finite numbers; by all processes together."""
        run.check()
        check_finite(players, f"no checkpoint of step {progress.step} is written")
        log.sync()
        note_unreadable(run.path / "data/unreadable.json", unreadable, accelerator)
        return write_checkpoint(
            run.path / CHECKPOINTS,
            progress.step,
            network,
            kept_tensors(players) | {"objective": objective.state_dict()},
            state(),
            settings.checkpoints_total_limit,
            run.writer,
        )

    def due(every: int | None, since: int) -> bool:
        """Whether a multiple of `every` lies in the updates after step `since`."""
        return every is not None and progress.step // every > since // every

    def tell(place: Boundary) -> None:
        """A line of the log and samples at fixed noise, where they are due and not there yet."""
        nonlocal window
        done = progress.step >= settings.max_train_steps
        if window.values and (due(settings.log_every_steps, progress.logged) or done):
            run.check()
            means = window.means()
            means |= {"lr": model.last_lr, "images_per_second": window.images_per_second}
            means |= {"seconds": progress.seconds, **objective.found()}
            if model.scaler is not None:
                means |= {"n_skipped": model.n_skipped}
            log.write(progress.step, means)
            progress.logged, window = progress.step, Window()
            note_unreadable(run.path / "data/unreadable.json", unreadable, accelerator)
        if due(settings.validation_steps, progress.shown):
            run.check()
            place.doing = "sampling"
            with finished_weights(denoiser, model, accelerator):
                if accelerator.is_main_process:
                    if sample_fn is not None:
                        path = run.path / "samples" / f"step-{progress.step}.png"
                        path.parent.mkdir(exist_ok=True)
                        sample_fn(denoiser, path)
                        log.image(progress.step, path)
                    if evaluate_fn is not None:
                        found = evaluate_fn(denoiser)
                        log.write(progress.step, {f"evaluation/{k}": v for k, v in found.items()})
            progress.shown = progress.step
            place.doing = "training"

    # What the run says about itself.
    run.check()
    log = Log(run.path / "metrics.jsonl", accelerator, after_step=progress.step)
    start_tracker(accelerator, settings, config or asdict(settings), progress.step)
    record_start(run, accelerator, progress.step)

    with (
        StopRequest() as stop,
        distributed(nets, players, accelerator, compiled=settings.compile),
        progress_bar(settings.max_train_steps, progress.step, accelerator.is_main_process) as bar,
        rescued(save, network, objective, settings, run.path) as place,
    ):
        batches = iter(
            make_loader(
                dataset,
                settings.seed,
                n_global,
                n_micro=n_micro,
                rank=process,
                world_size=n_processes,
                first_batch=progress.n_batches,
                n_workers=n_workers,
                pin_memory=device.type == "cuda",
            )
        )
        if checkpoint is not None and not checkpoint.restore_random_states():
            say(accelerator, "the checkpoint is of fewer processes: dropout masks will differ")
        must_stop = False
        tell(place)  # what an earlier start did not come to

        while progress.step < settings.max_train_steps and not must_stop:
            started, step_before = time.perf_counter(), progress.step
            place.begin()

            # A global batch, and all randomness of its step.
            micros: list[dict[str, Any]] = []
            draws = []
            for micro in range(n_micro):
                rows = rows_of(micro, process, n_processes, n_own)
                rng = StepRandom(
                    settings.seed, progress.n_batches, n_global, rows, device, micro=micro
                )
                batch = send_to_device(next(batches), device)
                assert isinstance(batch, dict)
                unreadable.update(batch.get("unreadable", ()))
                x0 = batch["x0"].to(next(iter(model.parameters.values())).dtype)
                batch["x0"] = x0
                if random_flip:
                    u = rng.uniform("flip")
                    batch |= {"x0": mirror(x0, u), "mirrored": u < 0.5}
                    if "trust" in batch:
                        batch["trust"] = batch["trust"].mirrored(batch["mirrored"])
                if encode_fn is not None:
                    batch |= {"image": batch["x0"], "x0": encode_fn(batch, rng)}
                if condition_fn is not None:
                    batch["cond"], batch["sampling_cond"] = condition_fn(batch)
                micros.append(batch)
                draws.append(objective.draw(batch, rng, progress.step))
            while objective.news:
                say(accelerator, objective.news.pop(0))

            # Turns: who learns, and from what. The micro-batches advance together.
            each_turn = zip(*(objective.turns(nets, s) for s in draws), strict=True)
            for n_turns, turns in enumerate(each_turn):
                player = players[turns[0].player]
                losses = backward(turns, nets[turns[0].player].network, accelerator)
                grad_norm = float(player.clip())
                terms = {
                    name: float(torch.stack([loss[name].mean() for loss in losses]).mean())
                    for name in losses[0]
                }
                bad_loss, bad_grad, asked, *means = mean_over_processes(
                    accelerator,
                    [
                        not all(isfinite(term) for term in terms.values()),
                        not isfinite(grad_norm),
                        stop.number is not None,
                        *terms.values(),
                    ],
                )
                must_stop = asked > 0
                overflow = bad_grad > 0 and player.scaler is not None
                broken = (bad_loss > 0 or bad_grad > 0) and not overflow
                place.is_whole = False
                if overflow:
                    player.skip()
                if broken or player.n_skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
                    where = Where(
                        settings.seed, step_before, progress.n_batches, n_turns,
                        n_global, n_own, n_micro, n_processes,
                    )  # fmt: skip
                    run.check()
                    is_kept = keep(
                        run.path, where, micros, network, players, place.remembered, state(),
                        accelerator,
                    )  # fmt: skip
                    raise not_finite(
                        micros, losses, grad_norm, progress.step, player.n_skipped_in_a_row,
                        run.path, players, accelerator, is_kept=is_kept,
                    )  # fmt: skip
                if not overflow:
                    terms = dict(zip(terms, means, strict=True))
                    whose = "" if player is model else f"{turns[0].player}/"
                    numbers = {f"{whose}loss": sum(terms.values()), f"{whose}grad_norm": grad_norm}
                    window.add(numbers | {f"loss/{name}": term for name, term in terms.items()})
                    player.step()
                    progress.step += player is model
                for each in players.values():
                    each.optimizer.zero_grad(set_to_none=True)

            progress.n_batches += 1
            progress.n_images += n_global
            window.n_images += n_global
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            window.seconds += seconds
            place.end()
            done = progress.step >= settings.max_train_steps

            bar.update(progress.step - step_before)
            if window.values:
                means = window.means()
                loss = means.get("loss", means.get("discriminator/loss"))
                speed = f"{window.images_per_second:.0f} images/s"
                bar.set_postfix_str(f"loss {loss:.4g}, {speed}", refresh=False)
            tell(place)

            # Checkpoint.
            if due(settings.checkpointing_steps, step_before) or done or must_stop:
                save()

    # The finished model and what it cost.
    finished = progress.step >= settings.max_train_steps
    summary = {
        "train_seconds": progress.seconds,
        "n_steps": progress.step,
        "n_images": progress.n_images,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "n_skipped": model.n_skipped,
        "n_processes": n_processes,
        "seconds_per_step": progress.seconds / max(progress.step, 1),
        "finished": finished,
    }
    for tracker in accelerator.trackers:
        tracker.finish()
    run.check()
    if not finished:
        if accelerator.is_main_process:
            write_json(run.path / "training.json", summary)
        raise stop.interrupted(progress.step)
    keep_finished(denoiser, model, accelerator, save_fn)
    if accelerator.is_main_process:
        write_json(run.path / "training.json", summary)
    accelerator.wait_for_everyone()
    return summary


def mirror(x0: Tensor, u: Tensor) -> Tensor:
    """Images (B, C, H, W) mirrored left to right where u (B,) < 1/2."""
    return torch.where(column(u < 0.5, x0), x0.flip(-1), x0)


def record_start(run: RunFolder, accelerator: Accelerator, step: int) -> None:
    """run.json: who runs what where; a resumed run is added to the first start."""
    if not accelerator.is_main_process:
        return
    for name in ("training.json", "stopped.json"):  # how an earlier start ended
        (run.path / name).unlink(missing_ok=True)
    path, start = run.path / "run.json", describe(accelerator)
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
