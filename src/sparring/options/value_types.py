"""Types of the values in a config: numbers with their range, names and places.

They stand in the sections of a config and in the constructors of objectives alike. Torch is not
imported here.
"""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ..support.errors import UserError
from ..support.home_folder import expanded

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
SomeShare = Annotated[float, Field(gt=0, le=1)]
"""A share that is not nothing."""
Count = Annotated[int, Field(ge=1, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
Element = TypeVar("Element")
Listed = Annotated[list[Element], Field(min_length=1)]


def _expanded(path: str) -> str:
    try:
        return expanded(path)
    except UserError as error:
        raise PydanticCustomError("path", "{why}", {"why": str(error)}) from error


Word = Annotated[str, Field(min_length=1)]
"""A text that names something: a split, a column, a model on the hub."""
Place = Annotated[str, AfterValidator(_expanded)]
"""A file or folder, or what may be one: a model's name, `file.py:name`, a pattern. `~` is home."""

VP_SCHEDULERS = (
    "DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler", "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
    "UniPCMultistepScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
)  # fmt: skip
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
EDM_SCHEDULERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
SCHEDULERS = (*VP_SCHEDULERS, *FLOW_SCHEDULERS, *EDM_SCHEDULERS)
