"""The one place where a user's own Python file is run: it was named in a config or on the command
line, as `path/to/file.py:name`."""

import importlib.util
import sys
import zlib
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean
from .home_folder import expanded


def load_from_file(path: str, place: str) -> Any:
    """The object that `path/to/file.py:name` stands for.

    Raises:
        UserError: if the file or the name is not there, or the file cannot be run.
    """
    file, _, name = expanded(path).rpartition(":")
    if not Path(file).is_file():
        raise UserError(f"{place}: there is no file {file}")
    module_name = (
        f"sparring_user_{Path(file).stem}_{zlib.crc32(str(Path(file).resolve()).encode()):x}"
    )
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
