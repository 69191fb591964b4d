"""What samples are compared with: the reference, and what is known of the model's training."""

from dataclasses import dataclass

from ...data.base import Dataset
from ..networks.judges import Panel
from ..networks.lpips import LPIPS
from .originals import N_ORIGINALS, Originals, small_pixels
from .proximal import Proximal
from .reference import Reference


@dataclass(frozen=True)
class Comparison:
    """What samples are compared with; the sets besides the reference are images, or None."""

    reference: Reference  # clean data, read once for several models
    training: Dataset | None = None  # clean training images, of which samples may be copies
    held_out: Dataset | None = None  # that training never saw: they calibrate, see `Originals`
    dirty: Dataset | None = None  # as the model saw them: it may copy them with their noise
    proximal: Proximal | None = None  # the dirty ones and their table, for `proximal_distance`

    @property
    def panel(self) -> Panel | None:
        return self.reference.panel

    @property
    def lpips(self) -> LPIPS | None:
        return self.reference.lpips

    def originals(self) -> dict[str, Originals]:
        """What samples may be copies of, by the features compared; nothing of too few images."""
        training, held_out, reference = self.training, self.held_out, self.reference
        if training is None or len(training) < N_ORIGINALS:
            return {}
        main, other = reference.extractor, reference.memorization_extractor
        found = {"features": reference.originals(training, held_out, main)}
        if other is not main:
            found["memorization_features"] = reference.originals(training, held_out, other)
        if self.dirty is not None:
            found["pixels"] = reference.originals(self.dirty, held_out, small_pixels(), training)
        return found
