"""The data sets: the file NAME.py holds the one class that a config calls `data: {name: NAME}`.

A new one is a new file here, or a file of the user's: `name: path/to/photos.py:Photos`. See
../data_set.py for what it says of itself.
"""

import pkgutil

from ...support.errors import did_you_mean


def names() -> list[str]:
    """All of them. Their files are not imported, so this is quick and needs no torch."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check_name(name: str) -> str:
    """The name, if it is that of a data set or of a user's file."""
    known = names()
    if name not in known and ".py:" not in name:
        hint = did_you_mean(name, [*known, "path/to/file.py:Name"])
        raise ValueError(
            f"data.name must be one of {', '.join(known)}, or path/to/file.py:Name, got {name!r}"
            + (hint if "did you mean" in hint else "")
        )
    return name
