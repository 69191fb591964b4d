"""`sparring demo`: plain and robust training on noisy files, side by side, and what came out.

The digits are written to 8-bit files, most of them with noise, and audited as `sparring inspect`
does it. Then come three runs of the config digits, each in a process of its own with one thread,
at most as many at once as there are cores: plain and robust (`detail`) on these files, of which
they are told nothing, and plain on clean digits. All are measured against the clean digits. What
is finished is kept and a run that was interrupted goes on, so the command can be given again.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...config.files import BUNDLED
from ...config.read import resolve
from ...support.errors import UserError
from ...support.terminal import echo
from .side_by_side import EVALUATION_SECONDS, Run, how_to_go_on, is_finished, minutes, n_cores, work

CONFIG = "digits.yaml"
PHOTOS, AUDIT = "photos", "photos-report"
"""Folders in that of the demo: the noisy files, and what `sparring inspect` says of them."""
DIRT = ("contamination.sigma=[0.05,0.35]", "contamination.clip=null")
"""Beside the config's kind and rate: each image has noise of its own size, in 8 bits."""
RUNS = {  # longest first: that keeps two cores busy
    "robust": ("robust training (detail) on noisy files", "objective=detail"),
    "plain": ("plain training on noisy files", "objective=plain"),
    "clean": ("plain training on clean digits", "objective=plain"),
}
CLEAN_DIGITS = ("data.name=digits", "data.train_data_dir=null")
"""What all three are measured against."""
OWN = (
    "training.output_dir", "training.seed", "objective", "data.name", "data.train_data_dir",
    "contamination.seed",
)  # fmt: skip
"""Settings that the demo makes itself."""
SHOWN = ("plain", "robust", "clean")
REPORTED = (
    "frechet_distance",
    "frechet_distance_interval",
    "frechet_distance_of_reference",
    "empty_pixel_rms",
    "nearest_training_distance",
)
SHORTER = (
    "training.max_train_steps=1000",
    "training.learning_rate=1.4e-3",
    "sampling.scheduler=dpmsolver++",
    "sampling.num_inference_steps=20",
)
"""Settings of all runs beside the config's, whose 1,500 updates and 50 DDIM steps take longer."""
ATTACK = (
    "attack.kind=pgd",
    "attack.n_attack_steps=3",
    "attack.radii=[0.1,0.2]",
    "attack.n_samples=128",
    "attack.n_seeds=3",
    "sampling.num_inference_steps=10",
)
"""Of the curves of quality against radius: what a minute on two cores allows."""
QUICK = (
    "training.max_train_steps=240",
    "training.learning_rate=2e-3",
    "training.lr_warmup_steps=30",
    "sampling.num_inference_steps=12",
    "evaluation.n_samples=1000",
)
"""Settings of the short form's runs."""
QUICK_ATTACK = (*ATTACK, "attack.radii=[0.2]", "attack.n_seeds=2")
QUICK_SECONDS = 10.0
"""Of one command after training in the short form; for the estimate of the time left only."""
LONG = "This takes about four minutes on two idle cores; `sparring demo --quick` takes two.\n"
SHORT = (
    "This is the short form, about two minutes on two idle cores: a quarter of the updates, fewer\n"
    "samples, a coarser attack. Its figures are rougher than those of `sparring demo`.\n"
)
FIRST_GUESS = {"robust": 0.10, "plain": 0.09, "clean": 0.09}
"""Seconds per step before any was measured; for the first estimate of the time left only."""


def demo_command(
    output_dir: Path, seed: int = 0, overrides: Sequence[str] = (), *, quick: bool = False
) -> dict[str, Any]:
    """Make files dirty and audit them; train, evaluate, attack, report.

    Args:
        output_dir: Holds the files, their audit, the three runs, report.html and summary.json.
        seed: Of training and of the contamination.
        overrides: `key=value` for all three runs; contamination.* for the files.
        quick: Whether to train, sample and attack less, see QUICK.

    Returns:
        What summary.json holds.

    Raises:
        UserError: if a setting is wrong, another demo is in the folder, or a run fails.
    """
    began = time.monotonic()
    runs, attacks = _plan(output_dir, seed, list(overrides), quick)
    n_slots = max(1, min(len(runs), n_cores()))
    echo(
        "Files of digits, most of them noisy: what does a diffusion model learn from them?\n"
        + "".join(f"  {name:<8}{runs[name].title}\n" for name in SHOWN)
        + (SHORT if quick else LONG)
        + f"{n_slots} run(s) at a time, one thread each; everything lands in {output_dir}"
    )
    found: list[Any] = []

    def make_files() -> None:
        write_photos(output_dir, seed, overrides)
        found.extend(_audit(output_dir))

    work(
        [*runs.values(), *attacks.values()],
        n_slots,
        lambda: _progress(runs, attacks, n_slots),
        prepare=make_files,
    )
    setting = {"seed": seed, "overrides": list(overrides), "quick": quick, "found": found}
    summary = _summary(runs, output_dir, setting, time.monotonic() - began)
    report = _report(output_dir, quick)
    _print_table(summary)
    if quick:
        echo(
            "These are rough figures of short runs. Their samples are still blurred, so an attack "
            "may\neven lower a distance. `sparring demo` makes the figures of whole runs."
        )
    echo(f"Took {minutes(time.monotonic() - began)}. Figures: {output_dir / 'summary.json'}")
    echo(f"Report: {report}")
    return summary


def _plan(
    output_dir: Path, seed: int, overrides: list[str], quick: bool
) -> tuple[dict[str, Run], dict[str, Run]]:
    """Each model's training and evaluation, and its attack; settings are checked before all."""
    for override in overrides:
        if override.partition("=")[0] in OWN:
            raise UserError(
                f"override {override!r}: the demo sets this itself (see sparring demo -h)"
            )
    config_path = BUNDLED / CONFIG
    try:
        (output_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write in {output_dir} ({error.strerror}): choose another --output-dir"
        ) from error
    _dirt(config_path, seed, overrides)
    of_runs = [one for one in overrides if not one.startswith("contamination.")]
    photos = ["data.name=image_folder", f"data.train_data_dir={output_dir / PHOTOS}"]
    runs, attacks = {}, {}
    for name, (title, objective) in RUNS.items():
        folder = output_dir / name
        words = [
            objective,
            *(photos if name != "clean" else ()),
            "contamination.kind=none",  # what is dirty is so in the files
            *SHORTER,
            *(QUICK if quick else ()),
            *of_runs,
            f"training.seed={seed}",
            f"training.output_dir={folder}",
        ]
        config = resolve(config_path, words)
        how = how_to_go_on(folder, config, "demo run", "--output-dir")
        train = _command("train", config_path, *words, *how)
        evaluate = _command("evaluate", folder, *CLEAN_DIGITS)
        attack = _command("attack", folder, *(QUICK_ATTACK if quick else ATTACK), *CLEAN_DIGITS)
        seconds = QUICK_SECONDS if quick else EVALUATION_SECONDS
        runs[name] = Run(
            name,
            title,
            folder,
            output_dir / "logs" / f"{name}.txt",
            [train, evaluate],
            config.training.max_train_steps,
            seconds_after=seconds,
            waits=name != "clean",
            stage=int(is_finished(folder)),
        )
        attacks[name] = Run(
            f"{name}'s attack",
            f"the attack on {title}",
            folder,
            output_dir / "logs" / f"{name}-attack.txt",
            [attack],
            n_steps=0,
            seconds_after=seconds,
            after=runs[name],
        )
    for run in (*runs.values(), *attacks.values()):
        run.log.write_bytes(b"")
    return runs, attacks


def _command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sparring", *map(str, words)]


def _dirt(config_path: Path, seed: int, overrides: Sequence[str]) -> tuple[Any, Any]:
    """Sections data and contamination of the noisy files."""
    config = resolve(config_path, [*DIRT, *overrides, f"contamination.seed={seed}"])
    data, contamination = (
        one.model_dump(exclude_none=True) for one in (config.data, config.contamination)
    )
    return data, contamination


def write_photos(output_dir: Path, seed: int, overrides: Sequence[str]) -> None:
    """The noisy files, where they are not there yet.

    Raises:
        UserError: if the folder holds others.
    """
    from ...data.datasets import build_dataset
    from ...data.dirt.contaminated import contaminate
    from ...data.dirt.manifest import read_manifest
    from ..contaminate.copies import contaminate as write_copy

    folder = output_dir / PHOTOS
    data, contamination = _dirt(BUNDLED / CONFIG, seed, overrides)
    if not folder.is_dir():
        write_copy(data, contamination, folder, say=echo)
        return
    exact = contaminate(build_dataset(**data), {**contamination, "clip": False})
    header, _ = read_manifest(folder / "manifest.jsonl")
    if header["fingerprint"] != exact.fingerprint():
        raise UserError(
            f"{folder} holds files of a demo run with other settings: choose another --output-dir, "
            "or delete that folder"
        )


def _audit(output_dir: Path) -> list[Any]:
    """What `sparring inspect` finds in the files, a record per kind; its page stays."""
    from ..inspect.findings import dirt_lines, inspect_command

    folder, photos = output_dir / AUDIT, output_dir / PHOTOS
    if not (folder / "index.html").is_file():
        data = {"name": "image_folder", "train_data_dir": str(photos)}
        inspect_command(data, {"kind": "none"}, folder, echo)
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    echo(f"sparring inspect {photos} -o {folder}")
    for line in dirt_lines(found):
        echo(f"  {line}")
    return found["found"]


def _progress(runs: Mapping[str, Run], attacks: Mapping[str, Run], n_slots: int) -> str:
    parts = []
    for name in SHOWN:
        run, attack = runs[name], attacks[name]
        if run.stage == 0:
            state = "waiting" if run.process is None else f"{run.step}/{run.n_steps}"
        elif run.is_done and attack.is_done:
            state = "done"
        else:
            doing = {"evaluating": run, "attacking": attack}
            state = " and ".join(word for word in doing if doing[word].process) or "trained"
        parts.append(f"{name} {state}")
    left = time_left([*runs.values(), *attacks.values()], n_slots)
    return f"  {' | '.join(parts)} | about {minutes(left)} left"


def time_left(runs: list[Run], n_slots: int) -> float:
    """Seconds until all is done, with the runs that wait taking the first free place in turn."""
    measured = {run.name: run.seconds_per_step for run in runs}
    plain = measured.get("plain") or measured.get("clean") or 0.0
    measured |= {"plain": plain, "clean": measured.get("clean") or plain}  # the same work
    places = [0.0] * n_slots
    for run in sorted(runs, key=lambda run: run.process is None):
        first = places.index(min(places))
        places[first] += run.seconds_left(measured[run.name] or FIRST_GUESS.get(run.name, 0.0))
    return max(places)


def _summary(
    runs: dict[str, Run], output_dir: Path, setting: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """What was found, for people and for other programs."""
    models: dict[str, dict[str, Any]] = {}
    protocol: dict[str, Any] = {}
    attack_protocol: dict[str, Any] = {}
    for name in SHOWN:
        run = runs[name]
        newest = max(
            (run.folder / "evaluation").glob("*.json"), key=lambda path: path.stat().st_mtime
        )
        figures = json.loads(newest.read_text())
        training = json.loads((run.folder / "training.json").read_text())
        protocol = figures["protocol"]
        models[name] = {key: figures.get(key) for key in REPORTED} | {
            "train_seconds": training["train_seconds"],
            "n_steps": training["n_steps"],
            "n_parameters": training["n_parameters"],
            "title": run.title,
            "run": str(run.folder),
            "train_command": shlex.join(["sparring", *run.commands[0][3:]]),
        }
        models[name]["attack"], attack_protocol = _attack_curves(run.folder)
    plain, robust = models["plain"], models["robust"]
    summary = {
        "models": models,
        "robust_over_plain": {
            key: robust[key] / plain[key] if plain[key] and robust[key] is not None else None
            for key in ("frechet_distance", "empty_pixel_rms")
        },
        **setting,
        "protocol": protocol,
        "attack_protocol": attack_protocol,
        "n_cores": n_cores(),
        "total_seconds": round(seconds, 1),
        "version": __version__,
    }
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    (output_dir / "summary.json").write_text(text, encoding="utf-8")
    return summary


def _attack_curves(folder: Path) -> tuple[dict[str, list[dict[str, float]]], dict[str, Any]]:
    """Curve -> radius, mean and spread over seeds of the Frechet distance; and the protocol."""
    newest = max((folder / "attacks").glob("*.json"), key=lambda path: path.stat().st_mtime)
    keys = ("radius", "frechet_distance", "frechet_distance_std")
    found = json.loads(newest.read_text())
    curves = {
        curve["name"]: [{key: point[key] for key in keys} for point in curve["points"]]
        for curve in found["curves"]
    }
    return curves, found["protocol"]


def _report(output_dir: Path, quick: bool) -> Path:
    from ..report import report_command

    folders = [str(output_dir / name) for name in SHOWN]
    path = output_dir / "report.html"
    short = " (short form: rough figures)" if quick else ""
    report_command(folders, path, f"Plain and robust training on noisy files{short}")
    return path


def _print_table(summary: dict[str, Any]) -> None:
    echo(f"\n{'':<10}{'Frechet distance':>18}{'leftover noise':>16}{'training':>12}")
    for name, row in summary["models"].items():
        noise = row["empty_pixel_rms"]
        echo(
            f"{name:<10}{row['frechet_distance']:>18.1f}"
            f"{'-' if noise is None else format(noise, '.3f'):>16}"
            f"{minutes(row['train_seconds']):>12}"
        )
    floor = summary["models"]["plain"]["frechet_distance_of_reference"]
    echo(f"{'(floor)':<10}{floor:>18.1f}   distance of a resample of the clean digits\n")
    attacked = summary["models"]["plain"]["attack"]["pgd"]
    about = summary["attack_protocol"]
    echo(
        f"Frechet distance under attack of the sampling path ({about['steps']} steps, "
        f"{about['n_fake']} samples, {about['attack']['n_seeds']} seeds)"
    )
    echo(f"{'radius':<18}" + "".join(f"{point['radius']:>14g}" for point in attacked))
    for name, row in summary["models"].items():
        for curve, points in row["attack"].items():
            cells = "".join(f"{_with_spread(point):>14}" for point in points)
            echo(f"{name:<10}{curve:<8}{cells}")
    echo("")


def _with_spread(point: dict[str, float]) -> str:
    return f"{point['frechet_distance']:.1f} ± {point['frechet_distance_std']:.1f}"
