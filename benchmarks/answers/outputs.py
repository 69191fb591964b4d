"""Results of several commands in one place: is anything replaced that another command made?

The right answer follows from who wrote which file: what another model or other settings made is
there afterwards, byte for byte, and the same command given again is never refused.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from known_answers import Verdict, right, wrong

CONFIG = """
model: {network: {_class_name: MLP, width: 8, n_blocks: 1}}
data: {name: plane, dim: 3, n_points: 32}
sampling: {num_inference_steps: 2, n_images: 4, batch_size: 64}
evaluation: {n_samples: 16, n_resamples: 2}
"""
SEPARATED = ("lr/1", "lr-1", "lr_1", "lr 1", "lr.1", "lr--1", "lr/1/", "LR/1", "lr/-1",
             "lr\u2044 1", "\u00e9/1", "a=b", "run #2")  # fmt: skip


@cache
def _model() -> Path:
    """A run of a tiny network, untrained; copied by the cases."""
    import torch

    from sparring.diffusion.denoiser import Denoiser
    from sparring.diffusion.schedules import schedule_from_config
    from sparring.models.networks import MLP
    from sparring.models.pretrained import Model, save

    torch.manual_seed(0)
    folder, scheduler = Path(mkdtemp()) / "run", {"_class_name": "DDPMScheduler"}
    denoiser = Denoiser(MLP(3, width=8, n_blocks=1), schedule_from_config(scheduler))
    save(folder, Model(denoiser, scheduler, (3,), None), "card")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def _runs(rng: random.Random, folder: Path, n: int) -> list[str]:
    """Runs whose paths differ in little."""
    names = rng.sample(list(dict.fromkeys(name.rstrip("/") for name in SEPARATED)), n)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(_model(), folder / name, dirs_exist_ok=True)
    return [str(folder / name) for name in names]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _several(
    folder: Path, calls: Sequence[tuple[Any, Callable[[], Any]]], may_refuse: bool
) -> Verdict:
    """Calls one after the other, each with the key of who writes; then the first once more."""
    from sparring.support.errors import UserError

    owner: dict[str, Any] = dict.fromkeys(_files(folder), "before")
    done: set[Any] = set()
    refused = 0
    for key, call in calls:
        before = _files(folder)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                call()
        except UserError as error:
            if "--overwrite" not in str(error):
                return wrong(f"refused without its flag: {error!s:.200}")
            if not may_refuse or key in owner.values():
                return wrong(f"the same command was refused: {error!s:.200}")
            if _files(folder) != before:
                return wrong(f"refused, and files changed: {error!s:.200}")
            refused += 1
            continue
        after = _files(folder)
        done.add(key)
        for path, content in before.items():
            if owner[path] != key and after.get(path) != content:
                return wrong(f"{path[len(str(folder)) :]} of {owner[path]} is lost to {key}")
        owner |= {path: key for path in after if path not in before or after[path] != before[path]}
    lost = done - set(owner.values())
    if lost:
        return wrong(f"nothing is left of {lost}")
    return right("refused" if refused else "read")


def names_of_models(rng: random.Random, folder: Path) -> Verdict:
    from sparring.commands.shared.files import as_file_name

    paths = _places(rng, folder)
    names = {path: as_file_name(path) for path in paths}
    if len({name.lower() for name in names.values()}) != len(paths):
        return wrong(f"one name for two: {names}")
    for path, name in names.items():
        again = rng.choice((f"{path}/", path.replace("/", "//", 1), f"{path}/../{Path(path).name}"))
        if as_file_name(again) != name:
            return wrong(f"{again} has another name than {path}")
        if "/" in name or len(os.fsencode(name)) > 100:
            return wrong(f"{name!r} is no part of a file's name")
    return right("read")


def _places(rng: random.Random, folder: Path) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < 6:
        name = "".join(rng.choices("ab-/_. \u00e9\u753b", k=rng.randint(2, 90))).strip("/. ")
        path = os.path.normpath(folder / name)
        if name and all(len(os.fsencode(part)) < 200 for part in Path(path).parts):
            Path(path).mkdir(parents=True, exist_ok=True)
            found[path] = None
    return list(found)


def names_of_settings(rng: random.Random, folder: Path) -> Verdict:
    from sparring.commands.evaluate.figures import file_stem
    from sparring.config.read import resolve

    (folder / "config.yaml").write_text(CONFIG)
    config = resolve(folder / "config.yaml")

    def overrides() -> list[str]:
        keys = ("data.seed", "evaluation.seed", "evaluation.k", "evaluation.extractor", "data.dim")
        values = ("1", "2", "-1", "12", "a/b", "a-b", "a b", "A b", "x" * 200)
        return [f"{rng.choice(keys)}={rng.choice(values)}" for _ in range(rng.randint(0, 3))]

    def meant(words: list[str]) -> dict[str, str]:
        return {word.split("=", 1)[0]: word.split("=", 1)[1] for word in words}

    lists = [overrides() for _ in range(8)]
    for one in lists:
        for other in lists:
            names = [file_stem("ddim", config, words).lower() for words in (one, other)]
            if (names[0] == names[1]) != (meant(one) == meant(other)):
                return wrong(f"{one} and {other}: {names}")
    return right("read")


def samples(rng: random.Random, folder: Path) -> Verdict:
    from sparring.commands.sample.draw import sample_command

    models = _runs(rng, folder, 2)
    out = None if rng.random() < 0.5 else folder / "out"
    options: list[dict[str, Any]] = [{}, {"seed": 1}, {"n_images": 3}, {"eta": 0.5}, {"seed": 0}]
    calls = []
    for _ in range(4):
        model, told = rng.choice(models), rng.choice(options)
        is_own = told == {"seed": 0}  # what the run says itself
        key = (model, () if is_own else tuple(told.items()))
        calls.append((key, lambda m=model, t=told: sample_command(m, out, device="cpu", **t)))
    return _several(folder, calls, may_refuse=out is not None)


def evaluations(rng: random.Random, folder: Path) -> Verdict:
    from sparring.commands.evaluate.figures import evaluate_command

    models = _runs(rng, folder, 2)
    out = None if rng.random() < 0.5 else folder / "out"
    calls = []
    for _ in range(3):
        model = rng.choice(models)
        key, value = rng.choice(("data.seed", "evaluation.seed")), rng.choice("12")
        words = [f"{key}={value}"] * rng.randint(0, 1)
        calls.append((
            (model, tuple(words)), lambda m=model, w=words: evaluate_command([m], w, out),
        ))  # fmt: skip
    return _several(folder, calls, may_refuse=False)


def reports(rng: random.Random, folder: Path) -> Verdict:
    from sparring.commands.report import report_command

    models = _runs(rng, folder, 2)
    page = folder / rng.choice(("report.html", "my page #1.html"))
    calls = []
    for _ in range(3):
        runs = rng.sample(models, rng.randint(1, 2))
        title = rng.choice((None, "a title"))
        calls.append((
            (tuple(runs), title), lambda r=runs, t=title: report_command(r, page, t),
        ))  # fmt: skip
    return _several(folder, calls, may_refuse=True)


def strangers(rng: random.Random, folder: Path) -> Verdict:
    """A person's own files of the names that a command would write."""
    from sparring.commands.report import report_command
    from sparring.commands.sample.draw import sample_command

    (model,) = _runs(rng, folder, 1)
    out = folder / "mine"
    out.mkdir()
    names = ("samples.csv", "scatter.png", "samples.safetensors", "sampling.json", "00000.png")
    own = rng.choice((*names, "report.html", "notes.txt"))
    content = rng.choice((b"", b"my own", b"{}", b"[]", b'{"made_by": 3}', b"\xff\xfe"))
    (out / own).write_bytes(content)
    calls = {
        True: lambda: report_command([model], out / "report.html"),
        False: lambda: sample_command(model, out, device="cpu"),
    }
    from sparring.support.errors import UserError

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            calls[own == "report.html"]()
    except UserError as error:
        if own == "notes.txt" or own not in str(error):
            return wrong(f"{own}: {error!s:.200}")
        if [path.name for path in out.iterdir()] != [own] or (out / own).read_bytes() != content:
            return wrong(f"refused, and {own} changed")
        return right("refused")
    if (out / own).read_bytes() != content:
        return wrong(f"a person's {own} is replaced")
    return right("read") if own == "notes.txt" else wrong(f"written around a person's {own}")


KINDS = {
    "names of models": names_of_models,
    "names of settings": names_of_settings,
    "sample": samples,
    "evaluate": evaluations,
    "report": reports,
    "a person's own files": strangers,
}
