"""The smallest Stable Diffusion 1.x and XL there are: diffusers' own classes, random weights."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from click.testing import CliRunner, Result
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sparring.cli import main

CAPTIONS = ["a red square", "a green square", "a blue square", "grey", "a dark red field", "white"]
COLOURS = ["red", "green", "blue", "grey", "darkred", "white"]
SIDE = 16
"""Of the images, in pixels; the VAE halves it."""

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters, three merges and the two marks, written as vocab.json and merges.txt and read."""
    letters = [chr(code) for code in range(33, 127)]
    merges = ["r e", "re d</w>", "g re"]
    words = [*letters, *(f"{one}</w>" for one in letters), *("".join(m.split()) for m in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def text_encoder(cls: type, tokens: CLIPTokenizer, width: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=3, num_attention_heads=2, projection_dim=12, hidden_act="gelu",
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )  # fmt: skip
    encoder = cls(config).eval()
    with torch.no_grad():  # clip's initial weights are so small that all captions look alike
        for parameter in encoder.parameters():
            parameter.mul_(3)
    return encoder


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=SIDE, scaling_factor=0.18215,
    )  # fmt: skip


def unet(cross_attention_dim: int, **words: object) -> UNet2DConditionModel:
    torch.manual_seed(2)
    network = UNet2DConditionModel(
        sample_size=SIDE // 2, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=4,
        cross_attention_dim=cross_attention_dim, **words,
    )  # fmt: skip
    return network.eval()


def stable_diffusion(folder: Path) -> Path:
    """A Stable Diffusion 1.x, saved by diffusers in `folder`."""
    tokens = tokenizer(folder / "tokens")
    StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text_encoder(CLIPTextModel, tokens, 16, 3),
        tokenizer=tokens, unet=unet(16), scheduler=PNDMScheduler(
            **BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "sd")  # fmt: skip
    return folder / "sd"


def stable_diffusion_xl(folder: Path, *, force_zeros_for_empty_prompt: bool = True) -> Path:
    """A Stable Diffusion XL, saved by diffusers in `folder`."""
    tokens = tokenizer(folder / "tokens")
    time_ids = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    StableDiffusionXLPipeline(
        vae=autoencoder(), text_encoder=text_encoder(CLIPTextModel, tokens, 16, 3),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, tokens, 8, 4),
        tokenizer=tokens, tokenizer_2=tokens,
        unet=unet(24, projection_class_embeddings_input_dim=6 * 8 + 12, **time_ids),
        scheduler=EulerDiscreteScheduler(**BETAS), add_watermarker=False,
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
    ).save_pretrained(folder / "sdxl")  # fmt: skip
    return folder / "sdxl"


def captioned_folder(folder: Path, captions: list[str] = CAPTIONS) -> Path:
    """One image of a gradient per caption, and metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (caption, colour) in enumerate(zip(captions, COLOURS, strict=True)):
        image = Image.new("RGB", (SIDE, SIDE), colour)
        image.paste((20 * i, 90, 200), (0, 0, SIDE // 2, 3 + i))
        image.save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def training_places(root: Path) -> Path:
    """Both pipelines, a captioned folder, and a config of four steps."""
    stable_diffusion(root)
    stable_diffusion_xl(root)
    captioned_folder(root / "photos")
    config = {
        "model": {"pretrained_model_name_or_path": str(root / "sd")},
        "data": {
            "name": "image_folder",
            "train_data_dir": str(root / "photos"),
            "random_flip": True,
        },
        "training": {
            "max_train_steps": 4,
            "train_batch_size": 3,
            "learning_rate": 0.01,
            "conditioning_dropout_prob": 0.3,
            "checkpointing_steps": 2,
            "log_every_steps": 1,
            "validation_steps": None,
            "report_to": "none",
        },
        "sampling": {"num_inference_steps": 2, "n_images": 4, "guidance_scale": 3.0},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def run(*words: object) -> Result:
    """The command line."""
    return CliRunner().invoke(main, [str(word) for word in words])


def train(places: Path, folder: Path, *overrides: str) -> Path:
    """A run of `training_places`."""
    told = run("train", places / "config.yaml", f"training.output_dir={folder}", *overrides)
    assert told.exit_code == 0, told.output
    return folder


def quiet(pipe: Any) -> Any:
    """A pipeline without a progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe
