"""Settings checked: a config's mapping becomes sections, or one line that says what is wrong.

An error in a file is answered before torch is imported; only the keys of the objective, of a kind
of contamination and of a data set, which are arguments of their constructors, wait for that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ..data.section import DataSection
from ..options.sections import Section, in_words
from ..support.errors import UserError
from ..support.secrets import masked
from .files import merge
from .schema import RunConfig


def check(raw: Mapping[str, Any], place: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Settings as objects; `place` and the overrides are named in the error."""
    raw = dict(raw)
    chosen, prepared = raw.pop("objective", None), raw.pop("objectives", None)
    _refuse_secrets({"objective": chosen, "objectives": prepared}, [])
    config = _validated(raw, RunConfig, place, overrides)
    section = data_section(config.data.name, place)
    config.data = _validated(raw.get("data", {}), section, place, overrides, "data")
    config.objective = _check_objective(chosen, prepared, place, overrides)
    return config


def check_section(
    section: type[Section], raw: Mapping[str, Any], name: str, overrides: Sequence[str] = ()
) -> Any:
    """One section alone, by its name in a config; overrides are dotted keys of the whole config."""
    return _validated(raw, section, f"section {name}", overrides, name)


def data_section(name: str, place: str) -> type[DataSection]:
    """The section of a data set; its constructor's arguments are among its keys."""
    from ..data.datasets import section_of_data  # torch is imported here

    try:
        return section_of_data(name)
    except (ValueError, TypeError, UserError) as error:
        raise UserError(f"{place}: {error}") from error


def _check_objective(chosen: Any, prepared: Any, place: str, overrides: Sequence[str]) -> Section:
    """The section of the chosen objective, on top of what `objectives` says about it."""
    if prepared is not None and not isinstance(prepared, dict):
        raise UserError(f"{place}: objectives must be a section (name: leaves), got {prepared!r}")
    for name, leaves in (prepared or {}).items():
        if not isinstance(leaves, dict):
            raise UserError(f"{place}: objectives.{name} must be a section, got {leaves!r}")
        section = method_section(str(name), "objectives", place)
        _validated(leaves, section, place, prefix=f"objectives.{name}")
    chosen = {} if chosen is None else {"name": chosen} if isinstance(chosen, str) else chosen
    name = chosen.get("name", "plain") if isinstance(chosen, dict) else None
    said = _where_said("objective", place, overrides)
    if not isinstance(name, str):
        raise UserError(f"{said}: objective must name a method: objective: {{name: detail, ...}}")
    section = method_section(name, "objective", said)
    leaves = merge({"name": name, **(prepared or {}).get(name, {})}, chosen)
    return _validated(leaves, section, place, overrides, "objective")


def method_section(name: str, key: str, place: str | None = None) -> type[Section]:
    """The section of an objective; its arguments say which keys it has."""
    from ..objectives.registry import find, section_of_method  # torch is imported here

    try:
        return section_of_method(find(name, key), name)
    except UserError as error:
        raise UserError(f"{error}" if place is None else f"{place}: {error}") from error


def _validated(
    raw: Mapping[str, Any], section: type[BaseModel], place: str, overrides: Sequence[str] = (),
    prefix: str = "",
) -> Any:  # fmt: skip
    _refuse_secrets(raw, [prefix] if prefix else [])
    try:
        return section.model_validate(dict(raw))
    except ValidationError as error:
        elsewhere = ("base", "row", "rows", "objectives") if section is RunConfig else ()
        line, key = in_words(error.errors(), section, prefix, elsewhere)
        raise UserError(f"{_where_said(key, place, overrides)}: {line}") from error


def _where_said(key: str, place: str, overrides: Sequence[str]) -> str:
    """The last override that says something of a key, or the file."""
    for override in overrides:
        said = override.partition("=")[0]
        if key and (f"{key}.".startswith(f"{said}.") or f"{said}.".startswith(f"{key}.")):
            place = f"override {override!r}"
    return place


def _refuse_secrets(value: Any, above: Sequence[str]) -> None:
    """A config is copied into the run folder, the model card and the logs: no token may be in it.
    The error names the key, and not the token."""
    inner = dict(enumerate(value)) if isinstance(value, list) else value
    for key, one in inner.items() if isinstance(inner, Mapping) else ():
        _refuse_secrets(one, [*above, str(key)])
    if isinstance(value, str) and masked(value) != value:
        raise UserError(
            f"{'.'.join(above)} holds a token or password, which would be written beside the run: "
            "leave it out, and set HF_TOKEN in the environment, or download the file first"
        )
