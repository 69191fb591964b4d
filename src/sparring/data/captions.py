"""What images show, in words.

An image has one caption, none (None), or several, a tuple of which one is drawn whenever it is
seen: by (seed, position in the stream of training samples), so every run draws the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..diffusion.randomness import generator
from ..support.errors import UserError

Caption = str | tuple[str, ...] | None


def caption_of(value: Any, where: str) -> Caption:
    """A caption from a cell: text or UTF-8 bytes; a list of several; None and NaN are none.
    Anything else is a UserError, which calls the cell `where`."""
    if isinstance(value, (list, tuple)):
        if any(isinstance(one, (list, tuple)) for one in value):
            raise UserError(f"{where} holds a list of lists, where captions should be")
        several = [caption_of(one, where) for one in value]
        return several_of([one for one in several if isinstance(one, str)])
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where} holds bytes that are no text in UTF-8") from error
    raise UserError(
        f"{where} holds {value!r:.40}, which is no caption: captions are texts, or lists of texts"
    )


def whole_characters(
    captions: Sequence[Caption] | None, where: Callable[[int], str | None]
) -> tuple[list[Caption] | None, list[str]]:
    r"""The captions of images without halves of characters, and what is said of it.

    JSON writes an emoji as two halves ("\ud83d\ude00"); a program that cuts texts may leave one,
    which no tokenizer reads. It becomes U+FFFD, the sign for a character that was lost. `where`
    names an image.
    """
    if captions is None:
        return None, []
    mended, rows = list(captions), []
    for i, caption in enumerate(captions):
        whole = tuple(map(_mended, caption)) if isinstance(caption, tuple) else _mended(caption)
        if whole != caption:
            mended[i] = whole
            rows.append(i)
    if not rows:
        return mended, []
    return mended, [
        f"{len(rows)} of {len(mended)} images have a caption with half a character (of an emoji "
        f"that was cut in two), which is read as \ufffd, the first is {where(rows[0])}"
    ]


def _mended(text: Any) -> Any:
    """A text in which every half of a character is joined to its other half, or U+FFFD."""
    return text and text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def several_of(texts: Sequence[str]) -> Caption:
    """All captions of one image."""
    return tuple(texts) if len(texts) > 1 else next(iter(texts), None)


def drawn(caption: Caption, seed: int, position: int) -> str | None:
    """One caption of an image at a position of the stream of training samples."""
    if not isinstance(caption, tuple):
        return caption
    rng = generator("cpu", seed, "caption", position)
    return caption[int(torch.randint(len(caption), (), generator=rng))]


def first_of(caption: Caption) -> str | None:
    """The first caption of an image, where one is shown outside of training."""
    return caption[0] if isinstance(caption, tuple) else caption


def caption_remarks(
    captions: Sequence[Caption] | None, where: Callable[[int], str | None]
) -> list[str]:
    """What is said of the captions of a data set; `where` names an image."""
    captions = captions or ()
    n, several = len(captions), "have several captions, of which one is drawn at each step"
    rows = {
        "have no caption": [i for i in range(n) if captions[i] is None],
        "have an empty caption": [i for i in range(n) if str(captions[i]).strip() == ""],
        several: [i for i in range(n) if isinstance(captions[i], tuple)],
    }
    return [
        f"{len(some)} of {n} images {words}, the first is {where(some[0])}"
        for words, some in rows.items()
        if some
    ]
