"""Images that were stored as JPEG files."""

import io
from dataclasses import dataclass
from typing import Annotated

import torch
from PIL import Image
from torch import Tensor

from ... import transforms
from ...files.decoding import decode
from ..contract import Corruption, Knowledge
from ..options import Limits, WholeAmount, drawn


@dataclass
class Jpeg(Corruption):
    """Through a JPEG file and back: clipped to [0, 1] and 8 bits on the way in.

    Args:
        quality: 1 (worst) to 95, as in Pillow; a number or [low, high], both included.
    """

    quality: Annotated[WholeAmount, Limits(at_least=1, at_most=95)] = 10

    def apply(self, x: Tensor, rng: torch.Generator, label: int | None) -> Tensor:
        pixels = transforms.to_uint8(x).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels)
        image.save(file, "JPEG", quality=drawn(self.quality, rng))
        return decode(file.getvalue(), len(x))

    def knowledge(self, shape: tuple[int, ...], rng: torch.Generator) -> Knowledge:
        return Knowledge(**self.values(rng))
