"""The training loop, one for all methods."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from accelerate.utils import send_to_device

from .feed import Feed
from .precision import settled
from .processes import distributed, make_accelerator, say
from .roles import Trained, roles
from .run_folder import RunFolder, open_run
from .run_state import Hooks, RunState
from .settings import TrainSettings, start_of
from .stopping import StopRequest, rescued
from .turns import agreed, backward

MAX_SKIPPED_IN_A_ROW = 20


def train(
    trained: Trained,
    feed: Feed,
    settings: TrainSettings,
    run_dir: str | Path | RunFolder,
    hooks: Hooks | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a denoiser with an objective on a data set; returned are the contents of training.json.

    On several processes, all of them call it with the same arguments. When it returns, the denoiser
    holds the finished weights: the average if there is one (with FSDP2 in the main process only, on
    the CPU). `run_dir` is the run's folder, or what `open_run` made of it; the resolved `config` is
    kept in checkpoints, to tell what a resumed run changes.

    Raises:
        UserError: if the run cannot start or resume as asked, or data or machine refuse.
        LockLost: if another start has taken the folder over; nothing was written since.
        Interrupted: if it was told to stop by a signal; a checkpoint is written.
        TrainingStopped: if a loss or gradient is not finite; the weights are those before it, and
            the batch is kept for `sparring replay`.
    """
    if not isinstance(run_dir, RunFolder):
        with open_run(run_dir, **start_of(settings)) as folder:
            return train(trained, feed, settings, folder, hooks, config)
    folder, hooks = run_dir, hooks or Hooks()
    settings = settled(settings, folder, feed.dataset.sample_shape)

    # Processes, device and precision; who learns, and the networks by role.
    accelerator = make_accelerator(settings, folder.path)
    device, process = accelerator.device, accelerator.process_index
    nets, players = roles(trained, settings, accelerator)
    objective, network = trained.objective, players["model"].network
    dtype = next(iter(players["model"].parameters.values())).dtype

    # How far the run is: at the beginning, or where its checkpoint is.
    fingerprint = feed.dataset.fingerprint()
    run = RunState(folder, trained, players, settings, accelerator, fingerprint, config)

    with (
        StopRequest() as stop,
        distributed(nets, players, accelerator, compiled=settings.compile),
        run.bar,
        rescued(run.boundary, run.save, network, settings, folder.path),
    ):
        batches = iter(feed.loader(run.address(), process, device))
        run.restore_random_states()
        run.write_line()  # what an earlier start did not come to
        run.show(hooks)
        must_stop = False

        while not run.is_finished and not must_stop:
            # A global batch, and all randomness of its step.
            address = run.begin_batch()
            micros, draws = [], []
            for micro in range(address.n_micro):
                rng = address.random(process, micro, device)
                read = cast("dict[str, Any]", send_to_device(next(batches), device))
                run.unreadable.update(read.get("unreadable", ()))
                micros.append(feed.prepared(read, rng, dtype))
                draws.append(objective.draw(micros[-1], rng, address.step))
            while objective.news:
                say(accelerator, objective.news.pop(0))

            # Turns: who learns, and from what. The micro-batches advance together.
            each_turn = zip(*(objective.turns(nets, s) for s in draws), strict=True)
            for number, turns in enumerate(each_turn):
                role = turns[0].player
                player = players[role]
                losses = backward(turns, nets[role].network, accelerator)
                grad_norm = float(player.clip())
                update = agreed(losses, grad_norm, stop.number is not None, accelerator)
                must_stop = update.stop_asked

                # Learn, if all numbers are finite; fp16 may overflow now and then.
                run.boundary.is_whole = False
                overflows = update.bad_gradient and player.scaler is not None
                if overflows:
                    player.skip()
                elif update.is_finite:
                    run.count_update(role, update)
                    player.step()
                is_lost = not (overflows or update.is_finite)
                if is_lost or player.n_skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
                    raise run.stopped(replace(address, turn=number), micros, update, player)
                for each in players.values():
                    each.optimizer.zero_grad(set_to_none=True)

            # The log, samples, a checkpoint.
            run.end_batch()
            run.write_line()
            run.show(hooks)
            run.save_if_due(now=must_stop)

    # The finished model and what it cost.
    return run.finish(stop, hooks)
