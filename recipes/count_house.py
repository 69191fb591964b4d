"""What the house weighs: lines, modules at the top, long signatures, the loop, long files.

    python recipes/count_house.py          # prints the counts, and names what is long
    python recipes/count_house.py --json

A function counts as one with a long signature from 8 parameters on, `self` and `cls` left out.
Two kinds are not counted: constructors of methods (an objective's options are its arguments), and
signatures that diffusers asks for (schedulers and pipelines are called by its names).
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "sparring"
LONG_FILE, LONG_SIGNATURE = 400, 8
LOOP = ("training/loop.py", "train")
OF_DIFFUSERS = ("Pipeline", "Scheduler")
"""A method of a class with this in its own or a base's name has diffusers' signature."""


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef, ast.ClassDef | None]]:
    """The functions of a file, each with the class that it is a method of."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    owners = {
        id(inner): outer
        for outer in ast.walk(tree)
        if isinstance(outer, ast.ClassDef)
        for inner in outer.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node, owners.get(id(node))


def n_parameters(function: ast.FunctionDef) -> int:
    """Parameters by name, `self` and `cls` left out."""
    told = function.args
    named = [one.arg for one in (*told.posonlyargs, *told.args, *told.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def is_excused(path: Path, function: ast.FunctionDef, owner: ast.ClassDef | None) -> bool:
    """Whether a long signature is a method's constructor, or one that diffusers asks for."""
    if owner is None:
        return False
    names = [owner.name, *map(ast.unparse, owner.bases)]
    of_diffusers = any(word in name for name in names for word in OF_DIFFUSERS)
    is_method = path.parent.name == "objectives" and function.name == "__init__"
    return of_diffusers or is_method


def long_signatures(source: Path = SOURCE) -> dict[str, int]:
    """`place:function` -> parameters, the longest first."""
    found = {
        f"{path.relative_to(source)}:{function.name}": n_parameters(function)
        for path in sorted(source.rglob("*.py"))
        for function, owner in functions(path)
        if n_parameters(function) >= LONG_SIGNATURE and not is_excused(path, function, owner)
    }
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def long_files(source: Path = SOURCE) -> dict[str, int]:
    """File -> lines, the longest first."""
    lines = {str(path.relative_to(source)): n_lines(path) for path in source.rglob("*.py")}
    long = {path: n for path, n in lines.items() if n > LONG_FILE}
    return dict(sorted(long.items(), key=lambda one: -one[1]))


def n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def loop_lines(source: Path = SOURCE) -> int:
    """Lines of the training loop, its docstring among them."""
    (loop,) = [f for f, _ in functions(source / LOOP[0]) if f.name == LOOP[1]]
    return (loop.end_lineno or 0) - loop.lineno + 1


def counts(source: Path = SOURCE) -> dict[str, object]:
    """All of it, JSON-ready."""
    return {
        "lines": sum(map(n_lines, source.rglob("*.py"))),
        "files": len(list(source.rglob("*.py"))),
        "modules_at_the_top": len(list(source.glob("*.py"))),
        "rooms": len(list(source.glob("*/__init__.py"))),
        "loop_lines": loop_lines(source),
        "long_signatures": long_signatures(source),
        "long_files": long_files(source),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    found = counts()
    if parser.parse_args().json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name.replace('_', ' '):<22}{value:>8,}")
            continue
        print(f"{name.replace('_', ' '):<22}{len(value):>8,}")
        for place, n in value.items():
            print(f"    {place:<60}{n:>5}")


if __name__ == "__main__":
    main()
