"""A model in memory, and what one must know to sample it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..data.base import Dataset
from ..diffusion.denoiser import Denoiser
from ..diffusion.schedules import config_from_schedule
from ..support.errors import UserError
from .latents import side_factor
from .text import TextEncoder


@dataclass
class Model:
    """A model and what one must know to sample it."""

    denoiser: Denoiser  # the network with its schedule, in evaluation mode
    scheduler_config: dict[str, Any]  # of the scheduler it was trained with
    sample_shape: tuple[int, ...]  # of one sample, (C, H, W) or (d,); of a latent with a VAE
    num_classes: int | None = None  # that it was trained on, without the null class
    source: str = ""  # where it came from, for protocols and messages
    run_config: dict[str, Any] | None = None  # the config.yaml of a run
    vae: nn.Module | None = None  # the autoencoder of a latent model
    text: TextEncoder | None = None  # what turns captions into conditions
    parts: Path | None = None  # the pipeline's folder, where the parts that are never trained lie
    class_names: Sequence[str] = ()  # in the order of the classes, () where nobody knows them
    absent_classes: Sequence[int] = ()  # numbers of classes of which no sample was trained on

    @classmethod
    def around(
        cls,
        denoiser: Denoiser,
        sample_shape: tuple[int, ...],
        scheduler_config: dict[str, Any] | None = None,
    ) -> "Model":
        """A network of one's own as a model; without a config it is made of the schedule."""
        made = scheduler_config or config_from_schedule(denoiser.schedule, denoiser.kind)
        return cls(denoiser, made, sample_shape)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one sample as it is compared with data: of the image that a latent becomes."""
        if self.vae is None:
            return tuple(self.sample_shape)
        config: Any = self.vae.config
        return config["out_channels"], *image_size(self.sample_shape, self.vae)

    def has_classes_of(self, dataset: Dataset) -> bool:
        """Whether the labels of data mean this model's classes: as many, called alike in a run."""
        if self.num_classes is None or self.num_classes != dataset.num_classes:
            return False
        names_count = self.run_config is not None and len(self.class_names) > 0
        return not names_count or list(self.class_names) == list(dataset.class_names)

    def resize(self, sample_shape: tuple[int, ...]) -> None:
        """Make samples of another size from now on: the network's config and XL's text are told.

        UserError for other channels, or a size that the network cannot have.
        """
        if tuple(sample_shape) == tuple(self.sample_shape):
            return
        network: Any = self.denoiser.network
        if sample_shape[0] != self.sample_shape[0] or not _has_size(network, sample_shape[1:]):
            made = f"{self.source} makes samples of shape {tuple(self.sample_shape)}"
            raise UserError(f"{made}, the data become {tuple(sample_shape)}: set data.resolution")
        self.sample_shape = tuple(sample_shape)
        side = list(sample_shape[1:])
        network.register_to_config(sample_size=side[0] if side[0] == side[1] else side)
        if self.text is not None:
            self.text.size = image_size(self.sample_shape, self.vae)


def _has_size(network: Any, size: tuple[int, ...]) -> bool:
    """Whether a network can make samples of this height and width too."""
    if type(network).__name__ == "SD3Transformer2DModel":
        patch, most = network.config.patch_size, network.config.pos_embed_max_size
        fits = all(side % patch == 0 and side // patch <= most for side in size)
        return fits and size[0] == size[1]  # its config has one side only
    return "UNet" in type(network).__name__


def image_size(sample_shape: tuple[int, ...], vae: nn.Module | None) -> tuple[int, int]:
    """(H, W) in pixels of the images that the latents become."""
    factor = side_factor(vae)
    return sample_shape[1] * factor, sample_shape[2] * factor
