"""Whether a model's samples and the reference can be compared, asked before anything is sampled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ...data.base import Dataset
from ...data.section import DataSection
from ...models.text import PIPELINES
from ...support.errors import UserError

if TYPE_CHECKING:
    from ...models.pretrained import Model


def check_alike(name: str, model: Model, data: Dataset) -> None:
    """Refuse a reference of another shape than the model's samples (of latents, the decoded ones).

    Raises:
        UserError: that names the settings which read the images at the model's size.
    """
    made, given = model.data_shape, tuple(data.sample_shape)
    if made == given:
        return
    if len(made) != 3 or len(given) != 3:
        advice = "name the model's own data, such as data.name=digits"
    else:
        settings = []
        if made[1:] != given[1:]:
            settings.append(f"data.resolution={min(made[1:])}")
        if made[0] != given[0]:
            settings.append(f"data.n_channels={made[0]}")
        advice = f"read the reference at the model's size, {' '.join(settings)}, or name other data"
    raise UserError(f"{name} makes samples of shape {made} but {data.name} has {given}: {advice}")


def check_prompts(name: str, model: Model) -> None:
    """Refuse a text-to-image pipeline whose text encoders are not known.

    Raises:
        UserError: that names its class and those that are known.
    """
    if model.text is not None or model.parts is None:
        return
    index = json.loads((model.parts / "model_index.json").read_text(encoding="utf-8"))
    if any((index.get(part) or [None])[0] is not None for part in ("text_encoder", "tokenizer")):
        raise UserError(
            f"{name} is a {index.get('_class_name')}, whose prompts sparring cannot encode (it can "
            f"for {', '.join(PIPELINES)})"
        )


def reading(section: DataSection, data: Dataset) -> str | None:
    """How the reference's images were read, for the protocol: their size, and what was asked."""
    if not data.is_image:
        return None
    n_channels, height, width = data.sample_shape
    words = [f"{width}x{height}, {n_channels} channel{'s' * (n_channels > 1)}"]
    if section.resolution is not None:
        words.append(f"shorter side resized to {section.resolution}")
        words.append("cropped to the middle" if section.center_crop else "cropped at random")
    if section.n_channels is not None:
        words.append("grey repeated as RGB" if n_channels == 3 else "RGB read as its luma")
    return ", ".join(words)
