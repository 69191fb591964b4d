"""A module of Lightning on dirty files: docs/how_to/lightning.md, in whole.

python recipes/lightning_loop.py photos-exported/images runs/lightning
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning  # pyright: ignore[reportMissingImports]
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from exported_images import arguments, loader_of, small_unet
from torch import Tensor

import sparring


class Robust(lightning.LightningModule):
    """A diffusion model that is trained robustly.

    Args:
        unet: The network.
        schedule: The noise schedule that it is trained with.
        n_batches: Of the whole training, on each process.
    """

    def __init__(self, unet: UNet2DModel, schedule: sparring.Schedule, n_batches: int) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.denoiser = sparring.Denoiser(unet, schedule)
        self.objective = sparring.OBJECTIVES["detail"](schedule, start_step=2 * n_batches // 3)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x0, trust = sparring.trusted(batch["image"], batch)
        step = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        (loss,) = self.objective(self.denoiser, x0, step=step, seed=self.global_rank, trust=trust)
        self.losses.append(loss.item())
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["objective"] = self.objective.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.objective.load_state_dict(checkpoint["objective"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0)


def train(images: Path, output_dir: Path, num_epochs: int, train_batch_size: int) -> list[float]:
    """Trains, saves a pipeline of diffusers, and gives the loss of each step."""
    scheduler = DDPMScheduler()
    schedule = sparring.schedule_from_config(scheduler.config)
    loader = loader_of(images, train_batch_size, schedule)
    unet = small_unet(*next(iter(loader))["image"].shape[1:3])
    module = Robust(unet, schedule, num_epochs * len(loader))
    trainer = lightning.Trainer(
        max_epochs=num_epochs, default_root_dir=output_dir, logger=False, accelerator="auto",
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    DDPMPipeline(unet, scheduler).save_pretrained(output_dir)
    return module.losses


if __name__ == "__main__":
    train(**vars(arguments("A module of Lightning.")))
