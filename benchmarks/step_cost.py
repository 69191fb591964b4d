"""What a step of every objective costs, as a ratio to the plain step: `make bench`.

All objectives take turns on the same batches in one process with one thread, round after round, at
the demo's settings (configs/digits.yaml); a ratio is the median over the rounds of its time to
plain's in the same round. A step is one update of the model, with its drawing, clipping, optimiser
and moving average, as the training loop does it.

    ratio_to_plain      seconds per update, to plain's (interval: quartiles over the rounds)
    operations          of convolutions, matrix products and attention per update, to plain's
    live_bytes          most bytes that are allocated at once for the forward and backward pass
                        (activations, gradients, temporaries), from torch's profiler

Consistency distillation is measured plain and adversarial (Free-AT with three passes, delta on
what the student or on what the target reads), with a copy of the network as teacher. `detail` is
measured with its regulariser and, as "detail, before R", in the first two thirds of a run.

The same plain step is also taken as diffusers' example trains an unconditional model (its
train_unconditional.py: add_noise, mse_loss, accelerator, AdamW, EMAModel), and by ours with the
network compiled.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import sparring
from sparring.build import build_dataset, build_denoiser, build_objective, train_settings
from sparring.config import resolve
from sparring.config_sections import OBJECTIVE_SECTIONS
from sparring.data.batches import BatchOrder
from sparring.randomness import StepRandom
from sparring.training.players import Player

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "digits.yaml"
OUTPUT = HERE / "results" / "step_cost.json"
NOISE = 0.42  # what auto finds in the demo's digits
LEFT_OUT = ("oracle", "latent_consistency_distillation")
"""A control that costs a plain step, and one that needs text."""
ADVERSARIAL = {
    f"distillation, delta on the {who}": ("objective.n_passes=3", f"objective.perturbed={who}")
    for who in ("student", "target")
}
BEFORE = "detail, before R"
DIFFUSERS = "plain, as in diffusers"
N_COUNTED = 6  # steps over which operations and bytes are counted


class Bench:
    """One objective with a model of its own, ready to take steps."""

    def __init__(self, name: str, *words: str, first_step: int = 0) -> None:
        config = resolve(CONFIG, [f"objective={name}", "training.n_threads=1", *words])
        if first_step == 0 and hasattr(config.objective, "start_step"):  # the cost with R
            config.objective.start_step = 0  # pyright: ignore[reportAttributeAccessIssue]
        if first_step == 0 and getattr(config.objective, "noise", None) == "auto":
            config.objective.noise = NOISE  # pyright: ignore[reportAttributeAccessIssue]
        self.settings = train_settings(config)
        self.dataset = build_dataset(config)
        shape, classes = self.dataset.sample_shape, self.dataset.num_classes
        self.denoiser, self.scheduler_config = build_denoiser(config, shape, classes)
        self.objective = build_objective(config, self.denoiser.schedule)
        self.denoiser.train()
        self.nets = {
            "model": self.denoiser,
            "ema": copy.deepcopy(self.denoiser).requires_grad_(False).eval(),
            "teacher": copy.deepcopy(self.denoiser).requires_grad_(False).eval(),
        }
        self.first_step = first_step
        self.player = Player(self.denoiser.network, self.settings)
        self.n_rows = config.training.train_batch_size
        self.order = BatchOrder(len(self.dataset), 0, self.n_rows)

    @property
    def n_updates(self) -> int:
        return self.objective.n_updates

    def compile(self) -> Bench:
        self.denoiser.network.compile()
        return self

    def batch(self, number: int) -> dict[str, Any]:
        return self.dataset.__getitems__(self.order.keys(number))

    def take(self, number: int, batch: dict[str, Any], *, learn: bool = True) -> None:
        """All updates from one batch."""
        step = self.first_step + number
        draws = self.objective.draw(batch, StepRandom(0, number, self.n_rows), step)
        for turn in self.objective.turns(self.nets, draws):
            for part in turn.parts:
                torch.stack(list(part().values())).sum(0).mean().backward()
            if learn:
                self.player.clip()
                self.player.step()
            self.player.optimizer.zero_grad(set_to_none=True)

    def seconds(self, number: int) -> float:
        """Seconds per update; reading the data is not counted."""
        batch = self.batch(number)
        started = time.perf_counter()
        self.take(number, batch)
        return (time.perf_counter() - started) / self.n_updates

    def operations(self) -> float:
        """Multiplications and additions per update, mean over a few steps."""
        with FlopCounterMode(display=False) as counter:
            for number in range(N_COUNTED):
                self.take(number, self.batch(number), learn=False)
        return counter.get_total_flops() / (N_COUNTED * self.n_updates)

    def live_bytes(self) -> int:
        """Most bytes allocated at once by forward and backward, over what was there before."""
        return max(self._peak(number) for number in range(N_COUNTED))

    def _peak(self, number: int) -> int:
        batch = self.batch(number)
        return peak_bytes(lambda: self.take(number, batch, learn=False))


class DiffusersLoop(Bench):
    """The plain step as diffusers' train_unconditional.py takes it, on the same model and data."""

    def __init__(self) -> None:
        super().__init__("plain")
        self.accelerator = Accelerator(cpu=True)
        self.scheduler: Any = DDPMScheduler.from_config(self.scheduler_config)
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.denoiser.network.parameters(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.adam_weight_decay,
            eps=settings.adam_epsilon,
        )
        schedule = get_scheduler(
            settings.lr_scheduler,
            optimizer=optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
        )
        self.model, self.optimizer, self.lr_scheduler = self.accelerator.prepare(
            self.denoiser.network, optimizer, schedule
        )
        self.ema = EMAModel(
            self.model.parameters(),
            decay=settings.ema_decay,
            use_ema_warmup=True,
            inv_gamma=1.0,
            power=3 / 4,
        )

    def take(self, number: int, batch: dict[str, Any], *, learn: bool = True) -> None:
        clean_images = batch["x0"]
        noise = torch.randn(clean_images.shape)
        last = self.scheduler.config["num_train_timesteps"]
        timesteps = torch.randint(0, last, (len(clean_images),)).long()
        noisy_images = self.scheduler.add_noise(clean_images, noise, timesteps)
        with self.accelerator.accumulate(self.model):
            output = self.model(noisy_images, timesteps).sample
            target = self.scheduler.get_velocity(clean_images, noise, timesteps)
            loss = functional.mse_loss(output.float(), target.float())
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(
                    self.model.parameters(), self.settings.max_grad_norm
                )
            if learn:
                self.optimizer.step()
                self.lr_scheduler.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients and learn:
            self.ema.step(self.model.parameters())
        loss.detach().item()  # for its log


def measure(n_rounds: int, say: Callable[[str], object] = print) -> dict[str, Any]:
    """All objectives side by side.

    Args:
        n_rounds: Rounds of one step of every objective.
        say: Takes lines for the user.
    """
    torch.set_num_threads(1)
    names = [name for name in OBJECTIVE_SECTIONS if name not in LEFT_OUT]
    benches: dict[str, Bench] = {name: Bench(name) for name in names}
    for label, words in ADVERSARIAL.items():
        benches[label] = Bench("consistency_distillation", *words)
    benches[BEFORE] = Bench("detail", f"objective.start_step={10**6}", first_step=10**6 - 10**5)
    benches[DIFFUSERS] = DiffusersLoop()
    benches["plain, compiled"] = Bench("plain").compile()
    benches["detail, compiled"] = Bench("detail").compile()
    say(f"{n_rounds} rounds of {len(benches)} objectives, one thread ...")
    for name, bench in benches.items():
        for number in range(24 if "compiled" in name else 1):  # every number of rows there may be
            bench.seconds(number)
    seconds = alternate(benches, n_rounds, say)
    say("plain steps alone ...")
    plain = {name: bench for name, bench in benches.items() if name.startswith("plain")}
    against = relative(alternate(plain, n_rounds, say), DIFFUSERS)
    say("counting operations and bytes ...")
    counted = (*OBJECTIVE_SECTIONS, *ADVERSARIAL, BEFORE)
    operations = {name: benches[name].operations() for name in counted if name in benches}
    operations |= {
        name: operations[name.partition(",")[0]] for name in benches if name not in operations
    }
    objectives: dict[str, Any] = {}
    for name, (ratio, interval) in relative(seconds, "plain").items():
        bench = benches[name]
        objectives[name] = {
            "ratio_to_plain": ratio,
            "ratio_interval": interval,
            "operations_to_plain": operations[name] / operations["plain"],
            "live_bytes": bench.live_bytes(),
            "seconds_per_update": median(seconds[name]),
            "updates_per_batch": bench.n_updates,
        }
    return {
        "machine": machine(),
        "settings": {
            "config": "configs/digits.yaml",
            "n_rows": benches["plain"].n_rows,
            "n_parameters": parameters(benches["plain"].denoiser.network.parameters()),
            "n_threads": 1,
            "n_rounds": n_rounds,
        },
        "objectives": objectives,
        "detail_over_a_run": (2 * median(seconds[BEFORE]) + median(seconds["detail"]))
        / (3 * median(seconds["plain"])),
        "to_plain_distillation": {
            label: relative(seconds, "consistency_distillation")[label][0] for label in ADVERSARIAL
        },
        "plain_to_diffusers": {
            name: {"ratio": ratio, "interval": interval}
            for name, (ratio, interval) in against.items()
        },
    }


def alternate(
    benches: dict[str, Bench], n_rounds: int, say: Callable[[str], object]
) -> dict[str, list[float]]:
    """Seconds per update of each, round after round."""
    names = list(benches)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1, n_rounds + 1):
        first = number % len(names)  # another one starts each round
        for name in names[first:] + names[:first]:
            seconds[name].append(benches[name].seconds(number))
        if number % max(1, n_rounds // 4) == 0:
            say(f"  round {number}")
    return seconds


def relative(
    seconds: dict[str, list[float]], base: str
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Median and quartiles over the rounds of the ratio to `base` in the same round."""
    found = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds[base], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        found[name] = (median(ratios), (low, high))
    return found


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that `work` has allocated at once, over what was there before."""
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    recorded: Any = profiler.profiler
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stderr inside: the profiler announces each start there, below Python."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def parameters(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))


def machine() -> dict[str, str]:
    """What it ran on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sparring": sparring.__version__,
    }


def table(result: dict[str, Any]) -> str:
    """The result for a terminal."""
    lines = [f"{'objective':<36}{'time':>8}{'quartiles':>16}{'operations':>12}{'live MB':>9}"]
    for name, row in result["objectives"].items():
        low, high = row["ratio_interval"]
        quartiles = f"{low:.2f}-{high:.2f}"
        lines.append(
            f"{name:<36}{row['ratio_to_plain']:>7.2f}x{quartiles:>16}"
            f"{row['operations_to_plain']:>11.2f}x{row['live_bytes'] / 1e6:>9.1f}"
        )
    lines.append("time and operations per update of the model, as ratios to plain\n")
    lines.append(f"{'detail, over a run':<36}{result['detail_over_a_run']:>7.2f}x")
    lines += [f"{k:<36}{v:>7.2f}x" for k, v in result["to_plain_distillation"].items()]
    lines.append(
        "detail to plain, a third of its steps with R; adversarial to plain distillation\n"
    )
    for name, row in result["plain_to_diffusers"].items():
        low, high = row["interval"]
        lines.append(f"{name:<36}{row['ratio']:>7.2f}x      {low:.2f}-{high:.2f}")
    lines.append("plain steps alone, to diffusers' own loop")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a step of every objective.")
    parser.add_argument("--rounds", type=int, default=40, help="steps of each objective (40)")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help="JSON file to write")
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
