"""Settings as people type them, in YAML and on the command line; paths, text files, launchers.

The right answer follows from what a person meant by a hand-written table of what each setting
holds, never from the library's own parser.
"""

from __future__ import annotations

import codecs
import json
import os
import random
import string
from pathlib import Path
from typing import Any
from unittest.mock import patch

from known_answers import Verdict, refuses, right, wrong

MODEL = "model: {network: {_class_name: MLP, width: 8, n_blocks: 1}}\n"
PATHS = (
    "data.train_data_dir", "data.dataset_name", "data.data_files", "data.latents_cache",
    "training.output_dir", "training.resume_from_checkpoint", "training.fork_from",
    "evaluation.extractor", "evaluation.weights", "evaluation.statistics", "evaluation.clip",
    "evaluation.pick_score", "evaluation.hps", "evaluation.aesthetic",
    "evaluation.memorization_extractor", "evaluation.lpips_weights",
)  # fmt: skip
WORDS = (
    "data.image_column", "data.label_column", "data.caption_column", "data.dataset_config_name",
    "training.hub_model_id",
)  # fmt: skip
ALWAYS = ("data.split", "evaluation.reference")
"""Text that is never nothing: the word null is a word."""
COUNTS = ("training.max_train_steps", "training.train_batch_size", "sampling.n_images",
          "data.resolution", "evaluation.n_resamples")  # fmt: skip
NUMBERS = ("training.learning_rate", "training.adam_epsilon", "sampling.guidance_scale")
SWITCHES = ("training.use_ema", "data.random_flip", "training.compile", "evaluation.mismatch")
NOTHING = ("data.resolution", "training.checkpointing_steps", "sampling.clip_sample")
LISTS = ("sampling.prompts", "data.data_files")
TRAPS = (
    "no", "yes", "on", "off", "true", "False", "Null", "NULL", "~x", "007", "0x10", "0o17", "1e3",
    "1_000", "12:30", "2024", "2024-06-01", "1.", ".5", "+1", "-0", ".inf", ".nan", "=", "<<", "y",
    "#", " #", ": ", ":", "- ", "? ", "| ", "> ", "[", "]", "{", "}", "[a]", "{a: b}", "&", "*",
    "!", "%", "@", "`", "'", '"', "''", "\\", "\\n", ",", "a,b", " ", "\t", "=", "$HOME", "../",
    "\u00e9", "\u753b", "\U0001f986", "\u2028", "\x85", "\ufeff", "\u00a0", "null", "---", "...",
)  # fmt: skip


def _text(rng: random.Random) -> str:
    """A name as people have them, one in two with something that YAML would read otherwise."""
    pieces = [
        rng.choice(TRAPS) if rng.random() < 0.6 else "".join(rng.choices(string.ascii_letters, k=3))
        for _ in range(rng.randint(1, 4))
    ]
    return "".join(pieces)


def _leaf(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _config(folder: Path, text: str = "") -> Path:
    path = folder / "a.yaml"
    path.write_text(MODEL + text, encoding="utf-8")
    return path


def _same(came: Any, meant: Any) -> Verdict:
    alike = came == meant and type(came) is type(meant)
    return right("read") if alike else wrong(f"{came!r:.150} for {meant!r:.150}")


def _in_a_config(key: str, value: str) -> str:
    """YAML of one leaf, the value as it is written."""
    section, leaf = key.split(".")
    return f"{section}:\n  {leaf}: {value}\n"


def _meant(key: str, text: str) -> str | list[str] | None:
    """What a text setting is to be: the text, or nothing, or the list that brackets make."""
    return None if text == "null" and key not in ALWAYS else text


def text_on_the_command_line(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import dump, resolve

    key, text = rng.choice((*PATHS, *WORDS, *ALWAYS)), _text(rng)
    path = _config(folder)
    is_list = key == "data.data_files" and text.strip()[:1] == "[" and text.strip()[-1:] == "]"
    if (key in PATHS and text.startswith("~")) or is_list:
        text = f"./{text}"
    if text == "null" and key == "training.output_dir":
        text = "nullable"
    came = _leaf(resolve(path, [f"{key}={text}"]), key)
    verdict = _same(came, _meant(key, text))
    if verdict.reason:
        return verdict
    again = folder / "config.yaml"
    again.write_text(dump(resolve(path, [f"{key}={text}"])), encoding="utf-8")
    return _same(_leaf(resolve(again), key), came)


def texts_of_dirt(rng: random.Random, folder: Path) -> Verdict:
    """A watermark's words, and the folder of an outlier's images, in any order of overrides."""
    from sparring.config.read import resolve

    text = _text(rng)
    key = rng.choice(("text", "images.train_data_dir"))
    if key != "text" and (text.startswith("~") or text == "null"):
        text = f"./{text}"
    kind = "watermark" if key == "text" else "outlier"
    words = [f"contamination.kind={kind}", f"contamination.{key}={text}"]
    rng.shuffle(words)
    came: Any = resolve(_config(folder), words).contamination.model_extra
    for part in key.split("."):
        came = came.get(part) if came is not None else None
    return _same(came, None if text == "null" else text)


def text_quoted_in_yaml(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    key, text = rng.choice((*PATHS, *WORDS, *ALWAYS)), _text(rng)
    if key in PATHS and text.startswith("~"):
        text = f"./{text}"
    path = _config(folder, _in_a_config(key, json.dumps(text)))  # a JSON text is one of YAML
    return _same(_leaf(resolve(path), key), text)


PLAIN = {  # how it is written in YAML, and what that is: a text, None, or "refused"
    "photos": "photos", "no": "no", "yes": "yes", "off": "off", "2024-06-01": "2024-06-01",
    "12:30": "12:30", "photos #1": "photos", "photos#1": "photos#1", "a b": "a b", "é": "é",
    "C:\\photos\\new": "C:\\photos\\new", "'007'": "007", '"a: b"': "a: b", "'it''s'": "it's",
    "=": "=", "0b11": "0b11", "null": None, "": None, "2024": "refused", "007": "refused",
    "1e3": "refused", "true": "refused", "1.5": "refused", "0x10": "refused", "1_000": "refused",
    ".inf": "refused", "[a]": "refused", "{a: b}": "refused", "a: b": "refused", "*x": "refused",
    "@x": "refused", "%x": "refused", "!x y": "refused", "a\u2028b": "refused",
}  # fmt: skip


def plain_text_in_yaml(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    written = rng.choice(list(PLAIN))
    key = rng.choice(("data.train_data_dir", "evaluation.clip", "data.image_column"))
    path = _config(folder, _in_a_config(key, written))
    meant = PLAIN[written]
    if meant == "refused":
        return refuses(lambda: _leaf(resolve(path), key), "a.yaml")
    return _same(_leaf(resolve(path), key), meant)


def whole_numbers(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    key, value = rng.choice(COUNTS), rng.randint(1, 5000)
    spelled = {
        f"{value}": value, f"0{value}": value, f"00{value}": value, f"+{value}": value,
        f"0x{value:x}": value, f"0o{value:o}": value, f"{value:_}": value, f" {value} ": value,
        f"{value}  # so many": value, f"{value}.0": None, f"{value}e1": None, f"'{value}'": None,
        f"{value},0": None, f"{value}:30": None, "many": None, f"-{value}": None, "": None,
        f"[{value}]": None, f"0b{value:b}": None, "true": None, f"{value}k": None,
    }  # fmt: skip
    text = rng.choice(list(spelled))
    by_yaml = rng.random() < 0.5
    path = _config(folder, _in_a_config(key, text) if by_yaml else "")
    words = [] if by_yaml else [f"{key}={text}"]
    if text == "" and key == "data.resolution":
        return _same(_leaf(resolve(path, words), key), None)
    if spelled[text] is None:
        return refuses(lambda: _leaf(resolve(path, words), key), key)
    return _same(_leaf(resolve(path, words), key), spelled[text])


def other_numbers(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    key, power, digit = rng.choice(NUMBERS), rng.randint(1, 8), rng.randint(1, 9)
    spelled = {
        f"{digit}e-{power}": digit / 10**power, f"{digit}E-{power}": digit / 10**power,
        f"{digit}.0e-0{power}": digit / 10**power, f".{digit}": digit / 10,
        f"{digit}.": float(digit), f"0{digit}.5": digit + 0.5,
        f"{digit}e{power}": digit * 10.0**power,
        f"{digit}": float(digit), "fast": None, ".nan": None, ".inf": None, f"{digit},5": None,
        f"{digit} 000": None, f"{digit}/255": None, "yes": None, f"'{digit}.5'": None,
    }  # fmt: skip
    text = rng.choice(list(spelled))
    by_yaml = rng.random() < 0.5
    path = _config(folder, _in_a_config(key, text) if by_yaml else "")
    words = [] if by_yaml else [f"{key}={text}"]
    meant = spelled[text]
    if meant is None:
        return refuses(lambda: _leaf(resolve(path, words), key), key)
    came = _leaf(resolve(path, words), key)
    near = isinstance(came, float | int) and abs(came - meant) <= 1e-12 * abs(meant)
    return right("read") if near else wrong(f"{came!r} for {text!r}")


def switches_and_nothing(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    if rng.random() < 0.5:
        key = rng.choice(SWITCHES)
        said: dict[str, Any] = {
            "true": True, "false": False, "True": True, "FALSE": False, "yes": "refused",
            "no": "refused", "1": "refused", "on": "refused", "null": "refused",
            "'true'": "refused",
        }  # fmt: skip
    else:
        key = rng.choice(NOTHING)
        said = {"null": None, "~": None, "Null": None, "": None, "none": "refused", "''": "refused"}
    text = rng.choice(list(said))
    if said[text] == "refused":
        return refuses(lambda: _leaf(resolve(_config(folder), [f"{key}={text}"]), key), key)
    return _same(_leaf(resolve(_config(folder), [f"{key}={text}"]), key), said[text])


def lists_of_texts(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    key = rng.choice(LISTS)
    plain = ["a", "007", "no", "1e3", "2024-06-01", "null", "a barn", "true", "b.tar", "12:30"]
    quoted = {'"a, b"': "a, b", "'it''s'": "it's", '"a: b"': "a: b", "'#1'": "#1", '"[x]"': "[x]"}
    items = [rng.choice([*plain, *quoted]) for _ in range(rng.randint(1, 4))]
    meant = [quoted.get(item, item) for item in items]
    space = rng.choice(("", " ", "  "))
    return _same(
        _leaf(resolve(_config(folder), [f"{key}=[{f',{space}'.join(items)}]"]), key), meant
    )


def patterns_of_files(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    stem = "".join(rng.choices(string.ascii_lowercase, k=4))
    pattern = rng.choice((
        "*.tar", f"{stem}-*.parquet", "[0-9]*.tar", f"[ab]{stem}[0-9].tar", "{000..019}.tar",
        f"{stem}-{{a,b}}.tar", "?.tar", f"{stem}/**/*.parquet", f"hf://datasets/{stem}/x.parquet",
        f"https://host/~{stem}/{{0..9}}.tar", "[0-9][0-9]", f"{stem} #1/*.tar", f"{stem}: 2.tar",
    ))  # fmt: skip
    return _same(_leaf(resolve(_config(folder), [f"data.data_files={pattern}"]), "data.data_files"),
                 pattern)  # fmt: skip


def home(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    inside = "".join(rng.choices("ab ~#/", k=rng.randint(0, 5)))
    at = str(folder / rng.choice(("home", "my home", "home~")))
    key = rng.choice(PATHS)
    form = rng.choice(("~/", "~", "./~/", "x~/", "~nobody-here/"))
    text = form if form == "~" else form + inside
    by_yaml = rng.random() < 0.5
    path = _config(folder, _in_a_config(key, json.dumps(text)) if by_yaml else "")
    words = [] if by_yaml else [f"{key}={text}"]
    with patch.dict(os.environ, {"HOME": at}):
        if form == "~nobody-here/":
            return refuses(lambda: _leaf(resolve(path, words), key), key, "nobody-here")
        came = _leaf(resolve(path, words), key)
    meant = at + text[1:] if form in ("~", "~/") else text
    return _same(came, meant)


def leaves_of_a_network(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    said: dict[str, Any] = {
        "16": 16, "1e-3": 0.001, "[8, 16]": [8, 16], "null": None, "true": True, "no": "no",
        "word": "word", "'007'": "007", "007": 7, "{a: 1}": {"a": 1}, "word # why": "word",
        "12:30": "12:30", "2024-06-01": "2024-06-01",
    }  # fmt: skip
    text = rng.choice(list(said))
    word = f"model.network.leaf={text}"
    if rng.random() < 0.5 and "#" not in text:
        word = f"model={{network: {{_class_name: MLP, leaf: {text}}}}}"
    network = resolve(_config(folder), [word]).model.network or {}
    return _same(network.get("leaf"), said[text])


def objectives(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    text = _text(rng).replace("~", "t")
    if text == "null":
        text = "none"
    name = rng.choice(("consistency_distillation", "latent_consistency_distillation"))
    way = rng.randrange(3)
    if way == 0:
        run = resolve(_config(folder), [f"objective={name}", f"objective.teacher={text}"])
    elif way == 1:
        words = [f"objectives.{name}.teacher={text}", f"objective={name}"]
        run = resolve(_config(folder), words)
    else:
        said = {"name": name, "teacher": text}
        run = resolve(_config(folder, f"objective: {json.dumps(said)}\n"))
    return _same(_leaf(run, "objective.teacher"), text)


MINE = """
from typing import Any
from sparring.objectives.denoising import Plain


class Mine(Plain):
    def __init__(self, schedule, times=None, *, leaf: Any = None, **common):
        super().__init__(schedule, times, **common)
"""


def own_code(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    stem = _text(rng).replace("~", "t").replace("\n", "").lstrip("{ \t\u00a0\u2028\x85") or "x"
    name = f"{folder}/{stem}/mine.py:Mine"
    mine = Path(name.partition(":")[0])
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text(MINE, encoding="utf-8")
    run = resolve(_config(folder), [f"objective={name}", "objective.leaf=[1, 007]"])
    if (_leaf(run, "objective.leaf")) != [1, 7]:
        return wrong(f"leaf {run.objective!r:.100}")
    return _same(_leaf(run, "objective.name"), name)


ENCODINGS = (
    (b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
)  # fmt: skip


def prompt_files(rng: random.Random, folder: Path) -> Verdict:
    from sparring.support.text_files import read_lines

    mark, encoding = rng.choice(ENCODINGS)
    inner = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\u00a0\u3000,;#'\""
    prompts = [
        "a" + "".join(rng.choices(inner + string.ascii_letters + "\u00e9\U0001f986 ", k=6)) + "z"
        for _ in range(rng.randint(1, 5))
    ]
    end = rng.choice(("\n", "\r\n", "\r"))
    lines = [" " * rng.randint(0, 2) + prompt + " " * rng.randint(0, 2) for prompt in prompts]
    for _ in range(rng.randint(0, 3)):
        lines.insert(rng.randint(0, len(lines)), rng.choice(("", "  ", "\t")))
    file = folder / "prompts.txt"
    file.write_bytes(mark + (end.join(lines) + rng.choice(("", end))).encode(encoding))
    return _same(read_lines(file, "--prompt-file"), prompts)


def prompt_files_that_are_no_text(rng: random.Random, folder: Path) -> Verdict:
    from sparring.support.text_files import read_lines

    file = folder / "prompts.txt"
    content = rng.choice((
        b"", b" \n\t\n", codecs.BOM_UTF8, "a barn".encode("utf-16-be"), "\u00e9".encode("latin-1"),
        b"\x89PNG\r\n\x1a\n\x00\x00", codecs.BOM_UTF16_LE + b"a", b"a\x00b\n",
        b"a" + rng.randbytes(200) + b"\xff", None,
    ))  # fmt: skip
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    return refuses(lambda: read_lines(file, "--prompt-file"), "--prompt-file", "prompts.txt")


def config_files(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve

    mark, encoding = rng.choice(ENCODINGS)
    prompt = rng.choice(("ein H\u00e4uschen", "\u753b", "\U0001f986 am Teich", "plain"))
    end = rng.choice(("\n", "\r\n"))
    text = MODEL + f"sampling:\n  prompts: [{json.dumps(prompt, ensure_ascii=False)}]\n"
    (folder / "a.yaml").write_bytes(mark + text.replace("\n", end).encode(encoding))
    return _same(_leaf(resolve(folder / "a.yaml"), "sampling.prompts"), [prompt])


def launchers(rng: random.Random, folder: Path) -> Verdict:
    """What accelerate exports beside what the config says: taken, alike, or refused."""
    from sparring.config.read import resolve
    from sparring.training.launcher import as_launched

    asked = {
        "mixed_precision": rng.choice(("no", "bf16", "fp16")),
        "gradient_accumulation_steps": rng.choice((1, 2, 4)),
        "compile": rng.choice((False, True)),
    }
    default = {"mixed_precision": "no", "gradient_accumulation_steps": 1, "compile": False}
    own = {
        name: rng.choice((value, default[name]))
        for name, value in asked.items()
        if rng.random() < 0.5
    }
    told = {
        "ACCELERATE_MIXED_PRECISION": asked["mixed_precision"],
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": str(asked["gradient_accumulation_steps"]),
        "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR" if asked["compile"] else "NO",
    }
    path = _config(folder, f"training: {json.dumps(own)}\n")
    differ = [name for name, value in own.items() if asked[name] not in (default[name], value)]
    with patch.dict(os.environ, told):
        if differ:
            return refuses(lambda: as_launched(resolve(path)), "accelerate asks for", "training.")
        training = as_launched(resolve(path)).training
    for name, value in asked.items():
        meant = value if value != default[name] else own.get(name, value)
        if getattr(training, name) != meant:
            return wrong(f"{name} is {getattr(training, name)!r}, meant {meant!r}")
    return right("read")


def launchers_that_ask_for_more(rng: random.Random, folder: Path) -> Verdict:
    from sparring.config.read import resolve
    from sparring.training.launcher import as_launched

    name, value = rng.choice((
        ("ACCELERATE_MIXED_PRECISION", "fp8"), ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_MEGATRON_LM", "true"), ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
        ("ACCELERATE_DYNAMO_BACKEND", rng.choice(("EAGER", "AOT_EAGER", "ONNXRT", "TENSORRT"))),
    ))  # fmt: skip
    with patch.dict(os.environ, {name: value}):
        return refuses(lambda: as_launched(resolve(_config(folder))), "accelerate asks")


KINDS = {
    "text, KEY=VALUE": text_on_the_command_line,
    "text of dirt, KEY=VALUE": texts_of_dirt,
    "text, quoted in YAML": text_quoted_in_yaml,
    "text, plain in YAML": plain_text_in_yaml,
    "whole numbers": whole_numbers,
    "other numbers": other_numbers,
    "switches and null": switches_and_nothing,
    "lists of texts": lists_of_texts,
    "patterns of files": patterns_of_files,
    "~ in paths": home,
    "leaves of a network": leaves_of_a_network,
    "leaves of an objective": objectives,
    "own code": own_code,
    "prompt files": prompt_files,
    "prompt files that are no text": prompt_files_that_are_no_text,
    "config files of any editor": config_files,
    "accelerate beside the config": launchers,
    "accelerate asks for more": launchers_that_ask_for_more,
}
