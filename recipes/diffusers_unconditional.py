"""diffusers' train_unconditional.py on dirty files, in small: docs/how_to/diffusers_scripts.md.

    python recipes/diffusers_unconditional.py photos-exported/images runs/unconditional

Names and order are those of the script (diffusers 0.40.0.dev0); images have the model's size, and
there is one process and no average.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.optimization import get_scheduler
from exported_images import arguments, images_of, small_unet, tensor
from torch.utils.data import DataLoader

import sparring


def train(
    images: Path,
    output_dir: Path,
    num_epochs: int,
    train_batch_size: int,
    prediction_type: str = "epsilon",
) -> list[float]:
    """Trains, saves a pipeline of diffusers, and gives the loss of each step."""
    accelerator = Accelerator()
    dataset = images_of(images)
    channels, side, _ = tensor(dataset[0]["image"]).shape
    model = small_unet(channels, side)
    noise_scheduler = DDPMScheduler(prediction_type=prediction_type)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)

    def transform_images(examples: dict[str, list]) -> dict[str, list]:
        processed = [tensor(image) for image in examples["image"]]
        del examples["image"]
        return examples | {"input": processed}

    columns, shape = dataset.remove_columns("image").to_dict(), tensor(dataset[0]["image"]).shape
    schedule = sparring.schedule_from_config(noise_scheduler.config)
    often = sparring.how_often(columns, shape, schedule)
    sampler = torch.utils.data.WeightedRandomSampler(often, len(dataset))

    dataset.set_transform(transform_images)
    train_dataloader = DataLoader(dataset, batch_size=train_batch_size, sampler=sampler)
    lr_scheduler = get_scheduler(
        "cosine", optimizer=optimizer, num_warmup_steps=5,
        num_training_steps=len(train_dataloader) * num_epochs,
    )  # fmt: skip

    kind = sparring.kind_from_config(noise_scheduler.config)
    denoiser = sparring.Denoiser(model, schedule, kind)
    model, optimizer, train_dataloader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_dataloader, lr_scheduler
    )
    denoiser.network = model
    n_batches = num_epochs * len(train_dataloader)
    objective = sparring.OBJECTIVES["detail"](schedule, start_step=2 * n_batches // 3)

    losses = []
    for epoch in range(num_epochs):
        for step, batch in enumerate(train_dataloader):
            clean_images, trust = sparring.trusted(batch["input"], batch)
            with accelerator.accumulate(model):
                (loss,) = objective(
                    denoiser, clean_images, step=epoch * len(train_dataloader) + step,
                    seed=accelerator.process_index, trust=trust,
                )  # fmt: skip
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    unet = accelerator.unwrap_model(model)
    DDPMPipeline(unet=unet, scheduler=noise_scheduler).save_pretrained(output_dir)
    return losses


if __name__ == "__main__":
    train(**vars(arguments("train_unconditional.py, in small.", prediction_type="epsilon")))
