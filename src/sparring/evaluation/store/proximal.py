r"""Choosing without clean images: samples made dirty, against the dirty images.

    d = Frechet distance of the features of {dirt_i(sample_i)} and of the training images

Samples are made dirty as the training images were found to be (`data.dirt.as_measured`), so a model
of the clean images gets the very law of the dirty ones: d is 0 but for the bias of finite sets.
Whatever else a model draws, noise that it learned too, stands out beside them.

Nothing clean enters: the extractor `classifier` is trained on the dirty images, others know no data
set. Images whose dirt cannot be made, such as outliers, are left out on both sides. Two figures
compare only with the same table: the protocol holds its digest.

Source: Chen et al., "Denoising score distillation", 2025 (arXiv 2503.07578), who call it proximal
FID. Differs from it in: the dirt is any mixture that a table says; the features any extractor's.
"""

import logging
from functools import cached_property

import torch
from torch import Tensor

from ...data.audit.table import Table
from ...data.base import digest
from ...data.dirt.as_measured import AsMeasured
from ...data.trust.trusted import fingerprint_of
from ...diffusion.randomness import generator
from .reference import Reference

log = logging.getLogger(__name__)


class Proximal:
    """The dirty images of a set, in the `Reference` that reads them, and samples made like them.
    `table` says what is dirty in them. Raises ValueError if the dirt of no image can be made."""

    def __init__(self, dirty: Reference, table: Table) -> None:
        self.dirty, self.table = dirty, table
        self.dirt = AsMeasured(dirty.dataset, table, dirty.settings.seed)
        n_out = len(table) - len(self.dirt.rows)
        if n_out:
            log.warning(
                "proximal_distance leaves out %d of %d images, whose dirt cannot be made on others "
                "(outliers, weight 0, dirt of no known kind)", n_out, len(table),
            )  # fmt: skip

    def look(self, samples01: Tensor, first: int = 0) -> Tensor:
        """Features (N, D) of samples (N, C, H, W), made dirty, numbered from `first` on."""
        return self.dirty.extractor(self.dirt.made(samples01, first).clamp(0, 1))

    @cached_property
    def features(self) -> Tensor:
        """Features (M, D) of the dirty images, at most `Settings.max_reference` of them."""
        rows = torch.from_numpy(self.table.index[self.dirt.rows])
        most = self.dirty.settings.max_reference
        if len(rows) > most:
            random = generator("cpu", self.dirty.settings.seed, "proximal rows")
            rows = rows[torch.randperm(len(rows), generator=random)[:most].sort().values]
        data = self.dirty.dataset
        return self.dirty.features_of(data, self.dirty.extractor, rows.tolist())[0]

    def protocol(self) -> dict[str, str]:
        """What must be alike for two distances to be compared."""
        extractor = self.dirty.extractor
        sets = self.dirty.dataset.fingerprint(), fingerprint_of(self.table)
        return {"proximal": digest(*sets, extractor.name, extractor.checksum)}
