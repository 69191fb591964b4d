"""How much memory a turn of the model takes in `adt`, by the number K of trained calls.

    make bench-adt-memory

Measured: the most bytes that are allocated at once, over what was there before, from torch's
profiler, in a process of its own for each row: the rollout, the judgement with its gradient by the
sample, and all parts with their backward passes, by the loop's own `backward`. Activations,
gradients of the weights and temporaries count; weights, data, optimiser and average do not, being
there already or coming later. All rows take the same update: same weights, same draws, guidance
with both answers trained, from pure noise, so that the path is full.

    in parts            as the objective does it
    autograd            through the same rollout, all K graphs alive until one backward pass
    + checkpointing     with diffusers' gradient checkpointing in the network

"spread" is the largest peak over the smallest, less one; in parts it is to be below 5 %. The norm
of the weights' gradient is kept beside: it is the same for all ways.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from step_cost import machine, parameters, peak_bytes

from sparring.adversarial.discriminators import Discriminator, Heads
from sparring.adversarial.eyes import LatentEye
from sparring.diffusion.denoiser import Denoiser, dropout_of
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import schedule_from_config
from sparring.objectives import ADT
from sparring.objectives.adt import ADTDraws
from sparring.objectives.base import Terms, Turn
from sparring.training.turns import backward

OUTPUT = Path(__file__).resolve().parent / "results" / "adt_memory.json"
N_ROWS, SIDE, N_TOKENS, WIDTH = 4, 16, 8, 32
N_STEPS, GUIDANCE = 50, 3.0
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
WAYS = ("in parts", "in parts + checkpointing", "autograd", "autograd + checkpointing")
ROWS = [
    *((way, K, N_STEPS) for K in (1, 4, 16) for way in WAYS),
    *((way, 4, 10) for way in WAYS),
]
"""Way, K, steps of the sampler."""


def case(K: int, n_steps: int) -> tuple[ADT, Denoiser, Discriminator, ADTDraws]:
    """A small latent text-to-image model, judged through a copy of itself, and a step's draws."""
    torch.manual_seed(0)
    null = {"encoder_hidden_states": torch.randn(1, N_TOKENS, WIDTH)}
    network = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
    )
    denoiser = Denoiser(
        network.train(), schedule_from_config(SCHEDULER), "eps", null_condition=null
    )
    told = {"encoder_hidden_states": torch.randn(N_ROWS, N_TOKENS, WIDTH)}
    x0 = torch.randn(N_ROWS, 4, SIDE, SIDE)
    eye = LatentEye(copy.deepcopy(denoiser))
    heads = Heads(eye.channels_of(x0, told), "patches", WIDTH)
    rival = Discriminator(eye, heads)
    objective = ADT(
        denoiser.schedule,
        num_inference_steps=n_steps,
        guidance_scale=GUIDANCE,
        start="noise",
        n_trained=K,
        weight=1.0,
    )
    objective.set_up(denoiser, rival)
    draws = objective.draw({"x0": x0, "cond": told}, StepRandom(0, 0, N_ROWS), 1)
    return objective, denoiser, rival, draws


def through_autograd(
    objective: ADT, denoiser: Denoiser, rival: Discriminator, s: ADTDraws
) -> Iterator[Turn]:
    """The model's turn with the whole rollout in one graph; the same gradients."""

    def adversarial() -> Terms:
        answer, path = objective.guided(denoiser, s.told), objective.path
        walk = path.walk(s.start, path.begin(s.start, s.x0, s.noise), s.generators)
        with dropout_of(denoiser) as dropout:
            dropout(False)
            for call in range(s.start, path.n_calls):
                with torch.set_grad_enabled(call in s.trained):
                    output = answer(walk.x_t.detach(), path.times[call])
                walk.step(output)
        eye, (a, b) = rival.eye, s.looks
        with torch.no_grad():
            real, again = eye(s.x0, b, s.told), eye(s.x0, a, s.told)
        loss = rival.generator_loss(eye(walk.x_t, a, s.told), real, again)
        return {"adversarial": objective.weight * loss}

    with dropout_of(denoiser) as dropout:
        yield Turn("model", [partial(objective._diffusion, denoiser, dropout, s), adversarial])


def measure_one(way: str, K: int, n_steps: int) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(1)
    objective, denoiser, rival, s = case(K, n_steps)
    network: Any = denoiser.network
    if "checkpointing" in way:
        network.enable_gradient_checkpointing()
    accelerator = Accelerator(cpu=True)
    nets = {"model": denoiser, "discriminator": rival}

    def turn() -> None:
        turns = (
            objective.turns(nets, s)
            if way.startswith("in parts")
            else through_autograd(objective, denoiser, rival, s)
        )
        backward([next(turns)], network, accelerator)

    peak = peak_bytes(turn)
    grads = [one.grad.flatten() for one in network.parameters() if one.grad is not None]
    return {
        "way": way,
        "n_trained": len(s.trained),
        "num_inference_steps": n_steps,
        "peak_bytes": peak,
        "gradient_norm": float(torch.cat(grads).norm()),
        "n_parameters": parameters(network.parameters()),
    }


def measure() -> dict[str, Any]:
    """All rows, each in a fresh process."""
    rows = []
    for way, K, n_steps in ROWS:
        words = [sys.executable, __file__, "--one", way, str(K), str(n_steps)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
    n_parameters = {row.pop("n_parameters") for row in rows}.pop()
    peaks = {way: [row["peak_bytes"] for row in rows if row["way"] == way] for way in WAYS}
    return {
        "machine": machine(),
        "settings": {
            "network": "UNet2DConditionModel, channels 32 and 64",
            "n_parameters": n_parameters,
            "latents": [N_ROWS, 4, SIDE, SIDE],
            "guidance_scale": GUIDANCE,
            "cfg_grad": "both",
            "start": "noise",
            "weight": 1.0,
            "diffusion_weight": 1.0,
            "discriminator": "denoiser",
        },
        "spread": {way: max(own) / min(own) - 1 for way, own in peaks.items()},
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result for a terminal."""
    columns = [(1, 50), (4, 50), (16, 50), (4, 10)]
    peaks = {
        (row["way"], row["n_trained"], row["num_inference_steps"]): row["peak_bytes"] / 1e6
        for row in result["rows"]
    }
    head = "".join(f"{f'K={K}, {n} steps':>16}" for K, n in columns)
    lines = [f"{'peak MB of the model turn':<28}{head}{'spread':>10}"]
    for way in WAYS:
        values = "".join(f"{peaks[way, K, n]:>16.1f}" for K, n in columns)
        lines.append(f"{way:<28}{values}{result['spread'][way]:>9.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a turn of adversarial tuning.")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help="JSON file to write")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "K", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        way, K, n_steps = arguments.one
        print(json.dumps(measure_one(way, int(K), int(n_steps))))
        return
    result = measure()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
