"""A plain training loop on dirty files: docs/tutorials/your_loop.md, in whole.

python recipes/pytorch_loop.py photos-exported/images runs/loop
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler
from exported_images import arguments, loader_of, small_unet

import sparring


def train(images: Path, output_dir: Path, num_epochs: int, train_batch_size: int) -> list[float]:
    """Trains, saves a pipeline of diffusers, and gives the loss of each step."""
    scheduler = DDPMScheduler()
    schedule = sparring.schedule_from_config(scheduler.config)
    loader = loader_of(images, train_batch_size, schedule)
    unet = small_unet(*next(iter(loader))["image"].shape[1:3])
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3, weight_decay=0)
    n_steps, losses = num_epochs * len(loader), []

    denoiser = sparring.Denoiser(unet, schedule)
    objective = sparring.OBJECTIVES["detail"](denoiser.schedule, start_step=2 * n_steps // 3)
    for epoch in range(num_epochs):
        for i, batch in enumerate(loader):
            step = epoch * len(loader) + i
            x0, trust = sparring.trusted(batch["image"], batch)
            for loss in objective(denoiser, x0, step=step, trust=trust):
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
    DDPMPipeline(unet, scheduler).save_pretrained(output_dir)
    return losses


if __name__ == "__main__":
    train(**vars(arguments("A plain loop.")))
