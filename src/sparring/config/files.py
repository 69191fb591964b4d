"""Configs as files: where they are, what they start from, and the rows of a table.

A file may start from another one (`base: digits.yaml`, relative to itself, or one that comes with
sparring). Mappings merge and everything else is replaced; a mapping of another `_class_name`
(model.network, model.scheduler) and another objective replace the old one as a whole, and another
data set or kind of contamination drops what belongs to the old one alone.

A file may be a table, whose rows say in which settings they differ from the file:

    row: noisy # where the command says none; without this line it must
    rows:
      noisy: {about: 90 % of the images with noise of 0.2}
      clean: {about: the images as they are, contamination: {kind: none}}

`row=clean` on the command line chooses. A file with rows of its own has none of its base's.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.dirt.section import OF_THE_SET
from ..data.section import AnyData
from ..support.errors import UserError, nearest
from ..support.home_folder import expanded, expanded_path
from ..support.yaml_files import read_yaml

MAX_BASES = 16  # files that start from each other, one below the other
_PLACES = [Path(__file__).resolve().parents[above] / "configs" for above in (1, 3)]
BUNDLED = next(filter(Path.is_dir, _PLACES), _PLACES[0])
"""The configs that come with sparring: of the installed package, or of a clone."""


def find(name: str | Path) -> Path:
    """The file of a config: a path, or the name of one that comes with sparring.
    `.yaml` may be left out, and `configs/` may stand before the name."""
    path = expanded_path(name)
    places = [path, Path(f"{path}.yaml")]
    is_word = path.parent in (Path(), Path("configs"))
    if is_word:
        places += [BUNDLED / path.name, BUNDLED / f"{path.name}.yaml"]
    for place in places:
        if os.path.isfile(place):  # Path.is_file would raise for some places
            return place
    if not is_word or os.path.lexists(path):
        return path  # whoever reads it will say what is wrong
    names = [f"{stem} row={row}" for stem, of in bundled().items() for row in of["rows"]]
    hint = nearest(path.stem, [*bundled(), *names])
    hint = hint or ": `sparring configs` lists those that are there"
    raise UserError(f"config {path} does not exist{hint}")


def bundled() -> dict[str, dict[str, Any]]:
    """The configs that come with sparring by name: what each is about, and its rows likewise."""
    return {path.stem: _about(path) for path in sorted(BUNDLED.glob("*.yaml"))}


def _about(path: Path) -> dict[str, Any]:
    rows = read_config(path).get("rows") or {}
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return {"about": first.lstrip("# "), "rows": {row: of["about"] for row, of in rows.items()}}


def read_config(path: Path, _below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a file, on top of its base's; a table still has its rows."""
    place = Path(os.path.realpath(path))  # resolve() refuses a loop of links in its own way
    if place in _below:
        raise UserError(f"config {path}: its base leads back to itself")
    if len(_below) >= MAX_BASES:
        raise UserError(f"config {path}: more than {MAX_BASES} files, each the base of the last")
    raw = read_yaml(path)
    base = raw.pop("base", None)
    if base is None:
        return merge({}, raw)
    if not isinstance(base, str):
        raise UserError(f"config {path}: base must name a YAML file, got {base!r}")
    try:
        parent = path.parent / expanded(base)
        parent = parent if os.path.lexists(parent) else find(base)
    except UserError as error:
        raise UserError(f"config {path}: base: {error}") from error
    if not os.path.lexists(parent):
        raise UserError(f"config {path}: base {parent} does not exist")
    below = read_config(parent, (*_below, place))
    if "rows" in raw:
        below = {key: value for key, value in below.items() if key not in ("row", "rows")}
    return merge(below, raw)


def chosen_row(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str], str]:
    """A file's settings with those of its row on top; the override `row=NAME` says which row.

    Returns:
        The settings, the other overrides, and a name for a run of them: that of the file, and of
        the row that was asked for.
    """
    raw, place = read_config(path), f"config {path}"
    rows, own = raw.pop("rows", None), raw.pop("row", None)
    asked = [one.removeprefix("row=") for one in overrides if one.startswith("row=")]
    others = [one for one in overrides if not one.startswith("row=")]
    if not rows:
        if asked:
            raise UserError(f"{place} has no rows: leave out row={asked[-1]}")
        return raw, others, path.stem
    if not isinstance(rows, dict) or not all(
        isinstance(row, dict) and isinstance(row.get("about"), str) for row in rows.values()
    ):
        raise UserError(f"{place}: rows must be NAME: {{about: what it is, settings}} each")
    name = asked[-1] if asked else own
    if name not in rows:
        which = "is a table of runs" if name is None else f"has no row {name!r}"
        listed = ", ".join(f"row={row} ({of['about']})" for row, of in rows.items())
        raise UserError(f"{place} {which}: choose one of {listed}")
    row = {key: value for key, value in rows[name].items() if key != "about"}
    return merge(raw, row), others, path.stem if name == own else f"{path.stem}_{name}"


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` on top of `old`: mappings merge, unless of another class or another objective."""
    merged = dict(copy.deepcopy(old))
    for key, value in new.items():
        if key == "objective" and isinstance(value, str):
            value = {"name": value}
        before = merged.get(key)
        if isinstance(value, Mapping):
            stays = _what_stays(key, before, value) if isinstance(before, dict) else {}
            merged[key] = merge(stays, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "objective": ("name", ()),
    "data": ("name", tuple(AnyData.model_fields)),
    "contamination": ("kind", OF_THE_SET),
    "network": ("_class_name", ()),
    "scheduler": ("_class_name", ()),
}  # fmt: skip
"""Mapping -> (the key that says what it is, the keys that survive a change of that)."""


def _what_stays(key: str, old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `old` that `new` is put on top of."""
    chooser, common = CHOICES.get(key, ("", ()))
    if chooser not in new or chooser not in old or new[chooser] == old[chooser]:
        return old
    return {name: value for name, value in old.items() if name in common}
