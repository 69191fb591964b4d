"""PNG files as parts of the page."""

import base64
import struct
from dataclasses import dataclass
from pathlib import Path

from ..support.errors import UserError
from .runs import PNG_SIGNATURE

PIXELATED_UP_TO = 640  # pixels of width: smaller pictures are enlarged with hard edges


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
