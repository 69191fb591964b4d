"""Does the proximal distance choose as the true one does? For runs that benchmarks/dirt.py made.

    python benchmarks/proximal.py                        # where `make bench-dirt` has run before
    python benchmarks/proximal.py --only digits/jpeg --rows benchmarks/results/dirt.json --root .

Runs that learned the same images (and the floor, which learned the clean ones) are one group: one
setting, one kind of dirt, one seed. Their true distances, to clean images, stand in the rows. Here
their samples are drawn again, made dirty as the table says that one of these runs keeps, and
compared with the dirty images: no clean image takes part. As a control they are compared with the
dirty images as they are.

Spearman's rank correlation of each distance with the true one, and the true distance of the run
that it would choose, as a multiple of the best run's, go to results/proximal.json and proximal.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from sparring.build_trust import KEPT
from sparring.commands.plan import labels_of, plan_of, sampling_words
from sparring.data.audit.table import read_table
from sparring.evaluation.metrics import frechet_distance
from sparring.evaluation.parts import Processes
from sparring.evaluation.protocol import versions
from sparring.evaluation.proximal import FIGURE, Proximal
from sparring.evaluation.reference import Reference, Settings
from sparring.sampling import sample

HERE = Path(__file__).resolve().parent
FILES = "data.train_data_dir"
CONTROL = "distance_to_dirty"
ENOUGH = 4
"""Runs in a group, of which a rank correlation says something."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Runs that learned the same images, and those of the floor.

    Attributes:
        name: SETTING/KIND/seed-SEED.
        rows: Of dirt.json, all of one kind of features.
    """

    name: str
    rows: Sequence[Row]

    @property
    def dirty(self) -> Row | None:
        """Of a run that learned all dirty files as they are, None where there is none."""
        return next((row for row in self.rows if row["method"] == "plain"), None)

    def table(self) -> Path | None:
        """What the audit of one of the runs found in those files, None where none made one."""
        if self.dirty is None:
            return None
        files = told(self.dirty, FILES)
        tables = (folder_of(row) / KEPT for row in self.rows if told(row, FILES) == files)
        return next((table for table in tables if table.is_file()), None)


def groups(rows: Sequence[Row], only: str) -> Iterator[Group]:
    """Those whose name begins with `only`."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["data"], row["dirt"], row["seed"], row["features"]), []).append(row)
    for (data, dirt, seed, features), own in found.items():
        floor = [row for row in found.get((data, "none", seed, features), []) if is_floor(row)]
        name = f"{data}/{dirt}/seed-{seed}"
        if dirt != "none" and name.startswith(only):
            yield Group(name, [row for row in [*own, *floor] if folder_of(row).is_dir()])


def is_floor(row: Row) -> bool:
    return row["method"] == "floor"


def told(row: Row, key: str) -> str:
    """What a row's command says of a key of the config."""
    words = (word.partition("=") for word in shlex.split(row["command"]))
    return next(value for name, _, value in words if name == key)


def folder_of(row: Row) -> Path:
    return Path(told(row, "training.output_dir"))


def measured(group: Group, table: Path, features: str, weights: str | None) -> dict[str, Any]:
    """The distances of each run of a group, and how well they choose."""
    words = [f"evaluation.extractor={features}", "evaluation.n_resamples=2"]
    words += [f"evaluation.weights={weights}"] if weights else []
    assert group.dirty is not None
    training = plan_of(str(folder_of(group.dirty)), words, "cpu", Processes(), {}).training
    assert training is not None, "they are images"
    settings = Settings(features, n_resamples=2, weights=weights)
    proximal = Proximal(Reference(training, settings), read_table(table, training))
    runs = {}
    for row in group.rows:
        plan = plan_of(str(folder_of(row)), words, "cpu", Processes(), {})
        samples = sample(
            plan.model,
            row["n_samples"],
            num_inference_steps=plan.config.sampling.num_inference_steps,
            class_labels=labels_of(plan, row["n_samples"]),
            **sampling_words(plan),
        )
        samples01 = ((samples.cpu() + 1) / 2).clamp(0, 1)
        as_they_are = proximal.dirty.extractor(samples01)
        runs[row["method"]] = {
            "frechet_distance": row["frechet_distance"],
            FIGURE: proximal.figures(proximal.look(samples01))[FIGURE],
            CONTROL: frechet_distance(proximal.features, as_they_are),
        }
    return {"group": group.name, "features": features, "runs": runs} | {
        name: choice(runs, name) for name in (FIGURE, CONTROL)
    }


def choice(runs: Mapping[str, Mapping[str, float]], name: str) -> dict[str, Any]:
    """How a distance ranks runs, which it chooses, and at what price."""
    true = {method: run["frechet_distance"] for method, run in runs.items()}
    chosen = min(runs, key=lambda method: runs[method][name])
    ranks: Any = spearmanr([run[name] for run in runs.values()], list(true.values()))
    return {
        "rank_correlation": float(ranks.statistic),
        "chosen": chosen,
        "best": min(true, key=true.__getitem__),
        "price": true[chosen] / min(true.values()),
    }


def report(found: Sequence[Mapping[str, Any]], command: str) -> str:
    lines = [
        "# Choosing without clean images\n",
        f"Written by `{command}`.\n",
        "Of the proximal distance, and of the distance to the dirty images as they are: its rank "
        "correlation with the true distance, the run that it chooses, and the true distance of "
        "that run as a multiple of the best one's.\n",
        "| runs | features | how many | proximal: rank correlation | chosen | price | "
        "to the dirty: rank correlation | chosen | price |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [one["group"], one["features"], str(len(one["runs"]))]
        for name in (FIGURE, CONTROL):
            own = one[name]
            cells += [f"{own['rank_correlation']:.2f}", own["chosen"], f"{own['price']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["mean", "", ""]
    for name in (FIGURE, CONTROL):
        means = (
            statistics.fmean(one[name][key] for one in found)
            for key in ("rank_correlation", "price")
        )
        ranks, price = means
        cells += [f"**{ranks:.2f}**", "", f"**{price:.2f}**"]
    return "\n".join([*lines, f"| {' | '.join(cells)} |", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "dirt.json")
    parser.add_argument("--root", type=Path, default=Path(), help="where their commands were run")
    parser.add_argument("--only", default="", help="groups that begin so, SETTING/KIND/seed-SEED")
    parser.add_argument("--features", default="classifier")
    parser.add_argument("--weights", help="of the features")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    output = chosen.output.absolute()
    rows = json.loads(chosen.rows.read_text(encoding="utf-8"))["rows"]
    os.chdir(chosen.root)  # the commands name folders from there
    torch.set_num_threads(1)
    rows = [row for row in rows if row["features"] == chosen.features]
    found = []
    for group in groups(rows, chosen.only):
        table = group.table()
        if table is None or len(group.rows) < ENOUGH:
            why = "no run keeps a table" if table is None else f"{len(group.rows)} runs are few"
            print(f"{group.name}: left out, {why}", flush=True)
            continue
        found.append(measured(group, table, chosen.features, chosen.weights))
        print(f"{group.name}: {found[-1][FIGURE]}, {found[-1][CONTROL]}", flush=True)
    if not found:
        sys.exit("error: no group has enough runs here, and one that keeps data/dirt.csv")
    command = shlex.join(["python", "benchmarks/proximal.py", *sys.argv[1:]])
    output.mkdir(parents=True, exist_ok=True)
    result = {"groups": found, "command": command, "versions": versions()}
    text = json.dumps(result, indent=2) + "\n"
    (output / "proximal.json").write_text(text, encoding="utf-8")
    (output / "proximal.md").write_text(report(found, command), encoding="utf-8")


if __name__ == "__main__":
    main()
