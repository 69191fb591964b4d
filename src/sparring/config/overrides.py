"""`key=value` of the command line on top of a config.

A setting that holds text takes the text as it is typed: `photos #1`, `007` and `'quoted'` are these
characters. `null` alone is none where the setting may be none; a setting that may be a list of
texts takes `[a, b]`. All other values are YAML.
"""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ..data.dirt.section import ContaminationSection
from ..data.section import DataSection
from ..options.sections import is_section, options_of
from ..support.errors import UserError
from ..support.yaml_files import MAX_DEPTH, parse_texts, parse_value
from .checks import data_section, method_section
from .files import CHOICES, merge
from .schema import AttackSection, RunConfig


def with_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`raw` with `key=value` overrides applied, not yet checked.

    What a section is comes before its options, wherever it stands: another kind drops the options
    of the old one, not those that were asked for beside it.
    """
    merged = merge({}, raw)
    for override in sorted(overrides, key=lambda one: not _chooses(one)):
        key, equals, text = override.partition("=")
        place, parts = f"override {override!r}", key.split(".")
        if not equals or not key:
            raise UserError(f"{place} is not key=value, such as training.seed=1")
        if len(parts) > MAX_DEPTH:
            raise UserError(f"{place}: a key has at most {MAX_DEPTH} parts")
        value = _value(text, _holds(parts, merged), place)
        for depth in range(1, len(parts)):
            if not isinstance(_look_up(merged, parts[:depth]), dict | str | None):
                raise UserError(f"{place}: {'.'.join(parts[:depth])} is no section")
        for part in reversed(parts):
            value = {part: value}
        merged = merge(merged, value)
    return merged


def _chooses(override: str) -> bool:
    """Whether an override says what a section is, such as objective=detail."""
    parts = override.partition("=")[0].split(".")
    if parts == ["objective"]:
        return True
    return len(parts) > 1 and CHOICES.get(parts[-2], ("",))[0] == parts[-1]


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
    """What the setting of a dotted key may hold: text, texts, nothing (null) or other values; the
    settings so far say whose leaves the objective's are."""
    first, *inner = parts
    if first == "objective" and not inner:  # a name, or a whole section in braces
        return {"text", "section", "nothing"}
    if first == "objective" and inner == ["name"]:
        return {"text"}
    if first == "objective":
        name = str(_look_up(raw, ["objective", "name"]) or "plain")
        return _holds_below(method_section(name, "objective"), inner)
    if first == "objectives" and len(inner) > 1:
        return _holds_below(method_section(inner[0], "objectives"), inner[1:])
    if first == "attack":
        return _holds_below(AttackSection, inner)
    if first == "contamination" and inner and inner[0] not in ContaminationSection.model_fields:
        option, *inner = inner
        types = _types_of_dirt(option, str(_look_up(raw, ["contamination", "kind"])))
        found = set().union(*(_holds_below(one, inner) for one in types))
        return found | {"nothing"} if found and not inner else found
    if first == "data" and inner and inner[0] not in DataSection.model_fields:
        return _holds_below(data_section(str(_look_up(raw, ["data", "name"])), "data"), inner)
    return _holds_below(RunConfig, parts)


def _holds_below(section: Any, inner: Sequence[str]) -> set[str]:
    """See `_holds`: what the key `inner` below a type may hold."""
    for part in inner:
        sections = [one for one in _within(section) if is_section(one)]
        if sections == [DataSection] and part not in DataSection.model_fields:
            sections = [data_section("", "data")]
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
