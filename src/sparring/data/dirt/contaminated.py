"""A data set of which some samples are dirty.

    dirty = Contaminated(build_dataset("digits"), "gaussian", rate=0.9, seed=0, sigma=0.2)
    manifest(dirty)                        # [{"index": 0, "kind": "gaussian", "sigma": 0.2}, ...]
    training_data({"name": "digits"}, {"kind": "gaussian", "rate": 0.9, "sigma": 0.2})

Which samples are dirty, and how, follows from (seed, index) alone: a sample is the same in every
epoch, batch, worker and process. Of n samples exactly rate * n (rounded) are dirty, the first ones
of a permutation of (seed, n): with one seed, those of a lower rate are among those of a higher, and
get the same. Contamination acts on samples at their final size, after resizing and cropping.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...diffusion.randomness import generator
from .. import transforms
from ..base import Batch, Dataset, InMemory, ModelRange, Wrapper, digest
from ..datasets import build_dataset
from .contract import Corruption, Dirt, Knowledge
from .registry import make
from .section import OF_THE_SET, ContaminationSection

HOLD_NUMBERS = 2**24  # values of a set in memory that is contaminated once, not at each reading


class Contaminated(Wrapper):
    """A data set of which some samples are dirty.

    Args:
        dataset: Any data set, a contaminated one too: layers choose independently of each other.
        kind: Of dirt: a file of `kinds`, or `path/to/file.py:Name`.
        rate: Share of dirty samples, in [0, 1].
        seed: Of the choice and of what each sample gets.
        clip: Whether images are what files hold: all of them, clean ones too, are cut to [0, 1] and
            rounded to 8 bits, k / 255. None: images are, vectors are not. False: dirty images are
            floats and may leave [0, 1], clean ones stay as they are.
        options: Those of the kind; None means its default.

    Raises:
        ValueError: if kind, rate or an option does not fit.
        UserError: if the kind needs other data, such as labels for adversarial.
    """

    def __init__(
        self,
        dataset: Dataset,
        kind: str,
        rate: float,
        seed: int,
        clip: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset)
        if not 0 <= rate <= 1:
            raise ValueError(f"contamination.rate must be in [0, 1], got {rate}")
        if clip and not self.is_image:
            raise ValueError(
                "contamination.clip applies to images: vectors have no range to cut to"
            )
        self.kind, self.rate, self.seed = kind, rate, seed
        self.clip = self.is_image if clip is None else clip
        self.dirt = _fitting(kind, options, self.is_image, dataset.name).prepared(dataset, seed)
        self.layer = len(layers(dataset))
        n_dirty = math.floor(rate * len(dataset) + 0.5)
        rng = generator("cpu", seed, "contaminated", self.layer)
        order = torch.randperm(len(dataset), generator=rng)[:n_dirty]
        self.number = torch.full((len(dataset),), -1)  # of each dirty sample, counted from 0
        self.number[order] = torch.arange(n_dirty)
        self.dirty = self.number >= 0
        self.held = self._hold()

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(indices, positions)
        if self.held is not None:
            return {**batch, "x0": self.held.index_select(0, batch["index"])}
        return {**batch, "x0": self._contaminate(batch)}

    def corruption(self, index: int) -> Corruption:
        """What a dirty sample gets."""
        return self.dirt.of(int(self.number[index]))

    def details(self, index: int) -> dict[str, Any]:
        """What a dirty sample got: its kind, and the values drawn for this sample."""
        corruption = self.corruption(index)
        described = corruption.describe(self.sample_shape, self._generator(index))
        return {"kind": corruption.kind, **described}

    def knowledge(self, index: int) -> Knowledge:
        """What is true of a dirty sample."""
        return self.corruption(index).knowledge(self.sample_shape, self._generator(index))

    def protocol(self) -> dict[str, Any]:
        """What was done: kind, rate, seed, clip, the kind's options, how many samples are dirty."""
        return {
            "kind": self.kind, "rate": self.rate, "seed": self.seed, "clip": self.clip,
            "n_samples": len(self), "n_dirty": int(self.dirty.sum()),
            "scale": "[0, 1]" if self.is_image else "data units",
        } | self.dirt.settings(self.sample_shape)  # fmt: skip

    def fingerprint(self) -> str:
        return digest(self.dataset.fingerprint(), self.layer, self.protocol())

    def _generator(self, index: int) -> torch.Generator:
        return generator("cpu", self.seed, "contamination", self.layer, index)

    def _contaminate(self, batch: Batch) -> Tensor:
        x0, index, label = batch["x0"].clone(), batch["index"].tolist(), batch.get("label")
        for row in self.dirty[batch["index"]].nonzero().flatten().tolist():
            own_label = None if label is None else int(label[row])
            corruption, x = self.corruption(index[row]), x0[row]
            dirty = corruption.apply(x, self._generator(index[row]), own_label)
            if dirty.shape != x.shape or not dirty.isfinite().all():
                raise ValueError(
                    f"contamination kind {corruption.kind} made {list(dirty.shape)} of sample "
                    f"{index[row]} of shape {list(x.shape)}, or values that are not finite"
                )
            x0[row] = dirty
        return transforms.to_float(transforms.to_uint8(x0)) if self.clip else x0

    def _hold(self) -> Tensor | None:
        inner = self.dataset
        small = isinstance(inner, InMemory) and inner.x0.numel() <= HOLD_NUMBERS
        if isinstance(inner, Contaminated):
            small = inner.held is not None
        return self._contaminate(inner.read_all()) if small else None


def training_data(
    data: Mapping[str, Any], contamination: Mapping[str, Any] | None = None
) -> ModelRange:
    """What a model trains on: images about [-1, 1] or vectors in data units, contaminated. `data`
    has `name`, `split` and fields as in `build_dataset`, `contamination` is as of `contaminate`.
    `.dataset` is the contaminated set."""
    return ModelRange(contaminate(build_dataset(**data), contamination))


def contaminate(dataset: Dataset, contamination: Mapping[str, Any] | None) -> Dataset:
    """A data set with a config's section contamination: kind none, or nothing, leaves it clean."""
    given = _given(contamination)
    if given.get("kind", "none") == "none":
        return dataset
    defaults = ContaminationSection().model_dump(exclude_none=True)
    return Contaminated(dataset, **{**defaults, **given})


def check_contamination(
    contamination: Mapping[str, Any] | None, is_image: bool | None = None
) -> None:
    """Refuse (ValueError, which names the key) what `contaminate` would refuse, without any data.
    `is_image` says what the data will be, where that is known."""
    given = _given(contamination)
    if given.get("kind", "none") != "none":
        options = {key: value for key, value in given.items() if key not in OF_THE_SET}
        _fitting(given["kind"], options, is_image, "the data set")


def _fitting(kind: str, options: Mapping[str, Any], is_image: bool | None, name: str) -> Dirt:
    """A kind, refused where it is for images and the data set of that name holds vectors."""
    dirt = make(kind, options)
    if dirt.images_only and is_image is False:
        raise ValueError(f"contamination kind {kind} needs images, and {name} holds vectors")
    return dirt


def layers(dataset: Dataset) -> list[Contaminated]:
    """The contaminations of a data set, the innermost first."""
    found = []
    while isinstance(dataset, Wrapper):
        if isinstance(dataset, Contaminated):
            found.append(dataset)
        dataset = dataset.dataset
    return found[::-1]


def _given(contamination: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (contamination or {}).items() if value is not None}
