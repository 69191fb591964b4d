"""An objective by its name, and the section of a config that is its constructor.

    method = find("detail")                   # or find("path/to/my_file.py:Mine")
    section = section_of_method(method, "detail")

A built-in objective is a class in one of the files beside this one that says `name = "..."`: the
files are walked, there is no list. A section has the arguments of the constructor, and one key for
what the run hands over because the method asks for it:

    needs_teacher          teacher         a trained model
    needs_scheduler        scheduler       the sampler whose path is trained through
    needs_discriminator    discriminator   who judges the samples
    told_of_dirt           dirt            where the knowledge of the images comes from
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

MaybePlace = Place | None  # pyright: ignore[reportOperatorIssue]
MaybeSampler = SamplerName | None  # pyright: ignore[reportOperatorIssue]


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
    """The class of an objective.

    Args:
        name: Of a built-in one, or `path/to/file.py:Name`.
        place: Where it is said, for error messages.

    Raises:
        UserError: if there is none, or it is no objective.
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
    arguments: ClassVar[frozenset[str]]
    """Keys that are arguments of the constructor."""
    name: str

    @model_validator(mode="after")
    def _goes_together(self) -> "MethodSection":
        self.method.check_section(self)
        return self


def section_of_method(method: type[Objective], name: str) -> type[MethodSection]:
    """The section of an objective.

    Raises:
        UserError: if its constructor's types are none.
    """
    try:
        return _section_of_method(method, name)
    except TypeError as error:
        raise UserError(f"objective {name}: {error}") from error


@cache
def _section_of_method(method: type[Objective], name: str) -> type[MethodSection]:
    arguments = {
        key: option for key, option in options_of(method).items() if key not in OF_OTHER_SECTIONS
    }
    said = Place if ".py:" in name else Literal[name]  # pyright: ignore[reportInvalidTypeForm]
    handed = _handed_over(method)
    fields = {"name": (said, name), **arguments, **handed}
    section = section_of(fields, method.__name__, MethodSection)
    section.__doc__ = method.__doc__
    section.method, section.arguments = method, frozenset(arguments.keys() - handed.keys())
    return section


def _handed_over(method: type[Objective]) -> dict[str, tuple[Any, Any]]:
    """The keys of what the run hands over."""
    keys: dict[str, tuple[Any, Any]] = {}
    if method.needs_teacher:
        keys["teacher"] = (MaybePlace, None)
    if method.needs_scheduler:
        keys["scheduler"] = (MaybeSampler, None)
    if method.needs_discriminator:
        keys["discriminator"] = (
            DiscriminatorSection, Field(default_factory=lambda: DiscriminatorSection()),
        )  # fmt: skip
    if method.told_of_dirt == "table":
        keys["dirt"] = (Place, "auto")
    if method.told_of_dirt in ("clean_only", "denoised"):
        keys["dirt"] = (Annotated[Place, AfterValidator(_some_dirt)], "auto")
    return keys


def _some_dirt(dirt: str) -> str:
    if dirt == "none":
        raise ValueError(
            "objective.dirt says which images are dirty: auto, or a table; without it this is "
            "objective=plain"
        )
    return dirt
