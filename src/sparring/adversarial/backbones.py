"""Frozen networks whose feature maps a discriminator looks at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.base import Dataset
from ..data.classifier import fit_labels, one_thread
from ..diffusion.randomness import derive_seed, generator
from ..models.pretrained import hub_answers
from ..models.text import no_progress_bar
from ..support.errors import UserError
from ..support.whole_files import whole_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
N_STEPS, BATCH_SIZE, N_IMAGES = 800, 64, 20_000


class DinoBackbone(nn.Module):
    """Patch tokens of chosen blocks of a DINOv2, `dino_model`'s, as maps.

    Images are resized so that their sides become about `side` pixels and multiples of the patch,
    and normalised by ImageNet's mean and spread, as tensors: gradients flow through. Blocks are
    counted from 1; 0 is the embedding. None: four, evenly spaced, the last one too. Raises
    ValueError for blocks it does not have, or a side smaller than a patch.

    Source: Oquab et al. 2023; which blocks ADT takes is not known, four as in ADD.
    """

    def __init__(self, model: Any, blocks: Sequence[int] | None = None, side: int = 224) -> None:
        super().__init__()
        depth, self.patch = model.config.num_hidden_layers, model.config.patch_size
        n = min(4, depth)
        four = [round(depth * (i + 1) / n) for i in range(n)]
        self.blocks = four if blocks is None else list(blocks)
        if not self.blocks or not set(self.blocks) <= set(range(depth + 1)):
            raise ValueError(f"blocks must be of 0 to {depth}, got {blocks}")
        if side < self.patch:
            raise ValueError(f"side must be >= {self.patch}, one patch, got {side}")
        self.model, self.side = model, round(side / self.patch) * self.patch
        self.n_prefix = 1 + getattr(model.config, "num_register_tokens", 0)  # the class token
        self.channels = [model.config.hidden_size] * len(self.blocks)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 1 or 3, H, W) in about [-1, 1] -> maps (B, d, h, w)."""
        scale = self.side / min(images.shape[2:])
        height, width = (max(1, round(scale * n / self.patch)) for n in images.shape[2:])
        images = F.interpolate(
            images.expand(-1, 3, -1, -1),
            (height * self.patch, width * self.patch),
            mode="bicubic",
            antialias=True,
        )
        inputs = ((images + 1) / 2 - self.mean) / self.std
        states = self.model(inputs.to(self.model.dtype), output_hidden_states=True).hidden_states
        return [
            states[block][:, self.n_prefix :].transpose(1, 2).unflatten(2, (height, width)).float()
            for block in self.blocks
        ]


def load_dino(name: str, blocks: Sequence[int] | None, side: int) -> DinoBackbone:
    """See `dino_model`, which raises the errors, and `DinoBackbone`."""
    option = "objective.discriminator.features"
    model = dino_model(name, option, "name a DINOv2, denoiser or labels")
    try:
        return DinoBackbone(model, blocks, side)
    except ValueError as error:
        raise UserError(f"objective.discriminator.{error}") from error


def dino_model(name: str, option: str, advice: str) -> Any:
    """Dinov2Model or Dinov2WithRegistersModel of transformers, float32, from a folder or the hub.
    Safetensors only. `option` is the setting that names it. Raises UserError if transformers is
    missing, or the name is of no DINOv2, with the advice."""
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise UserError(f"{option} needs transformers: pip install 'sparring[text]'") from error
    place = f"{option} {name}"
    cached = not Path(name).is_dir() and not hub_answers()
    try:
        kind = AutoConfig.from_pretrained(name, local_files_only=cached).model_type
        if kind not in ("dinov2", "dinov2_with_registers"):
            raise UserError(f"{place} is a {kind}: {advice}")
        with no_progress_bar():
            model = AutoModel.from_pretrained(name, use_safetensors=True, local_files_only=cached)
    except (OSError, ValueError) as error:
        unreachable = "there is no such folder, and the hub cannot be reached"
        reason = unreachable if cached else str(error).strip().splitlines()[0]
        raise UserError(f"{place} cannot be loaded: {reason}") from error
    return model.float()


class LabelBackbone(nn.Module):
    """A small residual network, trained to tell a data set's classes: for images of a few pixels.

    Maps: 16 channels at full size (1), 32 at half (2), 64 at a quarter (3); `blocks` says which,
    None: all. Raises ValueError for maps it does not have.

    Source: ours; DINOv2 needs images of at least a hundred pixels a side.
    """

    widths = (16, 32, 64)

    def __init__(
        self, n_channels: int, num_classes: int, blocks: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        every = range(1, len(self.widths) + 1)
        self.blocks = list(every if blocks is None else blocks)
        if not self.blocks or not set(self.blocks) <= set(every):
            raise ValueError(f"blocks must be of 1 to {len(self.widths)}, got {blocks}")
        self.channels = [self.widths[block - 1] for block in self.blocks]
        sizes = (n_channels, *self.widths)
        self.enter = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 5 if i == 0 else 3, 1 if i == 0 else 2, 2 if i == 0 else 1)
            for i, (n_in, n_out) in enumerate(zip(sizes, self.widths, strict=False))
        )
        self.refine = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, n), nn.SiLU(), nn.Conv2d(n, n, 3, 1, 1))
            for n in self.widths
        )
        self.last = nn.Linear(self.widths[-1], num_classes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """All three, of images (B, C, H, W) in about [-1, 1]."""
        maps = [images]
        for enter, refine in zip(self.enter, self.refine, strict=True):
            hidden = enter(maps[-1])
            maps.append(hidden + refine(hidden))
        return maps[1:]

    def forward(self, images: Tensor) -> list[Tensor]:
        """The chosen ones."""
        maps = self.maps(images)
        return [maps[block - 1] for block in self.blocks]

    def logits(self, images: Tensor) -> Tensor:
        """Of the classes, (B, num_classes)."""
        return self.last(F.silu(self.maps(images)[-1]).mean((2, 3)))


def label_backbone(
    dataset: Dataset, blocks: Sequence[int] | None = None, kept_in: Path | None = None
) -> LabelBackbone:
    """A `LabelBackbone` trained on a data set's images and labels, 800 AdamW steps of 64.

    Its weights follow from the data, to the bit on one CPU thread: every run looks through the same
    eyes, whatever its seed. The data are in the model's range. `kept_in` is a safetensors file that
    is read if it is there and written otherwise, so that a resumed run has the same eyes too.
    Raises UserError if the data have no labels, or it has no such maps.
    """
    if not dataset.num_classes:
        raise UserError(
            f"objective.discriminator.features=labels learns from labels, and {dataset.name} has "
            "none: set data.label_column, or take denoiser, or the name of a DINOv2"
        )
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("label backbone"))
        try:
            network = LabelBackbone(dataset.sample_shape[0], dataset.num_classes, blocks)
        except ValueError as error:
            raise UserError(f"objective.discriminator.{error}") from error
        if kept_in is not None and kept_in.is_file():
            network.load_state_dict(load_file(kept_in))
            return network.requires_grad_(False).eval()
        rng = generator("cpu", "label backbone batches")
        chosen = torch.randperm(len(dataset), generator=rng)[:N_IMAGES].tolist()
        batch = dataset.__getitems__(chosen)
        images, labels = batch["x0"].float(), batch["label"]
        learning = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(learning, N_STEPS)
        counts = {"n_steps": N_STEPS, "batch_size": BATCH_SIZE}
        fit_labels(network.logits, rate, images, labels, rng, **counts)
        if kept_in is not None:
            with whole_file(kept_in) as half:
                save_file(network.state_dict(), half)
    return network.requires_grad_(False).eval()
