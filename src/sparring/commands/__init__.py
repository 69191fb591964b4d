"""What each `sparring` command does, and its own options: a file or folder of its name for each.

A command is the module or package here that is called like it, and in it the click command of that
name; `shared` is what several use. `--help` reads them all, so torch is imported inside functions.
What cannot be done is a `UserError`, one line that says what to change.
"""

import pkgutil
from importlib import import_module

import click


def names() -> list[str]:
    """The commands that there are."""
    return sorted(one.name for one in pkgutil.iter_modules(__path__) if one.name != "shared")


def find(name: str) -> click.Command | None:
    """A command by its name; None where there is none."""
    if name not in names():
        return None
    return getattr(import_module(f".{name}", __name__), name)
