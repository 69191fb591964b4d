"""A class by the name of its file: of a room of ours, or `path/to/file.py:name` of the user's.

This is the one place where a user's own Python file is run.
"""

import importlib.util
import inspect
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .errors import UserError, did_you_mean
from .home_folder import expanded

T = TypeVar("T")


def load_from_file(path: str, place: str) -> Any:
    """The object that `path/to/file.py:name`, said in `place`, stands for."""
    file, _, name = expanded(path).rpartition(":")
    if not Path(file).is_file():
        raise UserError(f"{place}: there is no file {file}")
    digest = zlib.crc32(str(Path(file).resolve()).encode())
    module_name = f"sparring_user_{Path(file).stem}_{digest:x}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{place}: {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that its classes know where they come from
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{place}: {file} cannot be imported ({reason})") from error
    if not hasattr(module, name):
        names = [each for each in vars(module) if not each.startswith("_")]
        raise UserError(f"{place}: {file} has no {name!r}{did_you_mean(name, names)}")
    return getattr(module, name)


def class_from_file(path: str, place: str, base: type[T], base_name: str) -> type[T]:
    """The same of a class, a subclass of `base` (which a user imports as `base_name`) with all its
    abstract methods.
    """
    found = load_from_file(path, place)
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UserError(f"{place}: {path} is no subclass of {base_name}")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise UserError(f"{place}: {path} has no method {', '.join(missing)}")
    return found


def class_of_module(room: ModuleType, name: str, base: type[T]) -> type[T]:
    """The one subclass of `base` that the file NAME.py of a package defines."""
    module = importlib.import_module(f"{room.__name__}.{name}")
    (found,) = (
        one
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, base) and one.__module__ == module.__name__
    )
    return found
