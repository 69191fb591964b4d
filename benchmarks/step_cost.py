"""What a step of every objective costs, as a ratio to the plain step: `make bench`.

All objectives take turns on the same batches in one process with one thread, round after round, at
the demo's settings (configs/digits.yaml); a ratio is the median over the rounds of its time to
plain's in the same round. A step is one update of the model, with its drawing, clipping, optimiser
and moving average, as the training loop does it.

    ratio_to_plain      seconds per update, to plain's (interval: quartiles over the rounds)
    operations          of convolutions, matrix products and attention per update, to plain's
    live_bytes          most bytes that are allocated at once for the forward and backward pass
                        (activations, gradients, temporaries), from torch's profiler

For plain and adt also, with the same draws on both sides, in the same round:

    ratio_to_network_calls    seconds of a step to those of its network calls made bare: of adt the
                        denoiser's in the rollout without a graph, the trained ones and the
                        denoising loss's with their backward passes, the backbone's three (one of
                        them differentiated by its input), the heads' for the model and for
                        themselves, R1 included. Drawing, augmentation, the sampler's arithmetic,
                        losses, clipping, optimisers and averages are in the step alone. That both
                        sides make the same operations is checked
    ratio_to_denoiser_calls   to the denoiser's calls alone

`adt` is measured with features trained on the labels and unpaired heads, 20 steps and K = 4; its
rollouts begin anywhere on the path, so its steps differ: its operations are those of the timed
steps, and the quartiles of its ratio to plain are mostly those of the starts.

Consistency distillation is measured plain and adversarial (Free-AT with three passes, delta on
what the student or on what the target reads), with a copy of the network as teacher. `detail` is
measured with its regulariser and, as "detail, before R", in the first two thirds of a run. Both are
also measured as "dirt auto", where an audit says of each image what it can teach: digits in 8 bits,
90 % of them with noise of mixed sizes, as in the demo. What it costs to say so is in the reading of
a batch:

    reading_to_plain    seconds of reading a batch, to those of plain's update in the same round

`--dirt CONFIG KEY=VALUE ...` measures only plain and that last one, of another config, and puts
them beside the rest. So were those of Fashion-MNIST's files:

    python benchmarks/step_cost.py --rounds 20 --dirt configs/fashion_mnist.yaml data.name=parquet \
        'data.data_files=fashion_mnist/train-*.parquet' data.dataset_name=null \
        data.max_train_samples=2000

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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import sparring
from sparring.adversarial.discriminators import Discriminator
from sparring.assembly.build import build_dataset, build_model, build_objective
from sparring.assembly.dirt_knowledge import levels_in
from sparring.assembly.discriminator import build_discriminator
from sparring.config.read import resolve
from sparring.data.audit.audit import audit_images
from sparring.data.base import ModelRange
from sparring.data.batches import BatchOrder
from sparring.data.trust.trusted import ByTable, Trusted
from sparring.diffusion.denoiser import frozen
from sparring.diffusion.randomness import StepRandom
from sparring.objectives import OBJECTIVES
from sparring.objectives.adt import ADT, ADTDraws
from sparring.objectives.base import Draws
from sparring.training.players import Player

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "digits.yaml"
OUTPUT = HERE / "results" / "step_cost.json"
NOISE = 0.42  # what auto finds in the demo's digits
LEFT_OUT = ("oracle", "throw_away", "denoise_first", "latent_consistency_distillation")
"""Controls that cost a plain step, and one that needs text."""
ADVERSARIAL = {
    f"distillation, delta on the {who}": ("objective.n_passes=3", f"objective.perturbed={who}")
    for who in ("student", "target")
}
BEFORE = "detail, before R"
AUTO, AUTO_BEFORE = "detail, dirt auto", "detail, dirt auto, before R"
LATE, FIRST = f"objective.start_step={10**6}", 10**6 - 10**5
DIRT = ("contamination.sigma=[0.05,0.35]", "contamination.clip=null")
LABELS = (
    "objective.discriminator.features=labels",
    "objective.discriminator.blocks=[1,2,3]",
    "objective.discriminator.width=32",
    "objective.discriminator.reading=unpaired",
)
DIFFUSERS = "plain, as in diffusers"
N_COUNTED = 6  # steps over which operations and bytes are counted


class Bench:
    """One objective with a model of its own, ready to take steps."""

    def __init__(
        self, name: str, *words: str, first_step: int = 0, is_audited: bool = False,
        file: Path = CONFIG,
    ) -> None:  # fmt: skip
        config = resolve(file, [f"objective={name}", "training.n_threads=1", *words])
        if first_step == 0 and hasattr(config.objective, "start_step"):  # the cost with R
            config.objective.start_step = 0  # pyright: ignore[reportAttributeAccessIssue]
        if first_step == 0 and getattr(config.objective, "noise", None) == "auto":
            config.objective.noise = NOISE  # pyright: ignore[reportAttributeAccessIssue]
        self.settings = config.training
        self.dataset = build_dataset(config)
        if is_audited:
            images = self.dataset.dataset
            known = Trusted(images, ByTable(audit_images(images).table))
            self.dataset = ModelRange(known)
        shape, classes = self.dataset.sample_shape, self.dataset.num_classes
        model = build_model(config, shape, classes)
        self.denoiser, self.scheduler_config = model.denoiser, model.scheduler_config
        self.objective = build_objective(config, self.denoiser.schedule, model)
        self.objective.teaching_levels = levels_in(self.dataset)
        self.denoiser.train()
        self.nets: dict[str, Any] = {
            "model": self.denoiser,
            "ema": copy.deepcopy(self.denoiser).requires_grad_(False).eval(),
            "teacher": copy.deepcopy(self.denoiser).requires_grad_(False).eval(),
        }
        self.first_step = first_step
        self.players = {"model": Player(self.denoiser.network, self.settings)}
        found = build_discriminator(config, model, self.dataset)
        if found is not None:
            rival, settings = found
            self.nets["discriminator"] = rival
            self.players["discriminator"] = Player(rival.network, settings)
            self.objective.set_up(self.denoiser, rival)
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
        for turn in self.objective.turns(self.nets, self.draw(number, batch)):
            for part in turn.parts:
                torch.stack(list(part().values())).sum(0).mean().backward()
            if learn:
                self.players[turn.player].clip()
                self.players[turn.player].step()
            for player in self.players.values():
                player.optimizer.zero_grad(set_to_none=True)

    def draw(self, number: int, batch: dict[str, Any]) -> Draws:
        """All randomness of a step; the same number gives the same."""
        rng = StepRandom(0, number, self.n_rows)
        return self.objective.draw(batch, rng, self.first_step + number)

    def seconds(self, number: int) -> tuple[float, float]:
        """Seconds per update, and those of reading the batch, which they leave out."""
        asked = time.perf_counter()
        batch = self.batch(number)
        started = time.perf_counter()
        self.take(number, batch)
        return (time.perf_counter() - started) / self.n_updates, started - asked

    def call_seconds(self, number: int) -> tuple[float, float]:
        """Seconds of the network calls of the same step, bare: the denoiser's, and all.

        As many, of the same shapes and with the same backward passes as the update of `plain` or
        `adt` makes, and nothing else: no sampler, loss, drawing, clipping, optimiser or average.
        """
        s = self.draw(number, self.batch(number))
        n_rollout, n_learning = 0, 1
        if isinstance(s, ADTDraws):
            assert isinstance(self.objective, ADT)
            n_rollout = self.objective.path.n_calls - s.start
            n_learning += len(s.trained)
        network, from_above = self.denoiser.network, torch.randn_like(s.x_t)
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(n_rollout):
                network(s.x_t, timestep=s.t, return_dict=False)
        for _ in range(n_learning):
            network(s.x_t, timestep=s.t, return_dict=False)[0].backward(from_above)
        of_denoiser = of_all = time.perf_counter() - started
        network.zero_grad(set_to_none=True)
        if isinstance(s, ADTDraws):
            of_all += self._discriminator_seconds(s.x0)
        return of_denoiser, of_all

    def _discriminator_seconds(self, x0: Tensor) -> float:
        """Of an update's calls of backbone and heads: two looks at real images, one at fakes."""
        rival: Discriminator = self.nets["discriminator"]
        backbone, heads, fake_x = rival.eye.backbone, rival.network, x0.clone().requires_grad_()
        started = time.perf_counter()
        with torch.no_grad():
            real, again = backbone(x0), backbone(x0)
        seconds = time.perf_counter() - started
        with frozen(heads):
            started = time.perf_counter()
            fake = backbone(fake_x)
            heads(fake, real)[0].mean().backward()
            seconds += time.perf_counter() - started
        both = [torch.cat(two).detach() for two in zip(again, fake, strict=True)]
        started = time.perf_counter()
        score, penalty = heads(both, real, rival.r1 > 0)
        (score.mean() + penalty.mean()).backward()
        seconds += time.perf_counter() - started
        heads.zero_grad(set_to_none=True)
        return seconds

    def operations(self, numbers: Collection[int]) -> float:
        """Multiplications and additions per update, mean over some steps."""
        with Operations() as counted:
            for number in numbers:
                self.take(number, self.batch(number), learn=False)
        return counted.total / (len(numbers) * self.n_updates)

    def checked_calls(self, number: int) -> None:
        """`call_seconds` does the operations of the step, no more and no fewer."""
        with Operations() as counted:
            self.call_seconds(number)
        own, found = counted.total, self.operations([number])
        if own != found:
            raise AssertionError(f"step {number}: {found} operations, its bare calls {own}")

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
    names = [name for name in OBJECTIVES if name not in LEFT_OUT]
    benches = {name: Bench(name, *(LABELS if name == "adt" else ())) for name in names}
    for label, words in ADVERSARIAL.items():
        benches[label] = Bench("consistency_distillation", *words)
    benches[BEFORE] = Bench("detail", LATE, first_step=FIRST)
    benches |= audited()
    benches[DIFFUSERS] = DiffusersLoop()
    benches["plain, compiled"] = Bench("plain").compile()
    benches["detail, compiled"] = Bench("detail").compile()
    say(f"{n_rounds} rounds of {len(benches)} objectives, one thread ...")
    for name, bench in benches.items():
        for number in range(24 if "compiled" in name else 1):  # every number of rows there may be
            bench.seconds(number)
    seconds, reading = alternate(benches, n_rounds, say)
    say("plain steps alone ...")
    plain = {name: bench for name, bench in benches.items() if name.startswith("plain")}
    against = relative(alternate(plain, n_rounds, say)[0], DIFFUSERS)
    say("steps of plain and adt and their network calls ...")
    calls = {name: to_calls(benches[name], n_rounds) for name in ("plain", "adt")}
    say("counting operations and bytes ...")
    counted = (*OBJECTIVES, *ADVERSARIAL, BEFORE, AUTO, AUTO_BEFORE)
    timed = range(1, n_rounds + 1)  # a step of adt costs what its random start makes it cost
    operations = {
        name: benches[name].operations(timed if name == "adt" else range(N_COUNTED))
        for name in counted
        if name in benches
    }
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
            "reading_to_plain": median(
                own / plain for own, plain in zip(reading[name], seconds["plain"], strict=True)
            ),
            "updates_per_batch": bench.n_updates,
        } | calls.get(name, {})
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
        "detail_over_a_run": over_a_run(seconds, BEFORE, "detail"),
        **over_runs(seconds, reading),
        "to_plain_distillation": {
            label: relative(seconds, "consistency_distillation")[label][0] for label in ADVERSARIAL
        },
        "plain_to_diffusers": {
            name: {"ratio": ratio, "interval": interval}
            for name, (ratio, interval) in against.items()
        },
    }


def audited(*words: str, file: Path = CONFIG) -> dict[str, Bench]:
    """`detail` where an audit says what each image can teach, with R and before."""
    words = (*DIRT, *words)
    return {
        AUTO: Bench("detail", *words, is_audited=True, file=file),
        AUTO_BEFORE: Bench("detail", LATE, *words, first_step=FIRST, is_audited=True, file=file),
    }


def over_runs(
    seconds: Mapping[str, Sequence[float]], reading: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """What a run with an audit takes, to plain's, without and with the reading of its batches."""
    both = {
        name: [sum(two) for two in zip(seconds[name], reading[name], strict=True)]
        for name in ("plain", AUTO_BEFORE, AUTO)
    }
    return {
        "dirt_auto_over_a_run": over_a_run(seconds, AUTO_BEFORE, AUTO),
        "dirt_auto_over_a_run_with_reading": over_a_run(both, AUTO_BEFORE, AUTO),
    }


def measure_dirt(file: Path, words: Sequence[str], n_rounds: int) -> dict[str, Any]:
    """Of another config: plain and `detail` with an audit, side by side."""
    torch.set_num_threads(1)
    benches = {"plain": Bench("plain", *DIRT, *words, file=file), **audited(*words, file=file)}
    for bench in benches.values():
        for number in range(3):
            bench.seconds(number)
    seconds, reading = alternate(benches, n_rounds, print)
    steps = {
        name: {"ratio_to_plain": ratio, "ratio_interval": interval}
        for name, (ratio, interval) in relative(seconds, "plain").items()
    }
    settings = {"config": file.name, "words": list(words), "n_rounds": n_rounds}
    return {"machine": machine(), "settings": settings, "steps": steps} | over_runs(
        seconds, reading
    )


def over_a_run(seconds: Mapping[str, Sequence[float]], before: str, after: str) -> float:
    """Seconds of a run whose last third has R, to those of plain training."""
    early, late, plain = (median(seconds[name]) for name in (before, after, "plain"))
    return (2 * early + late) / (3 * plain)


def to_calls(bench: Bench, n_rounds: int) -> dict[str, Any]:
    """Seconds of a step over those of its bare network calls, with the same draws."""
    for number in range(1, 4):
        bench.checked_calls(number)
    of_all, of_denoiser = [], []
    for number in range(1, n_rounds + 1):
        if number % 2:  # either goes first as often as the other
            (step, _), (denoiser, networks) = bench.seconds(number), bench.call_seconds(number)
        else:
            (denoiser, networks), (step, _) = bench.call_seconds(number), bench.seconds(number)
        of_all.append(step / networks)
        of_denoiser.append(step / denoiser)
    found: dict[str, Any] = {}
    for name, ratios in (("network", of_all), ("denoiser", of_denoiser)):
        low, middle, high = quantiles(ratios, n=4)
        found[f"ratio_to_{name}_calls"] = middle
        found[f"{name}_calls_interval"] = (low, high)
    return found


def alternate(
    benches: dict[str, Bench], n_rounds: int, say: Callable[[str], object]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds per update of each, round after round, and of reading a batch."""
    names = list(benches)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    reading: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1, n_rounds + 1):
        first = number % len(names)  # another one starts each round
        for name in names[first:] + names[:first]:
            step, read = benches[name].seconds(number)
            seconds[name].append(step)
            reading[name].append(read)
        if number % max(1, n_rounds // 4) == 0:
            say(f"  round {number}")
    return seconds, reading


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


class Operations(TorchDispatchMode):
    """Counts multiplications and additions, by torch's formulas.

    torch's own FlopCounterMode also tells them by module, by hooks with which R1, a gradient taken
    inside a module, cannot be had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula: Any = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


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
    heads = ("time", 8), ("quartiles", 16), ("operations", 12), ("live MB", 9), ("reading", 9)
    lines = [f"{'objective':<36}" + "".join(f"{head:>{width}}" for head, width in heads)]
    for name, row in result["objectives"].items():
        low, high = row["ratio_interval"]
        quartiles = f"{low:.2f}-{high:.2f}"
        lines.append(
            f"{name:<36}{row['ratio_to_plain']:>7.2f}x{quartiles:>16}"
            f"{row['operations_to_plain']:>11.2f}x{row['live_bytes'] / 1e6:>9.1f}"
            f"{row['reading_to_plain']:>8.2f}x"
        )
    lines.append("time and operations per update of the model, as ratios to plain\n")
    for name, row in result["objectives"].items():
        for whose in ("network", "denoiser"):
            if f"ratio_to_{whose}_calls" in row:
                low, high = row[f"{whose}_calls_interval"]
                label, ratio = f"{name}, to its {whose} calls", row[f"ratio_to_{whose}_calls"]
                lines.append(f"{label:<36}{ratio:>7.2f}x{f'{low:.2f}-{high:.2f}':>16}")
    lines.append("a step, by the bare calls of all its networks or of the denoiser alone\n")
    lines += [
        f"{label:<36}{result[key]:>7.2f}x"
        for label, key in (
            ("detail, over a run", "detail_over_a_run"),
            (f"{AUTO}, over a run", "dirt_auto_over_a_run"),
            ("  with the reading of batches", "dirt_auto_over_a_run_with_reading"),
        )
    ]
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
    parser.add_argument("--dirt", nargs="+", metavar=("CONFIG", "KEY=VALUE"),
                        help="only plain and detail with an audit, of this config")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.dirt:
        file, *words = arguments.dirt
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
        result["dirt"] = measure_dirt(Path(file), words, arguments.rounds)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result["dirt"], indent=2))
        return
    result = measure(arguments.rounds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
