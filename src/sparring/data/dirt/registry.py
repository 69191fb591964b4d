"""A kind of dirt by its name."""

from collections.abc import Mapping
from typing import Any

from ...options.sections import options_of
from ...support.errors import did_you_mean
from ...support.user_code import class_from_file, class_of_module
from . import kinds
from .contract import Dirt
from .options import WrongOption
from .section import OF_THE_SET


def make(kind: str, options: Mapping[str, Any], place: str = "contamination") -> Dirt:
    """A kind, a file of the room `kinds` or `path/to/file.py:Name`, with its options by name. If
    there is no such kind or option, or the kind refuses a value, a WrongOption begins with the
    place; a user's file that cannot be read, or holds no kind, is a UserError."""
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
        wanted = "sparring.data.dirt.contract.Corruption"
        return class_from_file(kind, f"{place}.kind", Dirt, wanted)
    if kind not in kinds.names():
        known = [*kinds.names(), "path/to/file.py:Name"]
        raise WrongOption(f"{place}.kind: there is no {kind!r}{did_you_mean(kind, known)}")
    return class_of_module(kinds, kind, Dirt)
