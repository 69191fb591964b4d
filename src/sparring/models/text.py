"""Captions to conditions: the text encoders of Stable Diffusion 1.x, 2.x, XL and 3."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.captions import Caption
from ..support.cache import TensorCache, fingerprint, key_of
from ..support.errors import UserError

T5_TOKENS = 256
"""max_sequence_length of diffusers' Stable Diffusion 3 pipeline."""
_AT_ONCE = 1000
"""Captions in one call of a tokenizer that counts."""


class TextEncoder(nn.Module, ABC):
    """Captions as the denoiser is told them, the same as in the diffusers pipeline. Abstract.

    Captions are encoded one at a time, so that each has the same bits in every batch, with a cache
    or without (see `latents.posterior`).

    Args:
        tokenizers: One for each encoder.
        encoders: Text models of transformers.
        size: (H, W) of the images in pixels; only XL is told.
        cache: Where hidden states are kept, under the digest of the tokens.
    """

    n_encoders: int
    absent: tuple[str, ...] = ()
    """Parts that this pipeline lacks and diffusers' `from_pretrained` must be told it lacks."""

    def __init__(
        self,
        tokenizers: Sequence[Any],
        encoders: Sequence[nn.Module],
        size: tuple[int, int],
        *,
        cache: TensorCache | None = None,
    ) -> None:
        super().__init__()
        self.tokenizers, self.encoders = list(tokenizers), nn.ModuleList(encoders)
        self.size, self.cache = size, cache
        self._fingerprint: str | None = None

    def forward(self, captions: Sequence[str], sizes: Tensor | None = None) -> dict[str, Any]:
        """The conditions of these captions, by the denoiser's argument names.

        Args:
            captions: (B,).
            sizes: Of the images that are learned from: original height and width, and where the
                crop began (top, left), (B, 4), pixels; only XL is told. None: those of an image to
                be made, which is its own original, (H, W, 0, 0).
        """
        return self._condition(self._states(captions), sizes)

    def both(
        self, captions: Sequence[str], sizes: Tensor | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """`self(captions, sizes)` and `self(captions)`; the captions are encoded once."""
        states = self._states(captions)
        return self._condition(states, sizes), self._condition(states, None)

    def null(self) -> dict[str, Any]:
        """The condition of no caption, (1, ...) each: for guidance and for label dropout.

        It says nothing of sizes: a row whose caption is left out keeps its own.
        """
        return self._told(self._encode(self._tokens("")))

    def _condition(self, states: Mapping[str, Tensor], sizes: Tensor | None) -> dict[str, Any]:
        """What the denoiser is told of the captions and of the images' sizes."""
        return self._told(states)

    @abstractmethod
    def _told(self, states: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the denoiser is told of the captions."""

    @abstractmethod
    def _encode(self, ids: Sequence[Tensor]) -> dict[str, Tensor]:
        """The states of one caption, (1, ...) each."""

    def _states(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The states of captions, (B, ...) each: from the cache where kept."""
        rows = [self._tokens(caption) for caption in captions]
        if self.cache is None:
            states = [self._encode(ids) for ids in rows]
            return {name: torch.cat([one[name] for one in states]) for name in states[0]}
        if self._fingerprint is None:
            encoders = (fingerprint(encoder) for encoder in self.encoders)
            self._fingerprint = key_of(type(self).__name__, *encoders)
        keys = [key_of("text", self._fingerprint, *(one.tolist() for one in row)) for row in rows]
        return self.cache.batch(keys, lambda row: self._encode(rows[row]), self._device)

    def _tokens(self, caption: str) -> list[Tensor]:
        """One caption for each encoder, (1, n): padded and, where it is longer, cut."""
        check_prompts([caption])
        words = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return [
            tokenizer([caption], max_length=length, **words).input_ids.to(self._device)
            for tokenizer, length in zip(self.tokenizers, self._lengths, strict=True)
        ]

    def cut(self, captions: Sequence[str], what: str = "captions") -> list[str]:
        """Sentences that count the captions of which an encoder does not see the end.

        Each is looked at once, and counted as often as it is there; `what` they are is said so.
        """
        times, sentences = Counter(captions), []
        texts, pairs = list(times), list(zip(self.tokenizers, self._lengths, strict=True))
        for length in dict.fromkeys(self._lengths):
            tokenizers, n = [one for one, own in pairs if own == length], 0
            for i in range(0, len(texts), _AT_ONCE):
                some = texts[i : i + _AT_ONCE]
                ids = [one(some, truncation=False, verbose=False).input_ids for one in tokenizers]
                for text, *own in zip(some, *ids, strict=True):
                    n += times[text] * any(len(one) > length for one in own)
            if n:
                sentences.append(
                    f"{n} of {len(captions)} {what} are longer than {length} tokens and are cut"
                )
        return sentences

    @property
    def _lengths(self) -> list[int]:
        """Tokens of each encoder: as many as both it and its tokenizer know."""
        encoders: Any = self.encoders
        return [
            clip_length(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            for tokenizer, encoder in zip(self.tokenizers, encoders, strict=True)
        ]

    @property
    def _device(self) -> torch.device:
        return next(self.encoders.parameters()).device


class StableDiffusionText(TextEncoder):
    """Stable Diffusion 1.x and 2.x: the last hidden state of CLIP.

    {"encoder_hidden_states": (B, 77, d)}
    """

    n_encoders = 1

    @torch.no_grad()
    def _encode(self, ids: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"hidden": self.encoders[0](ids[0])[0]}

    def _told(self, states: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"encoder_hidden_states": states["hidden"]}


class StableDiffusionXLText(TextEncoder):
    """Stable Diffusion XL: two CLIPs, and the size.

    {"encoder_hidden_states": (B, 77, d1 + d2),
     "added_cond_kwargs": {"text_embeds": (B, d), "time_ids": (B, 6)}}

    These are the second-last hidden states of both, side by side, the projected output of the
    second, and six numbers in pixels: original height and width, where the crop began (top, left),
    and the height and width of what the model sees.

    Args:
        zero_null: Whether no caption means zeros (`force_zeros_for_empty_prompt`) rather than the
            empty caption.
    """

    n_encoders = 2

    def __init__(self, *args: Any, zero_null: bool = True, **words: Any) -> None:
        super().__init__(*args, **words)
        self.zero_null = zero_null

    def null(self) -> dict[str, Any]:
        states = self._encode(self._tokens(""))
        if self.zero_null:
            states = {name: torch.zeros_like(value) for name, value in states.items()}
        return self._told(states)

    @torch.no_grad()
    def _encode(self, ids: Sequence[Tensor]) -> dict[str, Tensor]:
        hidden, outputs = _clip(self.encoders, ids)
        return {"hidden": hidden, "pooled": outputs[-1]}

    def _told(self, states: Mapping[str, Tensor]) -> dict[str, Any]:
        told = {"text_embeds": states["pooled"]}
        return {"encoder_hidden_states": states["hidden"], "added_cond_kwargs": told}

    def _condition(self, states: Mapping[str, Tensor], sizes: Tensor | None) -> dict[str, Any]:
        condition, n = self._told(states), len(states["hidden"])
        if sizes is None:
            sizes = torch.tensor([[*self.size, 0, 0]]).expand(n, -1)
        target = torch.tensor([self.size]).to(sizes).expand(n, -1)
        # in float32 whatever the encoders' precision: bfloat16 would round sizes above 256
        time_ids = torch.cat([sizes, target], dim=1).float().to(self._device)
        condition["added_cond_kwargs"]["time_ids"] = time_ids
        return condition


class StableDiffusion3Text(TextEncoder):
    """Stable Diffusion 3: two CLIPs and, where it is there, T5.

    {"encoder_hidden_states": (B, 77 + 256, width), "pooled_projections": (B, d1 + d2)}

    First come the second-last hidden states of both CLIPs, side by side and filled up with zeros,
    then T5's last one (zeros without it); the projected outputs of the CLIPs are side by side.

    Args:
        width: The denoiser's joint_attention_dim.
    """

    n_encoders = 3

    def __init__(self, *args: Any, width: int, **words: Any) -> None:
        super().__init__(*args, **words)
        self.width = width
        if len(self.encoders) < self.n_encoders:
            self.absent = ("text_encoder_3", "tokenizer_3")

    @torch.no_grad()
    def _encode(self, ids: Sequence[Tensor]) -> dict[str, Tensor]:
        hidden, outputs = _clip(self.encoders[:2], ids[:2])
        states = {"hidden": hidden, "pooled": torch.cat(outputs, dim=-1)}
        if not self.absent:
            states["t5"] = self.encoders[2](ids[2])[0]
        return states

    def _told(self, states: Mapping[str, Tensor]) -> dict[str, Any]:
        clip, t5 = states["hidden"], states.get("t5")
        if t5 is None:
            t5 = clip.new_zeros(len(clip), T5_TOKENS, self.width)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([clip, t5], dim=1),
            "pooled_projections": states["pooled"],
        }

    @property
    def _lengths(self) -> list[int]:
        encoder: Any = self.encoders[0]
        n = clip_length(self.tokenizers[0].model_max_length, encoder.config.max_position_embeddings)
        return [n, n, T5_TOKENS][: len(self.tokenizers)]


def _clip(
    encoders: Sequence[nn.Module] | nn.ModuleList, ids: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Second-last hidden states, (1, 77, d1 + d2), and the first output of each encoder."""
    pairs = zip(encoders, ids, strict=True)
    outputs = [encoder(own, output_hidden_states=True) for encoder, own in pairs]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return hidden, [output[0] for output in outputs]


def sizes_of(batch: Mapping[str, Any]) -> Tensor | None:
    """What XL is told of the images of a batch, see `TextEncoder.forward`; None if nobody knows.

    Args:
        batch: With `framing`, (B, 5) (see `data.base.Batch`), and perhaps `mirrored`, (B,): such an
            image is one that was mirrored before the crop, which begins where it used to end.
    """
    if "framing" not in batch:
        return None
    height, width, top, left, right = batch["framing"].unbind(1)
    if "mirrored" in batch:
        left = torch.where(batch["mirrored"], right, left)
    return torch.stack([height, width, top, left], dim=1)


def clip_length(said: int | None, n_positions: int) -> int:
    """Tokens that a CLIP takes: a tokenizer may say nothing (None, or 1e30), or too much."""
    return n_positions if said is None else min(said, n_positions)


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse what no tokenizer reads: half of a character that Python holds as two (an emoji's).

    Raises:
        UserError: one line that names the first.
    """
    for prompt in prompts:
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise UserError(
                f"prompt {prompt!a} holds half a character (a lone surrogate, as of an emoji "
                "that was cut in two): write the whole one"
            )


def check_captions(captions: Sequence[Caption] | None, name: str) -> None:
    """Refuse data that do not say what each image shows.

    Args:
        captions: Of each image, see `data.captions`; None where there is none.
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
