r"""CLIP as a judge: images and captions as unit vectors of one space.

Any `CLIPModel` of transformers serves: CLIP itself, PickScore, and HPS v2 once `open_clip` has
given its weights transformers' names. Images are made ready here, with torch alone.

Source: Radford et al., "Learning transferable visual models from natural language supervision",
2021; the preparation of images is that of its code, as transformers' CLIPImageProcessor repeats it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.pretrained import hub_answers
from ...models.text import no_progress_bar
from ...support.errors import UserError
from .extractors import checksum

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
BATCH_SIZE = 32


def crop_to(images: Tensor, side: int) -> Tensor:
    """The middle square (B, C, side, side) of images (B, C, H, W) whose short side is made `side`,
    rounded to 8 bits and resized as by PIL: width, then height, each rounded and clipped."""
    height, width = images.shape[-2:]
    short = min(height, width)
    rows, columns = side * height // short, side * width // short
    images = _rounded(_resize(_rounded(255 * images), (height, columns)))
    images = _rounded(_resize(images, (rows, columns))) / 255
    top, left = (rows - side) // 2, (columns - side) // 2
    return images[..., top : top + side, left : left + side]


def _rounded(images: Tensor) -> Tensor:
    return (images + 0.5).floor().clamp(0, 255)


def pad_to(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) whose long side is made `side`, between black bars, (B, C, side, side).
    Nothing is rounded or clipped. Source: HPSv2's code, transform.py (ResizeMaxSize)."""
    scale = side / max(images.shape[-2:])
    height, width = (round(scale * n) for n in images.shape[-2:])
    images = _resize(images, (height, width))
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(images, (left, side - width - left, top, side - height - top))


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True)


FITS: dict[str, tuple[Callable[[Tensor, int], Tensor], str]] = {
    "crop": (crop_to, "8 bits, short side to {} pixels (bicubic, antialiased), centre crop"),
    "pad": (pad_to, "long side to {} pixels (bicubic, antialiased), black bars"),
}  # how an image becomes a square -> (the function, the same in words)


class Clip:
    """A `CLIPModel` that embeds images and captions as unit vectors, in float32 batch by batch.
    `name` is what the user called it, `fit` how an image becomes a square, one of FITS."""

    def __init__(
        self, model: Any, tokenizer: Any, name: str, fit: str, device: torch.device | str
    ) -> None:
        self.model = model.float().eval().requires_grad_(False).to(device)
        self.tokenizer, self.name, self.device = tokenizer, name, device
        self.side: int = model.config.vision_config.image_size
        self.n_tokens: int = model.config.text_config.max_position_embeddings
        self.width: int = model.config.projection_dim
        self._fit, words = FITS[fit]
        self.resize = words.format(self.side)
        self.checksum = checksum(self.model)
        self._known: dict[str, Tensor] = {}

    @property
    def scale(self) -> float:
        """The learned inverse temperature, exp(logit_scale)."""
        return self.model.logit_scale.exp().item()

    def pixels(self, images: Tensor) -> Tensor:
        """What the model is shown, (B, 3, side, side), of images (B, 3, H, W) in [0, 1]."""
        square = self._fit(images.float(), self.side)
        mean, std = (square.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (square - mean) / std

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Unit vectors (N, D), float64 on the CPU, of images (N, 3, H, W) in [0, 1]."""
        found = []
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for batch in images.split(BATCH_SIZE):
                pixels = self.pixels(batch.to(self.device))
                found.append(_unit(self.model.get_image_features(pixel_values=pixels)))
        return torch.cat(found)

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (N, D), float64 on the CPU; each caption is encoded once."""
        how: Any = {"padding": True, "truncation": True, "max_length": self.n_tokens}
        new = list(dict.fromkeys(one for one in captions if one not in self._known))
        for start in range(0, len(new), BATCH_SIZE):
            batch = new[start : start + BATCH_SIZE]
            ids = self.tokenizer(batch, **how, return_tensors="pt").to(self.device)
            words = {"input_ids": ids.input_ids, "attention_mask": ids.attention_mask}
            found = _unit(self.model.get_text_features(**words)).float()
            self._known.update(zip(batch, found, strict=True))
        return torch.stack([self._known[one] for one in captions]).double()

    def n_cut(self, captions: Sequence[str]) -> int:
        """How many of the captions are longer than what the model reads."""
        if not captions:
            return 0
        ids = self.tokenizer(list(captions), truncation=False, verbose=False).input_ids
        return sum(len(row) > self.n_tokens for row in ids)


def _unit(features: Any) -> Tensor:
    """Rows of length 1; transformers 5 wraps what transformers 4 gave bare."""
    features = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(features.cpu().double(), dim=1)


def load_clip(
    source: str,
    place: str = "evaluation.clip",
    *,
    tokenizer: str | None = None,
    fit: str = "crop",
    device: torch.device | str = "cpu",
    name: str | None = None,
) -> Clip:
    """A CLIP from `source`, a folder or a name on the hub; safetensors only.

    Errors call it `place`. A `tokenizer` of its own needs no name; `name` is what the user called
    the model, None: as `source`. For `fit` see FITS. Raises UserError if transformers is missing,
    or the name is of no whole CLIP.
    """
    try:
        from transformers import AutoConfig, CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise UserError(f"{place} needs transformers: pip install 'sparring[text]'") from error
    name, words_from = name or source, tokenizer or source
    asked = f"{place} {name}"
    cached = (Path(source).is_dir() and Path(words_from).is_dir()) or not hub_answers()
    at, how = source, dict[str, Any](use_safetensors=True, output_loading_info=True)
    try:
        kind = AutoConfig.from_pretrained(source, local_files_only=cached).model_type
        if kind != "clip":
            raise UserError(f"{asked} is a {kind}: name a CLIPModel of transformers")
        with no_progress_bar():
            loaded: Any = CLIPModel.from_pretrained(source, local_files_only=cached, **how)
        at = words_from
        words = CLIPTokenizer.from_pretrained(at, local_files_only=cached)
    except (OSError, ValueError) as error:
        reason = "there is no such folder, and the hub cannot be reached"
        if Path(at).is_dir() or not cached:
            reason = str(error).strip().splitlines()[0]
        raise UserError(f"{asked}: {at} cannot be loaded: {reason}") from error
    model, found = loaded
    if found["missing_keys"]:
        raise UserError(f"{asked} lacks weights, such as {sorted(found['missing_keys'])[0]}")
    n_words = model.config.text_config.vocab_size
    if len(words) != n_words:  # transformers makes an empty one where the files are missing
        raise UserError(
            f"{asked}: the tokenizer of {at} has {len(words)} tokens and the model {n_words}: "
            "put the model's vocab.json and merges.txt beside its weights"
        )
    return Clip(model, words, name, fit, device)
