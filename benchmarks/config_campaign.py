"""Thousands of wrong configs and command lines: does each end in one line?

    python benchmarks/config_campaign.py --n 2000 --seed 0

Case i follows from (seed, i): a kind of mutation, and what it changes. Each is given to the command
line in this process and must end well (exit code 0), or with `sparring: error: ...` in one line and
exit code 2: no traceback, no control character, nothing that runs on. A key that nobody knows must
be refused by its name. Training stops where its loop would begin; all else is as the user has it.
`--real 50` runs so many of the cases as commands of their own.
"""

# ruff: noqa: E501 - the grammar is tables

from __future__ import annotations

import argparse
import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import click
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from sparring import __version__, cli, commands
from sparring.config.files import bundled, chosen_row
from sparring.config.read import dump, resolve
from sparring.config.schema import RunConfig
from sparring.objectives.registry import objectives, section_of_method

SECONDS = 20
"""A case that takes longer hangs."""
LONGEST_LINE = 2000
CONFIGS = Path(__file__).parents[1] / "configs"

TINY = {
    "digits": """\
model:
  network: {_class_name: UNet2DModel, block_out_channels: [8, 8], down_block_types: [DownBlock2D, DownBlock2D],
            up_block_types: [UpBlock2D, UpBlock2D], layers_per_block: 1, norm_num_groups: 4}
  prediction_type: v_prediction
  scheduler: {_class_name: DDPMScheduler, num_train_timesteps: 1000, beta_schedule: linear, beta_start: 1e-4, beta_end: 0.02}
data: {name: digits, split: train, max_train_samples: 64}
contamination: {kind: gaussian, rate: 0.9, sigma: 0.2}
objective: {name: detail, start_step: 1, noise: 0.4, window: 1.0}
objectives: {smoothing_random: {lam: 1.0}, adt: {num_inference_steps: 4}}
training: {max_train_steps: 2, train_batch_size: 8, report_to: none, n_threads: 1, validation_steps: null}
sampling: {num_inference_steps: 2, n_images: 4, batch_size: 4}
evaluation: {n_samples: 32, n_resamples: 2, extractor: pixels}
""",
    "plane": """\
model:
  network: {_class_name: MLP, dim: 3, width: 8, n_blocks: 1}
  prediction_type: epsilon
data: {name: plane, dim: 3, n_points: 64}
objective: {name: smoothing_adversarial, lam: 0.1}
training: {max_train_steps: 2, train_batch_size: 8, report_to: none, n_threads: 1, validation_steps: null}
sampling: {num_inference_steps: 2, n_images: 4, batch_size: 4, clip_sample: false}
evaluation: {n_samples: 32, n_resamples: 2}
""",
    "folder": """\
model:
  network: {_class_name: UNet2DModel, block_out_channels: [8, 8], down_block_types: [DownBlock2D, DownBlock2D],
            up_block_types: [UpBlock2D, UpBlock2D], layers_per_block: 1, norm_num_groups: 4}
data: {name: image_folder, train_data_dir: photos, resolution: 8}
objective: plain
training: {max_train_steps: 2, train_batch_size: 8, report_to: none, n_threads: 1, validation_steps: null}
sampling: {num_inference_steps: 2, n_images: 4, batch_size: 4}
""",
}  # fmt: skip
"""Configs that are good, small, and have something in every section."""

NUMBERS = (
    "-1", "0", "-0.0", "0.5", "1e-300", "1e308", "-1e308", "1e400", ".nan", ".inf", "-.inf",
    "2147483648", "9223372036854775808", "-9223372036854775809", "1" + "0" * 40, "9" * 5000,
    "1_0", "0x10", "0b2", "1e", "--1", "1,5", "3.0", "1e-4", "१२", "1 2",
)  # fmt: skip
WORDS = (
    '""', "null", "~", "true", "no", "on", "'1'", "' '", "a" * 20_000, "Ünïcödé", "名前", "😀",
    r'"\e[31mred\e[0m"', r'"a\0b"', r'"\n\nsparring: error: no\n"', r'"\a\b\r"', '"\\u202Eabc"',
    '"<script>alert(1)</script>"', "$(touch x)", "`id`", "%s%n", "../../etc/passwd", "/dev/zero",
    "${HOME}", "{{7*7}}", r'"\uD800"', "2026-01-01", "1:30", "=", "<<", "!x", "@", "%", "&", "*x",
)  # fmt: skip
NESTED = (
    "{}", "[]", "{a: 1}", "[1, 2]", "[[]]", "[null]", "{name: {name: {name: x}}}", "[{a: [b]}]",
    "{1: 2}", "{null: 1}", "{? [a] : b}", "{{a: b}: c}", "[a, {b: c}]", "{'': 1}", "[true, 1, x]",
)  # fmt: skip
BROKEN = (
    "[" * 3000, "{a: " * 3000, "[" * 40 + "]" * 40, "!!python/object/apply:os.system [id]",
    "!!python/name:os.system", "!!binary x", "!!set {a}", "!!timestamp x", "!!int x", "!!float ''",
    "!!bool x", "!!map 3", "&a [*a]", "&a {b: *a}", "*nowhere", "'open", '"open', "[1, 2", "{a: 1",
    "a: b: c", "- a\n- b", "--- 1\n--- 2", "%YAML 9.9\n--- a", "\tx", "\0", "\x1b[31m", "\x07",
    "&a [&b [&c [1, 1], *c, *c], *b, *b]", "<<: *x", "{<<: 3}", "{<<: [1]}", "? ", ": ", "|\n x",
    "{a: 1, a: 2}", "{<<: &a {<<: *a}}", "@x", "`x", "!<x> y", "\x85", "\u2028", "\ufeff1",
)  # fmt: skip
PATHS = (
    "nowhere", "", ".", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "a" * 300, "a/" * 3000,
    "pipe", "empty", "binary", "loop", "photos", "notes.txt", "no\nline", "no\x1b[31mcolour",
    "~nobody/x", "hf://x/y", "http://[bad", "zip://a::b", "x.py:Y", ":", "notes.txt:f", "..",
    "\udce9", "photos/0.png", "*.yaml", "[", "**/*", "runs/digits",
)  # fmt: skip


@dataclass
class Case:
    """One command line, with the files that it needs.

    Attributes:
        kind: Of mutation; the row of the table.
        words: After `sparring`.
        files: Written before, by name.
        refused: What the error must name; None where a good end is good too.
    """

    kind: str
    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    refused: str | None = None


def _train(rng: random.Random, config: str, *overrides: str) -> list[str]:
    return ["train", config, *overrides, *(["--dry-run"] if rng.random() < 0.7 else [])]


def _base(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A good config: its name and its mapping, with all leaves written out half of the time."""
    name = rng.choice(sorted(TINY))
    raw = yaml.safe_load(TINY[name].replace("1e-4", "0.0001"))
    if rng.random() < 0.5:
        objective = rng.choice(["plain", *objectives()])
        raw["objective"] = {"name": objective}
    return name, raw


def _whole(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with every leaf written out."""
    place = folder / "whole.yaml"
    place.write_text(yaml.safe_dump(raw))
    return yaml.safe_load(dump(resolve(place)))


def _places(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key of a tree."""
    if not isinstance(tree, dict):
        return []
    return [
        place for key, value in tree.items()
        for place in ((*above, key), *_places(value, (*above, key)))
    ]  # fmt: skip


def _inside(tree: Any, place: Sequence[Any]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


def _misspelt(rng: random.Random, word: str) -> str:
    i = rng.randrange(len(word))
    changed = rng.choice(
        [word[:i] + word[i + 1 :], word[:i] + "q" + word[i:], word + "s", word.upper()]
    )
    return changed if changed and changed != word else f"{word}x"


def _known_keys() -> set[str]:
    found: set[str] = {"base", "objectives", "name"}
    models: list[type[BaseModel]] = [
        RunConfig,
        *(section_of_method(method, name) for name, method in objectives().items()),
    ]
    for model in models:
        for key, one in model.model_fields.items():
            found.add(key)
            for inner in (one.annotation, *getattr(one.annotation, "__args__", ())):
                if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in models:
                    models.append(inner)
    return found


KNOWN = _known_keys()


def _text(tree: Any) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()


RAW = "RAW:"


def _raw_text(tree: Any, place: Sequence[Any], value: str) -> bytes:
    """The tree with `value` at `place` as it stands, not quoted."""
    _inside(tree, place[:-1])[place[-1]] = RAW
    return _text(tree).replace(b"'RAW:'", value.encode("utf-8", "surrogatepass"), 1)


def unchanged(rng: random.Random, folder: Path) -> Case:
    _, raw = _base(rng)
    raw["objective"] = {"name": "plain"}
    return Case("", ["train", "config.yaml", "--dry-run"], {"config.yaml": _text(raw)}, "")


def key_deleted(rng: random.Random, folder: Path) -> Case:
    _, raw = _base(rng)
    place = rng.choice(_places(raw))
    del _inside(raw, place[:-1])[place[-1]]
    return Case("", _train(rng, "config.yaml"), {"config.yaml": _text(raw)})


def key_misspelt(rng: random.Random, folder: Path) -> Case:
    _, raw = _base(rng)
    raw = _whole(raw, folder) if rng.random() < 0.7 else raw
    while True:
        place = rng.choice(_places(raw))
        section, word = _inside(raw, place[:-1]), _misspelt(rng, str(place[-1]))
        if word not in KNOWN and word not in section:
            break
    raw_section = dict(section)
    section.clear()
    section |= {word if key == place[-1] else key: value for key, value in raw_section.items()}
    named = None if place[-1] in ("_class_name",) else word
    if place[0] == "objectives" or place[-1] == "name":
        named = None  # a section without its name is another one, and says other things first
    return Case("", _train(rng, "config.yaml"), {"config.yaml": _text(raw)}, named)


def key_unknown(rng: random.Random, folder: Path) -> Case:
    _, raw = _base(rng)
    sections = [(), *(place for place in _places(raw) if isinstance(_inside(raw, place), dict))]
    place = rng.choice(sections)
    word = rng.choice(
        ["zzz", "_zzz", "lam2", "__class__", "model.network", "Zzz zz", "名", "eval", "-"]
    )
    _inside(raw, place)[word] = rng.choice([1, None, "x", {}, []])
    return Case("", _train(rng, "config.yaml"), {"config.yaml": _text(raw)}, word)


def key_twice(rng: random.Random, folder: Path) -> Case:
    name, _ = _base(rng)
    _, raw = name, yaml.safe_load(TINY[name])
    key = rng.choice(sorted(raw))
    text = TINY[name] + f"{key}: {{}}\n"
    if rng.random() < 0.5:
        text, key = TINY[name].replace("{max_train_steps: 2,", "{seed: 1, 'seed': 2,"), "seed"
    return Case("", _train(rng, "config.yaml"), {"config.yaml": text.encode()}, key)


def _value(pool: Sequence[str]) -> Callable[[random.Random, Path], Case]:
    def make(rng: random.Random, folder: Path) -> Case:
        _, raw = _base(rng)
        raw = _whole(raw, folder)
        places = [place for place in _places(raw) if rng.random() < 0.5 or len(place) > 1]
        place, value = rng.choice(places), rng.choice(pool)
        if rng.random() < 0.5:
            text = _raw_text(raw, place, value)
            return Case("", _train(rng, "config.yaml"), {"config.yaml": text})
        override = f"{'.'.join(map(str, place))}={value}"
        return Case("", _train(rng, "config.yaml", override), {"config.yaml": _text(raw)})

    return make


def value_near(rng: random.Random, folder: Path) -> Case:
    """A leaf of the right type with another value: what only the code behind the config refuses."""
    _, raw = _base(rng)
    raw = _whole(raw, folder)
    changed = 0
    while changed < rng.choice([1, 1, 2, 3]):
        place = rng.choice(
            [one for one in _places(raw) if one[0] in ("model", "objective", "data")]
        )
        section, key = _inside(raw, place[:-1]), place[-1]
        before = section[key]
        if isinstance(before, dict) or (key == "name" and rng.random() < 0.9):
            continue
        section[key] = _near(rng, before)
        changed += 1
    return Case("", _train(rng, "config.yaml"), {"config.yaml": _text(raw)})


def _near(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([0, 1, 2, 3, 5, 7, -1, 33, 1000, value + 1, value * 2])
    if isinstance(value, float):
        return rng.choice([0.0, 1.0, 1e-12, 1e12, -value, value * 2, 0.5])
    if isinstance(value, list) and value:
        return rng.choice([value[:-1], value * 2, value[::-1], [_near(rng, value[0]), *value[1:]]])
    if isinstance(value, str):
        pool = [
            "sample",
            "epsilon",
            "DDIMScheduler",
            "UNet2DModel",
            "MLP",
            "plane",
            "digits",
            "all",
            "x",
        ]
        return rng.choice(
            [*pool, "Transformer2DModel", "AutoencoderKL", "EDMEulerScheduler", "held_out"]
        )
    return rng.choice([None, 0, 1, 3, 0.5, True, "x", [], [1], {"a": 1}])


def network(rng: random.Random, folder: Path) -> Case:
    """Arguments of diffusers' classes, with values that only they can refuse."""
    import diffusers

    name = rng.choice(
        ["UNet2DModel", "DDPMScheduler", "FlowMatchEulerDiscreteScheduler", "DiTTransformer2DModel"]
    )
    part = "scheduler" if name.endswith("Scheduler") else "network"
    raw = yaml.safe_load(TINY["digits"].replace("1e-4", "0.0001"))
    if name.startswith("Flow"):
        raw["model"]["prediction_type"] = "flow_prediction"
        raw["model"]["scheduler"] = {"_class_name": name}
    if name.startswith("DiT"):
        raw["model"]["network"] = {"_class_name": name, "num_layers": 1, "attention_head_dim": 8}
    known = inspect.signature(getattr(diffusers, name)).parameters
    for key in rng.sample(sorted(known), rng.choice([1, 2])):
        raw["model"][part][key] = _near(rng, known[key].default)
    return Case("", _train(rng, "config.yaml"), {"config.yaml": _text(raw)})


def broken_text(rng: random.Random, folder: Path) -> Case:
    """The bytes of a file changed, with no regard for what they mean."""
    name, _ = _base(rng)
    text = bytearray(TINY[name].encode())
    how = rng.randrange(9)
    if how == 0:
        text = text[: rng.randrange(len(text))]
    elif how == 1:
        for _ in range(rng.randrange(1, 6)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    elif how == 2:
        lines = text.splitlines(keepends=True)
        rng.shuffle(lines)
        text = bytearray(b"".join(lines))
    elif how == 3:
        at = rng.randrange(len(text))
        text[at:at] = rng.choice(
            [b"\0", b"\t", b"\xff\xfe", b"\x1b[2J", b"\r", b"\xe9", b"---\n", b"&a *a "]
        )
    elif how == 4:
        text = bytearray(
            text.decode().encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "cp037"]))
        )
    elif how == 5:
        text = bytearray(text.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\t", b"\n ", b""])))
    elif how == 6:
        text += rng.choice(
            ["x: é".encode("latin-1"), b"---\na: 1\n", b"...\nx", b"#" * 1_100_000, b"}" * 99]
        )
    elif how == 7:
        at = rng.randrange(len(text))
        del text[at : at + rng.randrange(1, 40)]
    else:
        text = bytearray(rng.randbytes(rng.randrange(400)))
    return Case("", _train(rng, "config.yaml"), {"config.yaml": bytes(text)})


def bomb(rng: random.Random, folder: Path) -> Case:
    """What is small in the file and large, deep or endless in memory."""
    name, _ = _base(rng)
    letters, width = "abcdefghijklmnop", rng.randrange(5, 12)
    shape = rng.choice(["[{}]", "{{<<: [{}]}}", "{{k: [{}]}}"])
    lines = ["x: &a [1, 1]" if shape == "[{}]" else "x: &a {p: 1}"]
    for above, letter in pairwise(letters):
        inner = ", ".join([f"*{above}"] * width)
        lines.append(f"y{letter}: &{letter} {shape.format(inner)}")
    deep = rng.choice(
        ["[" * 900 + "]" * 900, "- " * 900 + "x", "? " * 900, "{a: " * 900 + "1" + "}" * 900]
    )
    loops = rng.choice(["&a {b: *a}", "&a [*a]", "&a {<<: *a}", "{b: &b {c: &c [*b, *c]}}"])
    text = rng.choice(
        [
            "\n".join(lines) + "\n",
            f"deep: {deep}\n" if deep[0] in "[{" else deep,
            f"loop: {loops}\n",
        ]
    )
    return Case(
        "", _train(rng, "config.yaml"), {"config.yaml": (text + TINY[name]).encode()}, "config.yaml"
    )


def bases(rng: random.Random, folder: Path) -> Case:
    """`base` that leads nowhere, back, or on and on."""
    name, _ = _base(rng)
    good = TINY[name].encode()
    how = rng.randrange(6)
    if how == 0:
        n = rng.randrange(1, 5)
        files = {f"{i}.yaml": f"base: {(i + 1) % n}.yaml\n".encode() for i in range(n)}
        return Case("", _train(rng, "0.yaml"), files, "leads back to itself")
    if how == 1:
        n = rng.choice([60, 2000])
        files = {f"{i}.yaml": f"base: {i + 1}.yaml\n".encode() for i in range(n)} | {
            f"{n}.yaml": good
        }
        return Case("", _train(rng, "0.yaml"), files, "base")
    if how == 2:
        value = rng.choice([*PATHS, "0.yaml", "config.yaml", "../../../etc/passwd"])
        raw = yaml.safe_dump({"base": value}).encode()
        return Case("", _train(rng, "config.yaml"), {"config.yaml": raw}, "")
    if how == 3:
        value = rng.choice([*NESTED, *NUMBERS, *BROKEN])
        return Case(
            "",
            _train(rng, "config.yaml"),
            {"config.yaml": b"base: " + value.encode() + b"\n" + good},
        )
    if how == 4:
        key = rng.choice(["seedd", "netwrk"])
        files = {"config.yaml": b"base: good.yaml\n", "good.yaml": good + f"{key}: 1\n".encode()}
        return Case("", _train(rng, "config.yaml"), files, key)
    files = {"config.yaml": b"base: good.yaml\ntraining: 3\n", "good.yaml": good}
    return Case("", _train(rng, "config.yaml"), files, "training")


def overrides(rng: random.Random, folder: Path) -> Case:
    """Words that look like key=value and are not, or not quite."""
    _, raw = _base(rng)
    key = ".".join(map(str, rng.choice(_places(raw))))
    value = rng.choice([*NUMBERS, *WORDS, *NESTED, *BROKEN])
    i = rng.randrange(len(key) + 1)
    word, refused = rng.choice([
        (key, key), (f"={value}", ""), (f".{key}=1", ""), (f"{key}.=1", ""), (f"{key[:i]}..{key[i:]}=1", ""),
        (f"{key}=={value}", None), (f" {key}=1", ""), (f"{key} =1", ""), (f"{key}={value}", None),
        (f"{key}.zzz=1", ""), ("zzz=1", "zzz"), (f"{'a.' * 2000}b=1", ""), ("=", ""), ("==", ""), ("...=1", ""),
        (f"{key.upper()}=1", ""), (f"{key}\x1b[31m=1", ""), (f"{key}=\x1b[31m", None), ("\udce9=1", ""),
        ("training=3", "training"), ("model=null", "model"), ("objective=[plain]", "objective"),
        ("objective.name.x=1", "objective"), ("objective=", None), ("objective=plian", "plian"),
        ("objectives=3", "objectives"), ("objectives.plain=3", "objectives.plain"), ("base=x.yaml", "base"),
        ("objectives.plain.lam=3", "lam"), ("training.seed=1:", None), ("data.name=[digits]", "data.name"),
    ])  # fmt: skip
    words = [word] * rng.choice([1, 1, 1, 2, 50])
    if rng.random() < 0.3:
        words = ["training.seed=1", *words, "training.seed=2"]
    return Case(
        "",
        ["train", "config.yaml", "--dry-run", "--", *words],
        {"config.yaml": _text(raw)},
        refused,
    )


GOOD = {
    "sample": ["runs/digits", "-o", "out", "-n", "4"],
    "evaluate": ["runs/digits", "-o", "out"],
    "attack": ["runs/plane", "attack.n_samples=32", "attack.n_seeds=1", "attack.n_attack_steps=1", "-o", "out"],
    "contaminate": ["photos", "-o", "out"],
    "inspect": ["photos", "-o", "out"],
    "clean": ["photos", "runs/digits", "-o", "out", "--sigma", "0.1"],
    "report": ["runs/digits", "runs/plane", "-o", "out.html"],
    "demo": ["--output-dir", "out", "training.max_train_steps=0"],
    "train": ["runs/digits/config.yaml", "training.output_dir=out"],
}  # fmt: skip
"""Of each command, words that do something small."""


def options(rng: random.Random, folder: Path) -> Case:
    """Every option of every command, with values that it does not take."""
    name = rng.choice(sorted(GOOD))
    command = commands.find(name)
    assert command is not None
    given = [param for param in command.params if isinstance(param, click.Option)]
    option = rng.choice(given)
    flag = rng.choice(option.opts)
    small = [value for value in NUMBERS if value not in ("1e308", "2147483648")]
    value = rng.choice([*small, *PATHS, *WORDS])
    how = rng.randrange(5)
    words = [name, *GOOD[name]]
    if how == 0:
        words += [flag]  # a value is missing, or a switch is on
    elif how == 1:
        words += [rng.choice([f"{flag}x", "--zzz", "-z", "---", "--=3", f"{flag}=", "-"])]
    elif how == 2 and name != "demo":  # which would begin
        del words[rng.randrange(1, len(words))]
    else:
        words += [flag] if option.is_flag else [flag, value]
    return Case("", words)


def places(rng: random.Random, folder: Path) -> Case:
    """Every argument that names a file or folder, with others than it means."""
    name = rng.choice(sorted(GOOD))
    words = [name, *GOOD[name]]
    named = [i for i, word in enumerate(words) if i and word.startswith(("runs", "photos", "out"))]
    words[rng.choice(named)] = rng.choice(PATHS)
    return Case("", words)


def settings(rng: random.Random, folder: Path) -> Case:
    """KEY=VALUE for the commands beside train: other sections, unknown keys, wrong values."""
    name = rng.choice(["sample", "evaluate", "attack", "contaminate", "inspect", "clean", "demo"])
    sections = [
        key for key, one in RunConfig.model_fields.items() if key not in ("model", "objective")
    ]
    section = rng.choice([*sections, "attack", "model", "zzz"])
    model = RunConfig.model_fields.get(section)
    known = getattr(model and model.annotation, "model_fields", {"x": None})
    key = rng.choice(sorted(known))
    small = [value for value in NUMBERS if value not in ("1e308",)]
    value = rng.choice([*small, *WORDS, *NESTED, *BROKEN, *PATHS])
    misspelt = rng.random() < 0.4
    if misspelt:
        key = _misspelt(rng, key)
        misspelt = key not in known
    return Case(
        "", [name, *GOOD[name], "--", f"{section}.{key}={value}"], {}, "" if misspelt else None
    )


def damaged_run(rng: random.Random, folder: Path) -> Case:
    """A run folder of which one file is cut, flipped, emptied, or says other things."""
    run = folder / "runs" / rng.choice(["digits", "plane"])
    files = sorted(
        p
        for p in run.rglob("*")
        if p.is_file() and p.stat().st_size and not {"checkpoints", ".lock"} & set(p.parts)
    )
    file = rng.choice(files)
    content = bytearray(file.read_bytes())
    how = rng.randrange(6)
    if how == 0:
        content = content[: rng.randrange(len(content) + 1)]
    elif how == 1:
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif how == 2:
        content = bytearray(
            rng.choice([b"", b"null", b"[]", b"3", b'"x"', b"{}", b"[" * 100_000, b"\xff\xfe"])
        )
    elif how == 3:
        content = bytearray(rng.choice([
            b'{"_class_name": "os"}', b'{"a": NaN}', b"x: !!python/object/apply:os.system [id]\n",
            b"{a: &a [*a]}", b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        ]))  # fmt: skip
    elif how == 4 and file.suffix in (".json", ".yaml", ".jsonl"):
        quoted = content.decode().split('"')
        quoted[rng.randrange(len(quoted))] = rng.choice(
            ["\x1b[31m", "9" * 30, "../../x", "<b>", ""]
        )
        content = bytearray('"'.join(quoted).encode())
    else:
        content = bytearray(
            content.replace(b"1", rng.choice([b"-1", b"null", b'"x"', b"99999", b"[]"]))
        )
    name = str(file.relative_to(folder)).replace("runs/", "damaged/")
    words = rng.choice([
        ["sample", f"damaged/{run.name}", "-n", "2", "-o", "out"], ["report", f"damaged/{run.name}", "-o", "out.html"],
        ["evaluate", f"damaged/{run.name}", "-o", "out"], ["train", f"damaged/{run.name}/config.yaml", "--dry-run"],
    ])  # fmt: skip
    return Case("", words, {name: bytes(content)})


def shipped(rng: random.Random, folder: Path) -> Case:
    """A config of configs/, with one leaf wrong."""
    file = rng.choice(sorted(CONFIGS.glob("*.yaml")))
    rows = [f"row={row}" for row in bundled()[file.stem]["rows"]]
    row = [rng.choice(rows)] if rows else []
    raw, _, _ = chosen_row(file, row)
    place = rng.choice([place for place in _places(raw) if len(place) > 1])
    key = ".".join(map(str, place))
    if rng.random() < 0.5:
        key = ".".join([*map(str, place[:-1]), f"{place[-1]}q"])
        named = (
            None if place[0] == "objectives" or str(place[-1]) == "_class_name" else f"{place[-1]}q"
        )
        return Case("", ["train", str(file), *row, f"{key}=1", "--dry-run"], {}, named)
    value = rng.choice([*NUMBERS, *WORDS, *NESTED, *BROKEN])
    return Case("", ["train", str(file), *row, "--dry-run", f"{key}={value}"])


KINDS: dict[str, Callable[[random.Random, Path], Case]] = {
    "unchanged": unchanged,
    "key deleted": key_deleted,
    "key misspelt": key_misspelt,
    "key unknown": key_unknown,
    "key given twice": key_twice,
    "value: number": _value(NUMBERS),
    "value: text": _value(WORDS),
    "value: nested": _value(NESTED),
    "value: broken YAML": _value(BROKEN),
    "value: path": _value([path for path in PATHS if path.isprintable()]),
    "value: another of its type": value_near,
    "arguments of diffusers": network,
    "broken text": broken_text,
    "YAML bomb": bomb,
    "base": bases,
    "override": overrides,
    "option": options,
    "path": places,
    "KEY=VALUE of other commands": settings,
    "damaged run folder": damaged_run,
    "shipped config, one leaf": shipped,
}


def case_of(seed: int, i: int, folder: Path, kinds: Sequence[str] = tuple(KINDS)) -> Case:
    """Case i; the kinds take turns."""
    kind = kinds[i % len(kinds)]
    case = KINDS[kind](random.Random(f"{seed} {i}"), folder)
    case.kind = kind
    return case


def prepare(folder: Path) -> None:
    """The scratch folder that every case starts from: two runs, photos, odd files."""
    import numpy as np
    from PIL import Image

    (folder / "photos").mkdir(parents=True)
    for i in range(6):
        pixels = np.random.RandomState(i).randint(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{i}.png")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "empty").write_bytes(b"")
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "notes.txt").write_text("a note\n")
    for name in ("digits", "plane"):
        (folder / f"{name}.yaml").write_text(TINY[name])
        with _inside_folder(folder):
            told = _invoke(["train", f"{name}.yaml", "objective=plain"])
        if told.exit_code != 0:
            raise RuntimeError(told.output)


@contextmanager
def _inside_folder(folder: Path) -> Iterator[None]:
    before, argv = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["sparring"]
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = argv


class Hangs(BaseException):
    """Longer than SECONDS; no `except Exception` may swallow it."""


def _alarm(*_: Any) -> None:
    raise Hangs


def _invoke(words: list[str]) -> Any:
    return CliRunner().invoke(cli.main, words)


def run_case(case: Case, folder: Path, *, real: bool = False) -> tuple[str, str]:
    """One case in a copy of the scratch folder: "done" or "refused" or "FAILED", and the line."""
    work = folder.with_name("work")
    if work.exists():
        shutil.rmtree(work)
    shutil.copytree(
        folder, work, symlinks=True, ignore=shutil.ignore_patterns("pipe", "whole.yaml")
    )
    os.mkfifo(work / "pipe")
    if any(name.startswith("damaged/") for name in case.files):
        shutil.copytree(work / "runs", work / "damaged")
    for name, content in case.files.items():
        (work / name).write_bytes(content)
    if real:
        code, error, trouble = _as_command(case, work)
    else:
        code, error, trouble = _in_process(case, work)
    line = error.splitlines()[-1] if error.strip() else ""
    if trouble:
        return "FAILED", trouble
    if code == 0:
        ok = case.refused is None or case.kind == "unchanged"
        return ("done", line) if ok else ("FAILED", f"accepted, should name {case.refused!r}")
    if case.kind == "unchanged":
        return "FAILED", line
    return _refusal(case, code, error, line)


def _refusal(case: Case, code: int, error: str, line: str) -> tuple[str, str]:
    """Whether this is how an error looks."""
    errors = [one for one in error.split("\n") if one.startswith("sparring: error: ")]
    if code != 2 or errors != [line]:
        return "FAILED", f"exit code {code}: {error[-300:]!r}"
    if "Traceback" in error or len(line) > LONGEST_LINE:
        return "FAILED", f"{len(line)} characters: {line[:300]!r}"
    if any(unicodedata.category(one) in ("Cc", "Cs") for one in line) or "\u202e" in line:
        return "FAILED", f"control characters: {line!r:.300}"
    if case.refused and case.refused not in line:
        return "FAILED", f"does not name {case.refused!r}: {line[:300]}"
    return "refused", line


def _in_process(case: Case, work: Path) -> tuple[int, str, str]:
    from sparring.commands.train import run as train

    def no_loop(*_: Any, **__: Any) -> dict[str, Any]:
        return {"n_steps": 0, "train_seconds": 0.0}

    real_train, train.train = train.train, no_loop
    before = signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(SECONDS)
    try:
        with _inside_folder(work):
            told = _invoke(case.words)
    except Hangs:
        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        return 1, "", f"hangs in {where.filename}:{where.lineno}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        train.train = real_train
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        last = traceback.extract_tb(told.exc_info[2])
        own = [one for one in last if "/sparring/" in one.filename][-1]
        reason = " ".join(str(told.exception).split())[:200]
        return (
            1,
            "",
            (
                f"{type(told.exception).__name__} at {Path(own.filename).name}:{own.lineno} ({reason})"
            ),
        )
    return told.exit_code, told.stderr, ""


def _as_command(case: Case, work: Path) -> tuple[int, str, str]:
    words = [sys.executable, "-m", "sparring", *case.words]
    source = Path(cli.__file__).parents[1]  # the same sparring as here
    try:
        told = subprocess.run(
            words,
            cwd=work,
            capture_output=True,
            timeout=120,
            check=False,
            env=os.environ | {"PYTHONPATH": str(source)},
        )
    except subprocess.TimeoutExpired:
        return 1, "", "hangs"
    return told.returncode, told.stderr.decode("utf-8", "replace"), ""


def can_be_typed(case: Case) -> bool:
    """Whether the system passes these words on to a command."""
    return not any("\0" in word for word in case.words) and sum(map(len, case.words)) < 100_000


def campaign(
    n: int,
    seed: int,
    n_real: int = 0,
    first: int = 0,
    kinds: Sequence[str] = tuple(KINDS),
    say: Callable[[str], None] = print,
    *,
    tell_all: bool = False,
) -> dict[str, Counter[str]]:
    """Runs n cases; the counts of each kind. What fails is said at once, with its words."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "start"
        prepare(folder)
        todo = [(i, False) for i in range(first, first + n)] + [(i, True) for i in range(n_real)]
        for i, real in todo:
            case = case_of(seed, i, folder, kinds)
            if real and not can_be_typed(case):
                continue
            began = time.monotonic()
            outcome, line = run_case(case, folder, real=real)
            counts[case.kind][outcome] += 1
            counts[case.kind]["slowest"] = max(
                counts[case.kind]["slowest"], int(1000 * (time.monotonic() - began))
            )
            if outcome == "FAILED" or tell_all:
                words = " ".join(
                    word if len(word) < 80 else f"{word[:80]}..." for word in case.words
                )
                say(f"case {i} ({case.kind}): {words!r}\n    {outcome}: {line}")
    return counts


def table(counts: dict[str, Counter[str]]) -> str:
    """Markdown: a row for each kind."""
    lines = [
        "| kind | cases | ended well | one line | failed | slowest |",
        "|---|---|---|---|---|---|",
    ]
    total: Counter[str] = Counter()
    for kind, each in counts.items():
        if not each:
            continue
        lines.append(_row(kind, each))
        total += Counter({key: value for key, value in each.items() if key != "slowest"})
    total["slowest"] = max(each["slowest"] for each in counts.values())
    return "\n".join([*lines, _row("**all**", total)])


def _row(kind: str, each: Counter[str]) -> str:
    done, refused, failed = (each[key] for key in ("done", "refused", "FAILED"))
    n = done + refused + failed
    return (
        f"| {kind} | {n:,} | {done:,} | {refused:,} | {failed} | {each['slowest'] / 1000:.1f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=2000, help="cases in this process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=int, default=0, help="so many as commands of their own too")
    parser.add_argument("--kind", choices=list(KINDS), help="only this one")
    parser.add_argument("--lines", action="store_true", help="print what was said in each case")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    args = parser.parse_args()
    began = time.monotonic()
    kinds = tuple(KINDS) if args.kind is None else (args.kind,)
    counts = campaign(args.n, args.seed, args.real, args.first, kinds, tell_all=args.lines)
    print(table(counts))
    print(f"\nsparring {__version__}, seed {args.seed}, {time.monotonic() - began:.0f} s")
    sys.exit(any(each["FAILED"] for each in counts.values()))


if __name__ == "__main__":
    main()
