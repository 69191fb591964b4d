"""`sparring evaluate MODEL [MODEL ...] [KEY=VALUE ...]`: sample models and measure the samples.

The reference is clean, whatever the model was trained on. It is the data of the model's own run
(split evaluation.reference) or that of `data.*` overrides; sections sampling and evaluation come
from the run too, and are overridden the same way. Models whose figures could not be compared are
refused before anything is sampled.

Samples are drawn and looked at in parts, which are kept: see evaluation.parts for what that is good
for, and sweep.py for many samplers at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..cache import key_of
from ..config import check, with_overrides
from ..config_sections import RunConfig, SamplingSection
from ..data.base import Dataset, digest
from ..data.contamination import contaminate
from ..data.datasets import build_dataset
from ..errors import UserError
from ..evaluation.captions import Judges
from ..evaluation.classifier import cache_folder
from ..evaluation.evaluate import Reference, Settings, check_count, look, measure
from ..evaluation.kept import code_key, kept_or_measured, model_key
from ..evaluation.parts import Parts, Processes, prune
from ..evaluation.protocol import require_alike
from ..latents import decode
from ..pretrained import load
from ..sampling import describe_sampling, grid, sample
from ..sampling.schedulers import default_sampler
from .diagnostics import check_diagnostics, diagnostics_lines, field_diagnostics
from .memorization import KEYS, memorization_lines, pairs_picture
from .mismatch import check_mismatch, mismatch_curves, mismatch_lines
from .reference import check_alike, check_prompts, reading
from .sweep import combinations, sweep_lines, sweep_picture

if TYPE_CHECKING:
    from ..pretrained import Model

log = logging.getLogger(__name__)

SECTIONS = ("data", "sampling", "evaluation")
N_IN_GRID = 64


def evaluate_command(
    models: Sequence[str],
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    *,
    allow_unlike_sampling: bool = False,
    save_reference: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Sample and measure models.

    Args:
        models: Runs, pipeline folders or hub names.
        overrides: `key=value` each, of sections data, sampling and evaluation.
        output_dir: Where the files go; None: the `evaluation/` folder of each run.
        allow_unlike_sampling: Also put figures of different samplers or steps side by side.
        save_reference: File for the reference's features and statistics, see evaluation.statistics.
        device: Where to sample; None: a GPU if there is one.

    Returns:
        The figures and their protocol for one model, {"models": {MODEL: figures}} for several; {}
        in all processes but the first.

    Raises:
        UserError: for anything that keeps the figures from being made or compared.
    """
    processes = Processes.started()
    device = device or _device()
    names = list(dict.fromkeys(models))
    if not names:
        raise UserError("name at least one model: a run, a pipeline folder or a hub name")
    references: dict[tuple[str, Settings], Reference] = {}
    plans = [_plan(name, overrides, device, processes, references) for name in names]
    for plan in plans:
        folder = _folder(plan.name, output_dir)
        _check_writable(folder)
        if folder is None:
            log.warning("%s is no run folder: its figures are printed only (give -o)", plan.name)
    require_alike(
        {plan.name: plan.protocol() for plan in plans}, sampling=not allow_unlike_sampling
    )
    if not processes.is_main:
        for plan in plans:
            _help(plan)
        return {}
    prune(_kept_folder())
    if save_reference is not None:
        _save_reference(plans[0].reference, Path(save_reference))  # all are alike
    results = {}
    for plan in plans:
        figures, parts = _measure(plan, overrides)
        _write(plan, figures, parts, overrides, output_dir, len(names) > 1)
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


@dataclass(frozen=True)
class _Plan:
    """One model with all that is decided before it is sampled."""

    name: str
    model: Model
    config: RunConfig
    reference: Reference
    training: Dataset | None
    held_out: Dataset | None
    dirty: Dataset | None
    n_samples: int
    device: str
    processes: Processes
    key: str  # of the model

    @property
    def sampler(self) -> str:
        chosen = self.config.sampling.scheduler
        return chosen or default_sampler(self.model.denoiser)

    @property
    def how(self) -> str:
        """Sampler, steps and guidance in words."""
        sampling = self.config.sampling
        guidance = sampling.guidance_scale
        words = f"{self.sampler} {sampling.num_inference_steps} steps"
        return words if guidance == 1 else f"{words}, guidance {guidance:g}"

    @property
    def kept(self) -> Path:
        """Where the features of the samples are, under all that decides them."""
        decides = [
            self.key, code_key(), self.reference.looks(), self.generation(), self.settings(),
            self.dirty is None,
        ]  # fmt: skip
        return _kept_folder() / key_of(*decides)

    def settings(self) -> dict[str, Any]:
        """All of section sampling that decides a sample."""
        given = self.config.sampling.model_dump(exclude={"n_images"})
        return given | {"scheduler": self.sampler}

    def with_sampling(self, sampling: SamplingSection) -> _Plan:
        """The same model and reference with another section sampling."""
        return replace(self, config=self.config.model_copy(update={"sampling": sampling}))

    @property
    def labels_from_reference(self) -> bool:
        n_classes = self.model.num_classes
        return n_classes is not None and n_classes == self.reference.dataset.num_classes

    @property
    def prompts(self) -> list[str] | None:
        """What the samples are to show: the run's prompts, else the reference's captions."""
        if self.model.text is None:
            return self.config.sampling.prompts  # which sample refuses
        return self.config.sampling.prompts or self.reference.captions or None

    @property
    def prompts_from_reference(self) -> bool:
        return self.config.sampling.prompts is None and bool(self.prompts)

    @property
    def captions(self) -> list[str] | None:
        """What each sample is to show, where there is anybody to judge that."""
        prompts = self.prompts
        if self.reference.panel is None or self.model.text is None or not prompts:
            return None
        return [prompts[i % len(prompts)] for i in range(self.n_samples)]

    def generation(self) -> dict[str, Any]:
        """The half of the protocol that says how the samples were drawn."""
        sampling, denoiser = self.config.sampling, self.model.denoiser
        words = {key: value for key, value in _sampling(self).items() if key != "device"}
        try:
            clips = describe_sampling(self.model, **words)["clip_sample"]
        except ValueError as error:
            raise UserError(f"{self.name}, {self.how}: {error}") from error
        dtype = next((p.dtype for p in denoiser.parameters()), torch.float32)
        labels = "as in the reference" if self.labels_from_reference else "each in turn"
        prompts = "as in the reference" if self.prompts_from_reference else self.prompts
        captions = self.captions
        return {
            "sampler": self.sampler,
            "steps": sampling.num_inference_steps,
            "guidance": sampling.guidance_scale,
            "eta": sampling.eta,
            "eps_scale": sampling.eps_scale,
            "stop_ratio": sampling.stop_ratio,
            "grid_power": sampling.grid_power,
            "ratios": sampling.ratios,
            "clip_sample": clips,
            "precision": str(dtype).removeprefix("torch."),
            "class_labels": labels if self.model.num_classes else None,
            **({} if self.model.text is None else {"prompts": prompts or [""]}),
            **({} if captions is None else {"captions": digest(captions)}),
            "seeds": {"sampling": sampling.seed},
        }

    def protocol(self) -> dict[str, Any]:
        measurement, generation = self.reference.protocol(self.n_samples), self.generation()
        seeds = measurement["seeds"] | generation["seeds"]
        return measurement | generation | {"seeds": seeds}


def _plan(
    name: str,
    overrides: Sequence[str],
    device: str,
    processes: Processes,
    references: dict[tuple[str, Settings], Reference],
) -> _Plan:
    model = load(name, device=device)
    config = _config(name, model, overrides)
    evaluation = config.evaluation
    dataset = _dataset(config, evaluation.reference)
    settings = Settings(
        extractor=evaluation.extractor,
        n_resamples=evaluation.n_resamples,
        seed=evaluation.seed,
        k=evaluation.k,
        device=device,
        weights=evaluation.weights,
        statistics=evaluation.statistics,
        judges=Judges(**{f.name: getattr(evaluation, f.name) for f in fields(Judges)}),
        memorization_extractor=evaluation.memorization_extractor,
        lpips_weights=evaluation.lpips_weights,
    )
    key = (dataset.fingerprint(), settings)
    read_as = reading(config.data, dataset)
    kept = {"kept": _kept_folder(), "processes": processes}
    reference = references.setdefault(
        key, Reference(dataset, settings, evaluation.reference, read_as, **kept)
    )
    n_samples = evaluation.n_samples or len(reference)
    check_mismatch(name, model, evaluation)
    check_diagnostics(name, model, evaluation)
    check_alike(name, model, dataset)
    check_prompts(name, model)
    check_count(n_samples, dataset, settings)
    sets = _training_sets(name, model, dataset)
    plan = _Plan(
        name, model, config, reference, *sets, n_samples, device, processes, model_key(model)
    )
    if reference.panel is not None:
        reference.panel.check(plan.captions)
    return plan


def _config(name: str, model: Model, overrides: Sequence[str]) -> RunConfig:
    """The model's own config with the overrides; for a model without one, only the overrides."""
    for override in overrides:
        key = override.partition("=")[0]
        if key.partition(".")[0] not in SECTIONS:
            raise UserError(
                f"override {override!r}: evaluate takes {', '.join(f'{s}.*' for s in SECTIONS)}"
            )
        if key == "data.split":
            raise UserError(
                f"override {override!r}: data.split is what the model trained on; the reference is "
                "evaluation.reference (train, held_out or all)"
            )
    raw = model.run_config or {"model": {"pretrained_model_name_or_path": name}}
    named = with_overrides({}, overrides).get("data") or {}
    if model.run_config is None and "name" not in named:
        raise UserError(
            f"{name} has no config.yaml that says what it was trained on: name the reference data, "
            "such as data.name=digits"
        )
    return check(with_overrides(raw, overrides), f"{name}", overrides)


def _dataset(config: RunConfig, split: str) -> Dataset:
    """A split of the config's data, clean and in [0, 1]."""
    fields = config.data.model_dump(exclude_none=True) | {"split": split}
    try:
        return build_dataset(**fields)
    except ValueError as error:
        raise UserError(f"data: {error}") from error


def _training_sets(
    name: str, model: Model, reference: Dataset
) -> tuple[Dataset | None, Dataset | None, Dataset | None]:
    """The clean training images of the model's own run, its held-out ones, and the training images
    as contaminated; None for what there is not."""
    if model.run_config is None or not reference.is_image:
        return None, None, None
    own = check(model.run_config, name)
    training = _dataset(own, own.data.split)
    if training.sample_shape != reference.sample_shape:
        return None, None, None
    contaminated = contaminate(training, own.contamination.model_dump())
    dirty = None if contaminated is training else contaminated
    if own.data.split != "train":  # of which held_out is a part, or nobody knows
        return training, None, dirty
    try:
        held_out = _dataset(own, "held_out")
    except UserError as error:
        log.info("no held-out images calibrate the distance to training images: %s", error)
        return training, None, dirty
    return training, held_out, dirty


def _measure(plan: _Plan, overrides: Sequence[str]) -> tuple[dict[str, Any], Parts]:
    evaluation, n_steps = plan.config.evaluation, plan.config.sampling.num_inference_steps
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
        labels = _labels(plan, evaluation.mismatch_samples)
        try:
            figures["mismatch"] = mismatch_curves(
                plan.model,
                plan.reference,
                evaluation,
                n_steps,
                {"class_labels": labels, **_sampling(plan)},
                figures["protocol"],
            )
        except ValueError as error:
            raise UserError(f"{plan.name}: evaluation.mismatch: {error}") from error
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


def _help(plan: _Plan) -> None:
    """What a process does that is not the first: its share of the images and of the samples, in the
    order of the first, for which it waits as that one waits for it."""
    _draw(plan)
    if plan.training is not None:
        for one in plan.reference.all_originals(plan.training, plan.held_out, plan.dirty).values():
            one.prepare()
    for cell in _cells(plan):
        if not _kept_figures(cell).is_file():
            _draw(cell)


def _cells(plan: _Plan) -> list[_Plan]:
    """The plan of each combination of a sweep."""
    sweep, sampling = plan.config.evaluation.sweep, plan.config.sampling
    if sweep is None:
        return []
    return [plan.with_sampling(one) for one in combinations(sweep, sampling)]


def _sweep(plan: _Plan, own: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluation of each combination; that of the model's own settings is made already."""
    found, own = [], dict(own)
    for cell in _cells(plan):
        if cell.generation() == plan.generation():
            found.append(own)
            continue
        path = _kept_figures(cell)
        found.append(kept_or_measured(path, lambda cell=cell: _figures(cell, _draw(cell))))
    return found


def _kept_figures(plan: _Plan) -> Path:
    """The file of a plan's figures, under all that decides them."""
    sets = [one and one.fingerprint() for one in (plan.training, plan.held_out, plan.dirty)]
    settings = replace(plan.reference.settings, device=plan.reference.device_type)
    key = key_of(plan.key, code_key(), str(settings), plan.protocol(), plan.settings(), *sets)
    return cache_folder() / "figures" / f"{key}.json"


def _kept_folder() -> Path:
    return cache_folder() / "features"


def _device() -> str:
    """A GPU of this process's own, if there is one."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _draw(plan: _Plan) -> Parts:
    """What the figures need of the samples, drawn and looked at part by part."""
    parts = Parts(plan.n_samples, plan.config.sampling.batch_size, plan.kept, plan.processes)
    is_hidden = None if plan.processes.is_main else True
    what = f"sampling {plan.name}, {plan.how}"
    with tqdm(total=plan.n_samples, desc=what, unit="", disable=is_hidden) as bar:

        def part(rows: range) -> dict[str, Tensor]:
            started = time.perf_counter()
            samples = _samples(plan, rows)
            seconds = time.perf_counter() - started
            said = plan.captions
            seen = look(
                samples,
                plan.reference,
                rows.start,
                captions=said and said[rows.start : rows.stop],
                with_pixels=plan.dirty is not None,
            )
            return seen | {
                "shown": samples[: max(0, N_IN_GRID - rows.start)],
                "seconds": torch.tensor([seconds], dtype=torch.float64),
            }

        def on_part(rows: range) -> None:
            bar.update(len(rows))

        parts.compute(part, on_part)
    return parts


def _samples(plan: _Plan, rows: range) -> Tensor:
    """These samples of the plan, images of a latent model."""
    labels = _labels(plan, rows.stop)
    try:
        samples = sample(
            plan.model,
            len(rows),
            first=rows.start,
            num_inference_steps=plan.config.sampling.num_inference_steps,
            class_labels=None if labels is None else labels[rows.start :],
            prompts=plan.prompts,
            **_sampling(plan),
        ).cpu()
    except (ValueError, TypeError) as error:
        raise UserError(f"{plan.name}, {plan.how}: {' '.join(str(error).split())}") from error
    return samples if plan.model.vae is None else decode(plan.model.vae, samples)


def _figures(plan: _Plan, parts: Parts) -> dict[str, Any]:
    names = [name for name in parts.names() if name not in ("thumbs", "shown", "seconds")]
    return measure(
        {name: parts.read(name) for name in names},
        plan.reference,
        plan.training,
        held_out=plan.held_out,
        dirty=plan.dirty,
        generation=plan.generation(),
    )


def _sampling(plan: _Plan) -> dict[str, Any]:
    """What `sample` is told besides the number of samples and steps, and the labels."""
    sampling = plan.config.sampling
    return {
        "scheduler": plan.sampler,
        "seed": sampling.seed,
        "guidance_scale": sampling.guidance_scale,
        "eps_scale": sampling.eps_scale,
        "eta": sampling.eta,
        "clip_sample": sampling.clip_sample,
        "stop_ratio": sampling.stop_ratio,
        "grid_power": sampling.grid_power,
        "ratios": sampling.ratios,
        "batch_size": sampling.batch_size,
        "device": plan.device,
    }


def _labels(plan: _Plan, n: int) -> Tensor | None:
    """Classes of the samples: those of the reference, in a random order; None where it has none."""
    labels = plan.reference.labels if plan.labels_from_reference else None
    return None if labels is None else labels[torch.arange(n) % len(labels)]


# --- Files -----------------------------------------------------------------------------------


def _folder(name: str, output_dir: str | Path | None) -> Path | None:
    if output_dir is not None:
        return Path(output_dir)
    run = Path(name)
    return run / "evaluation" if (run / "config.yaml").is_file() else None


def _check_writable(folder: Path | None) -> None:
    """Make the folder, and fail now rather than after an hour of sampling."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another folder with -o"
        ) from error


def _save_reference(reference: Reference, path: Path) -> None:
    if path.suffix != ".safetensors":
        raise UserError(f"--save-reference {path} must end in .safetensors")
    _check_writable(path.parent)
    _replace(path, reference.save)
    log.info("wrote %s", path)


def _write(
    plan: _Plan,
    figures: Mapping[str, Any],
    parts: Parts,
    overrides: Sequence[str],
    output_dir: str | Path | None,
    is_one_of_many: bool,
) -> None:
    folder = _folder(plan.name, output_dir)
    if folder is None:
        return
    prefix = ""
    if output_dir is not None and is_one_of_many:
        prefix = re.sub(r"[^\w.-]+", "-", plan.name).strip("-.") + "-"
    path = folder / f"{prefix}{file_stem(plan.sampler, plan.config, overrides)}.json"
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    if "sweep" in figures:
        drawn = sweep_picture(figures["sweep"], plan.name)
        _replace(path.with_suffix(".png"), lambda temporary: drawn.savefig(temporary, format="png"))
    shown = parts.read("shown")
    if shown.ndim == 4 and shown.shape[1] in (1, 3):
        picture = grid(shown)
        _replace(folder / f"{prefix}grid.png", lambda temporary: picture.save(temporary, "PNG"))
        _write_copies(plan, figures, parts, path)
    log.info("wrote %s", path)


def _write_copies(plan: _Plan, figures: Mapping[str, Any], parts: Parts, path: Path) -> None:
    """Pictures of the samples most like training images, beside these, named after the figures."""
    for key, training in zip(KEYS, (plan.training, plan.dirty), strict=True):
        if key in figures and training is not None:
            alike = figures[key]["pairs"]
            copies = parts.pick("thumbs", [pair["sample"] for pair in alike])
            pairs = pairs_picture(copies, training, alike)
            name = f"{path.stem}-{key}.png"
            _replace(path.with_name(name), lambda temporary: pairs.save(temporary, "PNG"))  # noqa: B023


def file_stem(sampler: str, config: RunConfig, overrides: Sequence[str]) -> str:
    """`ddim-50-seed0`, and what else was overridden, so that other figures get another file."""
    sampling = config.sampling
    stem = f"{sampler}-{sampling.num_inference_steps}-seed{sampling.seed}"
    told = ("sampling.scheduler", "sampling.num_inference_steps", "sampling.seed")
    others = [one for one in overrides if one.partition("=")[0] not in told]
    for one in sorted(others):
        stem += "-" + re.sub(r"[^\w.]+", "-", one.partition(".")[2]).strip("-")
    if len(stem) > 100:
        stem = stem[:90] + "-" + hashlib.sha256(stem.encode()).hexdigest()[:8]
    return stem


def _replace(path: Path, write: Any) -> None:
    """Write under another name and rename: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error
