"""Section contamination of a config: what is wrong with the training data on purpose.

Torch is not imported here.
"""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, model_validator

from ...options.sections import Section
from ...options.value_types import Share
from ...support.errors import did_you_mean
from . import kinds


def _check_kind(kind: str) -> str:
    known = ["none", *kinds.names()]
    if kind not in known and ".py:" not in kind:
        hint = did_you_mean(kind, [*known, "path/to/file.py:Name"])
        raise ValueError(f"contamination.kind: there is no {kind!r}{hint}")
    return kind


class ContaminationSection(Section):
    """Which samples get what follows from (seed, index).

    Its other keys are the options of the kind, which are the arguments of its class in `kinds`;
    they are checked where torch is there (assembly/build.py).

    Attributes:
        kind: none, a built-in kind, or `path/to/file.py:Name`.
        rate: Share of the images that are made dirty.
        seed: Which images are dirty, and how, follows from it and the image's number.
        clip: Whether images are clipped to [0, 1] and rounded to 8 bits; null: images as files hold
            them, vectors not.
    """

    model_config = ConfigDict(extra="allow")
    kind: Annotated[str, AfterValidator(_check_kind)] = "none"
    rate: Share = 0.9
    seed: int = 0
    clip: bool | None = None

    @model_validator(mode="after")
    def _options_have_a_kind(self) -> "ContaminationSection":
        options = self.model_extra or {}
        for key in [key for key, value in options.items() if value is None]:
            del options[key]
        if self.kind == "none" and options:
            key = next(iter(options))
            hint = did_you_mean(key, ContaminationSection.model_fields)
            raise ValueError(
                f"contamination.{key} is an option of a kind, and contamination.kind is none"
                + (hint if "did you mean" in hint else "")
            )
        return self


OF_THE_SET = tuple(ContaminationSection.model_fields)
"""Keys that are the data set's, and no options of a kind."""
