"""Which figures may be compared, and which runs are ranked by them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..evaluation.figure import Figure
from ..evaluation.metrics.registry import all_figures
from ..evaluation.protocol import RECORDED
from .runs import Evaluation, Run
from .wording import show_value


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
    return {key: value for key, value in protocol.items() if key not in RECORDED}


def side_by_side(found: Iterable[tuple[Any, Any, Any]]) -> list[tuple[Any, dict[Any, Any]]]:
    """What may be compared: (key, name, it) -> of each key, the first (the newest) of each name."""
    groups: list[tuple[Any, dict[Any, Any]]] = []
    for key, name, one in found:
        group = next((members for other, members in groups if other == key), None)
        if group is None:
            groups.append((key, group := {}))
        group.setdefault(name, one)
    return groups


@dataclass
class Group:
    """Evaluations of one protocol, at most one (the newest) for each run."""

    protocol: dict[str, Any]
    members: dict[str, Evaluation]  # by run name, in the page's order

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """How every figure is labelled, in the order of tables."""
        return all_figures(f for e in self.members.values() for f in e.own_figures)

    @property
    def drawn(self) -> list[Figure]:
        """The figures worth a picture that any member has, the leading one first."""
        drawn = [f for f in self.figures.values() if f.drawn and self.has(f.key, self.members)]
        return sorted(drawn, key=lambda f: f.drawn)

    def has(self, key: str, runs: Iterable[str]) -> bool:
        """Whether any of the runs has the figure."""
        return any(self.value(run, key) is not None for run in runs)

    def value(self, run: str, key: str) -> float | None:
        return self.members[run].numbers.get(key) if run in self.members else None

    def interval(self, run: str, key: str) -> tuple[float, float] | None:
        return self.members[run].interval(key) if run in self.members else None

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
    found = [(comparable(one.protocol), run.name, one) for run in runs for one in run.evaluations]
    groups = [Group(protocol, members) for protocol, members in side_by_side(found)]
    return sorted(
        groups, key=lambda g: (-sum(name in ranked for name in g.members), -len(g.members))
    )  # fmt: skip


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


def best_of(group: Group, names: Sequence[str], figure: Figure) -> str | None:
    """The run with the best figure.

    None where fewer than two can be ranked, two are equal, or the intervals of two overlap.
    """
    scores: dict[str, float] = {}
    for name in names:
        value, true = group.value(name, figure.key), group.value(name, f"{figure.key}_true")
        if value is None:
            continue
        if figure.better == "true" and true is not None:
            scores[name] = abs(value - true)
        elif figure.better in ("lower", "higher"):
            scores[name] = value if figure.better == "lower" else -value
    if len(scores) < 2:
        return None
    first, second = sorted(scores, key=lambda name: scores[name])[:2]
    is_settled = scores[first] < scores[second] and not group.overlap(first, second, figure.key)
    return first if is_settled else None
