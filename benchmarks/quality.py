"""Methods x data x seeds, trained, evaluated and put in a table: `make bench-quality`.

What is run stands in quality_cpu.yaml, or in quality_gpu.yaml; $NAME in it is read from the
environment. A run that is finished is kept and one that was interrupted goes on, so the command can
be given again. The table is written anew from the runs that there are; a seed that was measured
elsewhere stays in it, as long as the table still trains that method with the same words, and with
--missing is not run again. Runs are side by side, one thread each, as many as there are cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparring.commands.demo.side_by_side import (
    Run,
    how_to_go_on,
    is_finished,
    minutes,
    n_cores,
    work,
)  # fmt: skip
from sparring.config.files import find
from sparring.config.read import resolve
from sparring.evaluation.protocol import versions
from sparring.support.errors import UserError

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Cell:
    """One method on one experiment's data with one seed."""

    experiment: str
    method: str
    seed: int
    config: Path
    words: list[str]
    evaluations: dict[str, list[str]]
    figures: list[str]
    folder: Path

    def evaluation(self, label: str) -> Path:
        return self.folder / "evaluation" / (_slug(label) or "as_configured")

    def measured(self, label: str) -> dict[str, Any] | None:
        """The figures of an evaluation that was done."""
        for path in self.evaluation(label).glob("*.json"):
            return json.loads(path.read_text(encoding="utf-8"))
        return None

    def lacks(self, known: set[tuple[str, str, str, int]], as_configured: bool) -> bool:
        """Whether an evaluation, of all or the first, is not among those that are known."""
        wanted = [""] if as_configured and "" in self.evaluations else self.evaluations
        return any(
            (self.experiment, self.method, label, self.seed) not in known for label in wanted
        )

    def minutes(self) -> float:
        """What training took, with as many runs side by side as there were."""
        told = json.loads((self.folder / "training.json").read_text(encoding="utf-8"))
        return told["train_seconds"] / 60

    def run(self, as_configured: bool) -> Run:
        """What is left to do, of the evaluations all or the first."""
        config = resolve(self.config, self.words)
        sparring = [sys.executable, "-m", "sparring"]
        how = how_to_go_on(self.folder, config, "run", "--runs")
        commands = [[*sparring, "train", str(self.config), *self.words, *how]]
        commands += [
            [*sparring, "evaluate", str(self.folder), *more, "-o", str(self.evaluation(label))]
            for label, more in self.evaluations.items()
            if self.measured(label) is None and not (label and as_configured)
        ]
        log = self.folder.parent / f"{self.folder.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Run(
            f"{self.experiment}, {self.method}, seed {self.seed}", self.method, self.folder, log,
            commands, config.training.max_train_steps, stage=int(is_finished(self.folder)),
        )  # fmt: skip


def cells(
    table: dict[str, Any],
    output: Path,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
) -> list[Cell]:
    """All cells, seed by seed, so that a table broken off is a table of fewer seeds."""
    found = []
    for name, experiment in table["experiments"].items():
        for method, own in experiment["methods"].items():
            if only and not any(re.search(part, f"{name}/{method}") for part in only):
                continue
            own = own if isinstance(own, dict) else {"overrides": own}
            evaluations = own.get("evaluations", experiment.get("evaluations", {"": []}))
            for seed in own.get("seeds", experiment["seeds"]):
                if seeds is not None and seed not in seeds:
                    continue
                folder = output / name / _slug(method) / f"seed-{seed}"
                keys = experiment.get("seed_keys", table["seed_keys"])
                every = [
                    *own["overrides"],
                    *(filled(one, seed) for one in experiment.get("overrides", [])),
                    *overrides,
                    *(f"{key}={seed}" for key in keys),
                    f"training.output_dir={folder}",
                    "training.report_to=none",
                ]
                found.append(
                    Cell(
                        name, method, seed, find(experiment["config"]), every,
                        {
                            label: [filled(one, seed) for one in more]
                            for label, more in evaluations.items()
                        },
                        experiment["figures"], folder,
                    )
                )  # fmt: skip
    if not found:
        raise UserError(f"nothing is called {' or '.join(only)}, with these seeds")
    return sorted(found, key=lambda cell: cell.seed)


def filled(override: str, seed: int) -> str:
    """With the seed, and the values of the environment's variables that it names.

    Raises:
        UserError: if one is not set.
    """
    found = os.path.expandvars(override.replace("{seed}", f"{seed}"))
    if "$" in found:
        raise UserError(f"{override} names a variable that is not set")
    return found


def rows(done: list[Cell], before: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
    """Mean and spread over seeds for each experiment, method and evaluation that has figures.

    Args:
        done: All cells of the table.
        before: Rows of an earlier table; what they say of seeds without a run here is kept.
    """
    earlier = {_key(row): row for row in before}
    names = dict.fromkeys((cell.experiment, cell.method) for cell in done)
    for experiment, method in names:
        own = [cell for cell in done if (cell.experiment, cell.method) == (experiment, method)]
        command = " ".join(["sparring train", str(own[0].config.name), *own[0].words])
        for label in own[0].evaluations:
            row: dict[str, Any] = {"experiment": experiment, "method": method, "evaluation": label}
            row["command"] = command
            found = dict(_each_seed(earlier.get(_key(row), {}), own[0].figures))
            found |= {
                cell.seed: {name: _figure(figures, name) for name in cell.figures}
                | {"minutes": cell.minutes()}
                for cell in own
                if (figures := cell.measured(label)) is not None
            }
            if not found:
                continue
            row["seeds"] = sorted(found)
            for name in [*own[0].figures, "minutes"]:
                values = [found[seed][name] for seed in sorted(found)]
                row[name] = {"mean": statistics.fmean(values), "each": values} | (
                    {"spread": statistics.stdev(values)} if len(values) > 1 else {}
                )
            yield row


def _written(path: Path) -> list[dict[str, Any]]:
    """Rows of the table as it was written last."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    """What must be equal for two rows to be of the same runs, wherever those lie."""
    words = [w for w in row["command"].split() if not w.startswith("training.output_dir=")]
    return (row["experiment"], row["method"], row["evaluation"], *words)


def _each_seed(row: dict[str, Any], figures: Sequence[str]) -> Iterator[tuple[int, dict]]:
    names = [*figures, "minutes"]
    if all(row.get(name) for name in names):
        for i, seed in enumerate(row["seeds"]):
            yield seed, {name: row[name]["each"][i] for name in names}


def _figure(measured: dict[str, Any], name: str) -> float:
    """NAME, or of a list of values its smallest or largest, NAME.min or NAME.max."""
    name, _, part = name.partition(".")
    return {"": float, "min": min, "max": max}[part](measured[name])


def markdown(table: list[dict[str, Any]], figures: dict[str, list[str]]) -> str:
    """One table per experiment."""
    parts = []
    for experiment, names in figures.items():
        own = [row for row in table if row["experiment"] == experiment]
        if not own:
            continue
        lines = [
            f"## {experiment}\n",
            f"| method | evaluation | seeds | {' | '.join(names)} | minutes of training |",
            "|---" * (4 + len(names)) + "|",
        ]
        for row in own:
            values = " | ".join(_with_spread(row[name]) for name in names)
            how = row["evaluation"] or "as configured"
            start = f"| {row['method']} | {how} | {len(row['seeds'])} |"
            lines.append(f"{start} {values} | {row['minutes']['mean']:.1f} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _with_spread(value: dict[str, Any]) -> str:
    spread = f" ± {value['spread']:.2g}" if "spread" in value else " (one seed)"
    return f"{value['mean']:.3g}{spread}"


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", words.lower()).strip("_")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, default=HERE / "quality_cpu.yaml")
    parser.add_argument("--only", nargs="*", default=[], help="patterns of EXPERIMENT/METHOD")
    parser.add_argument(
        "--as-configured", action="store_true", help="leave the other ways to sample for later"
    )
    parser.add_argument(
        "--missing", action="store_true", help="only what the written table does not have yet"
    )
    parser.add_argument("--override", nargs="*", default=[], help="KEY=VALUE for all of them")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these of each method's seeds")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="where runs go")
    parser.add_argument("--slots", type=int, default=n_cores(), help="runs at a time")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    table = yaml.safe_load(chosen.table.read_text(encoding="utf-8"))
    try:
        wanted = cells(table, chosen.runs, chosen.only, chosen.seeds, chosen.override)
        path = chosen.output / f"{chosen.table.stem}.json"
        if chosen.missing:
            known = {
                (row["experiment"], row["method"], row["evaluation"], seed)
                for row in rows(cells(table, chosen.runs), _written(path))
                for seed in row["seeds"]
            }
            wanted = [cell for cell in wanted if cell.lacks(known, chosen.as_configured)]
        runs = [run for cell in wanted if not (run := cell.run(chosen.as_configured)).is_done]
        print(f"{len(wanted)} runs, {len(runs)} of them not finished, {chosen.slots} at a time")

        def progress() -> str:
            running = [run for run in runs if run.process is not None]
            for run in running:
                run.look()
            at = ", ".join(f"{run.name} ({run.step}/{run.n_steps})" for run in running)
            left = [run for run in runs if not run.is_done]
            seconds = sum(run.seconds_left(0.06) for run in left) / chosen.slots
            return f"  {len(left)} left, about {minutes(seconds)}: {at}"

        work(runs, chosen.slots, progress, finish_first=True)
        found = list(rows(cells(table, chosen.runs), _written(path)))
    except UserError as error:
        sys.exit(f"error: {error}")
    chosen.output.mkdir(parents=True, exist_ok=True)
    result = {"table": chosen.table.name, "versions": versions(), "rows": found}
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    figures = {name: each["figures"] for name, each in table["experiments"].items()}
    text = markdown(found, figures)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"{text}\nwritten to {path}")


if __name__ == "__main__":
    main()
