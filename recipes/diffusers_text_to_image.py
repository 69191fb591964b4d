"""diffusers' train_text_to_image.py on dirty files, in small: docs/how_to/diffusers_scripts.md.

    python recipes/diffusers_text_to_image.py photos-exported/images runs/text \\
        --pretrained_model_name_or_path path/to/pipeline

Names and order are those of the script (diffusers 0.40.0.dev0); images have the model's size, and
there is one process and no average. It needs the extra `text`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from exported_images import arguments, images_of, tensor
from torch.utils.data import DataLoader
from transformers import CLIPTextModel, CLIPTokenizer

import sparring


def train(
    images: Path,
    output_dir: Path,
    num_train_epochs: int,
    train_batch_size: int,
    pretrained_model_name_or_path: str,
) -> list[float]:
    """Trains the U-Net, saves the pipeline, and gives the loss of each step."""
    accelerator, weight_dtype = Accelerator(), torch.float32
    place = pretrained_model_name_or_path
    noise_scheduler = DDPMScheduler.from_pretrained(place, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(place, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(place, subfolder="text_encoder")
    vae = AutoencoderKL.from_pretrained(place, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(place, subfolder="unet")
    vae.requires_grad_(False)
    text_encoder.requires_grad_(False)
    unet.train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, weight_decay=0)

    image_column, caption_column = "image", "text"

    def preprocess_train(examples: dict[str, list]) -> dict[str, list]:
        converted = [image.convert("RGB") for image in examples[image_column]]
        examples["pixel_values"] = [tensor(image) for image in converted]
        examples["input_ids"] = tokenizer(
            examples[caption_column], max_length=tokenizer.model_max_length, padding="max_length",
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        return examples

    train_dataset = images_of(images).with_transform(preprocess_train)

    def collate_fn(examples: list[dict]) -> dict:
        pixel_values = torch.stack([example["pixel_values"] for example in examples])
        input_ids = torch.stack([example["input_ids"] for example in examples])
        dirt = {name: [example[name] for example in examples] for name in examples[0]}
        del dirt[image_column]
        return dirt | {"pixel_values": pixel_values, "input_ids": input_ids}

    train_dataloader = DataLoader(
        train_dataset, shuffle=True, collate_fn=collate_fn, batch_size=train_batch_size
    )

    schedule = sparring.schedule_from_config(noise_scheduler.config)
    kind = sparring.kind_from_config(noise_scheduler.config)
    denoiser = sparring.Denoiser(unet, schedule, kind)
    unet, optimizer, train_dataloader = accelerator.prepare(unet, optimizer, train_dataloader)
    denoiser.network = unet
    n_batches = num_train_epochs * len(train_dataloader)
    objective = sparring.OBJECTIVES["detail"](schedule, start_step=2 * n_batches // 3)
    text_encoder.to(accelerator.device, dtype=weight_dtype)
    vae.to(accelerator.device, dtype=weight_dtype)

    losses = []
    for epoch in range(num_train_epochs):
        for step, batch in enumerate(train_dataloader):
            with accelerator.accumulate(unet):
                pixel_values, trust = sparring.trusted(batch["pixel_values"], batch)
                latents = vae.encode(pixel_values.to(weight_dtype)).latent_dist.sample()
                latents = latents * vae.config.scaling_factor
                encoder_hidden_states = text_encoder(batch["input_ids"], return_dict=False)[0]
                (loss,) = objective(
                    denoiser, latents.float(), step=epoch * len(train_dataloader) + step,
                    seed=accelerator.process_index, trust=trust.of_latents(),
                    encoder_hidden_states=encoder_hidden_states,
                )  # fmt: skip
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    StableDiffusionPipeline.from_pretrained(
        place, unet=accelerator.unwrap_model(unet), safety_checker=None
    ).save_pretrained(output_dir)
    return losses


if __name__ == "__main__":
    train(
        **vars(
            arguments(
                "train_text_to_image.py, in small.", "num_train_epochs",
                pretrained_model_name_or_path="",
            )
        )
    )  # fmt: skip
