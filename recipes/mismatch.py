"""Does adversarial training shrink the mismatch? Curves of many runs as one table over seeds.

    sparring evaluate RUN RUN ... evaluation.mismatch=true 'evaluation.mismatch_steps=[10,50]'
    python recipes/mismatch.py runs/mismatch_plane plain=RUN,RUN,RUN dro=RUN,RUN,RUN

writes runs/mismatch_plane.md and runs/mismatch_plane.json. The first group is the baseline; runs of
two groups with the same training.seed are a pair. A figure is the mean over seeds ± their standard
deviation.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from sparring.report.ranking import comparable
from sparring.report.runs import Run, read_runs
from sparring.report.wording import show
from sparring.support.errors import UserError

KEY, LAST = "sliced_wasserstein", "at the last call"
COLUMNS = {
    "mean over t": KEY,
    "its floor": f"{KEY}_of_reference",
    LAST: LAST,
    f"floor {LAST}": f"floor {LAST}",
    "MMD² x 1000": "mmd_squared",
    "Frechet": "frechet_distance",
}


def main(output: Path, groups: dict[str, list[str]]) -> str:
    """Read, aggregate and write; returns the table.

    Raises:
        UserError: for a run without a curve, or two of a group with one seed.
    """
    found = {name: [_figures(run) for run in read_runs(runs)] for name, runs in groups.items()}
    every = [run for runs in found.values() for run in runs]
    measured = {at for run in every for figures in run.values() for at in figures}
    columns = {title: at for title, at in COLUMNS.items() if at in measured}
    first = next(iter(groups))
    lines = [_row(["sampler", "steps", "run", "seeds", *columns, f"nearer than {first}"])]
    lines.append(_row(["---"] * (len(columns) + 5)))
    result = []
    for key in sorted({key for run in every for key in run}, key=_order):
        protocol, baseline = json.loads(key), _by_seed(found[first], key)
        for name, runs in found.items():
            seeds = _by_seed(runs, key)
            nearer = [baseline[s][KEY] - seeds[s][KEY] for s in seeds if s in baseline]
            nearer = [] if name == first else nearer
            cells = [[one[at] for one in seeds.values() if at in one] for at in columns.values()]
            said = [str(protocol.get("sampler")), str(protocol["steps"]), name]
            said += [", ".join(map(str, seeds)), *map(spread, cells), spread(nearer)]
            lines += [_row(said)] if seeds else []
            result.append({"protocol": protocol, "run": name, "figures": seeds, "nearer": nearer})
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """'0.0241 ± 0.002': mean and standard deviation; one value alone; '-' for none."""
    if not values:
        return "-"
    mean = show(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1g}"


def _figures(run: Run) -> dict[str, dict[str, Any]]:
    """Protocol (as JSON, without what follows from the seed) -> figures of the newest curve."""
    found: dict[str, dict[str, Any]] = {}
    for curve in (curve for evaluation in run.evaluations for curve in evaluation.mismatch):
        protocol = comparable(curve["protocol"])
        protocol.pop("data_fingerprint", None)  # data.seed gives each seed its own data
        last = curve["times"][-1]
        figures = {
            key: 1000 * value if key.startswith("mmd") else value
            for key, value in curve["mean"].items()
        }
        figures |= {LAST: last[KEY], f"floor {LAST}": last[f"{KEY}_of_reference"]}
        figures |= {"seed": run.section("training").get("seed"), "folder": run.argument}
        found.setdefault(json.dumps(protocol, sort_keys=True), figures)
    if not found:
        raise UserError(
            f"{run.argument} has no curve: "
            f"sparring evaluate {run.argument} evaluation.mismatch=true"
        )
    return found


def _by_seed(runs: list[dict[str, dict[str, Any]]], key: str) -> dict[int, dict[str, Any]]:
    """Figures of one protocol by the run's seed."""
    seeds: dict[int, dict[str, Any]] = {}
    for one in (run[key] for run in runs if key in run):
        if one["seed"] in seeds:
            raise UserError(f"{one['folder']}: another run of its group has seed {one['seed']} too")
        seeds[one["seed"]] = one
    return seeds


def _order(key: str) -> tuple[str, int]:
    protocol = json.loads(key)
    return str(protocol.get("sampler")), protocol["steps"]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    words = [argument.split("=", 1) for argument in sys.argv[2:]]
    if not words or any(len(word) != 2 for word in words):
        sys.exit(__doc__)
    try:
        print(main(Path(sys.argv[1]), {name: runs.split(",") for name, runs in words}))
    except UserError as error:
        sys.exit(f"mismatch: error: {error}")
