"""The keys of a config as a page, from the classes that check them.

A key's type, range and default are those of its section, or of the constructor that it is an
argument of. Its meaning is the entry of that name under "Args:" or "Attributes:" of a docstring of
that class or of a class below it. Nothing is said here a second time.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from sparring.config import schema
from sparring.data import sets
from sparring.data.datasets import find as find_set
from sparring.data.dirt import kinds
from sparring.data.dirt.options import Amount, Limits, WholeAmount
from sparring.data.dirt.registry import find as find_dirt
from sparring.objectives.registry import objectives, section_of_method
from sparring.options.sections import options_of
from sparring.sampling.settings import Sampling

HEAD = """# Every key of a config

This page lists every key that a config may have, with its type, its default and its meaning. Look
here when you write a config, and take `sparring configs NAME` for one to start from. `make docs`
writes this page from the classes that check a config. How a value is typed is in
[settings](settings.md).

A key is typed with its section in front of it: `training.seed=1`. Where the default is *needed*,
there is none, and the key has to be said. *nothing* is `null`.
"""


@dataclass(frozen=True)
class Key:
    """One key: dotted name, what it may be, its default, what it means, or ""."""

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Group:
    """Keys under one heading, with what is said of them all."""

    title: str
    about: str
    keys: tuple[Key, ...]
    level: int = 2


# Meanings


def entries(docstring: str | None) -> dict[str, str]:
    """Entries of "Args:" and "Attributes:": name -> text on one line."""
    found: dict[str, str] = {}
    lines = inspect.cleandoc(docstring or "").splitlines()
    names: list[str] = []
    is_inside = False
    for line in lines:
        if line and not line.startswith(" "):
            is_inside = line.strip() in ("Args:", "Attributes:", "Options:")
            names = []
            continue
        begins = re.match(r"    (\w+(?:, \w+)*): ?(.*)$", line) if is_inside else None
        if begins:
            names = begins[1].split(", ")
            found |= dict.fromkeys(names, begins[2])
        elif is_inside and names and line.strip():
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def meanings(build: type) -> dict[str, str]:
    """Of a class and those below it; the class itself has the last word."""
    said: dict[str, str] = {}
    for one in reversed(build.__mro__):
        said |= entries(vars(one).get("__doc__"))
        said |= entries(getattr(vars(one).get("__init__"), "__doc__", None))
    return said


def first_paragraph(docstring: str | None) -> str:
    """The first sentence or two of a docstring."""
    return " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())


# Types


def _of_schema(said: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    if "$ref" in said:
        return "a section"
    if "anyOf" in said:
        parts = [_of_schema(one, whole) for one in said["anyOf"]]
        return " or ".join(dict.fromkeys(parts))
    if "const" in said:
        return f"`{said['const']}`"
    if "enum" in said:
        return ", ".join(f"`{one}`" for one in said["enum"])
    names = {"integer": "whole number", "number": "number", "boolean": "true or false",
             "string": "text", "object": "mapping", "null": "nothing"}  # fmt: skip
    kind = said.get("type")
    if kind == "array":
        inner = said.get("items")
        return "list" + (f" of: {_of_schema(inner, whole)}" if inner else "")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [
        f"{sign} {said[key]:g}"
        for key, sign in signs.items()
        if key in said and said[key] < 2**31  # which all counts are below
    ]
    return " ".join([names.get(str(kind), "anything"), ", ".join(limits)]).strip()


def in_words(annotation: Any) -> str:
    """What a type of an option lets through."""
    try:
        whole = TypeAdapter(annotation).json_schema()
    except Exception:  # a type that has no schema, such as a function
        return "anything"
    return _of_schema(whole, whole)


def _of_dirt(annotation: Any) -> str:
    limits = next(
        (one for one in getattr(annotation, "__metadata__", ()) if isinstance(one, Limits)), ""
    )
    bare = annotation.__origin__ if get_origin(annotation) is Annotated else annotation
    if bare == Amount:
        return f"number{limits}, or `[low, high]`"
    if bare == WholeAmount:
        return f"whole number{limits}, or `[low, high]`"
    return in_words(bare) + str(limits)


def shown(default: Any) -> str:
    """A default as it is typed."""
    if default is ... or default is PydanticUndefined:
        return "*needed*"
    if default is None:
        return "nothing"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, BaseModel):
        return "its keys' defaults"
    if isinstance(default, list | tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`" if default != "" else "empty"


# Groups


def of_section(
    section: type[BaseModel], prefix: str, skip: Any = (), told: Mapping[str, str] | None = None
) -> Iterator[Key]:
    """The keys of a section, those of the sections in it after them."""
    said, inner = meanings(section) | (told or {}), []
    for name, field in section.model_fields.items():
        if name in skip:
            continue
        annotation = field.rebuild_annotation()
        nested = [one for one in _classes_in(field.annotation) if issubclass(one, BaseModel)]
        inner += [(one, f"{prefix}.{name}") for one in nested]
        default = field.get_default(call_default_factory=True, validated_data={})
        kind = (
            "a section" + (" or nothing" if default is None else "")
            if nested
            else in_words(annotation)
        )
        yield Key(f"{prefix}.{name}", kind, shown(default), said.get(name, ""))
    for one, place in inner:
        yield from of_section(one, place)


def _classes_in(annotation: Any) -> list[type]:
    if inspect.isclass(annotation):
        return [annotation]
    return [one for part in getattr(annotation, "__args__", ()) for one in _classes_in(part)]


def of_options(
    build: type,
    options: Mapping[str, tuple[Any, Any]],
    prefix: str,
    words: Callable[[Any], str] = in_words,
) -> tuple[Key, ...]:
    """The keys that are arguments of a constructor."""
    said = meanings(build)
    return tuple(
        Key(f"{prefix}.{name}", words(kind), shown(default), said.get(name, ""))
        for name, (kind, default) in options.items()
    )


def groups() -> Iterator[Group]:
    """All keys of all sections."""
    fields = schema.RunConfig.model_fields
    for name in ("model", "data", "contamination", "training", "sampling", "evaluation"):
        (section,) = _classes_in(fields[name].annotation)
        told = meanings(Sampling) if name == "sampling" else {}  # the section is made of it
        keys = tuple(of_section(section, name, told=told))
        yield Group(f"Section `{name}`", first_paragraph(section.__doc__), keys)
        if name == "data":
            for each in sorted(sets.names()):
                build = find_set(each)
                keys = of_options(build, options_of(build), "data")
                yield Group(f"`data.name: {each}`", first_paragraph(build.__doc__), keys, 3)
        if name == "contamination":
            for each in sorted(kinds.names()):
                build = find_dirt(each)
                keys = of_options(build, options_of(build), "contamination", _of_dirt)
                yield Group(
                    f"`contamination.kind: {each}`", first_paragraph(build.__doc__), keys, 3
                )
    yield Group(
        "Section `objective`", "Its keys are those of the method that `objective.name` names.", ()
    )
    for name, method in objectives().items():
        section = section_of_method(method, name)
        keys = tuple(of_section(section, "objective", ("name",), meanings(method)))
        yield Group(f"`objective.name: {name}`", first_paragraph(method.__doc__), keys, 3)
    attack = schema.AttackSection
    yield Group(
        "Section `attack`", first_paragraph(attack.__doc__), tuple(of_section(attack, "attack"))
    )


def undocumented() -> list[str]:
    """Keys without a meaning."""
    return [
        f"{group.title}: {key.name}" for group in groups() for key in group.keys if not key.meaning
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    """All of it in Markdown."""
    lines = [HEAD]
    for group in groups():
        lines += [f"{'#' * group.level} {group.title}", "", group.about, ""]
        if group.keys:
            lines += ["| key | what it may be | default | meaning |", "|---|---|---|---|"]
            for key in group.keys:
                cells = (f"`{key.name}`", key.kind, key.default, key.meaning)
                lines.append(f"| {' | '.join(map(_cell, cells))} |")
            lines.append("")
    return "\n".join(lines)
