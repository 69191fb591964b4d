"""The contract of a data set, and the wrappers that keep it.

A data set is asked for many samples at once and answers with a batch; nothing is left to collate:

    dataset.__getitems__([3, 1])     # {"x0": (2, C, H, W), "index": (2,), "label": (2,), ...}

Images are float32 in [0, 1], (C, H, W); vectors keep their data units, (d,). Only `ModelRange`, the
last wrapper, maps images to [-1, 1].
"""

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..support.cache import key_of
from . import transforms
from .analytic import Truth
from .captions import Caption
from .streams.shard_order import Sharding, ShardOrder
from .trust.trust import Trust

Key = int | tuple[int, int]
"""A sample's index, or (index, position in the stream of training samples)."""

Batch = dict[str, Any]
"""x0 (B, *), index (B,) long, label (B,) long if there are labels, caption list[str] if there are
captions, digest list[str] of `Digests`, trust `Trust` of `Trusted`, unreadable list[str] (files
that were replaced by the next readable one); of images from files framing (B, 5) long: height and
width in the file, and how many pixels the crop has cut off at the top, left and right after
resizing."""

READ_CHUNK = 1024


class Dataset(torch.utils.data.Dataset, ABC):
    """Samples by index. Abstract: a data set says what it holds and implements `rows`.

    Attributes:
        name: What it is called in configs and reports.
        sample_shape: (C, H, W) of an image, (d,) of a vector.
        is_image: Whether samples are images in [0, 1].
        num_classes: Number of classes, None without labels.
        class_names: Their names in the order of the labels, [] without labels.
        absent_classes: Numbers of classes that no sample has.
        labels: Classes of all samples, (n,), long, where they are known beforehand.
        truth: The known answer of an analytic set, else None.
        captions: What each image shows, see `captions`; None for data without.
        is_decoded: Whether samples are decoded from files when they are asked for.
        sharding: Of samples that are to be read shard by shard; None: in any order.
        remarks: What was left out or read otherwise than one may expect, a sentence each.
    """

    name: str
    sample_shape: tuple[int, ...]
    is_image: bool
    num_classes: int | None = None
    class_names: Sequence[str] = ()
    absent_classes: Sequence[int] = ()
    labels: Tensor | None = None
    truth: Truth | None = None
    captions: Sequence[Caption] | None = None
    is_decoded: bool = False
    sharding: Sharding | None = None
    remarks: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        """The batch of samples `indices`, (B,), long.

        `positions`, (B,), long, say where each stands in the training stream; they decide random
        crops and which of several captions is drawn, and nothing else.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the content and with how it is read."""

    def where(self, index: int) -> str | None:
        """The file or row that a sample comes from, None when it has no name of its own."""
        return None

    def following(self, order: ShardOrder) -> "Dataset":
        """The same samples, read ahead in this order. Only for data with `sharding`."""
        raise NotImplementedError

    def set_classes(self, labels: Tensor | None, names: Sequence[str]) -> None:
        """Take labels (n,) and the names of their classes; without labels there are no classes."""
        self.labels = labels
        self.class_names = [] if labels is None else list(names)
        self.num_classes = None if labels is None else len(names)
        self.absent_classes = absent_classes(labels, self.num_classes)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        pairs = [key if isinstance(key, tuple) else (int(key), int(key)) for key in keys]
        indices, positions = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
        if len(pairs) and (int(indices.min()) < 0 or int(indices.max()) >= len(self)):
            raise IndexError(f"data set {self.name} has samples 0 to {len(self) - 1}")
        return self.rows(indices, positions)

    def __getitem__(self, key: Key) -> Batch:
        """One sample: x0 without the batch axis, index and label as numbers."""
        batch = self.__getitems__([key])
        sample = {name: values[0] for name, values in batch.items() if name != "unreadable"}
        if "trust" in batch:
            sample["trust"] = batch["trust"].rows(torch.tensor(0))
        numbers = {name: sample[name].item() for name in ("index", "label") if name in sample}
        return sample | numbers

    def read_all(self, limit: int | None = None) -> Batch:
        """The first `limit` samples (all by default) as one batch, see `chunks`."""
        return joined(list(self.chunks(range(len(self))[:limit])))

    def chunks(self, numbers: Sequence[int] | None = None, n: int = READ_CHUNK) -> Iterator[Batch]:
        """These samples (all by default), each once, in batches of at most n. An unreadable file is
        left out, so a batch may be smaller; `unreadable` names it."""
        numbers = range(len(self)) if numbers is None else numbers
        for start in range(0, len(numbers), n):
            asked = numbers[start : start + n]
            batch = self.__getitems__(asked)
            yield _keep(batch, batch["index"] == torch.tensor(asked))


def absent_classes(labels: Tensor | None, num_classes: int | None) -> list[int]:
    """Numbers of the classes that none of the labels (n,) is."""
    if labels is None or num_classes is None:
        return []
    return (labels.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist()


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of all."""

    def join(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Tensor):
            return torch.cat(list(parts))
        if isinstance(parts[0], Trust):
            return Trust.joined(parts)
        return [value for part in parts for value in part]

    return {name: join([batch[name] for batch in batches]) for name in batches[0]}


def _keep(batch: Batch, kept: Tensor) -> Batch:
    """The rows of a batch where `kept` (B,) is true; the list of unreadable files stays whole."""

    def keep(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values[kept]
        if isinstance(values, Trust):
            return values.rows(kept)
        return [value for value, stays in zip(values, kept.tolist(), strict=True) if stays]

    return {
        name: values if name == "unreadable" else keep(values) for name, values in batch.items()
    }


class InMemory(Dataset):
    """Samples held as one tensor; a batch is an `index_select`.

    Args:
        name: What it is called in configs and reports.
        x0: Images (n, C, H, W), float in [0, 1], or vectors (n, d) in data units.
        labels: Classes, shape (n,), long.
        class_names: Names of the classes; their number is `num_classes`.
        truth: The known answer, for analytic sets.
        made_from: Settings from which everything was computed. They stand for the values in the
            fingerprint, since the last digit of what is computed depends on the processor.
    """

    def __init__(
        self,
        name: str,
        x0: Tensor,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        truth: Truth | None = None,
        made_from: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.x0, self.truth = name, x0, truth
        self.made_from, self._rows = made_from, torch.arange(len(x0))
        self.sample_shape = tuple(x0.shape[1:])
        self.is_image = x0.ndim == 4
        self.set_classes(labels, class_names)

    def __len__(self) -> int:
        return len(self.x0)

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        x0 = self.x0.index_select(0, indices)
        batch: Batch = {"x0": x0, "index": indices, "unreadable": []}
        if self.labels is not None:
            batch["label"] = self.labels.index_select(0, indices)
        return batch

    def select(self, rows: Tensor) -> "InMemory":
        """These samples only, numbered from 0 in the order given."""
        labels = None if self.labels is None else self.labels[rows]
        known = self.class_names, self.truth, self.made_from
        some = InMemory(self.name, self.x0[rows], labels, *known)
        some._rows = self._rows[rows]
        return some

    def fingerprint(self) -> str:
        labels = b"" if self.labels is None else self.labels.numpy().tobytes()
        if self.made_from is None:
            values = self.x0.contiguous().numpy().tobytes()
        else:
            values = digest(dict(self.made_from), self._rows.numpy().tobytes())
        return digest(self.name, self.sample_shape, self.class_names, values, labels)


class Wrapper(Dataset):
    """A data set seen through something: it has the inner one's properties. Abstract."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        for name in Dataset.__annotations__:
            setattr(self, name, getattr(dataset, name))

    def __len__(self) -> int:
        return len(self.dataset)

    def following(self, order: ShardOrder) -> "Wrapper":
        mine = copy.copy(self)
        mine.dataset = self.dataset.following(order)
        return mine

    def where(self, index: int) -> str | None:
        return self.dataset.where(index)

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()  # where the samples are the same


class ModelRange(Wrapper):
    """The last wrapper: images of [0, 1] come out in [-1, 1], 2 * image - 1; vectors stay.
    Contaminated images go beyond, unless they are clipped."""

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(indices, positions)
        if self.is_image:
            batch["x0"] = transforms.to_model_range(batch["x0"])
        return batch

    def fingerprint(self) -> str:
        return digest("model range", self.dataset.fingerprint())


class Digests(Wrapper):
    """Each sample comes with the digest of its values, by which a cache knows it."""

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(indices, positions)
        return {**batch, "digest": [key_of(x0) for x0 in batch["x0"]]}


def digest(*parts: object) -> str:
    """Sixteen hex digits of anything: bytes as they are, the rest as JSON."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, default=str).encode()
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()
