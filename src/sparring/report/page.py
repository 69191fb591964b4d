"""What all pages share: their templates, the one script, pictures."""

import base64
import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from ..support.errors import UserError
from .runs import PNG_SIGNATURE

N_STYLES = 8  # line styles and colours in style.css; 0 is the baseline's, 1 the leader's
PIXELATED_UP_TO = 640  # pixels of width: smaller pictures are enlarged with hard edges


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


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI with its size in pixels."""

    uri: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        return self.width <= PIXELATED_UP_TO


def read_picture(path: Path) -> Picture:
    """A PNG file as a data URI.

    Raises:
        UserError: where it cannot be read, or is no PNG.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.startswith(PNG_SIGNATURE) or len(content) < 24:
        raise UserError(f"{path}: not a PNG picture; remove it or make it again")
    width, height = struct.unpack(">II", content[16:24])
    encoded = base64.b64encode(content).decode("ascii")
    return Picture(f"data:image/png;base64,{encoded}", width, height)
