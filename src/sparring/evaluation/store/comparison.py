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
    """What samples are compared with; the sets besides the reference are images, or None.

    Attributes:
        reference: Clean data, read once for several models.
        training: Clean training images, of which samples may be copies.
        held_out: Clean images that training never saw; they calibrate the distance to the nearest
            training image. Without them each training image's distance to its nearest other one
            does.
        dirty: The training images as the model saw them, where they were contaminated: a model may
            copy them with their noise.
        proximal: The dirty training images and their table, for `proximal_distance`.
    """

    reference: Reference
    training: Dataset | None = None
    held_out: Dataset | None = None
    dirty: Dataset | None = None
    proximal: Proximal | None = None

    @property
    def panel(self) -> Panel | None:
        """The judges of captioned samples."""
        return self.reference.panel

    @property
    def lpips(self) -> LPIPS | None:
        """The network behind lpips_diversity."""
        return self.reference.lpips

    def originals(self) -> dict[str, Originals]:
        """What the samples may be copies of, by the name of the features in which they are
        compared; nothing of too few images."""
        training, reference = self.training, self.reference
        if training is None or len(training) < N_ORIGINALS:
            return {}
        found = {"features": reference.originals(training, self.held_out, reference.extractor)}
        if reference.memorization_extractor is not reference.extractor:
            found["memorization_features"] = reference.originals(
                training, self.held_out, reference.memorization_extractor
            )
        if self.dirty is not None:
            found["pixels"] = reference.originals(
                self.dirty, self.held_out, small_pixels(), clean=training
            )
        return found
