"""Data made dirty on purpose, and the record of what was done to which sample.

    dirty = Contaminated(build_dataset("digits"), "gaussian", rate=0.9, seed=0, sigma=0.2)
    manifest(dirty)                        # [{"index": 0, "kind": "gaussian", "sigma": 0.2}, ...]

Which samples are dirty, and how, follows from (seed, index) alone: a sample is the same in every
epoch, batch, worker and process. Of n samples exactly rate * n (rounded) are dirty, the first ones
of a permutation of (seed, n): with one seed, those of a lower rate are among those of a higher.

Contamination acts on what the data set returns, at its final size: after resizing and cropping.
The manifest is for reports; training never reads it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..randomness import generator
from .base import Batch, Dataset, InMemory, Wrapper, digest
from .classifier import train_classifier
from .corruptions import CORRUPTIONS, Adversarial, Corruption

HOLD_NUMBERS = 2**24
"""Sets in memory of at most so many values are contaminated once; others whenever they are read."""


class Contaminated(Wrapper):
    """A data set of which some samples are dirty.

    Args:
        dataset: Any data set, a contaminated one too: layers choose independently of each other.
        kind: One of corruptions.CORRUPTIONS.
        rate: Share of dirty samples, in [0, 1].
        seed: Of the choice and of what each sample gets.
        clip: Whether dirty images are cut to [0, 1] (they are not by default: clipping biases the
            noise).
        fields: Those of the kind; None means its default.

    Raises:
        ValueError: if kind, rate or a field does not fit.
        UserError: if the kind is adversarial and the data have no labels.
    """

    def __init__(
        self, dataset: Dataset, kind: str, rate: float, seed: int, clip: bool = False, **fields: Any
    ) -> None:
        super().__init__(dataset)
        if not 0 <= rate <= 1:
            raise ValueError(f"contamination.rate must be in [0, 1], got {rate}")
        if clip and not self.is_image:
            raise ValueError(
                "contamination.clip applies to images: vectors have no range to cut to"
            )
        self.kind, self.rate, self.seed, self.clip = kind, rate, seed, clip
        self.corruption = _corruption(kind, dataset, seed, fields)
        self.layer = len(layers(dataset))
        n_dirty = math.floor(rate * len(dataset) + 0.5)
        rng = generator("cpu", seed, "contaminated", self.layer)
        self.dirty = torch.zeros(len(dataset), dtype=torch.bool)
        self.dirty[torch.randperm(len(dataset), generator=rng)[:n_dirty]] = True
        self.held = self._hold()

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(indices, positions)
        if self.held is not None:
            return {**batch, "x0": self.held.index_select(0, batch["index"])}
        return {**batch, "x0": self._contaminate(batch)}

    def protocol(self) -> dict[str, Any]:
        """What was done: kind, rate, seed, clip, the kind's fields, how many samples are dirty."""
        said = {
            "kind": self.kind, "rate": self.rate, "seed": self.seed, "clip": self.clip,
            "n_samples": len(self), "n_dirty": int(self.dirty.sum()),
            "scale": "[0, 1]" if self.is_image else "data units",
        }  # fmt: skip
        said |= self.corruption.settings(self.sample_shape)
        if isinstance(self.corruption, Adversarial) and self.corruption.classifier is not None:
            said["classifier_accuracy"] = self.corruption.classifier.accuracy
        return said

    def details(self, index: int) -> dict[str, Any]:
        """What a dirty sample got."""
        return self.corruption.describe(self.sample_shape, self._generator(index))

    def fingerprint(self) -> str:
        return digest(self.dataset.fingerprint(), self.layer, self.protocol())

    def _generator(self, index: int) -> torch.Generator:
        return generator("cpu", self.seed, "contamination", self.layer, index)

    def _contaminate(self, batch: Batch) -> Tensor:
        x0, index, label = batch["x0"].clone(), batch["index"].tolist(), batch.get("label")
        for row in self.dirty[batch["index"]].nonzero().flatten().tolist():
            own_label = None if label is None else int(label[row])
            dirty = self.corruption.apply(x0[row], self._generator(index[row]), own_label)
            x0[row] = dirty.clamp(0, 1) if self.clip else dirty
        return x0

    def _hold(self) -> Tensor | None:
        inner = self.dataset
        if isinstance(inner, Contaminated):
            small = inner.held is not None
        else:
            small = isinstance(inner, InMemory) and inner.x0.numel() <= HOLD_NUMBERS
        return self._contaminate(inner.read_all()) if small else None


def contaminate(dataset: Dataset, contamination: Mapping[str, Any] | None) -> Dataset:
    """A data set with a config's `contamination`: kind none, or nothing, leaves it as it is.

    Args:
        dataset: Any data set.
        contamination: `kind`, `rate`, `seed`, `clip` and the kind's fields; None means a default,
            and rate is 0.9 and seed 0 by default.
    """
    given = {key: value for key, value in (contamination or {}).items() if value is not None}
    if given.get("kind", "none") == "none":
        return dataset
    return Contaminated(dataset, **{"rate": 0.9, "seed": 0, **given})


def own_fields(kind: str) -> dict[str, Any]:
    """The fields of a kind with their defaults: own_fields("gaussian") == {"sigma": 0.1}."""
    fields = dataclasses.fields(CORRUPTIONS[kind])
    return {field.name: field.default for field in fields if field.name != "classifier"}


def layers(dataset: Dataset) -> list[Contaminated]:
    """The contaminations of a data set, the innermost first."""
    found = []
    while isinstance(dataset, Wrapper):
        if isinstance(dataset, Contaminated):
            found.append(dataset)
        dataset = dataset.dataset
    return found[::-1]


def manifest(dataset: Dataset) -> list[dict[str, Any]]:
    """What every dirty sample got: index, kind, the kind's values, and its file if it has one."""
    entries = []
    for layer in layers(dataset):
        for index in layer.dirty.nonzero().flatten().tolist():
            where = layer.where(index)
            entries.append(
                {"index": index, "kind": layer.kind, **layer.details(index)}
                | ({} if where is None else {"where": where})
            )
    return sorted(entries, key=lambda entry: entry["index"])


def noise_of(dataset: Dataset) -> Tensor:
    """Standard deviation of the Gaussian noise on each sample, (N,), in the model's units.

    Twice the value on the [0, 1] scale for images; 0 for clean samples, infinite where something
    else was done to one. For the oracle, a control; no other training knows this.
    """
    variance = torch.zeros(len(dataset))
    for layer in layers(dataset):
        for index in layer.dirty.nonzero().flatten().tolist():
            sigma = layer.details(index)["sigma"] if layer.kind == "gaussian" else math.inf
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
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    header, *entries = [json.loads(line) for line in lines]
    return header, entries


def _corruption(kind: str, dataset: Dataset, seed: int, fields: Mapping[str, Any]) -> Corruption:
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown contamination.kind '{kind}' (known: {', '.join(CORRUPTIONS)})")
    given = {key: value for key, value in fields.items() if value is not None}
    known = own_fields(kind)
    for key in given.keys() - known.keys():
        raise ValueError(
            f"contamination.{key} does not apply to kind {kind} (it takes {', '.join(known)}): "
            "leave it out, or set it to null"
        )
    if CORRUPTIONS[kind].images_only and not dataset.is_image:
        raise ValueError(
            f"contamination kind {kind} needs images, and {dataset.name} holds vectors"
        )
    corruption = CORRUPTIONS[kind](**given)
    if isinstance(corruption, Adversarial):
        corruption = dataclasses.replace(corruption, classifier=train_classifier(dataset, seed))
    return corruption
