"""What the page says in tables: figures by protocol, who is ranked with whom, costs, configs.

Nothing here measures: a number is copied from a run's files, or is the ratio of two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.protocol import GENERATION, MEASUREMENT, RECORDED
from .runs import Evaluation, Run, as_command, is_number


@dataclass(frozen=True)
class Measure:
    """A figure of an evaluation file: its key, its name on the page, and which way is better."""

    key: str
    label: str
    hint: str
    better: str = ""  # "lower", "higher", "true" (nearest to <key>_true), "" (not ranked)
    of_pairs: bool = False  # the reference's is that of its own images and captions


MEASURES = (
    Measure("frechet_distance", "Fréchet distance", "lower is better", "lower"),
    Measure("frechet_distance_infinity", "Fréchet distance, extrapolated",
            "to infinitely many samples", "lower"),
    Measure("proximal_distance", "Proximal distance",
            "samples made dirty, to the dirty training images", "lower"),
    Measure("inception_score", "Inception Score", "higher is better", "higher"),
    Measure("inception_score_std", "… its spread over parts of the samples", ""),
    Measure("kernel_distance", "Kernel distance", "lower is better", "lower"),
    Measure("cmmd", "CMMD", "distance as CLIP sees it", "lower"),
    Measure("clip_score", "CLIP score", "do image and caption agree", "higher", True),
    Measure("pick_score", "PickScore", "do people prefer it", "higher", True),
    Measure("hps", "HPS v2", "do people prefer it", "higher", True),
    Measure("aesthetic", "Aesthetic score", "rating of 1 to 10", "higher", True),
    Measure("precision", "Precision", "share of samples that look real", "higher"),
    Measure("recall", "Recall", "share of real images within reach", "higher"),
    Measure("density", "Density", "about 1 where samples lie as real ones do", "higher"),
    Measure("coverage", "Coverage", "share of real images with a sample near", "higher"),
    Measure("nearest_training_distance", "Distance to nearest training image",
            "median; near 0 means copies"),
    Measure("near_duplicates", "Near duplicates of training images",
            "share; as near as the nearest 1 % of held-out ones"),
    Measure("authentic", "Authentic samples", "AuthPct; few where training images are copied"),
    Measure("lpips_diversity", "LPIPS diversity", "between samples; noise raises it too"),
    Measure("empty_pixel_rms", "Leftover noise", "rms in empty pixels, [0, 1] scale", "lower"),
    Measure("n_empty_pixels", "Pixels counted as empty", "where leftover noise is read"),
    Measure("quiet_rms", "Noise in quiet directions", "rms where clean images vary least", "lower"),
    Measure("off_manifold_rms", "Off the manifold", "rms per direction, 0 is exact", "lower"),
    Measure("in_manifold_std", "Spread in the manifold", "nearest to the true one", "true"),
    Measure("sliced_wasserstein", "Sliced Wasserstein distance", "lower is better", "lower"),
)  # fmt: skip
BY_KEY = {measure.key: measure for measure in MEASURES}
CALIBRATED = ("nearest_training_distance", "near_duplicates", "authentic")
# Figures of the reference that belong beneath a model's figure, by the end of their key.
BESIDE = {
    "_of_reference": "… of a resample of the reference itself",
    "_of_clean": "… of clean images themselves",
    "_of_halves": "… between two halves of the reference",
    "_true": "… of the true distribution",
}


# --- Numbers as text ------------------------------------------------------------------------------


def show(value: Any) -> str:
    """About three significant digits: 88.0, 4.93, 0.410, 0.0075, 3.2e-05; n/a where no number."""
    if not is_number(value):
        return "n/a"
    if isinstance(value, int) or value == 0:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1e7:
        return f"{value:.2e}"
    for limit, digits in ((1000, 0), (10, 1), (1, 2), (0.1, 3), (1e-3, 4)):
        if size >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.1e}"


def show_seconds(seconds: Any) -> str:
    """A duration: 0.42 s, 38 s, 4 min 52 s, 2 h 05 min."""
    if not is_number(seconds):
        return "n/a"
    if seconds < 10:
        return f"{seconds:.2g}\u00a0s"
    if round(seconds) < 60:
        return f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def show_value(value: Any) -> str:
    """A leaf of a config or protocol as it would be written in YAML or JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


# --- Protocols ------------------------------------------------------------------------------------


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves.update(flat(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def differences(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Dotted keys on which the trees disagree -> each tree's value as text, '–' where none."""
    leaves = [flat(tree) for tree in trees]
    keys = dict.fromkeys(key for leaf in leaves for key in leaf)
    rows = {key: [show_value(leaf[key]) if key in leaf else "–" for leaf in leaves] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def comparable(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a protocol that must agree before two figures may be ranked."""
    return {key: protocol[key] for key in (*MEASUREMENT, *GENERATION) if key in protocol}


@dataclass
class Group:
    """Evaluations of one protocol, at most one (the newest) for each run."""

    protocol: dict[str, Any]
    members: dict[str, Evaluation] = field(default_factory=dict)  # by run name, in the page's order

    def value(self, run: str, key: str) -> float | None:
        return self.members[run].numbers.get(key) if run in self.members else None

    def interval(self, run: str, key: str) -> tuple[float, float] | None:
        """Lower and upper end of the figure's interval over resamples, where the file has one."""
        pair = self.members[run].figures.get(f"{key}_interval") if run in self.members else None
        if isinstance(pair, list) and len(pair) == 2 and all(is_number(end) for end in pair):
            return float(pair[0]), float(pair[1])
        return None

    def overlap(self, first: str, second: str, key: str) -> bool:
        """Whether both runs have an interval of the figure and these overlap."""
        a, b = self.interval(first, key), self.interval(second, key)
        return a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]

    @property
    def recorded(self) -> dict[str, list[str]]:
        """What the members recorded unlike (seeds, versions) though they may be ranked."""
        return differences([
            {key: e.protocol[key] for key in RECORDED if key in e.protocol}
            for e in self.members.values()
        ])  # fmt: skip


def group_by_protocol(runs: Sequence[Run], ranked: Sequence[str] = ()) -> list[Group]:
    """Evaluations that may be compared, together; the group that ranks most runs comes first."""
    groups: list[Group] = []
    for run in runs:
        for evaluation in run.evaluations:
            protocol = comparable(evaluation.protocol)
            group = next((g for g in groups if g.protocol == protocol), None)
            if group is None:
                group = Group(protocol)
                groups.append(group)
            group.members.setdefault(run.name, evaluation)
    return sorted(
        groups, key=lambda g: (-sum(name in ranked for name in g.members), -len(g.members))
    )  # fmt: skip


# --- Who is compared with whom --------------------------------------------------------------------


def training_data(run: Run) -> str:
    """What the run was trained on, as a key: equal for runs whose figures are one competition."""
    data = {key: value for key, value in run.section("data").items() if "workers" not in key}
    return json.dumps([data, run.contamination], sort_keys=True, default=str)


def choose_baseline(runs: Sequence[Run]) -> Run:
    """The plain run that shares its training data with most runs; without one, the first run."""
    keys = [training_data(run) for run in runs]
    plain = [run for run in runs if run.objective == "plain"] or list(runs[:1])
    return max(plain, key=lambda run: keys.count(training_data(run)))


def contenders(runs: Sequence[Run], baseline: Run) -> list[Run]:
    """Runs ranked together: those on the baseline's training data, or all where it stands alone."""
    same = [run for run in runs if training_data(run) == training_data(baseline)]
    return same if len(same) > 1 else list(runs)


def best_of(group: Group, names: Sequence[str], measure: Measure) -> str | None:
    """The run with the best figure.

    None where fewer than two can be ranked, two are equal, or the intervals of two overlap.
    """
    scores: dict[str, float] = {}
    for name in names:
        value = group.value(name, measure.key)
        if value is None or not measure.better:
            continue
        true = group.value(name, f"{measure.key}_true")
        if measure.better == "true" and true is None:
            continue
        scores[name] = {
            "lower": value, "higher": -value, "true": abs(value - (true or 0.0)),
        }[measure.better]  # fmt: skip
    if len(scores) < 2:
        return None
    first, second = sorted(scores, key=lambda name: scores[name])[:2]
    is_settled = scores[first] < scores[second] and not group.overlap(first, second, measure.key)
    return first if is_settled else None


# --- Tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    text: str
    detail: str = ""
    is_best: bool = False
    value: float | None = None  # what it is sorted by; None: its text


def cell(number: Any, detail: str = "", is_best: bool = False) -> Cell:
    """A number as text, sorted by itself."""
    return Cell(show(number), detail, is_best, number if is_number(number) else None)


def _duration(seconds: Any) -> Cell:
    return Cell(show_seconds(seconds), value=seconds if is_number(seconds) else None)


@dataclass(frozen=True)
class Row:
    label: str
    cells: list[Cell]
    hint: str = ""
    is_reference: bool = False


def figure_rows(group: Group, ranked: Sequence[str]) -> list[Row]:
    """One row a figure, one cell a run of the group; what it is compared with follows."""
    rows: list[Row] = []
    names = list(group.members)
    for measure in _measures_of(group):
        best = best_of(group, [n for n in names if n in ranked], measure)
        cells = []
        for name in names:
            interval = group.interval(name, measure.key)
            detail = f"{show(interval[0])} – {show(interval[1])}" if interval else ""
            cells.append(cell(group.value(name, measure.key), detail, name == best))
        rows.append(Row(measure.label, cells, measure.hint))
        for suffix, label in BESIDE.items():
            values = [group.value(name, measure.key + suffix) for name in names]
            if any(value is not None for value in values):
                if measure.key in CALIBRATED:
                    label = "… of images that calibrate it"
                elif measure.of_pairs and suffix == "_of_reference":
                    label = "… of the reference's own images and captions"
                rows.append(Row(label, [cell(value) for value in values], "", True))
    return rows


def _measures_of(group: Group) -> list[Measure]:
    """The known measures that any member has, then its other numbers under their own names."""
    keys = dict.fromkeys(key for e in group.members.values() for key in e.numbers)
    known = [measure for measure in MEASURES if measure.key in keys]
    beside = {key + suffix for key in keys for suffix in BESIDE}
    others = [Measure(key, key.replace("_", " "), "") for key in keys if key not in beside]
    return known + [measure for measure in others if measure.key not in BY_KEY]


def cost_rows(runs: Sequence[Run], baseline: Run) -> list[Row]:
    """Recorded costs of each run, and the ratio of its seconds per step to the baseline's."""

    def recorded(run: Run, key: str) -> Any:
        return run.training.get(key)

    def images_per_second(run: Run) -> float | None:
        seconds, images = recorded(run, "train_seconds"), recorded(run, "n_images")
        if is_number(seconds) and is_number(images) and seconds > 0:
            return images / seconds
        return None

    def ratio(run: Run) -> Cell:
        mine, other = run.seconds_per_step, baseline.seconds_per_step
        return Cell(f"×{show(mine / other)}", value=mine / other) if mine and other else Cell("n/a")

    columns = {
        "Training time": lambda run: _duration(recorded(run, "train_seconds")),
        "Steps": lambda run: cell(recorded(run, "n_steps")),
        "Time per step": lambda run: _duration(run.seconds_per_step),
        f"… as a ratio to {baseline.name}": ratio,
        "Images per second": lambda run: cell(images_per_second(run)),
        "Sampling for its figures": lambda run: _duration(
            run.evaluations[0].figures.get("sampling_seconds") if run.evaluations else None
        ),
        "Parameters": lambda run: cell(recorded(run, "n_parameters")),
        "Processes": lambda run: cell(recorded(run, "n_processes")),
        "Device": lambda run: Cell(show_value(run.info.get("device", "n/a"))),
    }
    return [Row(label, [of(run) for run in runs]) for label, of in columns.items()]


def config_rows(runs: Sequence[Run]) -> list[Row]:
    """The settings on which the runs differ, apart from where they were written."""
    configs = [
        {key: value for key, value in flat(run.config).items() if key != "training.output_dir"}
        for run in runs
    ]
    return [Row(key, [Cell(v) for v in values]) for key, values in differences(configs).items()]


def describe_objective(run: Run) -> str:
    """'detail · lam 10, noise auto (found 0.42)': the objective, its leaves, what it found out."""
    leaves = [
        f"{key} {show_value(value)}" for key, value in run.section("objective").items()
        if key != "name" and value is not None and not isinstance(value, dict | list | bool)
    ]  # fmt: skip
    metrics = run.metrics[-1] if run.metrics else {}
    for name, key in (("noise auto", "noise_scale"), ("window auto", "window")):
        if is_number(found := metrics.get(key)):
            words = f"found {show(found)}" if found > 0 else "found none"
            leaves = [f"{leaf} ({words})" if leaf == name else leaf for leaf in leaves]
    return " · ".join([run.objective, ", ".join(leaves)] if leaves else [run.objective])


NOT_A_STRENGTH = ("record", "data", "fingerprint", "kind", "rate", "seed", "clip", "scale", "below",
                  "n_samples", "n_dirty", "parts", "images_fingerprint")  # fmt: skip


def describe_contamination(run: Run) -> str:
    """What was done to the training data, from the manifest's header or else from the config; of
    data that were left alone, which may be dirty all the same, their name."""
    header = run.manifest or run.contamination
    said = [_describe_layer(layer) for layer in (header, *header.get("below", []))]
    data = run.section("data")
    name = data.get("train_data_dir") or data.get("dataset_name") or data.get("name", "data")
    return ", on top of ".join(filter(None, said)) or f"{name}, as they are"


def _describe_layer(layer: Mapping[str, Any]) -> str:
    """'90 % of the samples (1,293 of 1,437): gaussian, sigma 0.2 on the scale [0, 1], clipped'."""
    if layer.get("kind", "none") in ("none", None):
        return ""
    rate, count = layer.get("rate"), ""
    if is_number(layer.get("n_dirty")) and is_number(layer.get("n_samples")):
        count = f" ({show(layer['n_dirty'])} of {show(layer['n_samples'])})"
    share = f"{100 * rate:.3g} % of the samples{count}: " if is_number(rate) else ""
    strengths = _strengths(layer)
    if strengths and layer.get("scale"):
        units = layer["scale"] == "data units"
        strengths[-1] += " in data units" if units else f" on the scale {layer['scale']}"
    words = [str(layer["kind"]).replace("_", " "), *strengths]
    parts = [
        " ".join([str(part["kind"]).replace("_", " "), *_strengths(part)])
        for part in layer.get("parts", [])
    ]
    if parts:
        words[0] += f" in equal parts of {'; '.join(parts)}"
    if isinstance(layer.get("clip"), bool) and layer.get("scale") != "data units":
        words.append("clipped to 8 bits" if layer["clip"] else "not clipped")
    return share + ", ".join(words)


def _strengths(layer: Mapping[str, Any]) -> list[str]:
    """What a kind's options are: ['sigma 0.2']."""
    return [
        f"{key.replace('_', ' ')} {show_value(value)}" for key, value in layer.items()
        if key not in NOT_A_STRENGTH and value is not None
    ]  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """How one evaluation file of one run was made."""

    run: str
    file: str
    command: str
    seed: str
    n_samples: str
    versions: str
    is_shown: bool  # in a table; False where a newer file has the same protocol


def provenance(run: Run, evaluation: Evaluation, groups: Sequence[Group]) -> Provenance:
    """Command, seed, sample count and versions of an evaluation, or 'not recorded'."""

    def recorded(*keys: str) -> Any:
        leaves = evaluation.figures | flat(evaluation.protocol) | evaluation.protocol
        return next((leaves[key] for key in keys if leaves.get(key) is not None), None)

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{key} {show_value(part)}" for key, part in value.items())
        return "not recorded" if value is None else show_value(value)

    return Provenance(
        run.name, evaluation.path.relative_to(run.folder).as_posix(),
        as_command(recorded("command")) or "not recorded", text(recorded("seeds", "seed")),
        text(recorded("n_fake", "n_samples")), text(recorded("versions", "version")),
        any(group.members.get(run.name) is evaluation for group in groups),
    )  # fmt: skip
