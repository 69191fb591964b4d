"""Quality against radius under attack: what `sparring attack` wrote, drawn and tabled.

A section of the report of runs, and the page that `sparring attack -o` writes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .. import __version__
from ..evaluation.metrics.registry import all_figures
from ..support.errors import UserError
from . import tables
from .page import N_STYLES, template
from .pictures import Picture, read_picture
from .plots import Curve, line_chart
from .ranking import comparable
from .runs import Run, short_names
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

    protocol: dict[str, Any]
    members: list[Attacked] = field(default_factory=list)

    @property
    def quality(self) -> str:
        return self.members[0].data["quality"]

    @property
    def label(self) -> str:
        """What was done, in words."""
        attack = self.protocol["attack"]
        where = attack["where"]
        if where != "all":
            calls = [f"call {one}" for one in where if isinstance(one, int)]
            shares = [f"{one:g}" for one in where if isinstance(one, float)]
            calls += [f"{', '.join(shares)} of the path"] if shares else []
            where = ", ".join(calls)
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
    def how_many(self) -> str:
        protocol = self.protocol
        return (
            f"{protocol['attack']['n_seeds']} seeds of {protocol['n_fake']} samples, "
            f"{protocol['sampler']}, {protocol['steps']} steps, against {protocol['data']}"
        )

    @property
    def chart(self) -> Markup:
        """Lines: the attack; thin and dotted: random noise of the same size."""
        curves = [
            self._curve(member, curve)
            for member in self.members
            for curve in member.data["curves"]
            if curve["kind"] != "corruption"
        ]
        return self._drawn(curves, "attack and random noise")

    @property
    def corruption_charts(self) -> list[tuple[str, Markup]]:
        """One chart for each corruption of the starting noise."""
        names = {
            curve["name"]: None
            for member in self.members
            for curve in member.data["curves"]
            if curve["kind"] == "corruption"
        }
        return [
            (name, self._drawn([
                self._curve(member, curve)
                for member in self.members
                for curve in member.data["curves"]
                if curve["name"] == name
            ], name))
            for name in names
        ]  # fmt: skip

    @property
    def rows(self) -> list[tables.Row]:
        """A row for each curve of each model, a cell for each radius."""
        rows = []
        for member in self.members:
            for curve in member.data["curves"]:
                cells = [
                    tables.cell(point[self.quality], _spread(point, self.quality))
                    for point in curve["points"]
                ]
                is_attack = curve["kind"] == "attack"
                rows.append(tables.Row(f"{member.name}, {curve['name']}", cells,
                                       is_reference=not is_attack and bool(rows)))  # fmt: skip
        return rows

    @property
    def columns(self) -> list[str]:
        """Headings of the table."""
        return [f"radius {radius}" for radius in self.radii]

    @property
    def radii(self) -> list[str]:
        return [f"{point['radius']:g}" for point in self.members[0].data["curves"][0]["points"]]

    @property
    def floor(self) -> str:
        """The leading figure of the reference itself, where it was computed."""
        value = self.members[0].data.get(f"{self.quality}_of_reference")
        return "" if value is None else show(value)

    def finding(self) -> str:
        """Each model's leading figure without attack, at the largest radius, under the control."""
        said = []
        for member in self.members:
            first = member.data["curves"][0]["points"]
            before, after = first[0][self.quality], first[-1][self.quality]
            line = f"{member.name} {show(before)} to {show(after)}"
            control = next(c for c in member.data["curves"] if c["kind"] == "control")
            if control is not member.data["curves"][0]:
                line += f" (random noise: {show(control['points'][-1][self.quality])})"
            said.append(line)
        name = measure_name(self.quality)
        return f"{name} from radius 0 to {self.radii[-1]}: {'; '.join(said)}."

    def _curve(self, member: Attacked, curve: Mapping[str, Any]) -> Curve:
        quality, points = self.quality, curve["points"]
        values = [point[quality] for point in points]
        is_control = curve["kind"] == "control"  # which has no band: bands upon bands hide lines
        spreads = [0.0 if is_control else point[f"{quality}_std"] or 0.0 for point in points]
        return Curve(
            member.name, member.style, [point["radius"] for point in points], values,
            low=[a - b for a, b in zip(values, spreads, strict=True)],
            high=[a + b for a, b in zip(values, spreads, strict=True)],
            is_control=is_control,
            notes=[
                f"{member.name}, {curve['name']} "
                f"{show(point[quality])} {_spread(point, quality)}".rstrip()
                for point in points
            ],
        )  # fmt: skip

    def _drawn(self, curves: list[Curve], what: str) -> Markup:
        name = measure_name(self.quality)
        return line_chart(
            curves, x_label="radius, noise units", y_label=name,
            title=f"{name} by radius, {what}: {', '.join(member.name for member in self.members)}",
        )  # fmt: skip


def measure_name(key: str) -> str:
    """A figure's name on the page."""
    figure = all_figures().get(key)
    return key if figure is None else figure.label


def read_attacks(folder: Path, name: str, style: int) -> list[Attacked]:
    """Every result of `sparring attack` in a folder, newest first."""
    paths = sorted(folder.glob("*.json"), key=lambda p: (-p.stat().st_mtime, p.name))
    return [one for path in paths if (one := read_attack(path, name, style)) is not None]


def read_attack(path: Path, name: str | None = None, style: int = 0) -> Attacked | None:
    """One result; None where the file is no such result.

    Raises:
        UserError: where the file cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it or make it again") from error
    if not isinstance(data, dict) or not {"curves", "quality", "protocol"} <= data.keys():
        return None
    return Attacked(name or data["model"], style, path, data)


def grouped(attacks: Sequence[Attacked]) -> list[AttackGroup]:
    """Attacks that may be compared side by side, the largest group first."""
    groups: dict[str, AttackGroup] = {}
    for one in attacks:
        protocol = one.data["protocol"]
        radii = [point["radius"] for point in one.data["curves"][0]["points"]]
        key = json.dumps(
            [comparable(protocol), protocol["attack"], radii], sort_keys=True
        )  # fmt: skip
        group = groups.setdefault(key, AttackGroup(protocol))
        if one.name not in [member.name for member in group.members]:
            group.members.append(one)
    return sorted(groups.values(), key=lambda group: -len(group.members))


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
