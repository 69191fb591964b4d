"""A kind of dirt by its name."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ...support.errors import did_you_mean
from ...support.home_folder import expanded
from ...support.user_code import load_from_file
from . import kinds
from .contract import OF_THE_SET, Dirt, options_of
from .options import WrongOption


def make(kind: str, options: Mapping[str, Any], place: str = "contamination") -> Dirt:
    """A kind with its options.

    Args:
        kind: A file of the room `kinds`, or `path/to/file.py:Name`.
        options: By name; None means the kind's default.
        place: Where it is said, for error messages.

    Raises:
        WrongOption: if there is no such kind or option, or the kind refuses a value; the message
            begins with the place.
        UserError: if the user's file cannot be read.
    """
    build = find(kind, place)
    given = {key: value for key, value in options.items() if value is not None}
    known = options_of(build)
    for key in given.keys() - known.keys():
        hint = did_you_mean(key, [*known, *OF_THE_SET])
        if key in OF_THE_SET:
            hint = ": it is said once, of the whole contamination"
        elif "did you mean" not in hint:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            hint = f" ({takes}): leave it out, or set it to null"
        raise WrongOption(f"{place}.{key} does not apply to kind {kind}{hint}")
    try:
        dirt = build(**given)
    except WrongOption as error:
        raise WrongOption(f"{place}.{error}") from error
    except (TypeError, ValueError) as error:
        raise WrongOption(f"{place}: kind {kind}: {error}") from error
    dirt.kind = kind
    return dirt


def find(kind: str, place: str = "contamination") -> type[Dirt]:
    """The class of a kind."""
    if ".py:" in kind:
        found = load_from_file(expanded(kind), f"{place}.kind")
        if not (inspect.isclass(found) and issubclass(found, Dirt)):
            raise WrongOption(
                f"{place}.kind: {kind} is no subclass of sparring.data.dirt.contract.Corruption"
            )
        return found
    if kind not in kinds.names():
        known = [*kinds.names(), "path/to/file.py:Name"]
        raise WrongOption(f"{place}.kind: there is no {kind!r}{did_you_mean(kind, known)}")
    module = importlib.import_module(f"{kinds.__name__}.{kind}")
    (found,) = (
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Dirt) and each.__module__ == module.__name__
    )
    return found
