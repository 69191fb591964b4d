"""How a figure is labelled. Tables, charts and pages read it from the metric that computes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """A number that a metric computes, and its words."""

    key: str  # its name in JSON files
    label: str  # its name on pages
    hint: str = ""  # what it says, in a few words
    unit: str = ""
    better: Literal["lower", "higher", "true", ""] = ""  # true: near to KEY_true; "": not ranked
    format: str = ""  # how the number is written, such as ".1%"; "": about three significant digits
    beside: str = "a resample of the reference itself"  # whose figure KEY_of_reference is
    at: tuple[str, str] | None = None  # dotted key of it and the reference's in JSON, if not `key`
    drawn: int = 0  # place among the figures that are drawn, from 1; 0: in tables only
    decides: bool = False  # the best in it leads a page, if no figure drawn before it decides
    is_noise: bool = False  # whether it says how much noise is left in the samples

    @property
    def words(self) -> str:
        """What it says, and its unit."""
        return ", ".join(filter(None, [self.hint, self.unit]))

    @property
    def spoken(self) -> str:
        """Its label within a sentence."""
        name = self.label.partition(" ")[0]
        is_proper = name != name.capitalize() or not name.isascii()  # CMMD, Fréchet
        return self.label if is_proper else self.label[0].lower() + self.label[1:]

    def numbers(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """It and its reference's by their keys, where an evaluation holds them elsewhere, `at`."""
        found: dict[str, Any] = {}
        for key, place in zip((self.key, f"{self.key}_of_reference"), self.at or (), strict=False):
            found[key] = figures
            for word in place.split("."):
                found[key] = found[key].get(word) if isinstance(found[key], Mapping) else None
        return found
