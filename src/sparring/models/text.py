"""Captions to conditions: text encoders of Stable Diffusion 1.x, 2.x, XL and 3, and their files."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.captions import Caption
from ..support.cache import TensorCache, fingerprint, key_of
from ..support.errors import UserError

T5_TOKENS = 256  # max_sequence_length of diffusers' Stable Diffusion 3 pipeline
_AT_ONCE = 1000  # captions in one call of a tokenizer that counts


class TextEncoder(nn.Module, ABC):
    """Captions as the denoiser is told them, the same as in the diffusers pipeline. Abstract.

    Captions are encoded one at a time, so that each has the same bits in every batch, with a cache
    or without (see `latents.posterior`); it keeps hidden states under the digest of the tokens.
    There is a tokenizer for each encoder, a text model of transformers; only XL is told the size,
    (H, W) of the images in pixels.
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
        """The conditions of captions (B,), by the denoiser's argument names.

        Only XL is told `sizes` of the images that are learned from: original height and width, and
        where the crop began (top, left), (B, 4), pixels. None: those of an image to be made, which
        is its own original, (H, W, 0, 0).
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
        """Sentences that count the captions of which an encoder does not see the end."""
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
                longer = f"{n} of {len(captions)} {what} are longer than {length} tokens"
                sentences.append(f"{longer} and are cut")
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
    and the height and width of what the model sees. With `zero_null` no caption means zeros
    (`force_zeros_for_empty_prompt`) rather than the empty caption.
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

    First come the second-last hidden states of both CLIPs, side by side and filled up with zeros to
    the denoiser's joint_attention_dim, the width, then T5's last one (zeros without it); the
    projected outputs of the CLIPs are side by side.
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
        hidden = torch.cat([clip, t5], dim=1)
        return {"encoder_hidden_states": hidden, "pooled_projections": states["pooled"]}

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

    The batch has `framing`, (B, 5) (see `data.base.Batch`), and perhaps `mirrored`, (B,): such an
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
    """Refuse what no tokenizer reads: half of a character that Python holds as two (an emoji's)."""
    for prompt in prompts:
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            half = "half a character (a lone surrogate, as of an emoji that was cut in two)"
            raise UserError(f"prompt {prompt!a} holds {half}: write the whole one")


def check_captions(captions: Sequence[Caption] | None, name: str) -> None:
    """Refuse a data set of which not each image has a caption, see `data.captions`."""
    where = (
        "data.caption_column names the column; a folder has metadata.jsonl or metadata.csv "
        "(file_name, text), or a .txt file beside each image"
    )
    if captions is None:
        raise UserError(f"a text-to-image model needs captions, and {name} has none: {where}")
    missing = [i for i, caption in enumerate(captions) if caption is None]
    if missing:
        lost = f"{len(missing)} of {len(captions)} images of {name} have no caption"
        raise UserError(f"{lost}, the first is number {missing[0]}: {where}")


PIPELINES: dict[str, type[TextEncoder]] = {
    "StableDiffusionPipeline": StableDiffusionText,
    "StableDiffusionXLPipeline": StableDiffusionXLText,
    "StableDiffusion3Pipeline": StableDiffusion3Text,
}
"""Pipelines of diffusers whose text encoders are read."""


def text_parts(index: Mapping[str, Any]) -> list[str]:
    """The tokenizers and text encoders that a pipeline's model_index.json names, in turn."""
    family = PIPELINES.get(index.get("_class_name", ""))
    names = ["", "_2", "_3"][: 0 if family is None else family.n_encoders]
    if family is StableDiffusion3Text and (index.get("text_encoder_3") or [None])[0] is None:
        names.pop()  # the one part that may be left out
    return [f"{kind}{name}" for name in names for kind in ("tokenizer", "text_encoder")]


def load_text(
    folder: Path, index: Mapping[str, Any], size: tuple[int, int], network: Mapping[str, Any]
) -> TextEncoder:
    """The tokenizers and text encoders in the folder of one of PIPELINES; no code is run.

    `index` is its model_index.json, `size` (H, W) of the images in pixels, `network` the denoiser's
    config. UserError if transformers, a part or a vocabulary is missing.
    """
    try:
        import transformers
    except ImportError as error:
        why = f"{folder} is a text-to-image model and needs transformers"
        raise UserError(f"{why}: pip install 'sparring[text]'") from error
    parts = text_parts(index)
    for part in parts:
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no {part}, which its model_index.json names")
        if part in parts[1::2] and not any((folder / part).glob("*.safetensors")):
            where = folder / part
            raise UserError(f"{where} has no safetensors weights; sparring reads no pickle files")
    with no_progress_bar():
        tokenizers = [load_tokenizer(folder / part, index[part]) for part in parts[::2]]
        encoders = [
            getattr(transformers, index[part][1])
            .from_pretrained(folder / part, use_safetensors=True, local_files_only=True)
            .float()
            .eval()
            for part in parts[1::2]
        ]
    family, words = PIPELINES[index["_class_name"]], {}
    if family is StableDiffusionXLText:
        words["zero_null"] = index.get("force_zeros_for_empty_prompt", True)
    if family is StableDiffusion3Text:
        words["width"] = network["joint_attention_dim"]
    return family(tokenizers, encoders, size, **words)


def load_tokenizer(folder: Path, named: Sequence[str]) -> Any:
    """A tokenizer, of the class that model_index.json names; UserError without its vocabulary.

    transformers would make an empty one, in which all captions are the same.
    """
    import transformers

    name = {"T5Tokenizer": "T5TokenizerFast"}.get(named[1], named[1])
    cls: Any = getattr(transformers, name, None)
    if not hasattr(cls, "vocab_files_names"):
        raise UserError(f"{folder}: transformers has no tokenizer {name!r}")
    parts = dict(cls.vocab_files_names)
    whole = parts.pop("tokenizer_file", "tokenizer.json")
    missing = [file for file in parts.values() if not (folder / file).is_file()]
    if not (folder / whole).is_file() and (missing or not parts):
        lost = f"{' and '.join(missing) or whole}, the vocabulary of its captions"
        raise UserError(f"{folder} lacks {lost}: copy or download it again")
    return cls.from_pretrained(folder, local_files_only=True)


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers draws a bar for every model, however small."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
