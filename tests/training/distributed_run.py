"""Runs on N processes, for `torchrun --nproc_per_node N distributed_run.py FOLDER SIZE PART...`.

The global batch is SIZE, whatever N is. Parts:

    gradients       of each update of CASES, as FOLDER/<case>.safetensors; errors, resuming
    long            LONG, as runs in FOLDER/long
    sharded         SHARDED under FSDP2, as runs in FOLDER/sharded
    resumed=RUNS    SHARDED under FSDP2 from the checkpoints at half way in the folder RUNS, as runs
                    in FOLDER/resumed
    groups=RUNS     the same in groups of two processes that hold a copy each, in FOLDER/groups
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import patch_environment
from distributed_cases import CASES, LONG, SHARDED
from safetensors.torch import save_file
from tiny_runs import Points, make_objective, run, tiny_denoiser, tiny_discriminator

from sparring.data.base import InMemory, ModelRange
from sparring.data.dirt.contaminated import Contaminated
from sparring.diffusion.denoiser import Denoiser
from sparring.support.errors import LockHeld, LockLost, TrainingStopped, UserError
from sparring.training import checkpoint, open_run
from sparring.training.players import Player

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "100",
}
"""What `accelerate launch` sets of a user's config; the tiny network has blocks by that size."""


def no_space() -> dict[str, Any]:
    raise OSError(28, "No space left on device")


def main(folder: Path, size: int, *parts: str) -> None:
    for part in parts:
        name, _, source = part.partition("=")
        if name == "gradients":
            of_every_update(folder, size)
        elif name == "long":
            long_runs(folder / "long", size, LONG)
        else:
            groups = {"LOCAL_WORLD_SIZE": "2"} if name == "groups" else {}
            with patch_environment(**FSDP, **groups):
                start = Path(source) if source else None
                long_runs(folder / name, size, SHARDED, start, "hsdp" if groups else "none")
    (folder / f"took-part-{os.environ.get('RANK', '0')}.json").write_text(
        json.dumps({"world_size": dist.get_world_size() if dist.is_initialized() else 1})
    )
    if dist.is_initialized():
        dist.destroy_process_group()


def long_runs(
    folder: Path,
    size: int,
    labels: Iterable[str],
    source: Path | None = None,
    sharding: str = "none",
) -> None:
    """Twenty updates of each, from the start or from a checkpoint after ten."""
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    other = int(os.environ.get("RANK", "0") != "0")  # who must take the first's weights
    for label in labels:
        name, fields, n_micro = LONG[label]
        start = None if source is None else str(next((source / label).rglob("checkpoint-1?")))
        handed = []
        run(
            folder / label,
            make_objective(name, **fields),
            data=Contaminated(ModelRange(InMemory("points", Points().points)), "gaussian", 0.5, 3),
            denoiser=tiny_denoiser(seed=other).double(),
            teacher=tiny_denoiser(seed=2).double(),
            discriminator=tiny_discriminator(seed=other).double(),
            train_batch_size=size // n_micro // n_processes,
            gradient_accumulation_steps=n_micro,
            max_train_steps=20,
            checkpointing_steps=10,
            checkpoints_total_limit=None,
            validation_steps=10,
            evaluate_fn=lambda denoiser: {"weights": total(denoiser)},
            save_fn=lambda denoiser, handed=handed: handed.append(total(denoiser)),
            log_every_steps=5,
            learning_rate=1e-3,
            resume_from_checkpoint=start,
            sharding=sharding,
        )
        if handed:
            (folder / label / "handed.json").write_text(json.dumps(handed))


def total(denoiser: Denoiser) -> float:
    """A number that follows from all weights."""
    weights = [value.double().flatten() for value in denoiser.network.state_dict().values()]
    return float((torch.cat(weights) * torch.arange(sum(map(len, weights)))).sum())


def of_every_update(folder: Path, size: int) -> None:
    """Gradients of CASES; then what stops, and what resumes."""
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    gradients: dict[str, torch.Tensor] = {}
    clip = Player.clip

    def record(player: Player) -> torch.Tensor:
        for name, value in player.parameters.items():
            gradients[f"{player.n_updates}|{name}"] = value.grad.clone()
        return clip(player)

    Player.clip = record  # pyright: ignore[reportAttributeAccessIssue]
    for label, (name, fields, n_micro) in CASES.items():
        gradients.clear()
        is_second = int(os.environ.get("RANK", "0") != "0")  # who must take the first's weights
        denoiser = tiny_denoiser(seed=is_second).double()
        objective = make_objective(name, **fields)
        summary = run(
            folder / label,
            objective,
            denoiser=denoiser,
            teacher=tiny_denoiser(seed=2).double(),
            discriminator=tiny_discriminator(seed=is_second).double(),
            train_batch_size=size // n_micro // n_processes,
            gradient_accumulation_steps=n_micro,
            max_train_steps=3,
            log_every_steps=2,
            learning_rate=1e-3,
        )
        assert summary["n_processes"] == n_processes
        assert n_processes == 1 or dist.get_world_size() == n_processes
        if os.environ.get("RANK", "0") == "0":
            assert len(gradients) >= 3 * len(list(denoiser.parameters()))
            kept = {f"kept|{name}": value for name, value in objective.state_dict().items()}
            kept = {name: value for name, value in kept.items() if "balance" not in name}
            save_file(gradients | kept, folder / f"{label}.safetensors")

    Player.clip = clip

    # a bad sample in one process's rows stops all of them, with the same words
    try:
        run(folder / "bad", data=Points(64, bad=(5,)), train_batch_size=4, max_train_steps=99)
    except TrainingStopped as stopped:
        (folder / f"stopped-{os.environ.get('RANK', '0')}.txt").write_text(str(stopped))

    # what the last process cannot write, none believes to be written, and none waits for ever
    states = checkpoint.random_states
    if int(os.environ.get("RANK", "0")) == n_processes - 1:
        checkpoint.random_states = no_space
    try:
        run(folder / "full", train_batch_size=4)
    except UserError as full:
        (folder / f"full-{os.environ.get('RANK', '0')}.txt").write_text(str(full))
    checkpoint.random_states = states

    # a second start is refused in all of its processes; one that lost its folder stops in all
    rank = os.environ.get("RANK", "0")
    with open_run(folder / "locked") as first:
        try:
            open_run(folder / "locked")
        except LockHeld as held:
            (folder / f"held-{rank}.txt").write_text(str(held))
        first.check()
        if rank == "0":
            (folder / "locked" / ".lock" / "000002.held").touch()
        try:
            first.check()
        except LockLost as lost:
            (folder / f"lost-{rank}.txt").write_text(str(lost))

    # two processes resume as they went on
    settings = {"dropout": 0.4, "train_batch_size": 4, "checkpointing_steps": 5}
    run(folder / "whole", **settings, max_train_steps=10)
    run(folder / "cut", **settings, max_train_steps=5)
    torch.manual_seed(99)
    run(folder / "cut", **settings, max_train_steps=10, resume_from_checkpoint="latest")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
