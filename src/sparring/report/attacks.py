"""Quality against radius under attack: what `sparring attack` wrote, drawn and tabled.

A section of the report of runs, and the page that `sparring attack -o` writes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from .. import __version__
from ..evaluation.metrics.registry import all_figures
from . import tables
from .page import N_STYLES, Picture, read_picture, template
from .plots import Curve, line_chart
from .ranking import comparable, side_by_side
from .runs import Run, newest, read_file, short_names
from .wording import show


@dataclass(frozen=True)
class Attacked:
    """One JSON file of `sparring attack`."""

    name: str  # of the run or model on the page
    style: int
    path: Path
    data: dict[str, Any]

    @property
    def picture(self) -> Picture | None:
        """Estimates on the way, unattacked and attacked; None for vectors."""
        told = self.data.get("picture")
        return read_picture(self.path.with_name(told["file"])) if told else None


@dataclass(frozen=True)
class AttackGroup:
    """Attacks of one protocol, at most one (the newest) of each run."""

    members: list[Attacked]

    @property
    def protocol(self) -> dict[str, Any]:
        return self.members[0].data["protocol"]

    @property
    def quality(self) -> str:
        return self.members[0].data["quality"]

    @property
    def measured(self) -> str:
        """The name of the quality on the page."""
        figure = all_figures().get(self.quality)
        return self.quality if figure is None else figure.label

    @property
    def label(self) -> str:
        """What was done, in words."""
        attack = self.protocol["attack"]
        where = attack["where"]
        if where != "all":
            shares = [f"{one:g}" for one in where if isinstance(one, float)]
            calls = [f"call {one}" for one in where if isinstance(one, int)]
            where = ", ".join(calls + [f"{', '.join(shares)} of the path"] * bool(shares))
        parts = [attack["kind"], attack["norm"], f"at {where}"]
        if "aim" in attack:
            steps = attack["n_path_steps"]
            ahead = "to the end" if steps is None else f"{steps} call{'s' * (steps > 1)} ahead"
            looks = "" if attack["aim"] == "denoising" else f", looking {ahead}"
            parts.insert(1, f"on {attack['aim']}{looks}")
            if attack["kind"] == "pgd":
                parts[0] += f" of {attack['n_attack_steps']} steps"
            if attack["n_expectation"]:
                parts.append(f"mean over {attack['n_expectation']} draws of the noise")
        if attack.get("transfer_from"):
            parts.append(f"found on {attack['transfer_from']}")
        return ", ".join(parts)

    @property
    def unit(self) -> str:
        """Of a radius, in words."""
        attack = self.protocol["attack"]
        length = "length in " if attack["per"] == "image" else ""
        return f"{length}{attack['units']} units"

    @property
    def how_many(self) -> str:
        protocol = self.protocol
        return (
            f"{protocol['attack']['n_seeds']} seeds of {protocol['n_fake']} samples, "
            f"{protocol['sampler']}, {protocol['steps']} steps, against {protocol['data']}"
        )

    @property
    def chart(self) -> Markup:
        """Lines: the attack; thin and dotted: random noise of the same size."""
        return self._drawn("attack and random noise", lambda one: one["kind"] != "corruption")

    @property
    def corruption_charts(self) -> list[tuple[str, Markup]]:
        """One chart for each corruption of the starting noise."""
        names = dict.fromkeys(
            curve["name"] for _, curve in self._curves if curve["kind"] == "corruption"
        )
        return [(name, self._drawn(name, lambda one, of=name: one["name"] == of)) for name in names]

    @property
    def rows(self) -> list[tables.Row]:
        """A row for each curve of each model, a cell for each radius."""
        key, rows = self.quality, []
        for member, curve in self._curves:
            cells = [tables.cell(point[key], _spread(point, key)) for point in curve["points"]]
            is_beneath = curve["kind"] != "attack" and bool(rows)
            rows.append(tables.Row(f"{member.name}, {curve['name']}", cells, "", is_beneath))
        return rows

    @property
    def columns(self) -> list[str]:
        """Headings of the table."""
        return [f"radius {radius:g}" for radius in self.radii]

    @property
    def radii(self) -> list[float]:
        return [point["radius"] for point in self.members[0].data["curves"][0]["points"]]

    @property
    def floor(self) -> str:
        """The leading figure of the reference itself, where it was computed."""
        value = self.members[0].data.get(f"{self.quality}_of_reference")
        return "" if value is None else show(value)

    def finding(self) -> str:
        """Each model's leading figure without attack, at the largest radius, under the control."""
        said = []
        for member in self.members:
            first, *_ = curves = member.data["curves"]
            before, after = (show(first["points"][i][self.quality]) for i in (0, -1))
            said.append(f"{member.name} {before} to {after}")
            control = next(one for one in curves if one["kind"] == "control")
            if control is not first:
                said[-1] += f" (random noise: {show(control['points'][-1][self.quality])})"
        return f"{self.measured} from radius 0 to {self.radii[-1]:g}: {'; '.join(said)}."

    @property
    def _curves(self) -> list[tuple[Attacked, dict[str, Any]]]:
        return [(member, curve) for member in self.members for curve in member.data["curves"]]

    def _drawn(self, what: str, is_shown: Callable[[Mapping[str, Any]], bool]) -> Markup:
        key, curves = self.quality, []
        for member, curve in self._curves:
            if not is_shown(curve):
                continue
            points = curve["points"]
            values = [point[key] for point in points]
            is_control = curve["kind"] == "control"  # without a band: bands on bands hide lines
            spread = np.array([0.0 if is_control else one[f"{key}_std"] or 0.0 for one in points])
            start = f"{member.name}, {curve['name']}"
            curves.append(Curve(
                member.name, member.style, [point["radius"] for point in points], values,
                np.array(values) - spread, np.array(values) + spread,
                [f"{start} {show(one[key])} {_spread(one, key)}".rstrip() for one in points],
                is_control,
            ))  # fmt: skip
        names = ", ".join(member.name for member in self.members)
        return line_chart(
            curves, x_label=f"radius, {self.unit}", y_label=self.measured,
            title=f"{self.measured} by radius, {what}: {names}",
        )  # fmt: skip


def read_attacks(folder: Path, name: str, style: int) -> list[Attacked]:
    """Every result of `sparring attack` in a folder, newest first."""
    found = (read_attack(path, name, style) for path in newest(folder, "*"))
    return [one for one in found if one is not None]


def read_attack(path: Path, name: str | None = None, style: int = 0) -> Attacked | None:
    """One result; None where the file is no such result.

    Raises:
        UserError: where the file cannot be read.
    """
    data = read_file(path, json.loads)
    if not isinstance(data, dict) or not {"curves", "quality", "protocol"} <= data.keys():
        return None
    return Attacked(name or data["model"], style, path, data)


def grouped(attacks: Sequence[Attacked]) -> list[AttackGroup]:
    """Attacks that may be compared side by side, the largest group first."""
    found = []
    for one in attacks:
        group = AttackGroup([one])
        protocol = group.protocol
        found.append(([comparable(protocol), protocol["attack"], group.radii], one.name, one))
    groups = [AttackGroup(list(members.values())) for _, members in side_by_side(found)]
    return sorted(groups, key=lambda group: -len(group.members))


def attack_groups(runs: Sequence[Run], styles: Mapping[str, int]) -> list[AttackGroup]:
    """The attacks in the run folders."""
    return grouped([
        one for run in runs
        for one in read_attacks(run.folder / "attacks", run.name, styles[run.name])
    ])  # fmt: skip


def render_page(paths: Sequence[Path]) -> str:
    """A page of these results alone."""
    found = [one for i, path in enumerate(paths) if (one := read_attack(path, style=i % N_STYLES))]
    names = short_names([Path(one.data["model"]) for one in found])
    found = [replace(one, name=name) for one, name in zip(found, names, strict=True)]
    return template("attack_page.html").render(attacks=grouped(found), version=__version__)


def _spread(point: Mapping[str, Any], quality: str) -> str:
    spread = point[f"{quality}_std"]
    return "" if spread is None else f"± {show(spread)}"
