"""The smallest Stable Diffusion 1.x, XL and 3 there are: diffusers' own classes, random weights."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from click.testing import CliRunner, Result
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

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


def t5_tokenizer() -> T5TokenizerFast:
    """Letters and a few words, each with its probability: a unigram model."""
    words = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "\u2581red", "\u2581square", "grey"]
    pieces = [(piece, -float(i)) for i, piece in enumerate(words)]
    pieces += [(chr(code), -20.0) for code in range(97, 123)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def t5_encoder(tokens: T5TokenizerFast, width: int) -> T5EncoderModel:
    torch.manual_seed(5)
    config = T5Config(
        vocab_size=len(tokens), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def autoencoder(latent_channels: int = 4, **words: Any) -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=SIDE, latent_channels=latent_channels, **{"scaling_factor": 0.18215, **words},
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


def stable_diffusion_3(folder: Path, name: str = "sd3", *, t5: bool = True) -> Path:
    """A Stable Diffusion 3, with T5 or without, saved by diffusers in `folder`."""
    tokens, pieces = tokenizer(folder / "tokens"), t5_tokenizer()
    torch.manual_seed(2)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=16, out_channels=16, num_layers=2,
        num_attention_heads=2, attention_head_dim=8, caption_projection_dim=16,
        joint_attention_dim=32, pooled_projection_dim=24, pos_embed_max_size=12,
    )  # fmt: skip
    StableDiffusion3Pipeline(
        vae=autoencoder(
            16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=text_encoder(CLIPTextModelWithProjection, tokens, 16, 3), tokenizer=tokens,
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, tokens, 8, 4), tokenizer_2=tokens,
        text_encoder_3=t5_encoder(pieces, 32) if t5 else None, tokenizer_3=pieces if t5 else None,
        transformer=transformer.eval(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder / name)  # fmt: skip
    return folder / name


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
            "mixed_precision": "no",
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
