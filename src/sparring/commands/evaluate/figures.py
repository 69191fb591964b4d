"""`sparring evaluate MODEL [MODEL ...] [KEY=VALUE ...]`: sample models and measure the samples.

The reference is clean, whatever the model was trained on. It is the data of the model's own run
(split evaluation.reference) or that of `data.*` overrides; sections sampling and evaluation come
from the run too, and are overridden the same way. Models whose figures could not be compared are
refused before anything is sampled.

Samples are drawn and looked at in parts, which are kept: see evaluation.parts for what that is good
for, and sweep.py for many samplers at once.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...config.schema import RunConfig
from ...evaluation.evaluate import look, measure, prepare
from ...evaluation.protocol import require_alike
from ...evaluation.store.cached_figures import code_key, kept_or_measured
from ...evaluation.store.reference import Reference, Settings
from ...evaluation.store.statistics import claims_of
from ...evaluation.store.tensor_tables import Parts, Processes, prune
from ...models.latents import decode
from ...sampling.images import grid
from ...sampling.sample import sample
from ...sampling.schedulers import name_in_files
from ...support.cache import cache_folder, key_of
from ...support.errors import UserError, one_line_errors
from ...support.terminal import printable
from ..shared.device import default_device
from ..shared.files import (
    as_file_name,
    check_outside,
    check_writable,
    folder_in,
    replace_file,
    replace_json,
    told_in_words,
)
from .diagnostics import diagnostics_lines, field_diagnostics
from .memorization import KEYS, memorization_lines, pairs_picture
from .mismatch import mismatch_curves, mismatch_lines
from .plan import Plan, kept_folder, labels_of, plan_of
from .proximal import proximal_of
from .sweep import combinations, sweep_lines, sweep_picture

log = logging.getLogger(__name__)

N_IN_GRID = 64
FOLDER = "evaluation"


def evaluate_command(
    models: Sequence[str],
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    *,
    allow_unlike_sampling: bool = False,
    save_reference: str | Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Sample and measure models.

    The files are named after sampler, steps, seed and what else is overridden, in `output_dir`
    after the model too: the same command replaces its own results, and no others.

    Args:
        models: Runs, pipeline folders or hub names.
        overrides: `key=value` each, of sections data, sampling and evaluation.
        output_dir: Where the files go; None: the `evaluation/` folder of each run.
        allow_unlike_sampling: Also put figures of different samplers or steps side by side.
        save_reference: File for the reference's features and statistics, see evaluation.statistics.
        overwrite: Whether that file may replace one of another reference.
        device: Where to sample; None: a GPU if there is one.

    Returns:
        The figures and their protocol for one model, {"models": {MODEL: figures}} for several; {}
        in all processes but the first.

    Raises:
        UserError: for anything that keeps the figures from being made or compared.
    """
    processes = Processes.started()
    device = device or default_device()
    names = list(dict.fromkeys(models))
    if not names:
        raise UserError("name at least one model: a run, a pipeline folder or a hub name")
    references: dict[tuple[str, Settings], Reference] = {}
    plans = [plan_of(name, overrides, device, processes, references) for name in names]
    plans = [
        replace(plan, against=replace(plan.against, proximal=proximal_of(plan, references)))
        for plan in plans
    ]
    for plan in plans:
        folder = folder_in(plan.name, FOLDER, output_dir)
        if folder is not None:
            check_outside(folder, getattr(plan.config.data, "train_data_dir", None))
        check_writable(folder)
        if folder is None:
            log.warning("%s is no run folder: its figures are printed only (give -o)", plan.name)
    require_alike(
        {plan.name: plan.protocol() for plan in plans}, sampling=not allow_unlike_sampling
    )
    if not processes.is_main:
        for plan in plans:
            _help(plan)
        return {}
    prune(kept_folder())
    if save_reference is not None:
        write_reference(plans[0].reference, Path(save_reference), overwrite=overwrite)  # all alike
    results = {}
    for plan in plans:
        figures, parts = _measure(plan, overrides)
        _write(plan, figures, parts, overrides, output_dir)
        results[plan.name] = figures
    return results[names[0]] if len(names) == 1 else {"models": results}


def as_text(result: Mapping[str, Any]) -> str:
    """The figures as lines for a terminal: name, value, interval and floor."""
    if "models" in result:
        return "\n\n".join(f"{name}\n{as_text(one)}" for name, one in result["models"].items())
    lines = []
    for name, value in result.items():
        if name == "nearest_training_distance":
            value, name = value["median"], "nearest_training_distance (median)"
        if not isinstance(value, int | float) or name.endswith(("_of_reference", "_of_halves")):
            continue
        line = f"  {name:<36}{value:>10.4g}"
        if low_high := result.get(f"{name}_interval"):
            line += f"   [{low_high[0]:.4g}, {low_high[1]:.4g}]"
        if (floor := result.get(f"{name}_of_reference")) is not None:
            line += f"   the reference itself: {floor:.4g}"
        lines.append(line)
    lines += memorization_lines(result)
    lines += sweep_lines(result.get("sweep", []))
    lines += mismatch_lines(result.get("mismatch", []))
    lines += diagnostics_lines(result.get("diagnostics", {}))
    protocol = result["protocol"]
    if what := protocol.get("frechet_distance_is"):
        lines.append(f"  frechet_distance is {what}")
    lines.append(
        f"  {protocol['n_fake']} samples, {protocol['sampler']} {protocol['steps']} steps"
        f"{_asked_for(protocol)}, against {protocol['n_real']} of {protocol['data']} "
        f"({protocol['split']})"
    )
    return "\n".join(lines)


def _asked_for(protocol: Mapping[str, Any]) -> str:
    """Guidance and prompts in words, where there are any."""
    guidance = protocol.get("guidance", 1)
    words = "" if guidance == 1 else f", guidance {guidance:g}"
    prompts = protocol.get("prompts")
    if prompts is None:
        return words
    if isinstance(prompts, list):
        prompts = prompts[0] or "empty" if len(prompts) == 1 else f"{len(prompts)} in turn"
    return f"{words}, prompts: {prompts}"


def _measure(plan: Plan, overrides: Sequence[str]) -> tuple[dict[str, Any], Parts]:
    evaluation = plan.config.evaluation
    for cell in _cells(plan):
        _samples(cell, range(1))  # one that cannot be is found now, not when the others are done
    parts = _draw(plan)
    sampled = time.perf_counter()
    figures = _figures(plan, parts)
    evaluated = time.perf_counter()
    if evaluation.sweep is not None:
        figures["sweep"] = _sweep(plan, figures)
    swept = time.perf_counter()
    if evaluation.mismatch:
        labels = labels_of(plan, evaluation.mismatch_samples)
        with one_line_errors(f"{plan.name}: evaluation.mismatch", (ValueError,)):
            figures["mismatch"] = mismatch_curves(
                plan.model,
                plan.reference,
                evaluation,
                plan.sampling,
                labels,
                figures["protocol"],
            )
        figures["mismatch_seconds"] = round(time.perf_counter() - swept, 3)
    if evaluation.diagnostics:
        figures["diagnostics"] = field_diagnostics(
            plan.model, plan.reference, evaluation, plan.device
        )
    figures |= {
        "model": plan.name,
        "command": shlex.join(["sparring", "evaluate", plan.name, *overrides]),
        "sampling_seconds": round(parts.read("seconds").sum().item(), 3),
        "evaluation_seconds": round(evaluated - sampled, 3),
    }
    return figures, parts


def _help(plan: Plan) -> None:
    """What a process does that is not the first: its share of the images and of the samples, in the
    order of the first, for which it waits as that one waits for it."""
    _draw(plan)
    prepare(plan.against)
    for cell in _cells(plan):
        if not _kept_figures(cell).is_file():
            _draw(cell)


def _cells(plan: Plan) -> list[Plan]:
    """The plan of each combination of a sweep."""
    sweep, sampling = plan.config.evaluation.sweep, plan.config.sampling
    if sweep is None:
        return []
    return [plan.with_sampling(one) for one in combinations(sweep, sampling)]


def _sweep(plan: Plan, own: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluation of each combination; that of the model's own settings is made already."""
    found, own = [], dict(own)
    for cell in _cells(plan):
        if cell.generation() == plan.generation():
            found.append(own)
            continue
        path = _kept_figures(cell)
        found.append(kept_or_measured(path, lambda cell=cell: _figures(cell, _draw(cell))))
    return found


def _kept_figures(plan: Plan) -> Path:
    """The file of a plan's figures, under all that decides them."""
    against = plan.against
    sets = [
        one and one.fingerprint() for one in (against.training, against.held_out, against.dirty)
    ]
    settings = replace(plan.reference.settings, device=plan.reference.device_type)
    key = key_of(plan.key, code_key(), str(settings), plan.protocol(), plan.settings(), *sets)
    return cache_folder() / "figures" / f"{key}.json"


def _draw(plan: Plan) -> Parts:
    """What the figures need of the samples, drawn and looked at part by part."""
    parts = Parts(plan.n_samples, plan.config.sampling.batch_size, plan.kept, plan.processes)
    is_hidden = None if plan.processes.is_main else True
    what = printable(f"sampling {plan.name}, {plan.how}")
    said = plan.captions
    with tqdm(total=plan.n_samples, desc=what, unit="", disable=is_hidden) as bar:

        def part(rows: range) -> dict[str, Tensor]:
            started = time.perf_counter()
            samples = _samples(plan, rows)
            seconds = time.perf_counter() - started
            captions = said and said[rows.start : rows.stop]
            seen = look(samples, plan.against, rows.start, captions)
            return seen | {
                "shown": samples[: max(0, N_IN_GRID - rows.start)],
                "seconds": torch.tensor([seconds], dtype=torch.float64),
            }

        def on_part(rows: range) -> None:
            bar.update(len(rows))

        parts.compute(part, on_part)
    return parts


def _samples(plan: Plan, rows: range) -> Tensor:
    """These samples of the plan, images of a latent model."""
    labels = labels_of(plan, rows.stop)
    with one_line_errors(f"{plan.name}, {plan.how}", (ValueError, TypeError)):
        samples = sample(
            plan.model,
            rows,
            plan.sampling,
            class_labels=None if labels is None else labels[rows.start :],
        ).cpu()
    return samples if plan.model.vae is None else decode(plan.model.vae, samples)


def _figures(plan: Plan, parts: Parts) -> dict[str, Any]:
    names = [name for name in parts.names() if name not in ("thumbs", "shown", "seconds")]
    seen = {name: parts.read(name) for name in names}
    return measure(seen, plan.against, plan.generation())


# --- Files -----------------------------------------------------------------------------------


def write_reference(reference: Reference, path: Path, *, overwrite: bool) -> None:
    if path.suffix != ".safetensors":
        raise UserError(f"--save-reference {path} must end in .safetensors")
    if path.exists() and not overwrite and claims_of(path) != reference.claims():
        raise UserError(
            f"--save-reference {path} is there and is no file of this reference: choose another "
            "name, or replace it with --overwrite"
        )
    check_writable(path.parent)
    replace_file(path, reference.save)
    log.info("wrote %s", path)


def _write(
    plan: Plan,
    figures: Mapping[str, Any],
    parts: Parts,
    overrides: Sequence[str],
    output_dir: str | Path | None,
) -> None:
    folder = folder_in(plan.name, FOLDER, output_dir)
    if folder is None:
        return
    prefix = "" if output_dir is None else as_file_name(plan.name) + "-"
    path = folder / f"{prefix}{file_stem(plan.sampler, plan.config, overrides)}.json"
    replace_json(path, figures)
    if "sweep" in figures:
        drawn = sweep_picture(figures["sweep"], plan.name)
        replace_file(
            path.with_suffix(".png"), lambda temporary: drawn.savefig(temporary, format="png")
        )
    shown = parts.read("shown")
    if shown.ndim == 4 and shown.shape[1] in (1, 3):
        picture = grid(shown)
        place = path.with_name(f"{path.stem}-grid.png")
        replace_file(place, lambda temporary: picture.save(temporary, "PNG"))
        _write_copies(plan, figures, parts, path)
    log.info("wrote %s", path)


def _write_copies(plan: Plan, figures: Mapping[str, Any], parts: Parts, path: Path) -> None:
    """Pictures of the samples most like training images, beside these, named after the figures."""
    for key, training in zip(KEYS, (plan.against.training, plan.against.dirty), strict=True):
        if key in figures and training is not None:
            alike = figures[key]["pairs"]
            copies = parts.pick("thumbs", [pair["sample"] for pair in alike])
            pairs = pairs_picture(copies, training, alike)
            name = f"{path.stem}-{key}.png"
            replace_file(path.with_name(name), lambda temporary: pairs.save(temporary, "PNG"))  # noqa: B023


def file_stem(sampler: str, config: RunConfig, overrides: Sequence[str]) -> str:
    """`ddim-50-seed0`, and what else was overridden, so that other figures get another file.

    The order of the overrides does not matter, and of those of one key the last one counts.
    """
    sampling = config.sampling
    stem = f"{name_in_files(sampler)}-{sampling.num_inference_steps}-seed{sampling.seed}"
    told = {key: value for key, _, value in (one.partition("=") for one in overrides)}
    for key in ("sampling.scheduler", "sampling.num_inference_steps", "sampling.seed"):
        told.pop(key, None)
    return stem + told_in_words(told)
