r"""What adversarial training buys: attacks, few steps, memorisation: `make bench-frontier`.

    python benchmarks/frontier.py --only attack/digits/plain --seeds 0 --slots 2

What is trained and measured stands in frontier.yaml. Rows are added to results/frontier.json as
they are measured; what is there is not measured again, a run that was interrupted goes on, and
--report writes results/frontier.md from the rows alone. --screen measures what a question says
under `screen`, which is less: to choose what is measured in full.

**attack.** Robustness is bounded by the data: the exact denoiser moves too. Two of them are
attacked like a learned model, through all steps of the sampler:

    exact           x0_hat(x, t) = sum_i p_i x0_i,   p = softmax(-||x - alpha x0_i||^2 / 2 sigma^2)
    exact_gaussian  x0_hat(x, t) = m + alpha C (alpha^2 C + sigma^2)^-1 (x - alpha m)

with the training images x0_i, their mean m and covariance C. The attack on features sees another
network than the one that measures: a classifier of the same form from other weights and batches.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import torch
import yaml
from dirt import commit_of
from rows import add_rows, key_of, read_rows, write_rows
from torch import Tensor, nn
from torch.nn import functional

from sparring.commands.demo.side_by_side import (
    Run,
    how_to_go_on,
    is_finished,
    minutes,
    n_cores,
    work,
)
from sparring.commands.evaluate.plan import Plan, plan_of
from sparring.config.files import find
from sparring.config.read import resolve
from sparring.data.base import Dataset
from sparring.data.classifier import fit_labels, one_thread
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import generator
from sparring.diffusion.schedules import Schedule
from sparring.evaluation.evaluate import look, measure
from sparring.evaluation.feature_sets import Gaussian
from sparring.evaluation.metrics.frechet_distance import frechet_distance
from sparring.evaluation.networks.classifier import Classifier, shrink
from sparring.evaluation.protocol import versions
from sparring.evaluation.store.tensor_tables import Processes
from sparring.models.model import Model
from sparring.sampling.sample import sample
from sparring.sampling.trajectory_attacks import Attack, TrajectoryAttack
from sparring.support.errors import UserError

HERE = Path(__file__).resolve().parent
KEY = (
    "question", "data", "method", "setting", "seed", "n_train", "sampler", "steps", "attack",
    "radius", "n_samples",
)  # fmt: skip
"""What tells two rows apart."""


# --- Exact denoisers -------------------------------------------------------------------------


class Exact(nn.Module, ABC):
    """E[x0 | x_t] where the data are known, as a network that answers with x0.

    Args:
        schedule: Says what alpha and sigma are at t.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x: Tensor, t: Tensor, **_: Any) -> Tensor:
        alpha, sigma = (one.double() for one in self.schedule.at(t.expand(len(x)), like=x))
        x0 = self.x0(x.double().flatten(1), alpha.flatten(1), sigma.flatten(1))
        return x0.to(x.dtype).view_as(x)

    @abstractmethod
    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x_t] of x_t (B, d), with alpha and sigma (B, 1), float64."""


class Empirical(Exact):
    """Of images (N, *), each as likely as another."""

    images: Tensor

    def __init__(self, schedule: Schedule, images: Tensor) -> None:
        super().__init__(schedule)
        self.register_buffer("images", images.double().flatten(1))

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # ||x - alpha x0||^2 without what is alike for all images
        product = x @ self.images.T
        distance = alpha**2 * self.images.square().sum(1) - 2 * alpha * product
        return torch.softmax(-distance / (2 * sigma**2), 1) @ self.images


class GaussianTruth(Exact):
    """Of a normal law with mean (d,) and covariance (d, d)."""

    mean: Tensor
    values: Tensor
    vectors: Tensor

    def __init__(self, schedule: Schedule, mean: Tensor, covariance: Tensor) -> None:
        super().__init__(schedule)
        values, vectors = torch.linalg.eigh(covariance.double())
        self.register_buffer("mean", mean.double())
        self.register_buffer("values", values.clamp(min=0))
        self.register_buffer("vectors", vectors)

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        return self.mean + ((x - alpha * self.mean) @ self.vectors * gain) @ self.vectors.T


def exact_model(kind: str, like: Model, images: Tensor) -> Model:
    """The exact denoiser of images in the model's range, with the model's schedule and sampler."""
    schedule, flat = like.denoiser.schedule, images.double().flatten(1)
    network = (
        Empirical(schedule, images)
        if kind == "empirical"
        else GaussianTruth(schedule, flat.mean(0), flat.T.cov())
    )
    return replace(like, denoiser=Denoiser(network, schedule, "x0"), num_classes=None)


def images_of(dataset: Dataset) -> Tensor:
    """All images in [-1, 1]."""
    return 2 * torch.cat([batch["x0"].float() for batch in dataset.chunks()]) - 1


def other_eye(dataset: Dataset) -> Classifier:
    """The classifier that attackers look through: trained as the one that measures, from other
    weights and batches; takes samples in [-1, 1]."""
    labels = torch.cat([batch["label"] for batch in dataset.chunks()])
    images = shrink((images_of(dataset) + 1) / 2)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Classifier(images.shape[1], max(images.shape[2:]), dataset.num_classes or 0)
        learning = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(learning, 600)
        rng = generator("cpu", 1, "another eye")
        fit_labels(network, cosine, images, labels, rng, n_steps=600, batch_size=64)
    return network.eval().requires_grad_(False)


# --- The table -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """frontier.yaml, and where the runs lie."""

    raw: Mapping[str, Any]
    root: Path
    screens: bool = False

    def cells(self, only: str, seeds: Sequence[int] | None) -> list[Cell]:
        """All cells in whose name the regular expression `only` is found, seed by seed."""
        found = [
            Cell(self, question, data, method, setting, seed, n_train)
            for question, own in self.raw["questions"].items()
            for data in own["data"]
            for n_train in own.get("n_train", [None])
            for method, how in own["methods"].items()
            for setting in _settings(how)
            for seed in own["seeds"]
            if seeds is None or seed in seeds
        ]
        found = [cell for cell in found if re.search(only, cell.name)]
        if not found:
            raise UserError(f"nothing is called {only}, with these seeds")
        return sorted(found, key=lambda cell: cell.seed)


def _settings(how: Mapping[str, Any]) -> list[str]:
    """The overrides of a sweep, "" where there is none."""
    swept = how.get("sweep", {})
    return [f"{key}={value}" for key, values in swept.items() for value in values] or [""]


@dataclass(frozen=True)
class Cell:
    """One method with one setting and seed, for one question."""

    table: Table
    question: str
    data: str
    method: str
    setting: str
    seed: int
    n_train: int | None

    @property
    def own(self) -> Mapping[str, Any]:
        return self.table.raw["questions"][self.question]

    @property
    def how(self) -> Mapping[str, Any]:
        return self.own["methods"][self.method]

    @property
    def name(self) -> str:
        parts = [self.question, self.data, self.method, self.setting]
        parts += [] if self.n_train is None else [f"{self.n_train}-images"]
        return "/".join(part for part in parts if part)

    @property
    def folder(self) -> Path:
        return self.table.root / self.name / f"seed-{self.seed}"

    @property
    def base(self) -> Cell | None:
        """The run that this one begins with, or whose figures' place it takes."""
        if "base" in self.own:
            return replace(self, method="base", setting="")
        begins = not self.is_trained or any("$PLAIN" in word for word in self.how["words"])
        return replace(self, method="plain", setting="") if begins else None

    @property
    def words(self) -> list[str]:
        """What the run's config is told."""
        own, data = self.own, self.table.raw["data"][self.data]
        given = [
            word
            for word in data["words"]
            if self.config == data["config"] or not word.startswith("row=")
        ]
        if self.method == "base":
            words = own["base"]
        else:
            words = [*own.get("words", []), *self.how["words"], *filter(None, [self.setting])]
            base = "" if self.base is None else str(self.base.folder)
            plain = str(replace(self, method="plain", setting="").folder)
            words = [word.replace("$BASE", base).replace("$PLAIN", plain) for word in words]
        if self.n_train is not None:
            words = [*words, f"data.max_train_samples={self.n_train}"]
        return [
            *given, *words, f"training.seed={self.seed}", "training.report_to=none",
            f"training.output_dir={self.folder}", "training.validation_steps=null",
            "training.mixed_precision=no", "data.dataloader_num_workers=0",  # on every machine
        ]  # fmt: skip

    @property
    def config(self) -> str:
        own = {} if self.method == "base" else self.how.get("configs", {})
        return own.get(self.data, self.table.raw["data"][self.data]["config"])

    @property
    def command(self) -> str:
        if not self.is_trained:
            return f"python benchmarks/frontier.py --only {self.name} --seeds {self.seed}"
        return shlex.join(["sparring", "train", f"configs/{self.config}", *self.words])

    @property
    def is_trained(self) -> bool:
        """Whether there is something to train: an exact denoiser is not."""
        return self.method == "base" or "exact" not in self.how

    @property
    def measured(self) -> Path:
        return self.folder / "frontier.json"

    @property
    def measures(self) -> Mapping[str, Any]:
        """What is measured, and of how many samples; a method may have its own number of steps."""
        screen = self.own.get("screen", {}) if self.table.screens else {}
        own = {} if self.method == "base" else self.how.get("measure", {})
        return self.own["measure"] | screen | own

    @property
    def planned(self) -> list[dict[str, Any]]:
        """What tells the rows of this cell apart, in the order in which they are measured."""
        own = self.measures
        if self.question == "attack":
            attacks = [(None, None), *itertools.product(own["attacks"], own["radii"])]
            return [
                {"steps": steps, "attack": attack, "radius": radius}
                for steps in own["steps"]
                for attack, radius in attacks
            ]
        samplers = own.get("samplers", [None])
        pairs = itertools.product(samplers, own["steps"])
        return [{"sampler": sampler, "steps": steps} for sampler, steps in pairs]

    def left(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What of it is not among the rows."""
        there = {key_of(row, KEY) for row in rows}
        return [what for what in self.planned if key_of(self._told | what, KEY) not in there]

    @property
    def _told(self) -> dict[str, Any]:
        told = {"data": self.data, "question": self.question, "method": self.method}
        told |= {"setting": self.setting, "seed": self.seed, "n_train": self.n_train}
        return told | {"n_samples": self.measures["n_samples"]}

    def run(self, again: Sequence[str]) -> Run:
        """What is left to do; `again` is this program's command line for one cell."""
        commands, n_steps = [], 1
        if self.is_trained:
            file = find(self.config)
            config = resolve(file, self.words)
            n_steps = config.training.max_train_steps
            how = how_to_go_on(self.folder, config, "run", "--runs")
            commands = [[sys.executable, "-m", "sparring", "train", str(file), *self.words, *how]]
        n_done = int(bool(commands) and is_finished(self.folder))
        if self.method != "base":
            commands += [[*again, "--measure", self.name, "--seeds", str(self.seed)]]
            n_done += not self.left(read_rows(self.measured))
        title, log = f"{self.name}, seed {self.seed}", self.folder.parent / f"{self.seed}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Run(title, title, self.folder, log, commands, n_steps, stage=n_done)

    # Measure

    def measure(self) -> None:
        """Write the figures of this cell, each as soon as it is known."""
        rows = read_rows(self.measured)
        run = self if self.is_trained else replace(self, method="plain", setting="")
        words = ["evaluation.reference=all", f"evaluation.n_samples={self.measures['n_samples']}"]
        plan = plan_of(str(run.folder), words, "cpu", Processes.started(), {})
        if not self.is_trained:
            training = plan.against.training
            assert training is not None
            model = exact_model(self.how["exact"], plan.model, images_of(training))
            plan = replace(plan, model=model)
        figures = getattr(self, f"_{self.question}")(plan)
        empty = dict.fromkeys(
            ("sampler", "attack", "radius", "attacked_distance", "near_duplicates", "shift_rms")
        )
        for what in self.left(rows):
            began = time.perf_counter()
            found = figures(**what)
            end = {"seconds": round(time.perf_counter() - began, 1), "versions": versions()}
            end |= {"commit": commit_of(HERE), "command": self.command}
            rows.append(empty | self._told | what | found | end)
            self.measured.parent.mkdir(parents=True, exist_ok=True)
            write_rows(self.measured, rows)

    def _attack(self, plan: Plan) -> Callable[..., dict[str, Any]]:
        n, real = plan.n_samples, Gaussian.of(plan.reference.features)
        eye = other_eye(plan.reference.dataset)
        words: dict[str, Any] = {"sampling": plan.sampling, "class_labels": plan.labels(n)}

        def features(x: Tensor) -> Tensor:
            return eye.features(((x + 1) / 2).clamp(0, 1))

        def distance(samples: Tensor) -> float:
            return frechet_distance(real, plan.reference.extractor((samples.clamp(-1, 1) + 1) / 2))

        @cache
        def unattacked(steps: int) -> tuple[Tensor, float]:
            samples = sample(plan.model, n, num_inference_steps=steps, **words)
            return samples, distance(samples)

        def figures(steps: int, attack: str | None, radius: float | None) -> dict[str, Any]:
            samples, unmoved = unattacked(steps)
            if attack is None or radius is None:
                return {"frechet_distance": unmoved}
            options = self.measures["attacks"][attack]
            eyes = features if options.get("aim") == "features" else None
            move = TrajectoryAttack(Attack(radius=radius, seed=self.seed, features=eyes, **options))
            moved = sample(plan.model, n, move=move, num_inference_steps=steps, **words)
            shift = functional.mse_loss(moved, samples).sqrt().item()
            found = {"frechet_distance": unmoved, "attacked_distance": distance(moved)}
            return found | {"shift_rms": shift}

        return figures

    def _few_steps(self, plan: Plan) -> Callable[..., dict[str, Any]]:
        def figures(sampler: str, steps: int) -> dict[str, Any]:
            section = {"scheduler": sampler, "num_inference_steps": steps}
            sampling = plan.config.sampling.model_copy(update=section)
            one = replace(plan, config=plan.config.model_copy(update={"sampling": sampling}))
            found = measure(look(_samples(one), one.against), one.against, one.generation())
            return {"frechet_distance": found["frechet_distance"]}

        return figures

    def _memorization(self, plan: Plan) -> Callable[..., dict[str, Any]]:
        def figures(steps: int, **_: Any) -> dict[str, Any]:
            sampling = plan.config.sampling.model_copy(update={"num_inference_steps": steps})
            one = replace(plan, config=plan.config.model_copy(update={"sampling": sampling}))
            found = measure(look(_samples(one), one.against), one.against, one.generation())
            copies = found["memorization"]
            return {
                "frechet_distance": found["frechet_distance"],
                "near_duplicates": copies["near_duplicates"],
                "near_duplicates_of_held_out": copies["near_duplicates_of_calibration"],
            }

        return figures


def _samples(plan: Plan) -> Tensor:
    n = plan.n_samples
    return sample(plan.model, n, plan.sampling, class_labels=plan.labels(n))


# --- Rows ------------------------------------------------------------------------------------


def keep(path: Path, cells: Iterable[Cell]) -> None:
    """Put the rows of what is measured into the file."""
    add_rows(path, (row for cell in cells for row in read_rows(cell.measured)), KEY)


def run_all(cells: Sequence[Cell], again: Sequence[str], n_slots: int, path: Path) -> None:
    """Run cells, and what they begin with before them."""
    there = read_rows(path)
    left = [cell for cell in cells if cell.left(there)]
    first = {str(cell.base.folder): cell.base for cell in left if cell.base is not None}
    for stage in (first, {str(cell.folder): cell for cell in left}):
        runs = [cell.run(again) for cell in stage.values()]
        runs = [run for run in runs if not run.is_done]

        def progress(stage: Mapping[str, Cell] = stage, runs: Sequence[Run] = runs) -> str:
            keep(path, stage.values())
            at = (f"{run.name} ({run.step}/{run.n_steps})" for run in runs if run.process)
            seconds = sum(run.seconds_left(0.06) for run in runs) / n_slots
            n_left = sum(not run.is_done for run in runs)
            return f"  {n_left} left, about {minutes(seconds)}: {', '.join(at)}"

        try:
            work(runs, n_slots, progress, finish_first=True)
        finally:
            keep(path, stage.values())


# --- Report ----------------------------------------------------------------------------------


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each question, data set and number of samples: settings down, what was measured
    across. Distances of few samples are too high, so they stand in a table of their own."""
    parts = [_HEAD]
    tables: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        tables.setdefault((row["question"], row["data"], row["n_samples"]), []).append(row)
    for (question, data, n_samples), own in tables.items():
        cells: dict[str, dict[str, list[float]]] = {}
        for row in own:
            for column, value in _figures(row):
                cells.setdefault(_setting(row), {}).setdefault(column, []).append(value)
        columns = list(dict.fromkeys(name for found in cells.values() for name in found))
        parts.append(f"## {question}, {data}, {n_samples:,} samples\n")
        parts += [
            f"| |{'|'.join(f' {name} ' for name in columns)}|",
            "|---" * (len(columns) + 1) + "|",
        ]
        for setting, found in cells.items():
            values = (f" {_mean(found[name])} " if name in found else " " for name in columns)
            parts.append(f"| {setting} |{'|'.join(values)}|")
        parts.append("")
    return "\n".join(parts)


_HEAD = """# What adversarial training buys

Written by `python benchmarks/frontier.py --report` from `frontier.json`, whose rows hold the
command of each run. A figure is a Frechet distance on the classifier's features unless its column
says otherwise, the mean and standard deviation over seeds, or of one seed where there is no
deviation. A radius is in noise units. `exact` is the denoiser that knows the training images
themselves, `exact_gaussian` the one of a normal law with their mean and covariance.
"""


def _figures(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Column and value of all that a row measured."""
    if row["attack"] is not None:
        how = f"{row['steps']} steps, {row['attack']} {row['radius']:g}"
        yield how, row["attacked_distance"]
        yield f"shift rms, {how}", row["shift_rms"]
    elif row["near_duplicates"] is not None:
        yield "distance", row["frechet_distance"]
        yield "near duplicates, %", 100 * row["near_duplicates"]
    else:
        sampler = f"{row['sampler']}, " if row["sampler"] else ""
        yield f"{sampler}{row['steps']} steps", row["frechet_distance"]


def _setting(row: Mapping[str, Any]) -> str:
    n_train = f", {row['n_train']} images" if row["n_train"] else ""
    setting = f" `{row['setting'].removeprefix('objective.')}`" if row["setting"] else ""
    return f"`{row['method']}`{setting}{n_train}"


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of real data")
    parser.add_argument("--runs", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--only", default="", help="cells whose name has this regular expression")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--slots", type=int, default=n_cores())
    parser.add_argument("-o", "--out", type=Path, default=HERE / "results" / "frontier.json")
    parser.add_argument("--screen", action="store_true", help="measure less")
    parser.add_argument("--list", action="store_true", help="name the cells and stop")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="write frontier.md and stop")
    words = parser.parse_args()
    if words.report:
        page = words.out.with_suffix(".md")
        page.write_text(report(read_rows(words.out)), encoding="utf-8")
        return
    text = (HERE / "frontier.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(Template(text).safe_substitute(DATA=words.data.resolve()))
    table = Table(raw, words.runs.resolve(), words.screen)
    if words.measure is not None:
        cells = table.cells(f"^{re.escape(words.measure)}$", words.seeds)
        cells[0].measure()
        return
    cells = table.cells(words.only, words.seeds)
    if words.list:
        print("\n".join(f"{cell.name}, seed {cell.seed}" for cell in cells))
        return
    again = [sys.executable, __file__, "--data", str(words.data), "--runs", str(words.runs)]
    again += ["--screen"] if words.screen else []
    run_all(cells, again, words.slots, words.out)


if __name__ == "__main__":
    main()
