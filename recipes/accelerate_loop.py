"""A loop of accelerate on dirty files: docs/how_to/accelerate.md, in whole.

accelerate launch recipes/accelerate_loop.py photos-exported/images runs/accelerate
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler
from exported_images import arguments, loader_of, small_unet

import sparring


def train(
    images: Path,
    output_dir: Path,
    num_epochs: int,
    train_batch_size: int,
    gradient_accumulation_steps: int = 1,
) -> list[float]:
    """Trains, saves a pipeline of diffusers, and gives this process's loss of each batch."""
    accelerator = Accelerator(gradient_accumulation_steps=gradient_accumulation_steps)
    scheduler, losses = DDPMScheduler(), []
    schedule = sparring.schedule_from_config(scheduler.config)
    loader = loader_of(images, train_batch_size, schedule)
    model = small_unet(*next(iter(loader))["image"].shape[1:3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)

    denoiser = sparring.Denoiser(model, schedule)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    denoiser.network = model
    objective = sparring.OBJECTIVES["detail"](
        denoiser.schedule, start_step=2 * num_epochs * len(loader) // 3
    )
    for epoch in range(num_epochs):
        for i, batch in enumerate(loader):
            x0, trust = sparring.trusted(batch["image"], batch)
            step, seed = epoch * len(loader) + i, accelerator.process_index
            for loss in objective(denoiser, x0, step=step, seed=seed, trust=trust):
                with accelerator.accumulate(model):
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        unet = accelerator.unwrap_model(model)
        DDPMPipeline(unet, scheduler).save_pretrained(output_dir)
    return losses


if __name__ == "__main__":
    train(**vars(arguments("A loop of accelerate.", gradient_accumulation_steps=1)))
