"""How a figure is labelled. Tables, charts and pages read it from the metric that computes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """A number that a metric computes, and its words.

    Attributes:
        key: Its name in JSON files.
        label: Its name on pages.
        hint: What it says, in a few words.
        unit: Of the number, "" without one.
        better: Which values are: lower, higher, true (near to KEY_true); "" is not ranked.
        format: How the number is written, such as ".1%"; "": about three significant digits.
        beside: Whose figure KEY_of_reference is.
        at: Dotted key of the number in JSON files, and of that of the reference, if not `key`.
        drawn: Place among the figures that are drawn, from 1; 0: in tables only.
        decides: Whether a page is led by the model that is best in it, if no figure drawn before
            it decides.
        is_noise: Whether it says how much noise is left in the samples.
    """

    key: str
    label: str
    hint: str = ""
    unit: str = ""
    better: Literal["lower", "higher", "true", ""] = ""
    format: str = ""
    beside: str = "a resample of the reference itself"
    at: tuple[str, str] | None = None
    drawn: int = 0
    decides: bool = False
    is_noise: bool = False

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
        """Of an evaluation that holds it in a figure of another name, by the key that it has and
        its reference's."""
        if self.at is None:
            return {}
        return {
            f"{self.key}{end}": _at(figures, place)
            for end, place in zip(("", "_of_reference"), self.at, strict=True)
        }


def _at(figures: Any, place: str) -> Any:
    for key in place.split("."):
        figures = figures.get(key) if isinstance(figures, Mapping) else None
    return figures
