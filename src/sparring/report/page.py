"""What all pages share: their templates, the one script, bars."""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

N_STYLES = 8  # line styles and colours in style.css; 0 is the baseline's, 1 the leader's


@dataclass(frozen=True)
class Bar:
    """One run's figure as shares of the longest bar, in percent."""

    name: str
    style: int
    text: str
    width: float
    interval: tuple[float, float] | None
    is_best: bool


@dataclass(frozen=True)
class Bars:
    label: str
    bars: list[Bar]
    floor: float | None = None  # the reference's own figure, percent of the longest bar
    floor_text: str = ""


def template(name: str) -> Template:
    """A template of this folder; what a page is given is escaped, and all of it must be given."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["breakable"] = breakable
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    environment.globals["script"] = Markup(script)
    environment.globals["script_hash"] = base64.b64encode(digest).decode("ascii")
    return environment.get_template(name)


def breakable(key: object) -> Markup:
    """An escaped dotted key that may wrap after its dots and underscores."""
    return Markup(re.sub(r"([._/])", r"\1<wbr>", str(escape(key))))
