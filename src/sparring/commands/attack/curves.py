"""`sparring attack MODEL [MODEL ...] [KEY=VALUE ...]`: quality against radius under attack.

Models, reference and sampling are those of `sparring evaluate`; section attack says what the
attacker may do. Each run gets attacks/*.json; -o puts all into one folder, with a page.
"""

import logging
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...config.checks import check_section
from ...config.overrides import with_overrides
from ...config.schema import AttackSection
from ...evaluation.protocol import require_alike
from ...evaluation.store.tensor_tables import Processes
from ...evaluation.studies import robustness as curves
from ...models.latents import decode
from ...models.pretrained import Model, load
from ...sampling.images import grid
from ...sampling.trajectory_attacks import Attack
from ...support.errors import UserError, one_line_errors
from ...support.terminal import printable
from ..evaluate.figures import file_stem
from ..evaluate.plan import SECTIONS, Plan, References, plan_of
from ..shared import files
from ..shared.options import default_device

log = logging.getLogger(__name__)

N_SHOWN = 4
FOLDER, PAGE = "attacks", "attack.html"
AS_SAID = ("kind", "norm", "units", "per", "aim", "n_expectation", "seed")
"""Of section attack, what an `Attack` takes as it is."""


def attack_command(
    models: Sequence[str],
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    *,
    overwrite: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Attack models and measure what is left of their quality, as the command's options say.

    Returns:
        {"models": {MODEL: curves and protocol}}, as in the JSON files.
    """
    device = device or default_device()
    section, others = _section(overrides)
    names = list(dict.fromkeys(models))
    references: References = {}
    words = [*others, f"evaluation.n_samples={section.n_samples}"]
    plans = [plan_of(name, words, device, Processes(), references) for name in names]
    folders, stems = {}, {}
    for plan in plans:
        images = getattr(plan.config.data, "train_data_dir", None)
        folders[plan.name] = files.results_folder(plan.name, FOLDER, output_dir, images)
        prefix = "" if output_dir is None else files.as_file_name(plan.name) + "-"
        stems[plan.name] = prefix + file_stem(plan.sampler, plan.config, overrides)
    require_alike({plan.name: plan.protocol() for plan in plans})
    key = files.digest(*stems.values())
    if output_dir is not None:
        files.claim_page(Path(output_dir) / PAGE, key, overwrite=overwrite)
    source = None if section.transfer_from is None else load(section.transfer_from, device=device)
    trials = {plan.name: _trial(section, plan, source) for plan in plans}
    for plan in plans:
        with one_line_errors(f"{plan.name}: attack", (ValueError,)):
            curves.rehearse(plan.model, trials[plan.name], **_words(plan, 2))
    results = {}
    for plan in plans:
        trial = trials[plan.name]
        result = _curves(plan, trial, section) | {"model": plan.name}
        result["command"] = shlex.join(["sparring", "attack", plan.name, *overrides])
        if (folder := folders[plan.name]) is None:
            log.warning("%s is no run folder: its curves are printed only (give -o)", plan.name)
        else:
            path = folder / f"{stems[plan.name]}.json"
            if plan.reference.dataset.is_image:
                result["picture"] = _draw(path.with_suffix(".png"), plan, trial)
            files.replace_json(path, result)
            log.info("wrote %s", path)
        results[plan.name] = result
    if output_dir is not None:
        from ...report.attacks import render_page

        page = Path(output_dir) / PAGE
        html = render_page([Path(output_dir) / f"{stem}.json" for stem in stems.values()])
        files.replace_text(page, files.with_key(html, key))
        log.info("wrote %s", page)
    return {"models": results}


def as_text(result: Mapping[str, Any]) -> str:
    """The curves as lines for a terminal: a line for each curve, a column for each radius."""
    lines = []
    for name, one in result["models"].items():
        quality, protocol = one["quality"], one["protocol"]
        points = one["curves"][0]["points"]
        attack = protocol["attack"]
        length = ", length over the image" if attack["per"] == "image" else ""
        ball = f"{attack['norm']}, {attack['units']} units{length}"
        lines.append(f"{name}: {quality} by radius ({ball})")
        lines.append("  " + f"{'':<22}" + "".join(f"{point['radius']:>18.4g}" for point in points))
        for curve in one["curves"]:
            cells = [_cell(point[quality], point[f"{quality}_std"]) for point in curve["points"]]
            lines.append(f"  {curve['name']:<22}" + "".join(f"{cell:>18}" for cell in cells))
        if (floor := one.get(f"{quality}_of_reference")) is not None:
            lines.append(f"  the reference itself, {protocol['n_fake']} images: {floor:.4g}")
        seeds = protocol["attack"]["n_seeds"]
        lines.append(
            f"  {seeds} x {protocol['n_fake']} samples, {protocol['sampler']} "
            f"{protocol['steps']} steps"
        )
    return "\n".join(lines)


def _cell(mean: float, spread: float | None) -> str:
    return f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}")


def _section(overrides: Sequence[str]) -> tuple[AttackSection, list[str]]:
    """Section attack, and the overrides of the other sections."""
    own = [one for one in overrides if one.partition("=")[0].startswith("attack.")]
    others = [one for one in overrides if one not in own]
    for override in others:
        key = override.partition("=")[0]
        if key.partition(".")[0] not in SECTIONS:
            sections = ", ".join(f"{name}.*" for name in ("attack", *SECTIONS))
            raise UserError(f"override {override!r}: attack takes {sections}")
        if key == "evaluation.n_samples":
            raise UserError(f"override {override!r}: the attack draws attack.n_samples")
        if re.match(r"evaluation\.(sweep|mismatch|diagnostics)\b", key):
            raise UserError(f"override {override!r}: goes with sparring evaluate")
    raw = with_overrides({}, own).get("attack", {})
    return check_section(AttackSection, raw, "attack", own), others


def _trial(section: AttackSection, plan: Plan, source: Model | None) -> curves.Trial:
    """What section attack asks for."""
    features, n = None, section.n_samples
    with one_line_errors(f"{plan.name}: attack", (ValueError,)):
        if section.aim == "features":
            if plan.model.vae is not None or not plan.reference.dataset.is_image:
                raise ValueError("aim features is of models that make images, not latents")
            extractor = plan.reference.extractor
            curves.check_differentiable(extractor, plan.reference.dataset.sample_shape)
            features = curves.feature_map(extractor)
        attack = Attack(
            radius=min(section.radii),
            where=section.where if isinstance(section.where, str) else tuple(section.where),
            n_attack_steps=(section.n_attack_steps or 10) if section.kind == "pgd" else 1,
            n_path_steps=None if section.n_path_steps == "all" else section.n_path_steps,
            features=features,
            **{name: getattr(section, name) for name in AS_SAID},
        )
    return curves.Trial(attack, section.radii, n, section.n_seeds, section.corruptions, source)


def _words(plan: Plan, n: int) -> dict[str, Any]:
    """What `sample` is told."""
    return {**vars(plan.sampling), "class_labels": plan.labels(n)}


def _curves(plan: Plan, trial: curves.Trial, section: AttackSection) -> dict[str, Any]:
    started, what = time.perf_counter(), printable(f"attacking {plan.name}")
    with (
        tqdm(total=trial.n_runs, desc=what, unit="run", disable=None) as bar,
        one_line_errors(f"{plan.name}: attack", (ValueError,)),
    ):
        drawn = {"sampling": _words(plan, trial.n), "images": _images(plan)}
        found = curves.robustness(plan.model, plan.reference, trial, **drawn, on_run=bar.update)
    told = trial.described() | {"transfer_from": section.transfer_from}
    protocol = plan.protocol()
    protocol["seeds"] |= {"attack": section.seed}
    return found | {
        "protocol": protocol | {"attack": told},
        "attack_seconds": round(time.perf_counter() - started, 3),
    }


def _images(plan: Plan) -> curves.Images:
    vae = plan.model.vae
    return lambda samples: samples if vae is None else decode(vae, samples)


def _draw(path: Path, plan: Plan, trial: curves.Trial) -> dict[str, Any]:
    """Estimates of x0 on the way, a pair of rows a sample: unattacked, at the largest radius."""
    n, radius = min(N_SHOWN, trial.n), max(trial.radii)
    words, images = _words(plan, n), _images(plan)
    move = curves.attack_at(trial.attack, radius, trial.source, n, words)
    clean = curves.on_the_way(plan.model, None, n, words, images)
    attacked = curves.on_the_way(plan.model, move, n, words, images)
    pairs = torch.stack([clean, attacked], 1).flatten(0, 2)
    files.replace_png(path, grid(pairs, n_columns=clean.shape[1], min_side=32))
    return {"file": path.name, "radius": radius, "n": n}
