r"""Judges of captioned samples, which the user names; see metrics/caption_scores.py.

A score is NaN where an image has no caption.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...data.base import Dataset
from ...support.errors import UserError
from .aesthetic import Aesthetic, load_aesthetic
from .clip import BATCH_SIZE, Clip, load_clip
from .extractors import checksum
from .open_clip import load_hps

log = logging.getLogger(__name__)

AESTHETIC_SIDE = 224  # pixels that the published predictor's CLIP is shown


def clip_score(images: Tensor, captions: Tensor) -> Tensor:
    """100 max(cos, 0) of unit vectors (N, D), shape (N,), between 0 and 100.
    Source: Hessel et al., "CLIPScore", 2021, eq. 1. Differs from it in: the factor is 100 and not
    2.5, and captions have no prefix, as in torchmetrics and in papers on text-to-image models."""
    return 100 * (images * captions).sum(1).clamp(min=0)


def pick_score(images: Tensor, captions: Tensor, scale: float) -> Tensor:
    """scale * cos of unit vectors (N, D), shape (N,), with the scale that the model learned.
    Source: Kirstain et al., "Pick-a-Pic", 2023, eq. 1."""
    return scale * (images * captions).sum(1)


def hps(images: Tensor, captions: Tensor) -> Tensor:
    """100 cos of unit vectors (N, D), shape (N,), as the benchmark of its code prints it.
    Source: Wu et al., "Human Preference Score v2", 2023; evaluation.py of HPSv2."""
    return 100 * (images * captions).sum(1)


@dataclass(frozen=True)
class Judges:
    """Which models judge, by folder, file or hub name; None: that one does not."""

    clip: str | None = None  # of `clip_score` and `cmmd`
    pick_score: str | None = None  # a CLIPModel, PickScore_v1
    hps: str | None = None  # see `open_clip.load_hps`
    aesthetic: str | None = None  # see `aesthetic.load_aesthetic`; it reads what `clip` gives

    def __post_init__(self) -> None:
        if self.aesthetic is not None and self.clip is None:
            raise UserError(
                "evaluation.aesthetic reads the embeddings of evaluation.clip: name that too, "
                "openai/clip-vit-large-patch14 for the published predictor"
            )

    @property
    def named(self) -> dict[str, str]:
        """Those that judge, by their option."""
        return {option: name for option, name in vars(self).items() if name is not None}


Readings = dict[str, Tensor]
"""What judges say of images: their scores (N,) by figure, and `embeddings` (N, D) of clip."""


@dataclass(eq=False)
class Panel:
    """The judges of one reference; its own images and captions are read once.
    Raises UserError for data that are no colour images."""

    judges: Judges
    dataset: Dataset  # clean colour images in [0, 1], with captions or without
    rows: Sequence[int]  # those that are the reference
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        dataset, named = self.dataset, self.judges.named
        options = ", ".join(f"evaluation.{option}" for option in named)
        if not dataset.is_image:
            raise UserError(f"{options} judges images, {dataset.name} has none")
        if dataset.sample_shape[0] != 3:
            raise UserError(
                f"{options} judges colour images, those of {dataset.name} have "
                f"{dataset.sample_shape[0]} channel(s): leave it out"
            )

    @cached_property
    def clips(self) -> dict[str, Clip]:
        """The models that embed images and captions, by option."""
        named = self.judges.named
        found = {
            option: load_clip(named[option], f"evaluation.{option}", device=self.device)
            for option in ("clip", "pick_score")
            if option in named
        }
        return found | ({"hps": load_hps(named["hps"], self.device)} if "hps" in named else {})

    @cached_property
    def aesthetic(self) -> Aesthetic | None:
        """The predictor, if it fits the CLIP that it reads."""
        if self.judges.aesthetic is None:
            return None
        head, judge = load_aesthetic(self.judges.aesthetic), self.clips["clip"]
        if head.width != judge.width:
            raise UserError(
                f"evaluation.aesthetic {self.judges.aesthetic} reads {head.width} numbers, "
                f"evaluation.clip {judge.name} gives {judge.width}: name the CLIP that it was "
                "trained on, openai/clip-vit-large-patch14 for the published predictor"
            )
        if head.width == 768 and judge.side != AESTHETIC_SIDE:
            log.warning(
                "the aesthetic predictor was trained on openai/clip-vit-large-patch14, which sees "
                "%d pixels; %s sees %d", AESTHETIC_SIDE, judge.name, judge.side,
            )  # fmt: skip
        return head

    def check(self, captions: Sequence[str] | None) -> None:
        """Load the judges; refuse samples without the captions they need, warn of long ones. Raises
        UserError for judges that cannot be loaded, or that need captions where there are none."""
        needy = [option for option in ("pick_score", "hps") if option in self.judges.named]
        if needy and not captions:
            raise UserError(
                f"evaluation.{needy[0]} judges images by their captions and there are none: name a "
                "text-to-image model and captioned data, or sampling.prompts"
            )
        for option, judge in self.clips.items():
            if n_cut := judge.n_cut(captions or ()):
                log.warning(
                    "evaluation.%s reads %d tokens: %d of %d captions are longer and are cut",
                    option, judge.n_tokens, n_cut, len(captions or ()),
                )  # fmt: skip
        if captions is None and "clip" in self.clips:
            log.info("no captions: evaluation.clip gives cmmd and no clip_score")
        _ = self.aesthetic

    def described(self, option: str) -> dict[str, Any]:
        """Name, checksum and resize of a judge, for the protocol."""
        if option == "aesthetic" and self.aesthetic is not None:
            sees = f"embeddings of {self.clips['clip'].name}"
            name, digits = self.judges.aesthetic, checksum(self.aesthetic)
            return {"name": name, "checksum": digits, "resize": sees}
        judge = self.clips[option]
        return {"name": judge.name, "checksum": judge.checksum, "resize": judge.resize}

    def read(self, images: Tensor, captions: Sequence[str | None] | None) -> Readings:
        """What each judge says of images (N, 3, H, W) in [0, 1] and their captions (N,)."""
        found: Readings = {}
        captions = captions or [None] * len(images)
        rows = [i for i, caption in enumerate(captions) if caption is not None]
        words = [caption for caption in captions if caption is not None]
        for option, judge in self.clips.items():
            seen = judge.images(images)
            said = torch.full((len(captions), judge.width), float("nan"), dtype=torch.float64)
            if rows:
                said[rows] = judge.captions(words)
            if option == "clip":
                found["embeddings"] = seen
                found["clip_score"] = clip_score(seen, said)
                if self.aesthetic is not None:
                    found["aesthetic"] = self.aesthetic(seen)
            elif option == "pick_score":
                found["pick_score"] = pick_score(seen, said, judge.scale)
            else:
                found["hps"] = hps(seen, said)
        return found

    @cached_property
    def reference(self) -> Readings:
        """`read` of the reference's own images and captions."""
        return joined([self.read(*batch) for batch in captioned(self.dataset, self.rows)])


def joined(readings: Sequence[Mapping[str, Tensor]]) -> Readings:
    """Readings of batches as those of all."""
    return {name: torch.cat([one[name] for one in readings]) for name in readings[0]}


def captioned(
    dataset: Dataset, rows: Sequence[int], batch_size: int = BATCH_SIZE
) -> Iterator[tuple[Tensor, list[str | None]]]:
    """Images (B, C, H, W) and their captions (B,) at `rows`; an unreadable image is left out."""
    for batch in dataset.chunks(rows, batch_size):
        said = batch.get("caption", [None] * len(batch["x0"]))
        yield batch["x0"].float().clamp(0, 1), said
