"""What `sparring evaluate` studies beside the figures: evaluation.mismatch and .diagnostics."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...diffusion.randomness import generator
from ...evaluation.networks.extractors import image_batches
from ...evaluation.store.reference import Reference
from ...evaluation.studies.diagnostics import diagnostics
from ...evaluation.studies.mismatch import CleanData, Counts, mismatch
from .plan import Plan

MAX_POOL = 10_000  # reference images held at once


def mismatch_curves(plan: Plan, protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Does sampling meet what training saw? One curve for each count of evaluation.mismatch_steps,
    each with its own protocol: that of the evaluation, where nothing differs."""
    evaluation, reference = plan.config.evaluation, plan.reference
    counts = Counts(evaluation.mismatch_samples, evaluation.n_resamples, seed=evaluation.seed)
    extractor = reference.extractor if reference.dataset.is_image else None
    clean, labels = clean_data(reference), plan.labels(evaluation.mismatch_samples)
    curves = []
    steps = dict.fromkeys(evaluation.mismatch_steps or [plan.sampling.num_inference_steps])
    for n in tqdm(list(steps), desc="mismatch", unit="curve", disable=None):
        sampling = replace(plan.sampling, num_inference_steps=n)
        told = {"extractor": extractor, "class_labels": labels}
        curve = mismatch(plan.model, clean, sampling, counts, **told)
        curves.append(curve | {"protocol": {**protocol, **curve["protocol"]}})
    return curves


def clean_data(reference: Reference) -> CleanData:
    """Clean x0 in the model's range: fresh ones where the truth is known, else those there are."""
    data = reference.dataset

    def in_range(x0: Tensor) -> Tensor:
        return 2 * x0 - 1 if data.is_image else x0

    truth = data.truth
    if truth is not None:
        return lambda n, seed: in_range(truth.sample(n, seed))
    random = generator("cpu", reference.settings.seed, "mismatch rows")
    rows = torch.randperm(len(data), generator=random)[:MAX_POOL].tolist()
    return in_range(torch.cat([images for images, _ in image_batches(data, rows)]))


def mismatch_lines(curves: list[dict[str, Any]]) -> list[str]:
    """A line for each curve: its mean, its floor, and where it is worst."""
    lines, key = [], "sliced_wasserstein"
    for curve in curves:
        mean, steps = curve["mean"], curve["protocol"]["steps"]
        worst = max(curve["times"], key=lambda row: row[key] - row[f"{key}_of_reference"])
        lines.append(
            f"  {f'mismatch while sampling, {steps} steps':<36}{mean[key]:>10.4g}"
            f"   the reference itself: {mean[f'{key}_of_reference']:.4g}"
            f"   worst at t = {worst['t']:.4g}: {worst[key]:.4g}"
        )
    return lines


def field_diagnostics(plan: Plan) -> dict[str, Any]:
    """The denoiser as a field, at evaluation.diagnostics_points points of the clean reference.

    A class-conditional model is told the class of each point, where the data have its classes, and
    classes in turn elsewhere.
    """
    model, evaluation, data = plan.model, plan.config.evaluation, plan.reference.dataset
    random = generator("cpu", evaluation.seed, "diagnostics rows")
    rows = torch.randperm(len(data), generator=random)[: evaluation.diagnostics_points].tolist()
    if data.is_image:
        images, own = zip(*image_batches(data, rows), strict=True)
        x0 = 2 * torch.cat(images) - 1
    else:
        batch = data.__getitems__(rows)
        x0, own = batch["x0"], [batch.get("label")]
    condition = {}
    if model.num_classes is not None:
        labels = torch.arange(len(x0)) % model.num_classes
        if model.has_classes_of(data):
            labels = torch.cat([label for label in own if label is not None])
        condition["class_labels"] = labels.to(plan.device)
    truth = None if data.is_image else data.truth
    denoiser = model.denoiser.to(plan.device).eval()
    told = {"condition": condition, "truth": truth, "seed": evaluation.seed}
    found = diagnostics(denoiser, x0.to(plan.device), **told)
    of_data = {"data": data.name, "data_fingerprint": data.fingerprint()}
    protocol = of_data | {"split": plan.reference.split} | found["protocol"]
    return found | {"protocol": protocol}


WORDS = {
    "equivariance_error": "equivariance error",
    "lipschitz": "Lipschitz estimate of x0_hat",
    "score_error": "score error",
}
"""Of the diagnostics that depend on the time."""


def diagnostics_lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each figure: where it is large and small."""
    if not found:
        return []
    lines = []
    for key, words in WORDS.items():
        rows = [row for row in found["times"] if key in row]
        chosen = rows[:: max(1, len(rows) // 4)]
        if chosen:
            said = ", ".join(f"{row[key]:.3g} at {row['ratio']:.2g}" for row in chosen)
            lines.append(f"  {words + ' by sigma/alpha':<36}  {said}")
    low, high = found["straightness_quartiles"]
    lines.append(
        f"  {'straightness of paths':<36}{found['straightness']:>10.4g}"
        f"   quartiles {low:.4g} to {high:.4g}"
    )
    return lines
