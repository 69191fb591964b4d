"""YAML as people expect it: `1e-4` is a number, `no` a word, `010` ten, a key given twice an error.

A file is data and cannot harm: tags build nothing but YAML's own plain values, and size, depth and
what aliases expand to are limited before anything is built.
"""

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError
from .text_files import decoded

MAX_BYTES = 2**20  # of a file
MAX_DEPTH = 32  # of mappings and lists within each other
MAX_VALUES = 100_000  # of a file or an override, every alias counted as what it stands for
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """safe_load with YAML 1.2's truth values and numbers.
    YAML 1.1 reads `no` as False, 1e-4 as text, 010 as eight and 12:30 as 750."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.n_values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.n_values += 1
        limits = (self.depth, MAX_DEPTH, "levels of nesting"), (self.n_values, MAX_VALUES, "values")
        for given, most, what in limits:
            if given > most:
                raise _refused(f"more than {most:,} {what}", self.peek_event())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _SURROGATE.search(value):  # an emoji as JSON escapes it
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be one word", key)
            if key.value in seen:
                raise _refused(f"key {key.value!r} is given twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _count(node: yaml.Node, counted: dict[int, int], above: set[int]) -> int:
    """How many values a node stands for, aliases expanded; each node is looked at once."""
    if id(node) in above:
        raise _refused("an alias of itself", node)
    if id(node) not in counted:
        above.add(id(node))
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for key_and_value in parts for part in key_and_value]
        counted[id(node)] = 1 + sum(_count(part, counted, above) for part in parts)
        above.remove(id(node))
        if counted[id(node)] > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values", node)
    return counted[id(node)]


def _tag(kind: str) -> str:
    return f"tag:yaml.org,2002:{kind}"


_OTHERS = {*map(_tag, ("bool", "int", "float", "timestamp", "value"))}  # 2026-01-01, = are words
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in _OTHERS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _begins, _rule in (
    ("bool", "tTfF", r"true|True|TRUE|false|False|FALSE"),
    ("int", "-+0123456789", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+"),
    ("float", "-+0123456789.",
     r"[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?"
     r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))|[-+]\.(?:inf|Inf|INF)"),
):  # fmt: skip
    _Loader.add_implicit_resolver(_tag(_kind), re.compile(f"^(?:{_rule})$"), list(_begins))
_PLAIN = {*map(_tag, ("null", "bool", "int", "float", "str", "seq", "map")), None}  # None: refuses
_Loader.yaml_constructors = {
    tag: build for tag, build in yaml.SafeLoader.yaml_constructors.items() if tag in _PLAIN
}


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = str(loader.construct_scalar(node)).replace("_", "")
    return int(digits, {"0o": 8, "0x": 16}.get(digits[:2], 10))


_Loader.add_constructor(_tag("int"), _whole_number)


class _TextLoader(_Loader):
    """Every plain value is text: in `[007, no, 1e3]` too."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as PyYAML has it


class _Dumper(yaml.SafeDumper):
    """safe_dump that quotes whatever this loader, or one of YAML 1.1, would not read as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [
            *_Loader.yaml_implicit_resolvers.get(first, []),
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
    }


_ENDS = "\x85\u2028\u2029"  # characters that end a line in YAML 1.1 and in no editor


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    is_odd = any(character in text for character in ("\n", "\r", *_ENDS))
    return dumper.represent_scalar(_tag("str"), text, style='"' if is_odd else None)


_Dumper.add_representer(str, _text_node)


def write_yaml(value: Any) -> str:
    """YAML from which `read_yaml` makes the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _load(text: str, *, as_texts: bool = False) -> Any:
    """The value of a text; a YAMLError if it is none, or more than the limits allow."""
    for character in _ENDS:
        before, found, _ = text.partition(character)
        if found:
            code = f"{ord(character):04x}"
            raise yaml.YAMLError(
                f"line {before.count(chr(10)) + 1} holds U+{code.upper()}, at which YAML ends a "
                f"line: write \\u{code} in double quotes, or take it out"
            )
    try:
        if as_texts:
            return yaml.load(text, Loader=_TextLoader)
        return yaml.load(text, Loader=_Loader)
    except (ValueError, LookupError, OverflowError) as error:  # `!!int x`, `!!float`, 5,000 digits
        reason = " ".join(str(error).split())[:80]
        raise yaml.YAMLError(f"a value that is not of its type ({reason})") from error
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error


def parse_value(text: str, place: str) -> Any:
    """One value of the command line, read as YAML: `3`, `1e-4`, `null`, `[a, b]`, `{lam: 3}`."""
    try:
        return _load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{place}: not a YAML value: {_where(error)}") from error


def parse_texts(text: str) -> list[Any] | None:
    """A list in brackets whose plain values are all text, `[a, 007, no]`; None for what is none."""
    if not (text.lstrip().startswith("[") and text.rstrip().endswith("]")):
        return None
    try:
        value = _load(text, as_texts=True)
    except yaml.YAMLError:
        return None
    return value if isinstance(value, list) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping a file holds; an empty file is an empty mapping."""
    try:
        value = _load(_text(path))
    except FileNotFoundError as error:
        raise UserError(f"config {path} does not exist") from error
    except OSError as error:
        raise UserError(f"config {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"config {path} cannot be read: it is no UTF-8 text (nor UTF-16 with a byte order mark)"
        ) from error
    except ValueError as error:  # a name with a NUL byte
        raise UserError(f"config {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"config {path}: not valid YAML: {_where(error)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"config {path}: must hold sections (key: value), got {value!r:.60}")
    return value


def _text(path: Path) -> str:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError(
            f"config {path} is a folder; name a YAML file. For images in it: sparring train digits "
            f"objective=detail data.name=image_folder data.train_data_dir={path}"
        )
    if not stat.S_ISREG(mode):  # opening a pipe would wait for whoever writes into it
        raise UserError(f"config {path} is no file: name a YAML file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"config {path} is larger than {MAX_BYTES:,} bytes: that is no config")
    return decoded(content)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem
