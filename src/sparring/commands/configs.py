"""`sparring configs`: what comes with sparring to train, listed or printed."""

from collections.abc import Mapping
from typing import Any

import click

from ..config.files import bundled, chosen_row, find
from ..config.overrides import with_overrides
from ..support.yaml_files import write_yaml
from .shared import options


@click.command()
@click.argument("name", required=False, type=options.PLACE)
@options.overrides
@options.as_json
def configs(name: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the configs that come with sparring. With NAME, print one.

    The list has their rows too. NAME is printed as it is written; with row=ROW, or any KEY=VALUE,
    its settings are printed with these on top.

    \b
    Examples:
      sparring configs
      sparring configs digits > mine.yaml
      sparring configs smoothing_cifar10 row=p90_s02
    """
    if name is None:
        options.answer({"configs": bundled()}, as_json, lambda all: _as_text(all["configs"]))
        return
    path = find(name)
    yaml = path.read_text(encoding="utf-8")
    if overrides:
        raw, others, _ = chosen_row(path, overrides)
        yaml = write_yaml(with_overrides(raw, others))
    options.answer({"name": name, "yaml": yaml.rstrip()}, as_json, lambda one: one["yaml"])


def _as_text(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each config, and one below it for each of its rows."""
    lines = []
    for name, of in configs.items():
        lines.append(f"{name:<24}{of['about']}")
        lines += [f"  row={row:<18}{about}" for row, about in of["rows"].items()]
    return "\n".join(lines)
