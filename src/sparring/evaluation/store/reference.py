"""Clean data that samples are compared with, read once: features, labels, captions, originals."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...data.base import Dataset
from ...data.captions import first_of
from ...diffusion.randomness import generator
from ...support.cache import key_of
from ...support.errors import UserError
from ...support.terminal import printable
from ..networks.extractors import Extractor, image_batches, make_extractor
from ..networks.inception import EXTRACTORS as INCEPTION
from ..networks.judges import Judges, Panel
from ..networks.lpips import LPIPS, find_lpips
from ..protocol import versions
from .cached_figures import code_key
from .originals import Originals, read_features
from .quiet_directions import Directions, quiet_directions, rms_of_others
from .statistics import CLAIMS, check_features, load_statistics, save_statistics
from .tensor_tables import Parts, Processes

log = logging.getLogger(__name__)

N_COMPUTED_AGAIN = 16
PART = 256  # images of a data set that are held at once
EMPTY_SHARE = 0.97  # share of the images in which an empty pixel is exactly 0


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    extractor: str | None = None  # see `make_extractor`
    n_resamples: int = 10  # behind each interval and each floor; at least 2
    seed: int = 0  # of subsets, resamples, directions and fresh samples
    k: int = 5  # neighbours that make the balls of precision, recall, density and coverage
    max_reference: int = 50_000  # a larger reference is replaced by a random subset of this size
    device: str = "cpu"  # where features are computed
    weights: str | None = None  # file of the Inception weights; None: the cache or public address
    statistics: str | None = None  # file of the reference's saved features, checked before use
    judges: Judges = field(default_factory=Judges)  # of captioned samples
    # in whose features copies of training images are looked for; None: in `extractor`'s
    memorization_extractor: str | None = None
    lpips_weights: str | None = None  # a file; None: from the cache, or no figure
    metrics: tuple[str, ...] = ()  # of the user's own, `path/to/file.py:Name` each

    def __post_init__(self) -> None:
        if self.n_resamples < 2:
            raise UserError(f"evaluation.n_resamples must be >= 2, got {self.n_resamples}")


@dataclass(eq=False)
class Reference:
    """Clean reference data read once: features and empty pixels, for any number of models."""

    dataset: Dataset  # images in [0, 1] (not `ModelRange`, not contaminated)
    settings: Settings
    split: str = "not said"  # what the data set's split is called, for the protocol
    read_as: str | None = None  # size and channels and what made them so, for the protocol
    _: KW_ONLY
    kept: Path | None = None  # folder of features, which several processes need; None: in memory
    processes: Processes = field(default_factory=Processes)  # who shares the reading

    def __post_init__(self) -> None:
        self._originals: dict[tuple[str | None, ...], Originals] = {}
        if not self.dataset.is_image and self.dataset.truth is None:
            name = self.dataset.name
            raise UserError(f"{name} has neither images nor a known truth to compare with")

    def __len__(self) -> int:
        return min(len(self.dataset), self.settings.max_reference)

    @cached_property
    def extractor(self) -> Extractor:
        settings = self.settings
        return make_extractor(settings.extractor, self.dataset, settings.device, settings.weights)

    @cached_property
    def panel(self) -> Panel | None:
        """The judges of captioned samples, None where none is named."""
        judges = self.settings.judges
        if not judges.named:
            return None
        return Panel(judges, self.dataset, self._rows_of(self.dataset), self.settings.device)

    @cached_property
    def _read(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, empty pixels and labels, perhaps as `save` wrote them for these data; of these
        the first rows are computed again."""
        path = self.settings.statistics
        if path is None:
            labels = self._labels if self.dataset.num_classes else None
            return self._parts.read("features"), self.empty_pixels, labels
        features, is_empty, labels = load_statistics(path, self.claims())
        rows = self._rows_of(self.dataset)[:N_COMPUTED_AGAIN]
        images, _ = next(image_batches(self.dataset, rows))
        check_features(path, features[: len(images)], self.extractor(images.clamp(0, 1)))
        return features, is_empty, labels

    @cached_property
    def _parts(self) -> Parts:
        """Features, empty pixels and labels of the images, this process's share done."""
        data, extractor = self.dataset, self.extractor

        def read(rows: Sequence[int]) -> dict[str, Tensor]:
            images, labels = next(image_batches(data, rows, len(rows)))
            found = {
                "features": extractor(images.clamp(0, 1)),
                "n_empty": (images == 0).sum(0, dtype=torch.long)[None],
                "n_images": torch.tensor([len(images)]),
            }
            return found if labels is None else found | {"labels": labels}

        return self._in_parts(data, extractor, self._rows_of(data), read, "images")

    def _in_parts(
        self,
        data: Dataset,
        extractor: Extractor,
        rows: Sequence[int],
        read: Callable[[Sequence[int]], dict[str, Tensor]],
        what: str,
    ) -> Parts:
        """What is read of rows of a data set, kept, this process's share done."""
        key = key_of(
            what, data.fingerprint(), list(rows), self.device_type, extractor.name,
            extractor.checksum, extractor.resize, extractor.range, code_key(),
        )  # fmt: skip
        folder = None if self.kept is None else self.kept / key
        parts = Parts(len(rows), PART, folder, self.processes)
        said = printable(f"reading {data.name}")
        with tqdm(total=len(rows), desc=said, unit="image", disable=None, leave=False) as bar:
            parts.compute(
                lambda part: read(rows[part.start : part.stop]), lambda part: bar.update(len(part))
            )
        return parts

    @property
    def device_type(self) -> str:
        return torch.device(self.settings.device).type

    def save(self, path: str | Path) -> None:
        """Write features, statistics and labels of images, with what they were computed from."""
        if not self.dataset.is_image:
            raise UserError(f"{self.dataset.name} has no images: it needs no saved statistics")
        save_statistics(path, *self._read, self.claims())

    def claims(self) -> dict[str, Any]:
        """What decides the features: the protocol's share of it, and which rows were read."""
        protocol, settings = self.protocol(0), self.settings
        is_whole = len(self.dataset) <= settings.max_reference
        return {key: protocol[key] for key in CLAIMS if key in protocol} | {
            "rows": "all" if is_whole else f"{len(self)} by seed {settings.seed}"
        }

    @cached_property
    def memorization_extractor(self) -> Extractor:
        """In whose features copies are looked for."""
        name, settings = self.settings.memorization_extractor, self.settings
        if name in (None, settings.extractor):
            return self.extractor
        weights = settings.weights if name in INCEPTION else None
        return make_extractor(name, self.dataset, settings.device, weights)

    @cached_property
    def lpips(self) -> LPIPS | None:
        """The network behind lpips_diversity, None without weights."""
        if not self.dataset.is_image or self.dataset.sample_shape[0] not in (1, 3):
            return None
        network = find_lpips(self.settings.lpips_weights)
        return None if network is None else network.to(self.settings.device)

    def originals(
        self,
        training: Dataset,
        held_out: Dataset | None,
        extractor: Extractor,
        clean: Dataset | None = None,
    ) -> Originals:
        """Training images for models to be compared with; the same ones are read once."""
        sets = (training, held_out, clean)
        key = (extractor.name, *(one.fingerprint() if one else None for one in sets))
        if key not in self._originals:
            how = extractor, self._rows_of(training), clean, self.features_of
            self._originals[key] = Originals(training, held_out, *how)
        return self._originals[key]

    def features_of(
        self, data: Dataset, extractor: Extractor, rows: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """`read_features`, kept, this process's share computed here."""

        def read(rows: Sequence[int]) -> dict[str, Tensor]:
            features, indices = read_features(data, extractor, rows)
            return {"features": features, "indices": indices}

        parts = self._in_parts(data, extractor, rows, read, "features")
        return parts.read("features"), parts.read("indices")

    @property
    def labels(self) -> Tensor | None:
        """Classes (N,) of the images in a random order, None without labels."""
        if not self.dataset.num_classes:
            return None
        labels = self._labels
        random = generator("cpu", self.settings.seed, "labels")
        return labels[torch.randperm(len(labels), generator=random)]

    @cached_property
    def _labels(self) -> Tensor:
        if self.dataset.is_image and self.settings.statistics is None:
            return self._parts.read("labels")
        saved = self._read[2] if self.dataset.is_image else None
        return self.dataset.read_all()["label"] if saved is None else saved

    @cached_property
    def captions(self) -> list[str]:
        """Captions in a random order, the first of each image that has any."""
        captions = self.dataset.captions
        if captions is None:
            return []
        rows = torch.tensor(self._rows_of(self.dataset))
        random = generator("cpu", self.settings.seed, "captions")
        order = rows[torch.randperm(len(rows), generator=random)].tolist()
        found = (first_of(captions[i]) for i in order)
        return [caption for caption in found if caption is not None]

    @property
    def features(self) -> Tensor:
        """Features (N, D)."""
        return self._read[0]

    @cached_property
    def empty_pixels(self) -> Tensor:
        """Pixels (C, H, W) that are 0 in at least 97 % of the images."""
        if self.settings.statistics is not None:
            return self._read[1]
        parts = self._parts
        return parts.read("n_empty").sum(0).double() / parts.read("n_images").sum() >= EMPTY_SHARE

    @cached_property
    def quiet(self) -> Directions | None:
        """The directions in which the images vary least, None where there are too few images."""
        return quiet_directions(self.dataset, self.settings.seed)

    @cached_property
    def quiet_rms_of_clean(self) -> float | None:
        """What other clean images have there."""
        return None if self.quiet is None else rms_of_others(self.quiet, self.dataset)

    def protocol(self, n_fake: int) -> dict[str, Any]:
        """What decides the measurement, besides what each metric adds."""
        of_images: dict[str, Any] = {}
        if self.dataset.is_image:
            extractor = self.extractor
            of_images = {
                **({} if self.read_as is None else {"read_as": self.read_as}),
                "resize": extractor.resize,
                "range": extractor.range,
                "extractor": extractor.name,
                "extractor_checksum": extractor.checksum,
                **extractor.details,
                "memorization_extractor": self.memorization_extractor.name,
            }
        return {
            "data": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint(),
            "split": self.split,
            "n_real": len(self),
            "n_fake": n_fake,
            **of_images,
            "n_resamples": self.settings.n_resamples,
            "seeds": {"evaluation": self.settings.seed},
            "versions": versions(),
        }

    def _rows_of(self, data: Dataset) -> list[int]:
        """All rows, or a seeded subset of a data set with more than `max_reference`."""
        most = self.settings.max_reference
        if len(data) <= most:
            return list(range(len(data)))
        random = generator("cpu", self.settings.seed, "reference rows")
        return torch.randperm(len(data), generator=random)[:most].sort().values.tolist()
