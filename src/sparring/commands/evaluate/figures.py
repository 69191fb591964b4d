"""`sparring evaluate MODEL [MODEL ...] [KEY=VALUE ...]`: sample models and measure the samples.

The reference is clean, whatever the model was trained on: the data of the model's own run (split
evaluation.reference) or those of `data.*` overrides. Models whose figures could not be compared are
refused before anything is sampled. Samples are drawn and looked at in parts, which are kept.
"""

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...config.schema import RunConfig
from ...data.base import Dataset
from ...evaluation.evaluate import look, measure, prepare, thumbs
from ...evaluation.protocol import require_alike
from ...evaluation.store.cached_figures import code_key, kept_or_measured
from ...evaluation.store.reference import Reference
from ...evaluation.store.statistics import claims_of
from ...evaluation.store.tensor_tables import Parts, Processes, prune
from ...models.latents import decode
from ...sampling.images import grid
from ...sampling.sample import sample
from ...sampling.schedulers import name_in_files
from ...support.cache import cache_folder, key_of
from ...support.errors import UserError, one_line_errors
from ...support.terminal import printable
from ..shared import files
from ..shared.options import default_device
from .plan import Plan, References, kept_folder, plan_of, proximal_of
from .studies import diagnostics_lines, field_diagnostics, mismatch_curves, mismatch_lines
from .sweep import sweep_lines, sweep_picture

log = logging.getLogger(__name__)

N_IN_GRID = 64
FOLDER = "evaluation"
COPIES = ("memorization", "memorization_of_dirty")
"""Figures of copies of training images, and of these as contaminated."""
SHARES = {
    "near_duplicates": "as near as the nearest 1 % of these",
    "within_5_percent": "as near as the nearest 5 %",
    "within_a_third": "d1 < d2 / 3",
    "authentic": "authentic (AuthPct)",
}


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
    """Sample and measure models, as the command's options say.

    The files are named after sampler, steps, seed and what else is overridden, in `output_dir`
    after the model too: the same command replaces its own results, and no others.

    Returns:
        The figures and their protocol for one model, {"models": {MODEL: figures}} for several; {}
        in all processes but the first.
    """
    processes = Processes.started()
    device = device or default_device()
    names = list(dict.fromkeys(models))
    if not names:
        raise UserError("name at least one model: a run, a pipeline folder or a hub name")
    references: References = {}
    plans = [plan_of(name, overrides, device, processes, references) for name in names]
    plans = [
        replace(plan, against=replace(plan.against, proximal=proximal_of(plan, references)))
        for plan in plans
    ]
    folders = {}
    for plan in plans:
        images = getattr(plan.config.data, "train_data_dir", None)
        folders[plan.name] = files.results_folder(plan.name, FOLDER, output_dir, images)
        if folders[plan.name] is None:
            log.warning("%s is no run folder: its figures are printed only (give -o)", plan.name)
    require_alike(
        {plan.name: plan.protocol() for plan in plans}, sampling=not allow_unlike_sampling
    )
    if not processes.is_main:  # its share, in the order of the first: they wait for each other
        for plan in plans:
            _draw(plan)
            prepare(plan.against)
            for cell in plan.cells:
                if not _kept_figures(cell).is_file():
                    _draw(cell)
        return {}
    prune(kept_folder())
    if save_reference is not None:
        write_reference(plans[0].reference, Path(save_reference), overwrite=overwrite)  # all alike
    results = {}
    for plan in plans:
        figures, parts = _measure(plan, overrides)
        if (folder := folders[plan.name]) is not None:
            prefix = "" if output_dir is None else files.as_file_name(plan.name) + "-"
            stem = file_stem(plan.sampler, plan.config, overrides)
            _write(plan, figures, parts, folder / f"{prefix}{stem}.json")
        results[plan.name] = figures
    return results[names[0]] if len(names) == 1 else {"models": results}


# In words


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
        low_high = result.get(f"{name}_interval")
        between = f"[{low_high[0]:.4g}, {low_high[1]:.4g}]" if low_high else ""
        line = f"  {name:<36}{value:>10.4g}   {between:<20}"
        if (floor := result.get(f"{name}_of_reference")) is not None:
            line += f"   the reference itself: {floor:.4g}"
        lines.append(line.rstrip())
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


def memorization_lines(result: Mapping[str, Any]) -> list[str]:
    """The verdict on copies, then each share beside that of the images that calibrate it."""
    lines = []
    for found in (result[key] for key in COPIES if key in result):
        lines.append(f"  {found['verdict']}")
        for name, words in ((name, words) for name, words in SHARES.items() if name in found):
            low, high = found[f"{name}_interval"]
            lines.append(
                f"    {words:<34}{found[name]:>10.4g}   [{low:.4g}, {high:.4g}]   "
                f"of {found['calibration']}: {found[f'{name}_of_calibration']:.4g}"
            )
    return lines


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


# Sample and measure


def _measure(plan: Plan, overrides: Sequence[str]) -> tuple[dict[str, Any], Parts]:
    evaluation = plan.config.evaluation
    for cell in plan.cells:
        _samples(cell, range(1))  # one that cannot be is found now, not when the others are done
    parts = _draw(plan)
    sampled = time.perf_counter()
    figures = _figures(plan, parts)
    evaluated = time.perf_counter()
    if evaluation.sweep is not None:
        figures["sweep"] = _sweep(plan, figures)
    swept = time.perf_counter()
    if evaluation.mismatch:
        with one_line_errors(f"{plan.name}: evaluation.mismatch", (ValueError,)):
            figures["mismatch"] = mismatch_curves(plan, figures["protocol"])
        figures["mismatch_seconds"] = round(time.perf_counter() - swept, 3)
    if evaluation.diagnostics:
        figures["diagnostics"] = field_diagnostics(plan)
    figures |= {
        "model": plan.name,
        "command": shlex.join(["sparring", "evaluate", plan.name, *overrides]),
        "sampling_seconds": round(parts.read("seconds").sum().item(), 3),
        "evaluation_seconds": round(evaluated - sampled, 3),
    }
    return figures, parts


def _sweep(plan: Plan, own: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluation of each combination; that of the model's own settings is made already."""
    found, own = [], dict(own)
    for cell in plan.cells:
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
    what, said = printable(f"sampling {plan.name}, {plan.how}"), plan.captions
    with tqdm(total=plan.n_samples, desc=what, unit="", disable=is_hidden) as bar:

        def part(rows: range) -> dict[str, Tensor]:
            started = time.perf_counter()
            samples = _samples(plan, rows)
            seconds = time.perf_counter() - started
            captions = said and said[rows.start : rows.stop]
            return look(samples, plan.against, rows.start, captions) | {
                "shown": samples[: max(0, N_IN_GRID - rows.start)],
                "seconds": torch.tensor([seconds], dtype=torch.float64),
            }

        parts.compute(part, lambda rows: bar.update(len(rows)))
    return parts


def _samples(plan: Plan, rows: range) -> Tensor:
    """These samples of the plan, images of a latent model."""
    labels = plan.labels(rows.stop)
    own = None if labels is None else labels[rows.start :]
    with one_line_errors(f"{plan.name}, {plan.how}", (ValueError, TypeError)):
        samples = sample(plan.model, rows, plan.sampling, class_labels=own).cpu()
    return samples if plan.model.vae is None else decode(plan.model.vae, samples)


def _figures(plan: Plan, parts: Parts) -> dict[str, Any]:
    names = [name for name in parts.names() if name not in ("thumbs", "shown", "seconds")]
    seen = {name: parts.read(name) for name in names}
    return measure(seen, plan.against, plan.generation())


# Files


def write_reference(reference: Reference, path: Path, *, overwrite: bool) -> None:
    """Features and statistics of the reference, see evaluation.statistics."""
    if path.suffix != ".safetensors":
        raise UserError(f"--save-reference {path} must end in .safetensors")
    if path.exists() and not overwrite and claims_of(path) != reference.claims():
        raise UserError(
            f"--save-reference {path} is there and is no file of this reference: choose another "
            "name, or replace it with --overwrite"
        )
    files.check_writable(path.parent)
    files.replace_file(path, reference.save)
    log.info("wrote %s", path)


def _write(plan: Plan, figures: Mapping[str, Any], parts: Parts, path: Path) -> None:
    """The figures as JSON, and pictures beside them, named after it."""
    files.replace_json(path, figures)
    if "sweep" in figures:
        drawn = sweep_picture(figures["sweep"], plan.name)
        files.replace_file(path.with_suffix(".png"), lambda half: drawn.savefig(half, format="png"))
    shown = parts.read("shown")
    if shown.ndim == 4 and shown.shape[1] in (1, 3):
        files.replace_png(path.with_name(f"{path.stem}-grid.png"), grid(shown))
        sets = (plan.against.training, plan.against.dirty)
        for key, training in zip(COPIES, sets, strict=True):
            if key in figures and training is not None:
                alike = figures[key]["pairs"]
                copies = parts.pick("thumbs", [pair["sample"] for pair in alike])
                picture = pairs_picture(copies, training, alike)
                files.replace_png(path.with_name(f"{path.stem}-{key}.png"), picture)
    log.info("wrote %s", path)


def pairs_picture(
    copies: Tensor, training: Dataset, pairs: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """The samples most like training images: a row for each of `memorization(...)["pairs"]`, the
    `thumbs` (N, C, h, w) of the sample at the left, the training image at the right."""
    originals = training.__getitems__([pair["training"] for pair in pairs])["x0"]
    both = torch.stack([copies, thumbs(originals.float().clamp(0, 1))], 1).flatten(0, 1)
    return grid(both.float() / 127.5 - 1, n_columns=2)


def file_stem(sampler: str, config: RunConfig, overrides: Sequence[str]) -> str:
    """`ddim-50-seed0`, and what else was overridden, so that other figures get another file.
    The order of the overrides does not matter, and of those of one key the last one counts."""
    sampling = config.sampling
    stem = f"{name_in_files(sampler)}-{sampling.num_inference_steps}-seed{sampling.seed}"
    told = {key: value for key, _, value in (one.partition("=") for one in overrides)}
    for key in ("sampling.scheduler", "sampling.num_inference_steps", "sampling.seed"):
        told.pop(key, None)
    return stem + files.told_in_words(told)
