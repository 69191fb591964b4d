"""A text printed over the image."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..contract import Corruption, Knowledge
from ..options import Amount, Limits, drawn, refuse

FONT_SIZE = 64
"""At which the text is drawn before it is brought to the image's size, pixels."""
NO_CHARACTER = "\U0010ffff"


@dataclass
class Watermark(Corruption):
    """(1 - a) x + a shade, a = opacity times the coverage of a pixel by the text.

    The text is drawn in Pillow's built-in font, as wide as text_width says, or smaller where it
    would be higher than the image, and lies inside the image.

    Args:
        text: What it says, one line or more.
        opacity: In (0, 1]; a number or [low, high].
        place: same (the middle, in all images) or random (each place equally likely).
        text_width: Share of the image's width, in (0, 1].
        shade: Of the text, [0, 1] scale: 1 is white.
    """

    text: str = "sample"
    opacity: Annotated[Amount, Limits(above=0, at_most=1)] = 0.5
    place: Literal["same", "random"] = "same"
    text_width: Annotated[float, Limits(above=0, at_most=1)] = 0.8
    shade: Annotated[float, Limits(at_least=0, at_most=1)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ink = drawn_text(self.text)

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        opacity = drawn(self.opacity, rng)
        top, left, height, width = self._box(tuple(x.shape), rng)
        covered = opacity * self._cover(height, width)
        out = x.clone()
        under = out[:, top : top + height, left : left + width]
        under.copy_((1 - covered) * under + covered * self.shade)
        return out

    def describe(self, shape: tuple[int, ...], rng: torch.Generator) -> dict[str, Any]:
        opacity = drawn(self.opacity, rng)
        return {"text": self.text, "opacity": opacity, "box": self._box(shape, rng)}

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        drawn(self.opacity, rng)
        top, left, height, width = self._box(shape, rng)
        hidden = torch.zeros(shape[1:], dtype=torch.bool)
        hidden[top : top + height, left : left + width] = self._cover(height, width) > 0
        return Knowledge(hidden=hidden)

    def _cover(self, height: int, width: int) -> Tensor:
        """Coverage of the pixels of the text's box, (height, width), [0, 1]."""
        ink = self._ink.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(ink)).float() / 255

    def _box(self, shape: tuple[int, ...], rng: torch.Generator) -> list[int]:
        """[top, left, height, width] of the text, pixels."""
        _, whole_height, whole_width = shape
        wide, high = self._ink.size
        scale = min(self.text_width * whole_width / wide, whole_height / high)
        height, width = (max(1, round(scale * side)) for side in (high, wide))
        rooms = whole_height - height, whole_width - width
        if self.place == "same":
            top, left = (room // 2 for room in rooms)
        else:
            top, left = (int(torch.randint(room + 1, (), generator=rng)) for room in rooms)
        return [top, left, height, width]


def drawn_text(text: Any) -> Image.Image:
    """Coverage of each pixel by the text, 8 bits, cut to the text; refused if it shows nothing."""
    if not isinstance(text, str):
        raise refuse("text", "text", text)
    missing = _inked(NO_CHARACTER)
    for character in text:
        if character.isprintable() and _inked(character) == missing:
            wanted = f"of characters that Pillow's font has, and it has no {character!r}"
            raise refuse("text", wanted, text)
    image = _inked(text)
    if image is None:
        raise refuse("text", "text that shows something", text)
    return image


def _inked(text: str) -> Image.Image | None:
    """The text in white on black, cut to what shows of it; None where nothing does."""
    font = ImageFont.load_default(FONT_SIZE)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font)
    image = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, fill=255, font=font)
    shown = image.getbbox()
    return None if shown is None else image.crop(shown)
