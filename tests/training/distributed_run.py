"""Gradients of every update, for `torchrun --nproc_per_node N distributed_run.py FOLDER SIZE`.

For each objective it writes FOLDER/<objective>.safetensors (gradients, losses, weights) from the
main process. The global batch is SIZE, whatever N is.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from distributed_cases import CASES
from safetensors.torch import save_file
from tiny_runs import Points, make_objective, run, tiny_denoiser, tiny_discriminator

from sparring.errors import TrainingStopped
from sparring.training.players import Player


def main() -> None:
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
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

    # a bad sample in one process's rows stops all of them, with the same words
    try:
        run(folder / "bad", data=Points(64, bad=(5,)), train_batch_size=4, max_train_steps=99)
    except TrainingStopped as stopped:
        (folder / f"stopped-{os.environ.get('RANK', '0')}.txt").write_text(str(stopped))

    # two processes resume as they went on
    settings = {"dropout": 0.4, "train_batch_size": 4, "checkpointing_steps": 5}
    run(folder / "whole", **settings, max_train_steps=10)
    run(folder / "cut", **settings, max_train_steps=5)
    torch.manual_seed(99)
    run(folder / "cut", **settings, max_train_steps=10, resume_from_checkpoint="latest")
    (folder / f"took-part-{os.environ.get('RANK', '0')}.json").write_text(
        json.dumps({"world_size": dist.get_world_size() if dist.is_initialized() else 1})
    )
    if dist.is_initialized():
        dist.destroy_process_group()


main()
