"""Sections of a config: keys with types, made of a constructor where there is one, and what is
wrong with one in words.

The constructor is the only place where an option's type, range and default are said. Torch is not
imported here.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from ..support.errors import UserError, did_you_mean, nearest


class Section(BaseModel):
    """Keys that are not declared are refused, and values of another type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
    )


@lru_cache(maxsize=256)
def options_of(build: type) -> dict[str, tuple[Any, Any]]:
    """Arguments of a constructor: name -> (type, default); those without a type are Any.

    `**kwargs` stands for the arguments of the base class, which come first. A class says in its
    attribute `defaults` what it passes on where the base's own default is another.

    Raises:
        TypeError: if a type cannot be read.
    """
    options: dict[str, tuple[Any, Any]] = {}
    for one in build.__mro__:
        function = vars(one).get("__init__")
        if function is None or one is object:
            continue
        try:
            types = get_type_hints(function, include_extras=True)
        except Exception as error:  # whatever an annotation evaluates to
            raise TypeError(f"the types of {one.__name__}'s options: {error}") from error
        _, *parameters = inspect.signature(function).parameters.values()
        for each in reversed(parameters):
            if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
                default = ... if each.default is each.empty else each.default
                options = {each.name: (types.get(each.name, Any), default)} | options
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    for one in reversed(build.__mro__):
        for name, value in vars(one).get("defaults", {}).items():
            options[name] = (options[name][0], value)
    return options


def section_of(
    fields: Mapping[str, tuple[Any, Any]], name: str, base: type[Section] = Section
) -> type[Any]:
    """A section with these keys: name -> (type, default), `...` where there is none.

    Raises:
        TypeError: for a type that no value of a config can be checked against.
    """
    try:
        made: Any = create_model
        return made(name, __base__=base, **fields)
    except Exception as error:  # pydantic has many
        raise TypeError(f"the types of the options: {' '.join(str(error).split())}") from error


class _Options(Section):
    """Of a class that is called in Python, where a number may be infinite."""

    model_config = ConfigDict(allow_inf_nan=True)


@lru_cache(maxsize=256)
def _options_as_section(build: type) -> type[Section]:
    return section_of(options_of(build), build.__name__, _Options)


def check_options(
    build: type, options: Mapping[str, Any], skip: Collection[str] = (), prefix: str = ""
) -> None:
    """Refuses options of a constructor that are not of their type and range, but for some to skip.

    One that the constructor does not have is left to Python.

    Raises:
        ValueError: one line that names the option, after the prefix, and what it must be.
        UserError: the same of a path that cannot be.
    """
    section = _options_as_section(build)
    names = section.model_fields.keys() - set(skip)
    given = {key: value for key, value in options.items() if key in names}
    try:
        section.model_validate(given)
    except ValidationError as error:
        wrong = [one for one in error.errors() if one["loc"][0] in given]
        if wrong:
            kind = UserError if any(one["type"] == "path" for one in wrong) else ValueError
            raise kind(in_words(wrong, section, prefix)[0]) from error


_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping (key: value)",
    "model": "a section (key: value)",
    "model_attributes": "a section (key: value)",
    "finite_number": "a finite number",
    "list": "a list, such as [one, two]",
}
_LIMITS = {"greater_than": "> {gt:g}", "greater_than_equal": ">= {ge:g}", "less_than": "< {lt:g}",
           "less_than_equal": "<= {le:g}"}  # fmt: skip


def in_words(
    wrong: Iterable[ErrorDetails],
    section: type[BaseModel],
    prefix: str,
    elsewhere: Collection[str] = (),
) -> tuple[str, str]:
    """One line for the most telling of pydantic's complaints, and the dotted key it is about.

    The prefix is the section's dotted key in the whole config, "" for the whole; keys `elsewhere`
    are known beside the section's own.
    """
    # an unknown key explains the others; a path, what the other kinds of a union say of it
    telling = {"extra_forbidden": 0, "path": 1}
    details = sorted(wrong, key=lambda one: telling.get(one["type"], 2))
    detail = details[0]
    parts, known = _parts(detail, section, elsewhere)
    key = ".".join([prefix, *parts] if prefix else parts)
    kind, given, ctx = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {key!r}{_nearest_key(parts[-1], known, section)}", key
    if kind == "missing" and key == "model":
        return "section 'model' is missing: it describes the network or names a trained model", key
    if kind == "missing":
        return f"key {key!r} is missing", key
    if kind == "value_error":
        said = str(ctx.get("error", detail["msg"]))
        return said if key in said else f"{key}: {said}", key
    if _may_be(detail) is None:
        return f"{key}: {detail['msg']}, got {given!r:.60}", key
    same = [one for one in details if _parts(one, section, elsewhere)[0] == parts]
    may_be = [words for one in same if (words := _may_be(one)) is not None]  # kinds of a union
    hint = nearest(str(given), _choices(detail)) if kind == "literal_error" else ""
    return f"{key} must be {' or '.join(dict.fromkeys(may_be))}, got {given!r:.60}{hint}", key


def _parts(
    detail: ErrorDetails, section: type[BaseModel], elsewhere: Collection[str]
) -> tuple[list[str], list[str]]:
    """The parts of the key that a complaint is about, and the keys that are known beside it."""
    fields: dict[Any, Any] = section.model_fields
    parts: list[str] = []
    known = [*fields, *elsewhere]
    for part in detail["loc"]:
        if part not in known and detail["type"] != "extra_forbidden":
            break  # a branch of a union, not a key
        parts.append(str(part))
        annotation = fields[part].annotation if part in fields else None
        inner: Any
        for inner in (annotation, *get_args(annotation)):  # a section, or one that may be left out
            if is_section(inner):
                fields = inner.model_fields
                known = list(fields)
    return parts, known


def _may_be(detail: ErrorDetails) -> str | None:
    """What the value should have been, None where pydantic says it in words of its own."""
    kind = detail["type"]
    if kind == "literal_error":
        choices = _choices(detail)
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if kind in _LIMITS:
        return _LIMITS[kind].format(**detail.get("ctx", {}))
    return _WANTED.get(kind.removesuffix("_type").removesuffix("_parsing"))


def _choices(detail: ErrorDetails) -> list[str]:
    expected = detail.get("ctx", {})["expected"]
    return expected.replace("'", "").replace(" or ", ", ").split(", ")


def is_section(annotation: Any) -> bool:
    """Whether a type is that of a section."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _nearest_key(word: str, known: list[str], section: type[BaseModel]) -> str:
    """Nearest key of the same section, else the section below that has a key of this name."""
    for name, field in section.model_fields.items():
        inner: Any = field.annotation
        if is_section(inner) and word in inner.model_fields and not nearest(word, known):
            return f" - did you mean '{name}.{word}'?"
    return did_you_mean(word, known)
