"""The names that users import, as a page that mkdocstrings fills from the docstrings.

First come the names of `sparring` itself, then those of the modules from which the pages of the
documentation import.
"""

import importlib
import inspect
from collections.abc import Iterator

import sparring

HEAD = """# Names in Python

This page lists the names that you import: those of `sparring` itself, then those that you need to
add something of your own or to use a part alone. Look here for arguments, shapes and units; `make
docs` writes this page from the docstrings.
"""

MODULES = {
    "sparring.objectives.base": "What every method is made of",
    "sparring.options.value_types": "Types of options",
    "sparring.data.base": "Data sets as training reads them",
    "sparring.data.data_set": "A data set of your own",
    "sparring.data.dirt.contract": "A kind of dirt of your own",
    "sparring.data.dirt.options": "Options of a kind of dirt",
    "sparring.adversarial.discriminators": "Who judges",
    "sparring.perturbations.balls": "Balls",
    "sparring.perturbations.attacks": "Ascents in a ball",
    "sparring.models.latents": "Latents and images",
    "sparring.evaluation.networks.judges": "Judges of samples and captions",
    "sparring.evaluation.studies.diagnostics": "A denoiser as a field",
    "sparring.evaluation.studies.mismatch": "Sampling against training",
}


def names() -> Iterator[tuple[str, str]]:
    """(module, name) of every public name."""
    for name in sparring.__all__:
        if name != "__version__":
            value = getattr(sparring, name)
            module = getattr(value, "__module__", None) if callable(value) else None
            yield module or f"sparring.{sparring._HOME[name]}", name
    for place in MODULES:
        module = importlib.import_module(place)
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", None) == place
            if is_own and not name.startswith("_") and (inspect.isclass(value) or callable(value)):
                yield place, name


def undocumented() -> list[str]:
    """Names without a docstring; constants are listed with the module's own text."""
    found = (
        (place, name, getattr(importlib.import_module(place), name)) for place, name in names()
    )
    return [
        f"{place}.{name}"
        for place, name, value in found
        if callable(value) and not inspect.getdoc(value)
    ]


def page() -> str:
    """All of it in Markdown, with mkdocstrings' marks."""
    lines, seen, place_before = [HEAD, "## `import sparring`", ""], set(), ""
    is_top = len(sparring.__all__) - 1
    for i, (place, name) in enumerate(names()):
        if i >= is_top and place != place_before:
            lines += [f"## {MODULES[place]}: `{place}`", ""]
        place_before = place
        if (place, name) not in seen:
            seen.add((place, name))
            lines += [f"::: {place}.{name}", ""]
    return "\n".join(lines)
