"""The smallest CLIP there is, with the tokenizer of text_to_image.py, and open_clip's names."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from text_to_image import tokenizer

SIDE = 16


def tiny_clip(folder: Path, seed: int = 0, width: int = 12) -> str:
    """A CLIPModel of random weights and its tokenizer, saved in `folder`; 16 tokens, 16 pixels."""
    torch.manual_seed(seed)
    tokens = tokenizer(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    marks = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id,
             "pad_token_id": tokens.pad_token_id}  # fmt: skip
    model = CLIPModel(CLIPConfig(
        projection_dim=width,
        text_config=tower | marks | {"vocab_size": len(tokens), "max_position_embeddings": 16},
        vision_config=tower | {"image_size": SIDE, "patch_size": 4},
    ))  # fmt: skip
    with torch.no_grad():  # initial weights are so small that all images and captions look alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    return str(folder)


def open_clip_weights(
    n_words: int, width: int = 32, side: int = SIDE, patch: int = 4, n_tokens: int = 16
) -> dict[str, torch.Tensor]:
    """Random weights under open_clip's names: two blocks a tower, 12 numbers in common."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random) / (shape[-1] if len(shape) > 1 else 8) ** 0.5

    n_places = (side // patch) ** 2 + 1
    state = {
        "logit_scale": torch.tensor(3.0),
        "visual.class_embedding": draw(width),
        "visual.positional_embedding": draw(n_places, width),
        "visual.conv1.weight": draw(width, 3, patch, patch) / 3,
        "visual.proj": draw(width, 12),
        "token_embedding.weight": draw(n_words, width),
        "positional_embedding": draw(n_tokens, width),
        "text_projection": draw(width, 12),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for tower in ("visual.transformer", "transformer"):
        for block in (f"{tower}.resblocks.{i}" for i in range(2)):
            norms += [f"{block}.ln_1", f"{block}.ln_2"]
            for name, n_out, n_in in [
                ("attn.in_proj_", 3 * width, width), ("attn.out_proj.", width, width),
                ("mlp.c_fc.", 4 * width, width), ("mlp.c_proj.", width, 4 * width),
            ]:  # fmt: skip
                state[f"{block}.{name}weight"] = 2 * draw(n_out, n_in)
                state[f"{block}.{name}bias"] = draw(n_out)
    for name in norms:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + draw(width), draw(width)
    return state
