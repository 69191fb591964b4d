"""The data sets: the file NAME.py holds the one class that a config calls `data: {name: NAME}`.

A new one is a new file here, or a file of the user's: `name: path/to/photos.py:Photos`. See
../data_set.py for what it says of itself.
"""

import pkgutil


def names() -> list[str]:
    """All of them. Their files are not imported, so this is quick and needs no torch."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
