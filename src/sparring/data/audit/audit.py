"""The look at a whole set: dirt, sizes, unreadable files and duplicates.

    audit = audit_images(build_dataset("digits"))
    audit.table.kinds["gaussian"], audit.table.sigma       # of each image
    audit.judge(x, index)                                  # of images that were not looked at

Images are looked at as training would read them, contamination included, on the [0, 1] scale. What
is held grows by some hundred bytes an image; images themselves are held a few at a time.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ...diffusion.randomness import generator
from ...support.cache import key_of
from ...support.errors import UserError
from ..base import Batch, Dataset, Wrapper, joined
from ..batches import last_line, reader
from ..streams.shards import READ_AHEAD
from ..workers import Waiting, WorkerLost, n_readers
from .contract import Statistics
from .judging import Hiding, Judge, fit, fit_hiding, look
from .levels import Losses, losses_of
from .table import Table, clean_table

N_SAMPLE, N_SAMPLE_STREAM = 8192, 2048
"""Images of a set, and of a stream, that decide the thresholds. Of a stream no others are read."""
CHUNK, CHUNK_VALUES = 1024, 2**21  # most images, and most values, to hold at once
THUMB = 16  # side in pixels of the thumbnails whose distance says whether two images are alike
NEAR = 0.02  # largest rms difference of the thumbnails of near duplicates, [0, 1] scale
N_NEIGHBOURS, N_COMPONENTS = 16, 8
BLANK = 1 / 255


@dataclass
class Audit:
    """What was found. Arrays have a row per image that was looked at."""

    dataset: Dataset  # what was looked at
    judge: Judge  # the thresholds, for other images of the set
    table: Table  # the dirt of each image; one that could not be read has weight 0
    is_readable: np.ndarray  # whether each could be read, (n,), bool
    unreadable: list[str]  # files that could not be read
    sizes: Counter[tuple[int, int]]  # how many images have each (width, height) in the file
    digests: np.ndarray  # of the pixels, (n,), bytes; empty where unreadable
    thumbs: np.ndarray  # grey thumbnails, (n, d), uint8
    is_blank: np.ndarray  # whether all pixels are alike, (n,)

    @property
    def is_whole(self) -> bool:
        """Whether all images were looked at, not a sample of them."""
        return len(self.table) == len(self.dataset)

    @cached_property
    def duplicates(self) -> list[list[int]]:
        """Groups of images of equal pixels, by their numbers in the data set."""
        groups: dict[bytes, list[int]] = {}
        for row in np.flatnonzero(self.is_readable).tolist():
            groups.setdefault(self.digests[row], []).append(int(self.table.index[row]))
        return [group for group in groups.values() if len(group) > 1]

    @cached_property
    def near_duplicates(self) -> list[list[int]]:
        """Groups of images that look alike, by their numbers; one stands for all that are equal."""
        rows, index = np.flatnonzero(self.is_readable), self.table.index
        first = rows[np.sort(np.unique(self.digests[rows], return_index=True)[1])]
        return [index[first[group]].tolist() for group in near_groups(self.thumbs[first])]


def audit_images(
    dataset: Dataset,
    n_workers: int | str = 0,
    n_sample: int | None = None,
    seed: int = 0,
    *,
    whole_stream: bool = False,
) -> Audit:
    """Look at every image once; of a stream at a sample, unless `whole_stream`. `n_sample` images,
    chosen by the seed, decide the thresholds (None: `N_SAMPLE`, or `N_SAMPLE_STREAM`). `n_workers`
    processes read and look (0, auto: this one). UserError if the data cannot be read."""
    n_workers = n_readers(n_workers, dataset.is_decoded, on_gpu=False)
    sample = sample_of(dataset, n_sample, seed)
    others = np.delete(np.arange(len(dataset)), sample)
    if dataset.sharding is not None and not whole_stream:
        others = others[:0]
    looked_at = np.sort(np.concatenate([sample, others]))
    with tqdm(total=len(looked_at), unit="image", disable=None) as progress:
        first = list(_looked(Looked(dataset, None), sample, n_workers, progress))
        index = np.concatenate([batch["index"] for batch in first])
        seen = joined([batch["seen"] for batch in first])
        hiding = fit_hiding(seen)
        filled = Looked(dataset, hiding)
        again = index[hiding.rows(seen).numpy()]
        progress.total += len(again)
        for batch in _looked(filled, again, n_workers, progress):
            rows = torch.from_numpy(np.searchsorted(index, batch["index"]))
            for name, values in batch["seen"].items():
                seen[name][rows] = values
        judge = fit(seen, hiding)
        judge = replace(judge, losses=_losses(dataset, judge.of(seen, index)))
        audit = _without_images(dataset, judge, looked_at)
        for batch in first:
            _keep(audit, batch)
        _judge(audit, index, seen)
        for batch in _looked(filled, others, n_workers, progress):
            _keep(audit, batch)
            _judge(audit, batch["index"].numpy(), batch["seen"])
    audit.unreadable = list(dict.fromkeys(audit.unreadable))
    return audit


def sample_of(dataset: Dataset, n_sample: int | None = None, seed: int = 0) -> np.ndarray:
    """Numbers of the images that decide the thresholds, rising; of a stream some at many places."""
    n = len(dataset)
    if dataset.sharding is None:
        k = min(n, n_sample or N_SAMPLE)
        drawn = torch.randperm(n, generator=generator("cpu", seed, "audit"))[:k]
        return drawn.sort().values.numpy()
    k = min(n, n_sample or N_SAMPLE_STREAM)
    n_places = -(-k // READ_AHEAD)
    starts = np.arange(n_places) * n // n_places
    return np.unique((starts[:, None] + np.arange(READ_AHEAD)).clip(max=n - 1))


class Looked(Wrapper):
    """Each image as what is seen of it, without its pixels, and without stand-ins for others.
    Hidden pixels are filled by `hiding` before the others look; without it nothing is."""

    def __init__(self, dataset: Dataset, hiding: Hiding | None) -> None:
        super().__init__(dataset)
        self.look = look if hiding is None else hiding.look

    def rows(self, indices: Tensor, positions: Tensor) -> Batch:
        batch = self.dataset.rows(indices, positions)
        kept, x0 = batch["index"] == indices, batch["x0"]
        height, width = self.sample_shape[1:]
        sizes = batch["framing"][:, :2] if "framing" in batch else [[height, width]] * len(x0)
        return {
            "index": indices[kept],
            "seen": {name: values[kept] for name, values in self.look(x0).items()},
            "digest": [key_of(image).encode() for image in x0[kept]],
            "thumb": thumbnails(x0[kept]),
            "blank": x0[kept].flatten(1).amax(1) - x0[kept].flatten(1).amin(1) < BLANK,
            "size": torch.as_tensor(sizes)[kept],
            "n_asked": len(indices),
            "unreadable": batch["unreadable"],
        }


def _looked(dataset: Looked, index: np.ndarray, n_workers: int, progress: tqdm) -> Iterator[Batch]:
    """What is seen of these images, some at a time, in this order."""
    n = max(1, min(CHUNK, CHUNK_VALUES // int(np.prod(dataset.sample_shape))))
    chunks = [index[start : start + n].tolist() for start in range(0, len(index), n)]
    try:
        for batch in Waiting(reader(dataset, chunks, n_workers)):
            yield batch
            progress.update(batch["n_asked"])
    except WorkerLost as lost:
        raise UserError(
            f"a worker that reads data is gone ({lost}): it may have run out of memory; lower "
            "data.dataloader_num_workers"
        ) from lost
    except UserError as error:
        raise type(error)(last_line(error)) from None


def _losses(dataset: Dataset, table: Table) -> Losses | None:
    """What JPEG and blur take from images like these, if some have lost something to them."""
    has_lost = (table.quality > 0) | (table.blur_sigma > 0)
    return losses_of(dataset, table.index[table.is_clean]) if has_lost.any() else None


def _without_images(dataset: Dataset, judge: Judge, index: np.ndarray) -> Audit:
    """An audit of these images, none of which could be read."""
    table, n = clean_table(index, judge.kinds), len(index)
    table.weight[:] = 0
    thumbs = np.repeat(thumbnails(torch.zeros(1, *dataset.sample_shape)), n, 0)
    no, digests = np.zeros(n, bool), np.zeros(n, "S32")
    return Audit(dataset, judge, table, no, [], Counter(), digests, thumbs, no.copy())


def _keep(audit: Audit, batch: Batch) -> None:
    """Put what was seen of some images in its place, but for their dirt."""
    audit.unreadable += batch["unreadable"]
    rows = np.searchsorted(audit.table.index, batch["index"])
    audit.is_readable[rows] = True
    audit.digests[rows], audit.thumbs[rows] = batch["digest"], batch["thumb"]
    audit.is_blank[rows] = batch["blank"]
    audit.sizes.update((width, height) for height, width in batch["size"].tolist())


def _judge(audit: Audit, index: np.ndarray, seen: Statistics) -> None:
    """Put the dirt of some images in its place."""
    if len(index):
        audit.table.put(np.searchsorted(audit.table.index, index), audit.judge.of(seen, index))


def thumbnails(x0: Tensor) -> np.ndarray:
    """Grey images of at most `THUMB` pixels a side by averaging, (B, d), uint8."""
    size = min(THUMB, x0.shape[2]), min(THUMB, x0.shape[3])
    grey = F.adaptive_avg_pool2d(x0.mean(1, keepdim=True), size)
    return grey.flatten(1).clamp(0, 1).mul(255).round().byte().numpy()


def near_groups(thumbs: np.ndarray, near: float = NEAR) -> list[list[int]]:
    """Groups of thumbnails (n, d), uint8, that are linked by rms differences of at most `near`. The
    distance in a few principal components is at most the whole one, so a tree over these finds the
    candidates; of each row the nearest `N_NEIGHBOURS` are looked at."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    n, d = thumbs.shape
    if n < 2:
        return []
    x = thumbs.astype(np.float32) / 255
    centred = x - x.mean(0)
    components = np.linalg.eigh(centred.T @ centred)[1][:, -min(N_COMPONENTS, d) :]
    few, reach = centred @ components, near * np.sqrt(d)
    tree = KDTree(few)
    k = min(N_NEIGHBOURS, n - 1) + 1
    left, right = [], []
    for start in range(0, n, 4096):
        rows = np.arange(start, min(start + 4096, n))
        _, found = tree.query(few[rows], k, distance_upper_bound=reach * 1.001 + 1e-6)
        a, b = np.repeat(rows, k), found.ravel()
        use = (b < n) & (a != b)
        a, b = a[use], b[use]
        alike = np.square(x[a] - x[b]).mean(1) <= near**2
        left.append(a[alike])
        right.append(b[alike])
    a, b = np.concatenate(left), np.concatenate(right)
    links = coo_matrix((np.ones(len(a)), (a, b)), (n, n))
    _, group = connected_components(links, directed=False)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted(part.tolist() for part in parts if len(part) > 1)
