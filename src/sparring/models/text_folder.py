"""The tokenizers and text encoders in a pipeline's folder: which there are, and loading them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..support.errors import UserError
from .text import StableDiffusion3Text, StableDiffusionText, StableDiffusionXLText, TextEncoder

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
    """The tokenizers and text encoders in the folder of one of PIPELINES.

    Args:
        folder: With safetensors weights; nothing else is read, no code is run.
        index: Its model_index.json.
        size: (H, W) of the images in pixels.
        network: The denoiser's config.

    Raises:
        UserError: if transformers is not installed, or a part or a vocabulary is missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{folder} is a text-to-image model and needs transformers: "
            "pip install 'sparring[text]'"
        ) from error
    parts = text_parts(index)
    for part in parts:
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no {part}, which its model_index.json names")
        if part in parts[1::2] and not any((folder / part).glob("*.safetensors")):
            raise UserError(
                f"{folder}/{part} has no safetensors weights; sparring reads no pickle files"
            )
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
    """A tokenizer, of the class that model_index.json names.

    Raises:
        UserError: if its vocabulary is not there: transformers would make an empty one, in which
            all captions are the same.
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
        raise UserError(
            f"{folder} lacks {' and '.join(missing) or whole}, the vocabulary of its captions: "
            "copy or download it again"
        )
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
