"""Dirt in files x methods x seeds, trained, measured and put in a table: `make bench-dirt`.

    python benchmarks/dirt.py --data FOLDER --only digits/gaussian/plain --seeds 0 --slots 2
    python benchmarks/dirt.py --data FOLDER --table benchmarks/cifar10.yaml

What is run stands in a table, dirt.yaml or another (`make bench-cifar10`). Each setting's clean
images are written once as 8-bit PNG files, and each kind of dirt once for each seed as a dirty copy
of them, as `sparring contaminate` does. Most methods read these copies and know nothing else. The
oracle must know the truth, so its config makes the clean files dirty itself: both give the same
pixels, which is checked to the bit for every copy that is written.

All samples are measured against all clean images of the set, and copies are looked for among the
clean images of which the training images were made, whatever the method has read of them. The
distance on the first features is that of
`sparring evaluate RUN data.train_data_dir=CLEAN evaluation.reference=all`.

Rows are added to results/<the table's name>.json as runs end, with the commit that measured them
(older rows have none). What is there is not run again, a run that was interrupted goes on, and
--report writes the page beside it from the rows alone; with `--readme README.md` also the short
table between that page's marks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

import torch
import yaml
from rows import add_rows, key_of, read_rows

from sparring.commands.contaminate.copies import contaminate as write_copy
from sparring.commands.demo.side_by_side import (
    Run,
    how_to_go_on,
    is_finished,
    minutes,
    n_cores,
    work,
)
from sparring.commands.evaluate.plan import plan_of
from sparring.config.files import find
from sparring.config.read import resolve
from sparring.data.base import READ_CHUNK, Dataset
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.data.dirt.manifest import read_manifest
from sparring.evaluation.evaluate import look, measure
from sparring.evaluation.protocol import versions
from sparring.evaluation.store.comparison import Comparison
from sparring.evaluation.store.tensor_tables import Processes
from sparring.sampling.sample import sample
from sparring.support.errors import UserError

HERE = Path(__file__).resolve().parent
CLEAN = "none"
"""What a row calls the dirt of clean data."""
KEY = ("data", "dirt", "method", "seed", "features")
"""What tells two rows apart."""
RESNET = "weights/cifar10_resnet56.safetensors"  # of recipes/cifar10_resnet.py
MARKS = "<!-- dirt -->", "<!-- /dirt -->"
SHORT = {
    "plain": "plain", "throw_away_told": "clean tenth alone", "detail": "**`detail`**",
    "oracle": "`oracle`",
}  # fmt: skip
"""Columns of the short table, which is of the first setting."""


# --- Data ------------------------------------------------------------------------------------


def clean_words(folder: Path, split: str = "train") -> dict[str, Any]:
    """A clean set, as a config's section data says it."""
    return {"name": "image_folder", "train_data_dir": str(folder), "split": split}


def write_clean(folder: Path, sets: Mapping[str, Mapping[str, Any]]) -> None:
    """The splits of a set as 8-bit files, where they are not there yet."""
    for split, words in sets.items():
        if not (folder / split).is_dir():
            nothing = {"kind": "gaussian", "rate": 0.0}
            write_copy(words, nothing, folder / split)


def write_dirty(clean: Path, contamination: Mapping[str, Any], folder: Path) -> None:
    """A dirty copy of a set's training files, where it is not there yet.

    Raises:
        AssertionError: if it differs in one bit from what the config's contamination makes.
    """
    if folder.is_dir():
        return
    write_copy(clean_words(clean), contamination, folder)
    in_memory = contaminate(build_dataset(**clean_words(clean)), contamination)
    assert_same(build_dataset(**clean_words(folder)), in_memory)


def assert_same(a: Dataset, b: Dataset) -> None:
    """Two data sets hold the same images, to the bit, in the same order."""
    assert len(a) == len(b), f"{len(a)} images, and {len(b)}"
    for start in range(0, len(a), READ_CHUNK):
        rows = range(start, min(start + READ_CHUNK, len(a)))
        assert torch.equal(a.__getitems__(rows)["x0"], b.__getitems__(rows)["x0"]), f"of {rows}"


def clean_rows(dirty: Path) -> list[int]:
    """Which images of a dirty copy are clean, by its manifest."""
    header, entries = read_manifest(dirty / "manifest.jsonl")
    return sorted(set(range(header["n_samples"])) - {entry["index"] for entry in entries})


def link_clean(dirty: Path, folder: Path) -> None:
    """The clean files of a dirty copy, once more in a folder of their own."""
    if folder.is_dir():
        return
    files = build_dataset(**clean_words(dirty))
    for index in clean_rows(dirty):
        source = Path(str(files.where(index)))
        target = folder / source.relative_to(dirty)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


# --- What is run -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """What is run, where its files go, and where it stands."""

    raw: Mapping[str, Any]
    root: Path
    file: Path = HERE / "dirt.yaml"

    def contamination(self, setting: str, kind: str, seed: int) -> dict[str, Any]:
        """Section contamination of a kind; {} for clean data."""
        if kind == CLEAN:
            return {}
        own = self.raw["settings"][setting]
        return {"rate": own["rate"], **self._kind(kind, own), "seed": seed}

    def _kind(self, kind: str, setting: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(self.raw["kinds"][kind])
        if found["kind"] == "outlier":
            found["images"] = clean_words(self.clean(setting["outliers"]))
        if "parts" in found:
            parts = (self._kind(part, setting) for part in found["parts"])
            found["parts"] = [{k: v for k, v in part.items() if k != "rate"} for part in parts]
        return found

    def clean(self, name: str) -> Path:
        return self.root / "data" / name

    def write(self, name: str) -> Path:
        """The clean files of a set."""
        write_clean(self.clean(name), self.raw["sets"][name])
        return self.clean(name)

    def cells(self, only: Sequence[str], seeds: Sequence[int] | None) -> list[Cell]:
        """All cells, seed by seed, so that a table broken off is a table of fewer seeds."""
        found = []
        for setting, own in self.raw["settings"].items():
            several = own.get("several_seeds", [CLEAN, *self.raw["kinds"]])
            for kind in [CLEAN, *own.get("kinds", self.raw["kinds"])]:
                for method, how in self.raw["methods"].items():
                    if not _is_run(how, kind, own["rate"]):
                        continue
                    name = f"{setting}/{kind}/{method}"
                    if only and not any(re.search(part, name) for part in only):
                        continue
                    for seed in how["seeds"] if kind in several else how["seeds"][:1]:
                        if seeds is None or seed in seeds:
                            found.append(Cell(self, setting, kind, method, seed))
        if not found:
            raise UserError(f"nothing is called {' or '.join(only)}, with these seeds")
        return sorted(found, key=lambda cell: cell.seed)


@dataclass(frozen=True)
class Cell:
    """One method on one setting's data with one kind of dirt and one seed."""

    table: Table
    setting: str
    kind: str
    method: str
    seed: int

    @property
    def own(self) -> Mapping[str, Any]:
        return self.table.raw["settings"][self.setting]

    @property
    def how(self) -> Mapping[str, Any]:
        return self.table.raw["methods"][self.method]

    @property
    def contamination(self) -> dict[str, Any]:
        return self.table.contamination(self.setting, self.kind, self.seed)

    @property
    def rate(self) -> float:
        return self.contamination.get("rate", 0.0)

    @property
    def clean(self) -> Path:
        return self.table.clean(self.own["set"])

    @property
    def place(self) -> str:
        """Of the run, and of the files that it reads. Which files are clean depends on rate and
        seed alone, so all kinds of one rate share the run that is told."""
        told = self.how["trains_on"] == "told_clean"
        return f"{self.setting}/{f'rate-{self.rate:g}' if told else self.kind}"

    @property
    def folder(self) -> Path:
        return self.table.root / self.place / self.method / f"seed-{self.seed}"

    @property
    def dirty(self) -> Path:
        return self.table.root / "data" / f"{self.setting}-{self.kind}-seed-{self.seed}"

    @property
    def reads(self) -> Path:
        """The folder of images that the run is given."""
        if self.kind == CLEAN:
            return self.clean
        if self.how["trains_on"] == "told_clean":
            return self.table.root / "data" / f"{self.place.replace('/', '-')}-seed-{self.seed}"
        return self.dirty if self.how["trains_on"] == "dirty" else self.clean

    @cached_property
    def words(self) -> list[str]:
        """What the run's config is told."""
        in_memory = self.how["trains_on"] == "dirty_in_memory"
        contamination = self.contamination if in_memory else {"kind": CLEAN}
        contamination = {"clip": None, "sigma": None, **contamination}
        trusted = clean_rows(self.dirty)[: self.how["trusted"]] if "trusted" in self.how else None
        return [
            "data.name=image_folder",
            f"data.train_data_dir={self.reads}",
            *self.own.get("words", []),
            *(f"contamination.{k}={_yaml(v)}" for k, v in contamination.items()),
            *self.how["words"],
            *([] if trusted is None else [f"data.trusted={_yaml(trusted)}"]),
            f"training.seed={self.seed}",
            f"training.output_dir={self.folder}",
            "training.report_to=none",
        ]

    @property
    def command(self) -> str:
        config = find(self.own["config"])
        return shlex.join(["sparring", "train", f"configs/{config.name}", *self.words])

    def write(self) -> None:
        """The files that the run reads and is measured against."""
        self.table.write(self.own["set"])
        if self.kind == CLEAN:
            return
        if "outliers" in self.own:
            self.table.write(self.own["outliers"])
        write_dirty(self.clean, self.contamination, self.dirty)
        if self.how["trains_on"] == "told_clean":
            link_clean(self.dirty, self.reads)

    def measured(self, features: str) -> dict[str, Any] | None:
        """The figures on these features, where the run was measured."""
        path = self.folder / "measured" / f"{features}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def lacks(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a row of this cell is not there yet."""
        there = {key_of(row, KEY) for row in rows}
        return any(
            (self.setting, self.kind, self.method, self.seed, features) not in there
            for features in self.own["features"]
        )

    def run(self, data: Path) -> Run:
        """What is left to do."""
        config_file = find(self.own["config"])
        config = resolve(config_file, self.words)
        how = how_to_go_on(self.folder, config, "run", "--runs")
        train = [sys.executable, "-m", "sparring", "train", str(config_file), *self.words, *how]
        look_at = [sys.executable, __file__, "--data", str(data), "--runs", str(self.table.root)]
        look_at += ["--table", str(self.table.file)]
        name = f"{self.setting}/{self.kind}/{self.method}"
        look_at += ["--measure", f"^{name}$", "--seeds", str(self.seed)]
        log = self.folder.parent / f"{self.folder.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        title = f"{name}, seed {self.seed}"
        return Run(
            title, title, self.folder, log, [train, look_at], config.training.max_train_steps,
            stage=int(is_finished(self.folder)) + all(map(self.measured, self.own["features"])),
        )  # fmt: skip

    def measure(self) -> None:
        """Draw samples once and measure them on each kind of features; copies are looked for on the
        first kind, as that needs the features of all training images."""
        reference = ["data.name=image_folder", f"data.train_data_dir={self.clean}"]
        reference += [*self.own.get("words", []), "evaluation.reference=all"]
        reference += [f"evaluation.n_samples={n}"] if (n := self.own.get("n_samples")) else []
        training, held_out = (
            build_dataset(**clean_words(self.clean, split)) for split in ("train", "held_out")
        )
        samples, copies = None, {}
        for name in self.own["features"]:
            words = [*reference, *self.table.raw["extractors"][name]]
            plan = plan_of(str(self.folder), words, "cpu", Processes.started(), {})
            if samples is None:
                samples = sample(
                    plan.model,
                    plan.n_samples,
                    plan.sampling,
                    class_labels=plan.labels(plan.n_samples),
                )
            against = Comparison(plan.reference, None if copies else training, held_out)
            figures = measure(look(samples, against), against, plan.generation())
            copies = copies or {"memorization": figures["memorization"]}
            path = self.folder / "measured" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            text = json.dumps(figures | copies | {"commit": commit_of(HERE)}, indent=2)
            path.write_text(text + "\n", encoding="utf-8")

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each kind of features that the run was measured on."""
        for features in self.own["features"]:
            figures = self.measured(features)
            if figures is None:
                continue
            told = json.loads((self.folder / "training.json").read_text(encoding="utf-8"))
            is_empty, copies = figures["empty_pixel_rms"] is not None, figures["memorization"]
            yield {
                "data": self.setting,
                "dirt": self.kind,
                "rate": self.rate,
                "method": self.method,
                "seed": self.seed,
                "frechet_distance": figures["frechet_distance"],
                "leftover_noise": figures["empty_pixel_rms" if is_empty else "quiet_rms"],
                "leftover_noise_is": "empty_pixel_rms" if is_empty else "quiet_rms",
                "recall": figures["recall"],
                "coverage": figures["coverage"],
                "near_duplicates": copies["near_duplicates"],
                "near_duplicates_of_held_out": copies["near_duplicates_of_calibration"],
                "near_duplicates_features": copies["extractor"],
                "features": features,
                "n_samples": figures["protocol"]["n_fake"],
                "reference": f"all {figures['protocol']['n_real']} clean images of "
                f"{self.own['set']}, 8 bits",
                "fid_768": (self.measured("inception-768") or {}).get("frechet_distance"),
                "images_seen": told["n_images"],
                "minutes": told["train_seconds"] / 60,
                "versions": versions(),
                "commit": figures.get("commit"),
                "command": self.command,
            }


def commit_of(folder: Path) -> str | None:
    """The commit of the checkout that a folder is in, with "+" if its files were changed since, but
    for what benchmarks write; None where there is no git or no checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    but = ["--", ":/", *(f":(top,exclude){path}" for path in ("benchmarks/results", "*.md"))]
    try:
        changed = "+" if git("status", "--porcelain", "--untracked-files=no", *but) else ""
        return git("rev-parse", "--short", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return None


def _is_run(how: Mapping[str, Any], kind: str, rate: float) -> bool:
    """Whether a method has anything to do on a kind of dirt: clean data are for the floor and for
    what should not harm them, and some methods need a few clean images."""
    if kind == CLEAN:
        return how["trains_on"] == "clean" or how.get("on_clean", False)
    return how["trains_on"] != "clean" and not (rate == 1 and how.get("needs_clean", False))


def _yaml(value: Any) -> str:
    """A value as the command line takes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


# --- Rows ------------------------------------------------------------------------------------


def keep(path: Path, cells: Sequence[Cell]) -> None:
    """Put the rows of what is measured into the file."""
    add_rows(path, (row for cell in cells for row in cell.rows()), KEY)


def run_all(cells: Sequence[Cell], data: Path, n_slots: int, path: Path) -> list[str]:
    """Run cells; what failed, in words. A run that fails does not keep the others from running."""
    failed: dict[str, str] = {}
    while True:
        runs = {}
        for cell in cells:
            if str(cell.folder) not in failed:
                runs[str(cell.folder)] = cell.run(data)
        left = [run for run in runs.values() if not run.is_done]

        def progress(left: Sequence[Run] = left) -> str:
            keep(path, cells)
            at = (f"{run.name} ({run.step}/{run.n_steps})" for run in left if run.process)
            n_left = sum(not run.is_done for run in left)
            seconds = sum(run.seconds_left(0.06) for run in left) / n_slots
            return f"  {n_left} left, about {minutes(seconds)}: {', '.join(at)}"

        try:
            work(left, n_slots, progress, finish_first=True)
        except UserError as error:
            (one,) = (run for run in left if str(error).startswith(f"{run.title} failed"))
            failed[str(one.folder)] = str(error)
            print(f"error: {error}", flush=True)
            continue
        finally:
            keep(path, cells)
        return list(failed.values())


# --- Report ----------------------------------------------------------------------------------


def report(raw: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables of kinds x methods, and what each must reach."""
    parts = [f"# {raw.get('title', 'Dirt in files')}\n", _HEAD]
    for setting, own in raw["settings"].items():
        for features in own["features"]:
            found = Found(
                [row for row in rows if (row["data"], row["features"]) == (setting, features)]
            )
            if found.rows:
                parts += _tables(setting, features, own, raw["methods"], found)
    return "\n".join(parts)


_HEAD = """Written by `python benchmarks/dirt.py --report` from the JSON file beside it, whose rows
hold the command of each run. A figure is the Frechet distance, mean and standard deviation over
seeds, or of one seed where there is no deviation; below it leftover noise, recall, coverage and the
share of near duplicates of clean training images.
"""


@dataclass(frozen=True)
class Found:
    """The rows of one setting and one kind of features."""

    rows: Sequence[Mapping[str, Any]]

    def of(self, kind: str, method: str, name: str = "frechet_distance") -> dict[int, float]:
        """A figure by seed; the floor is that of clean data, and what is told which images are
        clean is the same run for all kinds of one rate."""
        kinds = {CLEAN if method == "floor" else kind}
        if method == "throw_away_told":
            rates = {row["rate"] for row in self.rows if row["dirt"] == kind}
            kinds = {row["dirt"] for row in self.rows if row["rate"] in rates}
        own = (row for row in self.rows if row["method"] == method and row["dirt"] in kinds)
        return {row["seed"]: row[name] for row in own}

    def mean(self, kind: str, method: str) -> float | None:
        values = self.of(kind, method).values()
        return statistics.fmean(values) if values else None

    def ratio(self, kind: str, method: str, other: str) -> tuple[float, float] | None:
        """Mean over common seeds of method / other, and its standard error (0 of one seed)."""
        a, b = self.of(kind, method), self.of(kind, other)
        ratios = [a[seed] / b[seed] for seed in sorted(a.keys() & b.keys())]
        if not ratios:
            return None
        spread = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
        return statistics.fmean(ratios), spread

    def above_floor(self, kind: str, method: str, other: str) -> float | None:
        """(method - floor) / (other - floor), of means."""
        a, b, floor = (self.mean(kind, one) for one in (method, other, "floor"))
        if a is None or b is None or floor is None or b <= floor:
            return None
        return (a - floor) / (b - floor)


def _tables(
    setting: str,
    features: str,
    own: Mapping[str, Any],
    methods: Mapping[str, Any],
    found: Found,
) -> Iterator[str]:
    kinds = list(dict.fromkeys(row["dirt"] for row in found.rows))
    names = [one for one in methods if any(found.of(kind, one) for kind in kinds)]
    reference = found.rows[0]["reference"]
    yield f"## {setting}, features {features}\n"
    yield f"{found.rows[0]['n_samples']} samples against {reference}.\n"
    yield f"| dirt | {' | '.join(names)} |"
    yield "|---" * (1 + len(names)) + "|"
    for kind in kinds:
        cells = (
            _cell(found, kind, one) if one != "floor" or kind == CLEAN else "" for one in names
        )
        yield f"| {kind} | {' | '.join(cells)} |"
    yield ""
    yield from _musts(own.get("must", {}), kinds, found)


def short_table(raw: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Distances of the first setting where `detail` has any, for readers in a hurry."""
    setting, own = next(iter(raw["settings"].items()))
    there = {"data": setting, "features": own["features"][0]}
    found = Found([row for row in rows if there.items() <= row.items()])
    kinds = [kind for kind in raw["kinds"] if found.of(kind, "detail")]
    lines = [f"| dirt | {' | '.join(SHORT.values())} |", "|---" * (1 + len(SHORT)) + "|"]
    for kind in kinds:
        cells = (_distance(found, kind, method) for method in SHORT)
        lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |")
    floor = _distance(found, CLEAN, "floor")
    return [*lines, "", f"Plain training on clean files: {floor}."]


def put_in(page: Path, table: Sequence[str]) -> None:
    """Replace what is between the marks of a page.

    Raises:
        UserError: if the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise UserError(f"{page} has no {' and '.join(MARKS)}")
    page.write_text("\n".join([before + start, *table, end + after]), encoding="utf-8")


def _distance(found: Found, kind: str, method: str) -> str:
    """Mean and, of several seeds, standard deviation."""
    values = list(found.of(kind, method).values())
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}" if values else ""


def _cell(found: Found, kind: str, method: str) -> str:
    values = list(found.of(kind, method).values())
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    more = (
        statistics.fmean(found.of(kind, method, name).values())
        for name in ("leftover_noise", "recall", "coverage", "near_duplicates")
    )
    noise, recall, coverage, copies = more
    return (
        f"**{statistics.fmean(values):.3g}**{spread}<br>{noise:.3f}, {recall:.2f}, "
        f"{coverage:.2f}, {100 * copies:.1f} %"
    )


def _musts(must: Mapping[str, Any], kinds: Sequence[str], found: Found) -> Iterator[str]:
    """What `detail` must reach, beside the ratios."""
    names = ["dirt", "share of", "detail", "must", "goal", "oracle"]
    yield f"| {' | '.join(names)} | detail / oracle above the floor (must: 1.25) |"
    yield "|---" * (len(names) + 1) + "|"
    for kind in kinds:
        if kind == CLEAN:
            yield _must_line(found, kind, "floor", [1.02, 1.0])
        elif (limits := must.get(kind, must.get("all"))) is not None:
            yield _must_line(found, kind, must["of"], limits)
        else:
            yield _must_line(found, kind, "throw_away_told", [1.15, 1.0])
    yield ""


def _must_line(found: Found, kind: str, of: str, limits: Sequence[float]) -> str:
    shares = (_share(found.ratio(kind, method, of)) for method in ("detail", "oracle"))
    detail, oracle = shares
    above = found.above_floor(kind, "detail", "oracle")
    words = "" if above is None else f"{above:.2f}"
    return f"| {kind} | {of} | {detail} | {limits[0]:g} | {limits[1]:g} | {oracle} | {words} |"


def _share(ratio: tuple[float, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio[0]:.2f}" + (f" ± {ratio[1]:.2f}" if ratio[1] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, default=HERE / "dirt.yaml")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the sets' files")
    parser.add_argument("--only", nargs="*", default=[], help="patterns of SETTING/KIND/METHOD")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these of each method's seeds")
    parser.add_argument("--runs", type=Path, default=Path("runs/dirt"), help="where runs go")
    parser.add_argument("--slots", type=int, default=n_cores(), help="runs at a time")
    parser.add_argument("--again", action="store_true", help="also what the rows have already")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--readme", type=Path, help="page that gets the short table")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what each run calls at its end
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    places = {"DATA": chosen.data, "RECIPES": HERE.parent / "recipes"}
    text = Template(chosen.table.read_text(encoding="utf-8")).substitute(places)
    os.environ.setdefault("SPARRING_CIFAR10_RESNET", str(chosen.data / RESNET))
    table = Table(yaml.safe_load(text), chosen.runs, chosen.table)
    path = chosen.output / f"{chosen.table.stem}.json"
    try:
        if chosen.measure:
            for cell in table.cells([chosen.measure], chosen.seeds):
                cell.measure()
            return
        failed = []
        if not chosen.report:
            cells = table.cells(chosen.only, chosen.seeds)
            if not chosen.again:
                rows = read_rows(path)
                cells = [cell for cell in cells if cell.lacks(rows)]
            for cell in cells:
                cell.write()
            print(f"{len(cells)} cells to run, {chosen.slots} at a time", flush=True)
            failed = run_all(cells, chosen.data, chosen.slots, path)
        if chosen.readme:
            put_in(chosen.readme, short_table(table.raw, read_rows(path)))
    except UserError as error:
        sys.exit(f"error: {error}")
    page = path.with_suffix(".md")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report(table.raw, read_rows(path)), encoding="utf-8")
    print(f"written to {page}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
