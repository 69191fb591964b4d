"""An objective by its name, and the section of a config that is its constructor.

    method = find("detail")                   # or find("path/to/my_file.py:Mine")
    section = section_of_method(method, "detail")

A built-in objective is a class in one of the files beside this one that says `name = "..."`: the
files are walked, there is no list. A section has the arguments of the constructor, and keys of what
the run hands over because the method asks for it, see `MethodSection`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ..adversarial.discriminators import DiscriminatorSection
from ..options.sections import Section, options_of, section_of
from ..options.value_types import Place
from ..sampling.settings import SamplerName
from ..support.errors import UserError, did_you_mean
from ..support.home_folder import expanded
from ..support.user_code import load_from_file
from .base import OF_OTHER_SECTIONS, Objective


@cache
def objectives() -> Mapping[str, type[Objective]]:
    """The built-in ones by name, in the order of their files."""
    found: dict[str, type[Objective]] = {}
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        for one in vars(importlib.import_module(f"{package}.{module.name}")).values():
            if not (inspect.isclass(one) and issubclass(one, Objective)):
                continue
            name = vars(one).get("name")
            if name is not None and found.setdefault(name, one) is not one:
                raise ValueError(f"two objectives are called {name!r}: {found[name]} and {one}")
    return found


def find(name: str, place: str = "objective") -> type[Objective]:
    """The class of a built-in objective's name, or of `path/to/file.py:Name`.

    UserError, with the `place` where it is said, if there is none, or it is no objective.
    """
    if ".py:" not in name:
        if name in objectives():
            return objectives()[name]
        hint = did_you_mean(name, (*objectives(), "path/to/method.py:Class"))
        shown = name if place == "objective" else f"{place}.{name}"
        raise UserError(f"unknown objective {shown!r}{hint}")
    found = load_from_file(expanded(name), place)
    if not (inspect.isclass(found) and issubclass(found, Objective)):
        raise UserError(f"{place}: {name} is no subclass of sparring.objectives.Objective")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise UserError(f"{place}: {name} has no method {', '.join(missing)}")
    return found


class MethodSection(Section):
    """What the section of every objective can do.

    Attributes:
        teacher: A trained model: a run, a pipeline folder or a hub name; null: the model that
            training starts from.
        scheduler: The sampler whose path is trained through; null: the default of the model's
            schedule.
        discriminator: Who judges the samples.
        dirt: Where the knowledge of the images' dirt comes from: auto (an audit), a table of
            `sparring inspect`; none and truth where the method takes them.
    """

    method: ClassVar[type[Objective]]
    arguments: ClassVar[frozenset[str]]  # keys that are arguments of the constructor
    name: str

    @model_validator(mode="after")
    def _goes_together(self) -> "MethodSection":
        self.method.check_section(self)
        return self


@cache
def section_of_method(method: type[Objective], name: str) -> type[MethodSection]:
    """The section of an objective; UserError if its constructor's types are none."""
    try:
        options = options_of(method)
        arguments = {key: options[key] for key in options if key not in OF_OTHER_SECTIONS}
        said = Place if ".py:" in name else Literal[name]  # pyright: ignore[reportInvalidTypeForm]
        handed = _handed_over(method)
        fields = {"name": (said, name), **arguments, **handed}
        section = section_of(fields, method.__name__, MethodSection)
    except TypeError as error:
        raise UserError(f"objective {name}: {error}") from error
    section.__doc__ = method.__doc__
    section.method, section.arguments = method, frozenset(arguments.keys() - handed.keys())
    return section


def _handed_over(method: type[Objective]) -> dict[str, tuple[Any, Any]]:
    keys: dict[str, tuple[Any, Any]] = {}
    if method.needs_teacher:
        keys["teacher"] = (Place | None, None)  # pyright: ignore[reportOperatorIssue]
    if method.needs_scheduler:
        keys["scheduler"] = (SamplerName | None, None)  # pyright: ignore[reportOperatorIssue]
    if method.needs_discriminator:
        keys["discriminator"] = (DiscriminatorSection, Field(default_factory=DiscriminatorSection))
    if method.told_of_dirt == "table":
        keys["dirt"] = (Place, "auto")
    if method.told_of_dirt in ("clean_only", "denoised"):
        keys["dirt"] = (Annotated[Place, AfterValidator(_some_dirt)], "auto")
    return keys


def _some_dirt(dirt: str) -> str:
    if dirt == "none":
        advice = "auto, or a table; without it this is objective=plain"
        raise ValueError(f"objective.dirt says which images are dirty: {advice}")
    return dirt
