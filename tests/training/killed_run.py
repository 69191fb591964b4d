"""Train in a child process, kill it with SIGKILL again and again, resume until it is finished.

    python killed_run.py FOLDER N_KILLS N_STEPS

It trains FOLDER/whole without disturbance and FOLDER/killed with it, and prints what happened as
one JSON object. Python and torch are loaded once: each child is a fork of this process.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tiny_runs import Points, make_objective, run

from sparring.training import latest_checkpoint
from sparring.training.checkpoint import checkpoint_step

SETTINGS = {
    "dropout": 0.2,
    "checkpointing_steps": 4,
    "log_every_steps": 3,
    "lr_scheduler": "cosine",
    "checkpoints_total_limit": 2,
}


class Endless(Points):
    """Points whose reader waits, near the end of the run, to be killed."""

    def __init__(self, n_steps: int) -> None:
        super().__init__()
        self.last_position = 8 * (n_steps - 10) // 2  # batches of 8 samples and two updates

    def __getitems__(self, keys: list[Any]) -> dict[str, Any]:
        if keys[0][1] >= self.last_position:
            signal.pause()
        return super().__getitems__(keys)


def in_child(run_dir: Path, n_steps: int, data: Points | None = None) -> int:
    """Start or continue the run in a forked process; its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # no progress bars
            resume = "latest" if latest_checkpoint(run_dir) else None
            run(
                run_dir,
                make_objective("dro", n_passes=2),
                **SETTINGS,
                data=data,
                max_train_steps=n_steps,
                resume_from_checkpoint=resume,
                overwrite_output_dir=resume is None,
            )
            code = 0
        finally:
            os._exit(code)
    return child


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint by name, 0 if there is none."""
    return max(map(checkpoint_step, (run_dir / "checkpoints").glob("checkpoint-*")), default=0)


def main() -> None:
    folder, n_kills, n_steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    assert os.waitpid(in_child(folder / "whole", n_steps), 0)[1] == 0

    # a random step and then a random time: the kills are spread over the run on any machine
    moments = random.Random(0)
    targets = sorted(moments.randrange(n_steps - 20) for _ in range(n_kills))
    killed_after, n_half = [], 0
    for target in targets:
        child = in_child(folder / "killed", n_steps, Endless(n_steps))
        while newest_step(folder / "killed") < target:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the run ended before it was killed"
        killed_after.append(newest_step(folder / "killed"))
        n_half += any((folder / "killed" / "checkpoints").glob(".half-*"))
    code = os.waitpid(in_child(folder / "killed", n_steps), 0)[1]
    print(
        json.dumps(
            {
                "killed_after_checkpoint": killed_after,
                "n_half_written": n_half,
                "exit_code": code,
            }
        )
    )


main()
