"""`sparring evaluate RUN evaluation.diagnostics=true`: the denoiser as a field.

The figures of `evaluation.diagnostics` at points of the evaluation's clean reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ...config.schema import EvaluationSection
from ...diffusion.randomness import generator
from ...evaluation.networks.extractors import image_batches
from ...evaluation.store.reference import Reference
from ...evaluation.studies.diagnostics import diagnostics
from ...support.errors import UserError

if TYPE_CHECKING:
    from ...models.pretrained import Model


def check_diagnostics(name: str, model: Model, evaluation: EvaluationSection) -> None:
    """Refuse, before anything is sampled, what has no field that could be looked at.

    Raises:
        UserError: for latent, consistency and text-to-image models.
    """
    if evaluation.diagnostics and (model.vae is not None or model.text is not None):
        raise UserError(
            f"{name} works on latents and the reference holds images: leave out evaluation."
            "diagnostics, or call sparring.evaluation.studies.diagnostics.diagnostics with them"
        )
    if evaluation.diagnostics and model.denoiser.boundary is not None:
        raise UserError(
            f"{name} is a consistency model, which jumps: leave out evaluation.diagnostics"
        )


def field_diagnostics(
    model: Model, reference: Reference, evaluation: EvaluationSection, device: str
) -> dict[str, Any]:
    """The diagnostics of one model at evaluation.diagnostics_points clean samples.

    A class-conditional model is told the class of each point, where the data have its classes, and
    classes in turn elsewhere.
    """
    data = reference.dataset
    random = generator("cpu", evaluation.seed, "diagnostics rows")
    rows = torch.randperm(len(data), generator=random)[: evaluation.diagnostics_points]
    batches = list(image_batches(data, rows.tolist())) if data.is_image else []
    if data.is_image:
        x0 = 2 * torch.cat([images for images, _ in batches]) - 1
        own = [label for _, label in batches]
    else:
        batch = data.__getitems__(rows.tolist())
        x0, own = batch["x0"], [batch.get("label")]
    condition = {}
    if model.num_classes is not None:
        known = model.has_classes_of(data)
        labels = torch.cat([label for label in own if label is not None]) if known else None
        in_turn = torch.arange(len(x0)) % model.num_classes
        condition["class_labels"] = (in_turn if labels is None else labels).to(device)
    truth = None if data.is_image else data.truth
    model.denoiser.to(device).eval()
    found = diagnostics(
        model.denoiser, x0.to(device), condition=condition, truth=truth, seed=evaluation.seed
    )
    told = {"data": data.name, "data_fingerprint": data.fingerprint(), "split": reference.split}
    return found | {"protocol": told | found["protocol"]}


def diagnostics_lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each figure: where it is large and small."""
    if not found:
        return []
    lines = []
    for key, words in (
        ("equivariance_error", "equivariance error"),
        ("lipschitz", "Lipschitz estimate of x0_hat"),
        ("score_error", "score error"),
    ):
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
