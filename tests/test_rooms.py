"""The rooms of src/sparring are those of CONTRIBUTING.md, and imports go down its stairs only."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sparring"
MOST_MODULES = 8

CIRCLES: set[frozenset[str]] = set()
"""Known circles of imports; each is a debt."""


def picture() -> dict[str, str]:
    """Room -> its purpose, from the top floor down, as CONTRIBUTING.md has it."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"```\nsrc/sparring/\n(.*?)```", page, re.DOTALL)
    lines = re.findall(r"^ +(\w+)(?:/|\.py) +(\S.*)$", block, re.MULTILINE)
    assert len(lines) == len(block.splitlines())
    return dict(lines)


def modules() -> dict[str, Path]:
    """Dotted name below sparring -> file; a package has the name of its folder."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of sparring that a module imports anywhere, also for type checkers alone."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            outer = package[: len(package) - node.level + 1]
            base = ".".join([*outer, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                found.add(inner if inner in known else base)
        elif isinstance(node, ast.Import | ast.ImportFrom):  # inside, imports are relative
            words = [alias.name for alias in node.names]
            words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(word.split(".")[0] == "sparring" for word in words), path
    assert found <= known.keys(), (name, found - known.keys())
    return found - {""}  # sparring itself holds the version


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items() if name}


def test_the_picture_has_every_room_and_its_purpose():
    rooms = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    single = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert picture().keys() == rooms.keys() | single
    assert len(single) + 1 <= MOST_MODULES
    for name, path in rooms.items():
        purpose = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        assert picture()[name] == purpose, name


def test_no_import_goes_up():
    floor = {room: number for number, room in enumerate(picture())}
    up = {
        (name, other)
        for name, others in graph().items()
        for other in others
        if floor[other.split(".")[0]] < floor[name.split(".")[0]]
    }
    assert not up


def circles(others: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules each of which imports all others of its group, by whatever way."""
    reached = {}
    for name in others:
        seen, ahead = set(), [name]
        while ahead:
            new = others[ahead.pop()] - seen
            seen |= new
            ahead += new
        reached[name] = seen
    return {
        frozenset(other for other in seen if name in reached[other])
        for name, seen in reached.items()
        if name in seen
    }


def test_no_module_imports_itself_by_way_of_others():
    assert circles(graph()) == CIRCLES


def test_a_circle_is_found_and_a_line_is_none():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == {frozenset("abc")}


def test_the_walk_sees_an_import_in_a_function_and_one_for_types(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("if True:\n    from ..b.c import d\ndef f():\n    from .. import b\n")
    known = dict.fromkeys(["rooms.a", "b", "b.c", "rooms"], file)
    assert imports("rooms.a", file, known) == {"b.c", "b"}


def test_the_ways_through_the_house_pass_files_that_are_there_and_none_twice():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    ways = page.partition("## Three ways")[2].partition("\n## ")[0].split("\n**")[1:]
    assert len(ways) == 3
    for way in ways:
        stops = re.findall(r"^\d+\. `([\w/]+\.py)`", way, re.MULTILINE)
        assert 2 < len(stops) <= 10
        assert len(set(stops)) == len(stops)
        assert all((PACKAGE / stop).is_file() for stop in re.findall(r"`([\w/]+\.py)`", way))
