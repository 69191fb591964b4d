"""What was done to which sample: for reports, and for the oracle, a control.

The manifest holds a line for each dirty sample with the values that were drawn for it. No training
but the oracle's reads it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...text_files import lines_of
from ..base import Dataset
from .contaminated import layers
from .contract import Knowledge


def manifest(dataset: Dataset) -> list[dict[str, Any]]:
    """What every dirty sample got: index, kind, the sample's values, and its file if it has one."""
    entries = []
    for layer in layers(dataset):
        for index in layer.dirty.nonzero().flatten().tolist():
            where = layer.where(index)
            entries.append(
                {"index": index, **layer.details(index)}
                | ({} if where is None else {"where": where})
            )
    return sorted(entries, key=lambda entry: entry["index"])


def noise_of(dataset: Dataset) -> Tensor:
    """Standard deviation of the white Gaussian noise on each sample, (N,), in the model's units.

    Twice the value on the [0, 1] scale for images, each sample's own where sigma is a range; 0 for
    clean samples, infinite where something else was done to one: noise that depends on the
    brightness or is correlated is of no one size and counts as something else. For the oracle, a
    control; no other training knows this.

    Raises:
        UserError: if noisy images are clipped, after which their noise is of no one size.
    """
    variance = torch.zeros(len(dataset))
    for layer in layers(dataset):
        for index in layer.dirty.nonzero().flatten().tolist():
            known = layer.knowledge(index)
            sigma = known.sigma if known == Knowledge(sigma=known.sigma) else math.inf
            if layer.clip and 0 < sigma < math.inf:
                raise UserError(
                    f"contamination kind {layer.kind}: the noise of images that are clipped to 8 "
                    "bits is no longer Gaussian and of one size, so nobody can be told it: set "
                    "contamination.clip=false"
                )
            variance[index] += (sigma * (2 if layer.is_image else 1)) ** 2
    return variance.sqrt()


def manifest_header(dataset: Dataset) -> dict[str, Any]:
    """The protocol of the whole: the outermost contamination's, with those below it."""
    protocols = [layer.protocol() for layer in layers(dataset)]
    outer = protocols.pop() if protocols else {"kind": "none", "rate": 0.0, "n_dirty": 0}
    return {
        "record": "protocol", "data": dataset.name, "fingerprint": dataset.fingerprint(),
        "n_samples": len(dataset), **outer, "below": protocols,
    }  # fmt: skip


def write_manifest(
    dataset: Dataset, path: str | Path, files: Mapping[int, str] | None = None, **more: Any
) -> None:
    """Write the manifest as JSON lines: the header, then a line per dirty sample.

    Args:
        dataset: Contaminated, and perhaps wrapped further.
        path: The file to write.
        files: For a copy on disk, the file of each sample; samples without one are left out.
        more: Further entries of the header.
    """
    entries = manifest(dataset)
    if files is not None:
        entries = [
            {**entry, "file": files[entry["index"]]} for entry in entries if entry["index"] in files
        ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{**manifest_header(dataset), **more}, *entries]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read_manifest(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A manifest's header and entries."""
    lines = lines_of(Path(path).read_text(encoding="utf-8"))
    header, *entries = [json.loads(line) for line in lines if line]
    return header, entries
