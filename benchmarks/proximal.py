"""Does the proximal distance choose as the true one does?

    python benchmarks/proximal.py                        # where `make bench-dirt` has run before
    python benchmarks/proximal.py --only digits/jpeg --rows benchmarks/results/dirt.json --root .
    python benchmarks/proximal.py --only made            # without any run, in a few minutes

Runs that learned the same images (and the floor, which learned the clean ones) are one group: one
setting, one kind of dirt, one seed. Their true distances, to clean images, stand in the rows. Here
their samples are drawn again, made dirty as the table says that one of these runs keeps, and
compared with the dirty images: no clean image takes part. As a control they are compared with the
dirty images as they are.

Before that come models that are made: clean images with a flaw of known size each, such as noise
that is left, a class that is missing, or 50 images learned by heart. The images are made dirty,
rounded to 8 bits, and audited blind; what the true table would give stands beside it.

Spearman's rank correlation of each distance with the true one, and the true distance of the run
that it would choose, go to results/proximal.json and proximal.md. Groups that are there stay, until
they are measured again.
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
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy.stats import spearmanr
from torch import Tensor

from sparring.assembly.dirt_knowledge import KEPT
from sparring.commands.demo.side_by_side import is_finished
from sparring.commands.evaluate.plan import plan_of
from sparring.data.audit.audit import audit_images
from sparring.data.audit.table import read_table
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.data.dirt.kinds.blur import Blur
from sparring.data.trust.trusted import ByTruth
from sparring.diffusion.randomness import generator
from sparring.evaluation.metrics.frechet_distance import frechet_distance
from sparring.evaluation.protocol import versions
from sparring.evaluation.store.proximal import Proximal
from sparring.evaluation.store.reference import Reference, Settings
from sparring.evaluation.store.tensor_tables import Processes
from sparring.sampling.sample import sample

HERE = Path(__file__).resolve().parent
FILES = "data.train_data_dir"
MADE, N_FASHION = "made", 2000
MARKS = "<!-- proximal -->", "<!-- /proximal -->"
FIGURE = "proximal_distance"
CONTROL, TOLD = "distance_to_dirty", f"{FIGURE}_by_the_true_table"
JUDGES = {FIGURE: "proximal", TOLD: "by the true table", CONTROL: "to the dirty"}
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
    """Those whose name begins with `only`, of the runs that are there and finished."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["data"], row["dirt"], row["seed"], row["features"]), []).append(row)
    for (data, dirt, seed, features), own in found.items():
        floor = [row for row in found.get((data, "none", seed, features), []) if is_floor(row)]
        name = f"{data}/{dirt}/seed-{seed}"
        if dirt != "none" and name.startswith(only):
            yield Group(name, [row for row in [*own, *floor] if is_finished(folder_of(row))])


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
    training = plan_of(str(folder_of(group.dirty)), words, "cpu", Processes(), {}).against.training
    assert training is not None, "they are images"
    settings = Settings(features, n_resamples=2, weights=weights)
    proximal = Proximal(Reference(training, settings), read_table(table, training))
    runs = {}
    for row in group.rows:
        plan = plan_of(str(folder_of(row)), words, "cpu", Processes(), {})
        samples = sample(
            plan.model,
            row["n_samples"],
            plan.sampling,
            class_labels=plan.labels(row["n_samples"]),
        )
        samples01 = ((samples.cpu() + 1) / 2).clamp(0, 1)
        as_they_are = proximal.dirty.extractor(samples01)
        runs[row["method"]] = {
            "frechet_distance": row["frechet_distance"],
            FIGURE: frechet_distance(proximal.features, proximal.look(samples01)),
            CONTROL: frechet_distance(proximal.features, as_they_are),
        }
    return judged(group.name, features, runs)


def made(
    name: str, data: Mapping[str, Any], contamination: Mapping[str, Any], features: str
) -> dict[str, Any]:
    """The distances of models that are made, of a data set with one kind of dirt."""
    files = build_dataset(**data)
    clean = contaminate(files, {"kind": "gaussian", "rate": 0})  # in 8 bits
    dirty, settings = contaminate(files, contamination), Settings(features, n_resamples=2)
    reference, seen = Reference(clean, settings), Reference(dirty, settings)
    tables = {FIGURE: audit_images(dirty).table, TOLD: ByTruth(dirty).table}
    proximal = {figure: Proximal(seen, table) for figure, table in tables.items()}
    runs = {}
    for flaw, samples01 in flawed(clean.read_all(), dirty.read_all()["x0"]).items():
        as_they_are, features_of = seen.extractor(samples01), reference.extractor(samples01)
        runs[flaw] = {
            "frechet_distance": frechet_distance(reference.features, features_of),
            **{
                figure: frechet_distance(one.features, one.look(samples01))
                for figure, one in proximal.items()
            },
            CONTROL: frechet_distance(proximal[FIGURE].features, as_they_are),
        }
    return judged(f"{MADE}/{name}", features, runs)


def flawed(clean: Mapping[str, Any], dirty: Tensor) -> dict[str, Tensor]:
    """What models draw that have learned clean images with a flaw, as many as there are."""
    x, n, random = clean["x0"], len(dirty), generator("cpu", 0, MADE)

    def some(of: Tensor, n: int = n) -> Tensor:
        return of[torch.randint(len(of), (n,), generator=random)]

    def noisy(of: Tensor, sigma: float) -> Tensor:
        return (of + sigma * torch.randn(of.shape, generator=random)).clamp(0, 1)

    def blurred(of: Tensor, pixels: float) -> Tensor:
        return torch.stack([Blur(pixels).apply(one, random, None) for one in of])

    return {
        "no flaw": some(x),
        **{f"noise {sigma}": noisy(some(x), sigma) for sigma in (0.02, 0.05, 0.1, 0.2)},
        "the dirt": some(dirty),
        "half of the dirt": torch.cat([some(x, n // 2), some(dirty, n - n // 2)]),
        "150 by heart": some(x[:150]),
        "50 by heart": some(x[:50]),
        "150 by heart, noise 0.05": noisy(some(x[:150]), 0.05),
        **{f"blur {pixels}": blurred(some(x), pixels) for pixels in (0.4, 0.7)},
        "less contrast": 0.9 * some(x),
        "a class missing": some(x[clean["label"] != 8]),
    }


def judged(name: str, features: str, runs: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A group's distances, and how well each kind of distance chooses."""
    distances = [one for one in JUDGES if one in next(iter(runs.values()))]
    return {"group": name, "features": features, "runs": runs} | {
        one: choice(runs, one) for one in distances
    }


def choice(runs: Mapping[str, Mapping[str, float]], name: str) -> dict[str, Any]:
    """How a distance ranks runs, and how far the one that it chooses is from the truth."""
    true = {method: run["frechet_distance"] for method, run in runs.items()}
    chosen = min(runs, key=lambda method: runs[method][name])
    ranks: Any = spearmanr([run[name] for run in runs.values()], list(true.values()))
    return {
        "rank_correlation": float(ranks.statistic),
        "chosen": chosen,
        "best": min(true, key=true.__getitem__),
        "distance_of_chosen": true[chosen],
        "distance_of_best": min(true.values()),
    }


def with_those_of(path: Path, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """These groups, and those of a file that are not among them."""
    if not path.is_file():
        return list(found)
    before = json.loads(path.read_text(encoding="utf-8"))["groups"]
    mine = {(one["group"], one["features"]) for one in found}
    return [*(one for one in before if (one["group"], one["features"]) not in mine), *found]


def report(found: Sequence[Mapping[str, Any]]) -> str:
    commands = dict.fromkeys(f"`{one['command']}`" for one in found)
    head = [
        "# Choosing without clean images\n",
        f"Written by {', '.join(commands)}.\n",
        "Of the proximal distance, of the same with the true table, and of the distance to the "
        "dirty images as they are: its rank correlation with the true distance, and the true "
        "distance of the model that it chooses.\n",
    ]
    return "\n".join([*head, *table_of(found), ""])


def table_of(found: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = [f"{words}: rank correlation | its choice" for words in JUDGES.values()]
    lines = [f"| models | best | {' | '.join(heads)} |", "|---" * (2 + 2 * len(heads)) + "|"]
    for one in found:
        best = one[FIGURE]["distance_of_best"]
        cells = [f"{one['group']}, {len(one['runs'])} models", f"{best:.2g}"]
        for name in JUDGES:
            own = one.get(name)
            if own is None:
                cells += ["", ""]
            else:
                cells += [f"{own['rank_correlation']:.2f}", f"{own['distance_of_chosen']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["mean", ""]
    for name in JUDGES:
        values = [one[name]["rank_correlation"] for one in found if name in one]
        cells += [f"**{statistics.fmean(values):.2f}**" if values else "", ""]
    return [*lines, f"| {' | '.join(cells)} |"]


def put_in(page: Path, table: Sequence[str]) -> None:
    """Replace the table between the marks of a page of the docs."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    text = "\n".join([before + MARKS[0], *table, MARKS[1] + after])
    page.write_text(text, encoding="utf-8")


def with_parts(contamination: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A kind of dirt.yaml, the names of its parts replaced by these."""
    parts = [
        {key: value for key, value in kinds[part].items() if key != "rate"}
        for part in contamination.get("parts", [])
    ]
    return {**contamination, **({"parts": parts} if parts else {})}


def all_judged(
    chosen: argparse.Namespace,
    sets: Mapping[str, Mapping[str, Any]],
    kinds: Mapping[str, Any],
    rows: Sequence[Row],
) -> Iterator[dict[str, Any]]:
    """The models that are made, then the runs, one group after the other."""
    for data, kind in product(sets, kinds):
        name, dirt = f"{data}/{kind}", with_parts(kinds[kind], kinds)
        if f"{MADE}/{name}".startswith(chosen.only):
            yield made(name, sets[data], dirt, chosen.features)
    for group in groups(rows, chosen.only):
        table = group.table()
        if table is None or len(group.rows) < ENOUGH:
            why = "no run keeps a table" if table is None else f"{len(group.rows)} runs are few"
            print(f"{group.name}: left out, {why}", flush=True)
            continue
        yield measured(group, table, chosen.features, chosen.weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "dirt.json")
    parser.add_argument("--kinds", type=Path, default=HERE / "dirt.yaml")
    parser.add_argument("--root", type=Path, default=Path(), help="where their commands were run")
    parser.add_argument("--only", default="", help="groups that begin so, SETTING/KIND/seed-SEED")
    parser.add_argument("--fashion", help="parquet files of Fashion-MNIST: made models of it too")
    parser.add_argument("--features", default="classifier")
    parser.add_argument("--weights", help="of the features")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    parser.add_argument("--page", type=Path, help="of the docs, where the table goes too")
    chosen = parser.parse_args()
    output, page = chosen.output.absolute(), chosen.page and chosen.page.absolute()
    there = chosen.rows.is_file()
    rows = json.loads(chosen.rows.read_text(encoding="utf-8"))["rows"] if there else []
    kinds = yaml.safe_load(chosen.kinds.read_text(encoding="utf-8"))["kinds"]
    sets: dict[str, dict[str, Any]] = {"digits": {"name": "digits"}}
    if chosen.fashion:
        files = {"name": "parquet", "data_files": chosen.fashion}
        sets["fashion"] = {**files, "max_train_samples": N_FASHION}
    os.chdir(chosen.root)  # the commands name folders from there
    torch.set_num_threads(1)
    rows = [row for row in rows if row["features"] == chosen.features]
    command = shlex.join(["python", "benchmarks/proximal.py", *sys.argv[1:]])
    output.mkdir(parents=True, exist_ok=True)
    found = []
    for one in all_judged(chosen, sets, kinds, rows):
        print(f"{one['group']}: {one[FIGURE]}, {one[CONTROL]}", flush=True)
        found.append({**one, "command": command})
        whole = with_those_of(output / "proximal.json", found)
        text = json.dumps({"groups": whole, "versions": versions()}, indent=2) + "\n"
        (output / "proximal.json").write_text(text, encoding="utf-8")
        (output / "proximal.md").write_text(report(whole), encoding="utf-8")
        if page:
            put_in(page, table_of(whole))
    if not found:
        sys.exit("error: no group has enough runs here, and one that keeps data/dirt.csv")


if __name__ == "__main__":
    main()
