"""Captions and prompts, as tokenizers get them.

The tokenizer here knows letters, digits and no merges, so the right tokens can be read off a text:
one for each letter, another one for a word's last; everything else is made by hand.
"""

from __future__ import annotations

import functools
import json
import random
import string
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from known_answers import Verdict, refuses, right, wrong
from PIL import Image
from torch import Tensor, nn

LETTERS = string.ascii_lowercase + string.digits
WORDS = [*LETTERS, *(f"{one}</w>" for one in LETTERS), "<|startoftext|>", "<|endoftext|>"]
START, END = len(WORDS) - 2, len(WORDS) - 1


class Echo(nn.Module):
    """An encoder whose hidden state is the tokens."""

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=n_positions)
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (ids.double()[..., None],)


@functools.cache
def _tokenizer(length: float | None) -> Any:
    """Read from files, with a length, one that means none (1e30), or none at all."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        words: dict[str, Any] = {"tokenizer_class": "CLIPTokenizer"}
        words |= {} if length is None else {"model_max_length": length}
        (folder / "tokenizer_config.json").write_text(json.dumps(words))
        return CLIPTokenizer.from_pretrained(folder)


def _text(length: float | None, n_positions: int) -> Any:
    from sparring.models.text import StableDiffusionText

    return StableDiffusionText([_tokenizer(length)], [Echo(n_positions)], (8, 8))


def _tokens(caption: str) -> list[int]:
    """Of a text of letters, digits and white space; a digit is a word of its own."""
    ids = []
    for word in caption.lower().split():
        parts, run = [], ""
        for letter in word:
            if letter.isdigit():
                parts += [run, letter]
                run = ""
            else:
                run += letter
        for part in [*parts, run]:
            ids += [WORDS.index(one) for one in part[:-1]]
            ids += [WORDS.index(f"{part[-1]}</w>")] if part else []
    return ids


def _caption(rng: random.Random, n_letters: int) -> str:
    """Words of letters and digits with white space of all kinds between them."""
    parts, left = [], n_letters
    while left > 0:
        n = min(left, rng.randint(1, 9))
        parts.append("".join(rng.choice(LETTERS + string.ascii_uppercase) for _ in range(n)))
        left -= n
    spaces = [" ", "  ", "\t", "\n", " \u2028", "\u00a0", "\r\n", "\x0b "]
    text = "".join(part + rng.choice(spaces[: rng.choice([1, len(spaces)])]) for part in parts)
    return text if rng.random() < 0.5 else text.strip()


def tokens_of_captions(rng: random.Random, folder: Path) -> Verdict:
    """Short ones, empty ones, long ones that are cut; lengths said, not said, or too large."""
    n_positions = rng.choice([8, 20, 77])
    said = rng.choice([None, 10**30, 1e30, 77, 200, 20, 8, 12])
    length = n_positions if said is None else int(min(said, n_positions))
    captions = [_caption(rng, rng.randint(0, rng.choice([3, 30, 120]))) for _ in range(4)]
    found = _text(said, n_positions)(captions)["encoder_hidden_states"][..., 0].long()
    for caption, row in zip(captions, found.tolist(), strict=True):
        ids = _tokens(caption)[: length - 2]
        expected = [START, *ids, *[END] * (length - 1 - len(ids))]
        if row != expected:
            return wrong(f"{caption!r} at {length} ({said}): {row} should be {expected}")
    return right("read")


def captions_that_are_cut(rng: random.Random, folder: Path) -> Verdict:
    """How many are longer than the encoder takes, each as often as it is there."""
    n_positions, said = rng.choice([8, 20, 77]), rng.choice([None, 10**30, 77, 20])
    length = n_positions if said is None else min(said, n_positions)
    about = [length - 3, length - 2, length - 1, length, 3 * length, 0, 1]
    few = [_caption(rng, rng.choice(about)) for _ in range(rng.randint(1, 12))]
    captions = [rng.choice(few) for _ in range(rng.randint(0, 40))]
    n = sum(len(_tokens(one)) + 2 > length for one in captions)
    found = _text(said, n_positions).cut(captions)
    line = f"{n} of {len(captions)} captions are longer than {length} tokens and are cut"
    expected = [line] if n else []
    return right("read") if found == expected else wrong(f"{found} should be {expected}")


def _odd(rng: random.Random) -> tuple[str, str, bool]:
    """A text as JSON escapes it, the text, and whether a half of a character was in it."""
    whole = ["\U0001f600", "\U0001f468\u200d\U0001f469", "\u00e9", "e\u0301", "\u202e", "\u200b",
             "\x00", "\x07", "\x1f", "\u2028", "\u2029", "\x85", "\x0c", "\ufeff", "\ufffd",
             "\u5c71", "\\", '"', "a barn", "\n", "\ud7ff", "\ue000", "\uffff"]  # fmt: skip
    escaped, text, is_half = "", "", False
    before = ""
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.25:
            code = rng.choice([0xD83D, 0xDE00, 0xD800, 0xDBFF, 0xDC00, 0xDFFF])
            low = code >= 0xDC00
            if low and before == "high":
                continue  # together they would be whole
            escaped += f"\\u{code:04x}"
            text += "\ufffd"
            is_half, before = True, "low" if low else "high"
            continue
        part = rng.choice(whole)
        if before == "high" and rng.random() < 0.5:
            part = "x"
        escaped += json.dumps(part, ensure_ascii=rng.random() < 0.5)[1:-1]
        text, before = text + part, ""
    return escaped, text, is_half


def halves_of_characters(rng: random.Random, folder: Path) -> Verdict:
    """Captions in JSON lines with emojis whole and cut in two, and with other odd characters."""
    from sparring.data.datasets import build_dataset

    rows, lines = [_odd(rng) for _ in range(rng.randint(1, 6))], []
    for i, (escaped, _, _) in enumerate(rows):
        Image.new("RGB", (2, 2)).save(folder / f"{i}.png")
        lines.append(f'{{"file_name": "{i}.png", "text": "{escaped}"}}')
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dataset = build_dataset("image_folder", train_data_dir=str(folder))
    found, expected = list(dataset.captions or ()), [text for _, text, _ in rows]
    if found != expected:
        return wrong(f"{found!a} should be {expected!a}")
    n = sum(is_half for _, _, is_half in rows)
    said = [one for one in dataset.remarks if "half a character" in one]
    if bool(n) != bool(said) or (n and not said[0].startswith(f"{n} of {len(rows)} images")):
        return wrong(f"{n} of {len(rows)} are halves, said {said}")
    return right("read")


def prompts_with_halves(rng: random.Random, folder: Path) -> Verdict:
    """One prompt of several holds half an emoji; the others are read."""
    prompts = [_caption(rng, rng.randint(0, 20)) for _ in range(rng.randint(1, 4))]
    text = _text(rng.choice([None, 77]), 77)
    if rng.random() < 0.3:
        states = text(prompts)["encoder_hidden_states"]
        return right("read") if len(states) == len(prompts) else wrong(f"{states.shape}")
    half = rng.choice(["\ud83d", "\ude00", "\udcff", "\ude00\ud83d"])
    bad = prompts[0][:3] + half + prompts[0][3:]
    prompts.insert(rng.randint(0, len(prompts)), bad)
    return refuses(lambda: text(prompts), ascii(bad), "half a character")


def vocabularies(rng: random.Random, folder: Path) -> Verdict:
    """A tokenizer's folder as copies and downloads leave it: whole, in one file, or in part."""
    from sparring.models.text import load_tokenizer as read

    n = rng.randint(3, len(LETTERS))
    words = {word: i for i, word in enumerate([*WORDS[:n], *WORDS[len(LETTERS) :]])}
    files = {
        "vocab.json": json.dumps(words), "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": '{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}',
        "special_tokens_map.json": "{}",
    }  # fmt: skip
    kept = [name for name in files if rng.random() < 0.75]
    for name in kept:
        (folder / name).write_text(files[name])
    if not {"vocab.json", "merges.txt"} <= set(kept):
        missing = "vocab.json" if "vocab.json" not in kept else "merges.txt"
        said = ["transformers", "CLIPTokenizer"]
        return refuses(lambda: read(folder, said), str(folder), missing)
    ids = read(folder, ["transformers", "CLIPTokenizer"])("a b").input_ids
    a, b = (words.get(f"{one}</w>") for one in "ab")
    expected = [words["<|startoftext|>"], a, b, words["<|endoftext|>"]]
    return right("read") if ids == expected else wrong(f"{kept}: {ids} should be {expected}")


KINDS = {
    "vocabularies": vocabularies,
    "tokens of captions": tokens_of_captions,
    "captions that are cut": captions_that_are_cut,
    "halves of characters": halves_of_characters,
    "prompts with halves": prompts_with_halves,
}
