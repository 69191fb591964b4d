"""The kinds of dirt: the file NAME.py holds the one class that a config calls `kind: NAME`.

A new kind is a new file here, or a file of the user's: `kind: path/to/rain.py:Rain`. Every choice
in these files is ours; paper 2 (docs/results/papers.md) uses gaussian and, for vectors, outlier.
"""

import pkgutil


def names() -> list[str]:
    """All kinds by name. Their files are not imported, so this is quick and needs no torch."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
