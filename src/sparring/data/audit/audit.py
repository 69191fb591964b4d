"""What a set of images holds: sizes, unreadable files, duplicates, and how noisy each image is.

    audit = audit_images(build_dataset("digits"))
    audit.noise.rate, audit.noise.sigma, audit.ranking()[:10]

Images are looked at as training would read them, contamination included, on the [0, 1] scale.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ...cache import key_of
from ..base import Dataset
from .noise_level import NoiseLevel, chunk_size, fit_noise_level, quiet_directions

THUMB = 16
"""Side of the thumbnails, in pixels, whose distance says whether two images are nearly alike."""
NEAR = 0.02
"""Largest rms difference of the thumbnails of near duplicates, [0, 1] scale."""
N_NEIGHBOURS, N_COMPONENTS = 16, 8
BLANK = 1 / 255


@dataclass
class Audit:
    """What was found. Arrays have a row per readable image.

    Attributes:
        dataset: What was looked at.
        index: Number of each readable image in the data set, (n,).
        unreadable: Files that could not be read.
        sizes: How many images have each (width, height) in the file.
        digests: Of the pixels, (n,).
        thumbs: Grey thumbnails, (n, d), uint8.
        is_blank: Whether all pixels are alike, (n,).
        energy: Residual energy in all quiet directions and in half of them, (n, 2); see
            noise_level. None where there are too few images.
        patch: Height and width of what the directions belong to.
        noise: The mixture, None where there are too few images.
    """

    dataset: Dataset
    index: np.ndarray
    unreadable: list[str]
    sizes: Counter[tuple[int, int]]
    digests: list[str]
    thumbs: np.ndarray
    is_blank: np.ndarray
    energy: np.ndarray | None = None
    patch: tuple[int, int] | None = None
    noise: NoiseLevel | None = None

    @cached_property
    def duplicates(self) -> list[list[int]]:
        """Groups of images of equal pixels, by their numbers in the data set."""
        groups: dict[str, list[int]] = {}
        for index, digest in zip(self.index.tolist(), self.digests, strict=True):
            groups.setdefault(digest, []).append(index)
        return [group for group in groups.values() if len(group) > 1]

    @cached_property
    def near_duplicates(self) -> list[list[int]]:
        """Groups of images that look alike but are not equal, by their numbers in the data set.

        Of equal images the first one stands for all.
        """
        first = np.unique(self.digests, return_index=True)[1]
        first.sort()
        groups = near_groups(self.thumbs[first])
        return [self.index[first[group]].tolist() for group in groups]

    @cached_property
    def p_noisy(self) -> np.ndarray:
        """Probability that an image is noisy, (n,); 0 where no noise was found."""
        if self.noise is None or self.energy is None or not self.noise.is_found:
            return np.zeros(len(self.index))
        return self.noise.p_noisy(self.energy[:, 0])

    def order(self) -> np.ndarray:
        """Rows from the dirtiest to the cleanest, by residual energy."""
        if self.energy is None:
            return np.arange(len(self.index))
        return np.argsort(-self.energy[:, 0], kind="stable")

    def ranking(self) -> list[dict[str, Any]]:
        """A record per image, the dirtiest first: rank, index, source, sigma, p_noisy, flags.

        sigma is the image's own estimate on the [0, 1] scale, None where there are too few images.
        """
        again = {index for group in self.duplicates for index in group[1:]}
        alike = {index for group in self.near_duplicates for index in group[1:]}
        sigma: Sequence[float | None] = [None] * len(self.index)
        if self.noise is not None and self.energy is not None:
            sigma = self.noise.sigma_of(self.energy[:, 0]).round(5).tolist()
        records = []
        for rank, row in enumerate(self.order().tolist()):
            index = int(self.index[row])
            flags = {
                "noisy": self.p_noisy[row] > 0.5, "duplicate": index in again,
                "near_duplicate": index in alike, "blank": self.is_blank[row],
            }  # fmt: skip
            records.append({
                "rank": rank, "index": index, "source": self.dataset.where(index),
                "sigma": sigma[row], "p_noisy": round(float(self.p_noisy[row]), 4),
                "flags": [name for name, holds in flags.items() if holds],
            })  # fmt: skip
        return records


def audit_images(dataset: Dataset, seed: int = 0) -> Audit:
    """Look at every image once, and at some twice for the noise.

    Args:
        dataset: Images, contaminated or not.
        seed: Of the division in halves, see noise_level.
    """
    residual = quiet_directions(dataset, seed)
    index, digests, thumbs, blank, energy = [], [], [], [], []
    unreadable: dict[str, None] = {}
    is_clipped = True
    sizes: Counter[tuple[int, int]] = Counter()
    n, chunk = len(dataset), chunk_size(dataset)
    with tqdm(total=n, unit="image", disable=None) as progress:
        for start in range(0, n, chunk):
            asked = torch.arange(start, min(start + chunk, n))
            batch = dataset.__getitems__(asked.tolist())
            unreadable |= dict.fromkeys(batch["unreadable"])
            kept = batch["index"] == asked  # elsewhere another image stands in
            x0, numbers = batch["x0"][kept], asked[kept]
            height, width = dataset.sample_shape[1:]
            places = batch["framing"][kept, :2].tolist() if "framing" in batch else None
            sizes.update((w, h) for h, w in places or [[height, width]] * len(x0))
            index.append(numbers.numpy())
            is_clipped = is_clipped and bool(((x0 >= 0) & (x0 <= 1)).all())
            digests += [key_of(image) for image in x0]
            thumbs.append(thumbnails(x0))
            blank.append((x0.flatten(1).amax(1) - x0.flatten(1).amin(1) < BLANK).numpy())
            if residual is not None:
                energy.append(residual.energy(x0, numbers))
            progress.update(len(asked))
    audit = Audit(
        dataset, np.concatenate(index), list(unreadable), sizes, digests,
        np.concatenate(thumbs), np.concatenate(blank),
    )  # fmt: skip
    if residual is not None and sum(map(len, energy)) >= 2:
        audit.energy, audit.patch = np.concatenate(energy), residual.patch
        audit.noise = fit_noise_level(audit.energy, residual.degrees, is_clipped)
        if is_clipped and audit.noise.is_found:
            noisy = audit.index[audit.p_noisy > 0.5][:: max(1, len(audit.index) // (2 * chunk))]
            x0 = dataset.__getitems__(noisy[:chunk].tolist())["x0"]
            audit.noise = replace(audit.noise, kept=residual.kept(x0))
    return audit


def thumbnails(x0: Tensor) -> np.ndarray:
    """Grey images of at most `THUMB` pixels a side by averaging, (B, d), uint8."""
    size = min(THUMB, x0.shape[2]), min(THUMB, x0.shape[3])
    grey = F.adaptive_avg_pool2d(x0.mean(1, keepdim=True), size)
    return grey.flatten(1).clamp(0, 1).mul(255).round().byte().numpy()


def near_groups(thumbs: np.ndarray, near: float = NEAR) -> list[list[int]]:
    """Groups of rows that are linked by rms differences of at most `near`.

    The distance in a few principal components is at most the whole one, so a tree over these finds
    the candidates; of each row the nearest `N_NEIGHBOURS` are looked at.

    Args:
        thumbs: Thumbnails (n, d), uint8.
        near: Largest rms difference, [0, 1] scale.
    """
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
