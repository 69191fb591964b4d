"""Captions to conditions: the text encoders of Stable Diffusion 1.x, 2.x and XL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .cache import TensorCache, fingerprint, key_of
from .errors import UserError

PIPELINES = {"StableDiffusionPipeline": 1, "StableDiffusionXLPipeline": 2}
"""Pipelines of diffusers whose text encoders are read -> how many they have."""


class TextEncoder(nn.Module):
    """Captions as the denoiser is told them, the same as in the diffusers pipeline.

    With one encoder (Stable Diffusion 1.x and 2.x) the condition is its last hidden state,

        {"encoder_hidden_states": (B, 77, d)};

    with two (XL) the second-last hidden states of both, side by side, the projected output of the
    second, and the size (H, W, 0, 0, H, W): that of the original image, where the crop began, and
    that of the result, here always the uncropped training resolution,

        {"encoder_hidden_states": (B, 77, d1 + d2),
         "added_cond_kwargs": {"text_embeds": (B, d), "time_ids": (B, 6)}}.

    Captions are encoded one at a time, so that each has the same bits in every batch, with a cache
    or without (see `latents.posterior`).

    Args:
        tokenizers: One or two; captions are cut to the length that they know (77 tokens).
        encoders: CLIP text models of transformers, one for each.
        size: (H, W) of the images in pixels; only XL is told.
        zero_null: Whether no caption means zeros (XL's `force_zeros_for_empty_prompt`) rather than
            the empty caption.
        cache: Where hidden states are kept, under the digest of the tokens.
    """

    def __init__(
        self,
        tokenizers: Sequence[Any],
        encoders: Sequence[nn.Module],
        size: tuple[int, int],
        *,
        zero_null: bool = False,
        cache: TensorCache | None = None,
    ) -> None:
        super().__init__()
        self.tokenizers, self.encoders = list(tokenizers), nn.ModuleList(encoders)
        self.size, self.zero_null, self.cache = size, zero_null, cache
        self._fingerprint: str | None = None

    def forward(self, captions: Sequence[str]) -> dict[str, Any]:
        """The conditions of these captions, by the denoiser's argument names."""
        return self._condition(self._states([self._tokens(caption) for caption in captions]))

    def null(self) -> dict[str, Any]:
        """The condition of no caption, (1, ...) each: for guidance and for label dropout."""
        states = self._encode(self._tokens(""))
        if self.zero_null:
            states = {name: torch.zeros_like(value) for name, value in states.items()}
        return self._condition(states)

    def _condition(self, states: Mapping[str, Tensor]) -> dict[str, Any]:
        hidden = states["hidden"]
        if "pooled" not in states:
            return {"encoder_hidden_states": hidden}
        height, width = self.size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]]).to(hidden)
        return {
            "encoder_hidden_states": hidden,
            "added_cond_kwargs": {
                "text_embeds": states["pooled"],
                "time_ids": time_ids.repeat(len(hidden), 1),
            },
        }

    def _states(self, rows: Sequence[list[Tensor]]) -> dict[str, Tensor]:
        """hidden (B, 77, d) and, with two encoders, pooled (B, d): from the cache where kept."""
        if self.cache is None:
            states = [self._encode(ids) for ids in rows]
            return {name: torch.cat([one[name] for one in states]) for name in states[0]}
        if self._fingerprint is None:
            self._fingerprint = key_of(*(fingerprint(encoder) for encoder in self.encoders))
        keys = [key_of("text", self._fingerprint, *(one.tolist() for one in row)) for row in rows]
        return self.cache.batch(keys, lambda row: self._encode(rows[row]), self._device)

    @torch.no_grad()
    def _encode(self, ids: Sequence[Tensor]) -> dict[str, Tensor]:
        """The states of one caption."""
        ids = [one.to(self._device) for one in ids]
        if len(self.encoders) == 1:
            return {"hidden": self.encoders[0](ids[0])[0]}
        outputs = [
            encoder(own, output_hidden_states=True)
            for encoder, own in zip(self.encoders, ids, strict=True)
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"hidden": hidden, "pooled": outputs[-1][0]}

    def _tokens(self, caption: str) -> list[Tensor]:
        """One caption for each encoder, (1, 77): padded and, where it is longer, cut."""
        words = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return [
            tokenizer([caption], max_length=tokenizer.model_max_length, **words).input_ids
            for tokenizer in self.tokenizers
        ]

    @property
    def _device(self) -> torch.device:
        return next(self.encoders.parameters()).device


def load_text(folder: Path, index: Mapping[str, Any], size: tuple[int, int]) -> TextEncoder:
    """The tokenizers and text encoders in the folder of one of PIPELINES.

    Args:
        folder: With safetensors weights; nothing else is read, no code is run.
        index: Its model_index.json.
        size: (H, W) of the images in pixels.

    Raises:
        UserError: if transformers is not installed, or a part is missing.
    """
    count = PIPELINES[index["_class_name"]]
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{folder} is a text-to-image model and needs transformers: "
            "pip install 'sparring[text]'"
        ) from error
    names = ["", "_2"][:count]
    for part in (f"{kind}{name}" for kind in ("tokenizer", "text_encoder") for name in names):
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no {part}, which its model_index.json names")
    for name in names:
        if not any((folder / f"text_encoder{name}").glob("*.safetensors")):
            raise UserError(
                f"{folder}/text_encoder{name} has no safetensors weights; sparring reads no "
                "pickle files"
            )
    with _no_progress_bar():
        tokenizers = [
            transformers.CLIPTokenizer.from_pretrained(
                folder / f"tokenizer{name}", local_files_only=True
            )
            for name in names
        ]
        encoders = [
            getattr(transformers, index[f"text_encoder{name}"][1])
            .from_pretrained(
                folder / f"text_encoder{name}", use_safetensors=True, local_files_only=True
            )
            .float()
            .eval()
            for name in names
        ]
    zero_null = count == 2 and index.get("force_zeros_for_empty_prompt", True)
    return TextEncoder(tokenizers, encoders, size, zero_null=zero_null)


def check_captions(captions: Sequence[str | None] | None, name: str) -> None:
    """Refuse data that do not say what each image shows.

    Args:
        captions: One per image; None where there is none.
        name: Of the data set.

    Raises:
        UserError: one line that names the first image without a caption, and says where to put it.
    """
    where = (
        "data.caption_column names the column; a folder has metadata.jsonl or metadata.csv "
        "(file_name, text), or a .txt file beside each image"
    )
    if captions is None:
        raise UserError(f"a text-to-image model needs captions, and {name} has none: {where}")
    missing = [i for i, caption in enumerate(captions) if caption is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(captions)} images of {name} have no caption, the first is "
            f"number {missing[0]}: {where}"
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws a bar for every model, however small."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
