"""One YAML file is a run: read it, apply `key=value` overrides, check it before anything is built.

    resolve("configs/digits.yaml", ["objective=detail", "objective.lam=3"]) -> RunConfig
    dump(config) -> YAML that resolves to the same config

A file may start from another one (`base: digits.yaml`, relative to itself). Mappings merge and
everything else is replaced; a mapping of another `_class_name` (model.network, model.scheduler) and
another objective replace the old one as a whole, and another data set or kind of contamination
drops what belongs to the old one alone. `objectives: {detail: {lam: 30}}` says what an
objective uses in this experiment: `objective=NAME` selects NAME with its defaults and these leaves
on top, in the file and on the command line.

On the command line a setting that holds text takes the text as it is typed: `photos #1`, `007` and
`'quoted'` are these characters. `null` alone is none where the setting may be none; a setting that
may be a list of texts takes `[a, b]`. All other values are YAML.

Configs build objects and never enter them (assembly does that). An error in a file is answered
before torch is imported; only the keys of the objective, which are its constructor's arguments,
wait for that.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..data import sets
from ..options.sections import Section, in_words, is_section, options_of, section_of
from ..support.errors import UserError
from ..support.home_folder import expanded, expanded_path
from ..support.secrets import masked
from ..support.yaml_files import MAX_DEPTH, parse_texts, parse_value, read_yaml, write_yaml
from .schema import (
    AttackSection,
    ContaminationSection,
    DataSection,
    RunConfig,
    SamplingSection,
)

__all__ = [
    "RunConfig",
    "check",
    "check_section",
    "dump",
    "read_config",
    "resolve",
    "with_overrides",
]

MAX_BASES = 16
"""Files that start from each other, one below the other."""


def resolve(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked settings of the run that `path` and the overrides describe.

    Args:
        path: A YAML file.
        overrides: `key=value` each, the key dotted; later ones win.

    Raises:
        UserError: one line that names the file or override, the key and what is allowed there.
    """
    path = expanded_path(path)
    raw = with_overrides(read_config(path), overrides)
    config = check(raw, f"config {path}", overrides)
    if config.training.output_dir is None:
        config.training.output_dir = str(Path("runs") / path.stem)
    return config


def dump(config: RunConfig) -> str:
    """The settings as YAML, every leaf written out."""
    return write_yaml(config.model_dump(mode="json"))


def read_config(path: Path, _below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a file, on top of its base's."""
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
    except UserError as error:
        raise UserError(f"config {path}: base: {error}") from error
    if not os.path.lexists(parent):
        raise UserError(f"config {path}: base {parent} does not exist")
    return merge(read_config(parent, (*_below, place)), raw)


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` on top of `old`: mappings merge, unless of another class or another objective."""
    merged = dict(copy.deepcopy(old))
    for key, value in new.items():
        if key == "objective" and isinstance(value, str):
            value = {"name": value}
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, Mapping):
            merged[key] = merge(_what_stays(key, before, value), value)
        else:
            merged[key] = merge({}, value) if isinstance(value, Mapping) else copy.deepcopy(value)
    return merged


_CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "objective": ("name", ()),
    "data": ("name", ("split", "seed", "resolution", "center_crop", "random_flip", "n_channels",
                      "dataloader_num_workers", "max_train_samples")),
    "contamination": ("kind", ("rate", "seed", "clip")),
    "network": ("_class_name", ()),
    "scheduler": ("_class_name", ()),
}  # fmt: skip
"""Mapping -> (the key that says what it is, the keys that survive a change of that)."""


def _chooses(override: str) -> bool:
    """Whether an override says what a section is, such as objective=detail."""
    parts = override.partition("=")[0].split(".")
    if parts == ["objective"]:
        return True
    return len(parts) > 1 and _CHOICES.get(parts[-2], ("",))[0] == parts[-1]


def _what_stays(key: str, old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `old` that `new` is put on top of."""
    chooser, common = _CHOICES.get(key, ("", ()))
    if chooser not in new or chooser not in old or new[chooser] == old[chooser]:
        return old
    return {name: value for name, value in old.items() if name in common}


def with_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`raw` with `key=value` overrides applied, not yet checked.

    What a section is comes before its options, wherever it stands: another kind drops the options
    of the old one, not those that were asked for beside it.
    """
    merged = merge({}, raw)
    for override in sorted(overrides, key=lambda one: not _chooses(one)):
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"override {override!r} is not key=value, such as training.seed=1")
        parts = key.split(".")
        if len(parts) > MAX_DEPTH:
            raise UserError(f"override {override!r}: a key has at most {MAX_DEPTH} parts")
        value = _value(text, _holds(parts, merged), f"override {override!r}")
        for depth in range(1, len(parts)):
            section = _look_up(merged, parts[:depth])
            if section is not None and not isinstance(section, dict | str):
                raise UserError(f"override {override!r}: {'.'.join(parts[:depth])} is no section")
        for part in reversed(parts):
            value = {part: value}
        merged = merge(merged, value)
    return merged


def _value(text: str, holds: set[str], place: str) -> Any:
    """What a setting is to be, of what is typed on the command line."""
    is_section = "section" in holds and text.lstrip().startswith("{")
    if holds - {"text", "texts", "nothing", "section"} or not holds or is_section:
        return parse_value(text, place)
    if text == "null" and "nothing" in holds:
        return None
    if "texts" in holds and (found := parse_texts(text)) is not None:
        return found
    return text if "text" in holds else parse_value(text, place)


def _holds(parts: Sequence[str], raw: Mapping[str, Any]) -> set[str]:
    """What the setting of a dotted key may hold: text, texts, nothing (null) or other values.

    Args:
        parts: Of the key.
        raw: The settings so far, which say whose leaves the objective's are.
    """
    section: Any = RunConfig
    first, *inner = parts
    if parts[0] == "objective":
        if not inner:  # a name, or a whole section in braces
            return {"text", "section", "nothing"}
        if inner == ["name"]:
            return {"text"}
        section = _method_section(str(_look_up(raw, ["objective", "name"]) or "plain"), "objective")
    elif parts[0] == "objectives" and len(parts) > 2:
        section, inner = _method_section(parts[1], "objectives"), inner[1:]
    elif parts[0] == "attack":
        section = AttackSection
    elif parts[0] == "contamination" and not {*inner[:1]} <= {*ContaminationSection.model_fields}:
        option, *inner = inner
        types = _types_of_dirt(option, str(_look_up(raw, ["contamination", "kind"])))
        found = set().union(*(_holds_below(one, inner) for one in types))
        return found | {"nothing"} if found and not inner else found
    elif parts[0] == "data" and len(parts) == 2 and parts[1] not in DataSection.model_fields:
        name = str(_look_up(raw, ["data", "name"]) or "digits")
        return _kinds(_options_of_data(name, "data").get(parts[1], (Any, None))[0])
    else:
        inner = [first, *inner]
    return _holds_below(section, inner)


def _holds_below(section: Any, inner: Sequence[str]) -> set[str]:
    """See `_holds`: what the key `inner` below a type may hold."""
    for part in inner:
        sections = [one for one in _within(section) if is_section(one)]
        if not sections or part not in sections[0].model_fields:
            return set()
        section = sections[0].model_fields[part].annotation
    return _kinds(section)


def _within(annotation: Any) -> list[Any]:
    """A type and all that it is made of."""
    return [annotation, *(one for each in get_args(annotation) for one in _within(each))]


def _types_of_dirt(option: str, kind: str) -> list[Any]:
    """The types of an option, of all built-in kinds of contamination that have it and of `kind`."""
    from ..data.dirt import kinds, registry  # torch is imported here

    own = [kind] if ".py:" in kind else []
    try:
        options = [options_of(registry.find(one)) for one in (*kinds.names(), *own)]
    except (ValueError, TypeError) as error:  # of a kind of one's own
        raise UserError(f"contamination.kind {kind}: {error}") from error
    return [each[option][0] for each in options if option in each]


def _kinds(annotation: Any) -> set[str]:
    """See `_holds`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(arguments[0])
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, arguments))
    if origin is Literal:
        return {"text" if isinstance(one, str) else "other" for one in arguments}
    if origin is Callable:  # of Python only
        return set()
    if origin is list and _kinds(arguments[0]) == {"text"}:
        return {"texts"}
    return {{str: "text", NoneType: "nothing"}.get(annotation, "other")}


def _look_up(raw: Mapping[str, Any], parts: Sequence[str]) -> Any:
    value: Any = raw
    for part in parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def check(raw: Mapping[str, Any], place: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Settings as objects; `place` and the overrides are named in the error."""
    raw = dict(raw)
    chosen, prepared = raw.pop("objective", None), raw.pop("objectives", None)
    _refuse_secrets({"objective": chosen, "objectives": prepared}, [])
    config = _validated(raw, RunConfig, place, overrides)
    _check_other_keys_of_data(config.data, place, overrides)
    config.objective = _check_objective(chosen, prepared, place, overrides)
    return config


def check_section(
    section: type[Section], raw: Mapping[str, Any], name: str, overrides: Sequence[str] = ()
) -> Any:
    """One section alone, by its name in a config; overrides are dotted keys of the whole config."""
    return _validated(raw, section, f"section {name}", overrides, name)


def _check_other_keys_of_data(
    data: DataSection, place: str, overrides: Sequence[str], prefix: str = "data"
) -> None:
    """Keys that section data does not declare are arguments of the class of the data set."""
    said = data.model_extra or {}
    if not said and ".py:" not in data.name:
        return
    declared = DataSection.model_fields
    options = _options_of_data(data.name, place)
    given = {key: value for key, value in said.items() if value is not None or key not in options}
    section = section_of({key: one for key, one in options.items() if key not in declared}, "Data")
    checked = _validated(given, section, place, overrides, prefix, [*declared])
    for key in list(said):
        delattr(data, key)
    for key in given:
        setattr(data, key, getattr(checked, key))


def _options_of_data(name: str, place: str) -> dict[str, tuple[Any, Any]]:
    """The arguments of a data set's class: name -> (type, default)."""
    from ..data.datasets import find  # torch is imported here

    try:
        return options_of(find(name))
    except (ValueError, TypeError, UserError) as error:
        raise UserError(f"{place}: {error}") from error


def _check_objective(chosen: Any, prepared: Any, place: str, overrides: Sequence[str]) -> Section:
    """The section of the chosen objective, on top of what `objectives` says about it."""
    if prepared is not None and not isinstance(prepared, dict):
        raise UserError(f"{place}: objectives must be a section (name: leaves), got {prepared!r}")
    for name, leaves in (prepared or {}).items():
        if not isinstance(leaves, dict):
            raise UserError(f"{place}: objectives.{name} must be a section, got {leaves!r}")
        section = _method_section(str(name), "objectives", place)
        _validated(leaves, section, place, (), f"objectives.{name}")
    chosen = {} if chosen is None else {"name": chosen} if isinstance(chosen, str) else chosen
    name = chosen.get("name", "plain") if isinstance(chosen, dict) else None
    said = _where_said("objective", place, overrides)
    if not isinstance(name, str):
        raise UserError(f"{said}: objective must name a method: objective: {{name: detail, ...}}")
    section = _method_section(name, "objective", said)
    leaves = merge({"name": name, **(prepared or {}).get(name, {})}, chosen)
    return _validated(leaves, section, place, overrides, "objective")


def _method_section(name: str, key: str, place: str | None = None) -> type[Section]:
    """The section of an objective; its arguments say which keys it has."""
    from ..objectives.registry import find, section_of_method  # torch is imported here

    try:
        return section_of_method(find(name, key), name)
    except UserError as error:
        raise UserError(f"{error}" if place is None else f"{place}: {error}") from error


def _validated(
    raw: Mapping[str, Any],
    section: type[BaseModel],
    place: str,
    overrides: Sequence[str],
    prefix: str = "",
    elsewhere: Sequence[str] = (),
) -> Any:
    _refuse_secrets(raw, [prefix] if prefix else [])
    try:
        return section.model_validate(dict(raw))
    except ValidationError as error:
        elsewhere = ("base", "objectives") if section is RunConfig else elsewhere
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

    Raises:
        UserError: that names the key, and not the token.
    """
    inner = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, one in inner:
        _refuse_secrets(one, [*above, str(key)])
    if isinstance(value, str) and masked(value) != value:
        raise UserError(
            f"{'.'.join(above)} holds a token or password, which would be written beside the run: "
            "leave it out, and set HF_TOKEN in the environment, or download the file first"
        )


def sampling_of(overrides: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """What `sparring sample` was told: options, and `sampling.key=value`, checked."""
    for override in overrides:
        if not override.startswith("sampling."):
            raise UserError(f"override {override!r}: sample takes sampling.* only")
    known = {key: value for key, value in options.items() if key in SamplingSection.model_fields}
    words = {**known, **with_overrides({}, overrides).get("sampling", {})}
    said = check_section(SamplingSection, words, "sampling", overrides)
    return {**options, **said.model_dump(exclude_unset=True)}


def _is_bundled(name: str) -> bool:
    """Whether this is a data set that is there without a file or a download."""
    if name not in sets.names():
        return False
    from ..data.datasets import find  # torch is imported here

    return find(name).is_bundled


def contamination_of(
    data: str, overrides: Sequence[str], kind: str, command: str = "contaminate"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sections data and contamination for `sparring contaminate` and `sparring inspect`.

    Args:
        data: A folder of images, a parquet file or pattern, tar shards, a bundled set such as
            digits, a config file, or the name of a data set on the hub.
        overrides: `key=value` of these two sections.
        kind: Of contamination, where a config or an override does not say it.
        command: Who asks, for error messages.
    """
    data = expanded(data)
    raw: dict[str, Any] = {"contamination": {"kind": kind}}
    if data.endswith((".yaml", ".yml")):
        raw = merge(raw, read_config(Path(data)))
    elif _is_bundled(data):
        raw["data"] = {"name": data}
    elif data.endswith(".parquet"):
        raw["data"] = {"name": "parquet", "data_files": data}
    elif data.endswith((".tar", ".tar.gz", ".tgz")):  # the packed ones are told to be unpacked
        raw["data"] = {"name": "webdataset", "data_files": data}
    elif Path(data).exists() or data.count("/") != 1 or data.startswith((".", "/")):
        raw["data"] = {"name": "image_folder", "train_data_dir": data}
    else:
        raw["data"] = {"name": "huggingface", "dataset_name": data}
    for override in overrides:
        if override.partition(".")[0] not in ("data", "contamination"):
            raise UserError(f"override {override!r}: {command} takes data.* and contamination.*")
    merged = with_overrides(raw, overrides)
    needed = {"network": {"_class_name": "UNet2DModel"}}  # a config needs a model; it is not used
    config = check({**merged, "model": needed}, f"{command} {data}", overrides)
    sections = config.data, config.contamination
    data_fields, contamination = (one.model_dump(exclude_none=True) for one in sections)
    return data_fields, contamination
