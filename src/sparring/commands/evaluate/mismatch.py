"""`sparring evaluate RUN evaluation.mismatch=true`: does sampling meet what training saw?

The curves of `evaluation.mismatch` for one model, one for each count in evaluation.mismatch_steps,
against the clean reference of the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...config.schema import EvaluationSection
from ...diffusion.randomness import generator
from ...evaluation.networks.extractors import image_batches
from ...evaluation.store.reference import Reference
from ...evaluation.studies.mismatch import CleanData, Counts, mismatch
from ...sampling.settings import Sampling
from ...support.errors import UserError

if TYPE_CHECKING:
    from ...models.pretrained import Model

MAX_POOL = 10_000  # reference images held at once


def check_mismatch(name: str, model: Model, evaluation: EvaluationSection) -> None:
    """Refuse, before anything is sampled, what cannot be measured.

    Raises:
        UserError: for a latent model: the reference has no latents.
    """
    if evaluation.mismatch and model.vae is not None:
        raise UserError(
            f"{name} samples latents and the reference holds images: leave out evaluation.mismatch,"
            " or call sparring.evaluation.studies.mismatch.mismatch with latents"
        )


def mismatch_curves(
    model: Model,
    reference: Reference,
    evaluation: EvaluationSection,
    sampling: Sampling,
    class_labels: Tensor | None,
    protocol: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One curve for each count of steps, each with its own protocol.

    Args:
        model: What is sampled.
        reference: Clean data.
        evaluation: Says which counts, how many trajectories, resamples and which seed.
        sampling: How it is sampled; its steps where evaluation.mismatch_steps names none.
        class_labels: Of the trajectories.
        protocol: Of the evaluation; what differs here is replaced.
    """
    data = reference.dataset
    counts = Counts(evaluation.mismatch_samples, evaluation.n_resamples, seed=evaluation.seed)
    clean, extractor = clean_data(reference), reference.extractor if data.is_image else None
    curves = []
    for count in dict.fromkeys(evaluation.mismatch_steps or [sampling.num_inference_steps]):
        curve = mismatch(
            model,
            clean,
            replace(sampling, num_inference_steps=count),
            counts,
            extractor=extractor,
            class_labels=class_labels,
        )
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
