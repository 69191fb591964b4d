r"""HPS v2: weights of open_clip's ViT-H-14 under the names of transformers' CLIPModel.

| open_clip | transformers |
|---|---|
| `visual.conv1`, `visual.ln_pre` | `vision_model.embeddings.patch_embedding`, `.pre_layrnorm` |
| `visual.transformer.resblocks.N` | `vision_model.encoder.layers.N` |
| `transformer.resblocks.N`, `ln_final` | `text_model.encoder.layers.N`, `.final_layer_norm` |
| `ln_1`, `ln_2`, `mlp.c_fc`, `mlp.c_proj` | `layer_norm1`, `layer_norm2`, `mlp.fc1`, `mlp.fc2` |
| `attn.in_proj_weight` (3 D, D) | `self_attn.{q,k,v}_proj.weight`, (D, D) each |
| `visual.proj`, `text_projection` (D, d) | `visual_projection.weight`, `text_projection.weight` |

Source: Ilharco et al., "OpenCLIP", 2021; Wu et al., "Human Preference Score v2", 2023.
"""

import logging
import math
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...models.text import no_progress_bar
from ...support.cache import cache_folder
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ...support.whole_files import sha256_of
from .clip import Clip, load_clip
from .weights import existing

log = logging.getLogger(__name__)

PLACE = "evaluation.hps"
N_HEADS = 16  # of both towers of ViT-H-14; the weights alone do not tell
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
WHOLE = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of open_clip's CLIP under transformers' names.
    Raises KeyError for a name that is not of a ViT with a text transformer."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "attn_mask":  # a constant, which old files hold
            continue
        tower = next((tower for tower in TOWERS if name.startswith(tower)), None)
        if tower is not None:
            number, _, layer = name.removeprefix(tower).partition(".")
            block, (what, _, end) = f"{TOWERS[tower]}{number}", layer.rpartition(".")
            if layer in ("attn.in_proj_weight", "attn.in_proj_bias"):
                end = layer.rpartition("_")[2]
                for part, share in zip("qkv", value.chunk(3), strict=True):
                    found[f"{block}.self_attn.{part}_proj.{end}"] = share
            else:
                found[f"{block}.{LAYERS[what]}.{end}"] = value
        elif name in TURNED:
            found[TURNED[name]] = value.T
        else:
            found[WHOLE[name]] = value
    return {name: value.contiguous() for name, value in found.items()}


def config_of(state: Mapping[str, Tensor], n_heads: int = N_HEADS) -> Any:
    """The `CLIPConfig` of weights under open_clip's names: all sizes follow from their shapes."""
    from transformers import CLIPConfig

    def tower(prefix: str) -> dict[str, Any]:
        n_blocks = sum(name.startswith(prefix) and name.endswith(".ln_1.bias") for name in state)
        n_hidden, width = state[f"{prefix}0.mlp.c_fc.weight"].shape
        return {
            "hidden_size": width,
            "intermediate_size": n_hidden,
            "num_hidden_layers": n_blocks,
            "num_attention_heads": n_heads,
            "hidden_act": "gelu",
        }

    vision, text = map(tower, TOWERS)
    patch = state["visual.conv1.weight"].shape[-1]
    side = patch * math.isqrt(len(state["visual.positional_embedding"]) - 1)
    n_words = len(state["token_embedding.weight"])
    text |= {
        "vocab_size": n_words,
        "max_position_embeddings": len(state["positional_embedding"]),
        "bos_token_id": n_words - 2,  # open_clip's marks are its last two tokens
        "eos_token_id": n_words - 1,
        "pad_token_id": n_words - 1,
    }
    return CLIPConfig(
        projection_dim=state["visual.proj"].shape[1],
        vision_config=vision | {"patch_size": patch, "image_size": side},
        text_config=text,
    )


def from_open_clip(state: Mapping[str, Tensor], n_heads: int = N_HEADS) -> Any:
    """The `CLIPModel` of weights of open_clip's `CLIP` with a plain ViT, such as ViT-H-14. Raises
    KeyError for a weight that is missing or unknown, RuntimeError for one of another shape."""
    from transformers import CLIPModel

    model: Any = CLIPModel(config_of(state, n_heads))
    model = model.to(state["visual.proj"].dtype)
    weights, expected = renamed(state), model.state_dict()
    missing = sorted(expected.keys() - weights.keys() - {"text_model.embeddings.position_ids"})
    if missing:
        raise KeyError(missing[0])
    model.load_state_dict(weights, strict=False)
    return model


def load_hps(name: str, device: torch.device | str = "cpu") -> Clip:
    """HPS v2 or v2.1, to be shown whole images between black bars as in its own code.

    `name` is open_clip's weights, a .pt file (read with weights_only=True) or safetensors; or the
    folder or hub name of a CLIPModel that they were converted to. The tokenizer of a file lies
    beside it (vocab.json, merges.txt), or comes from the hub. Raises UserError for a file that is
    not there or holds something else.
    """
    path = expanded_path(name)
    if path.suffix not in (".pt", ".pth", ".bin", ".safetensors"):
        return load_clip(name, PLACE, fit="pad", device=device)
    folder = str(_converted(existing(path, PLACE)))
    beside = str(path.parent) if (path.parent / "vocab.json").is_file() else TOKENIZER
    return load_clip(folder, PLACE, tokenizer=beside, fit="pad", device=device, name=name)


def _converted(path: Path) -> Path:
    """The folder in the cache with the file's weights as a CLIPModel, made at first."""
    try:
        folder = cache_folder() / f"hps-{sha256_of(path)[:16]}"
        if folder.is_dir():
            return folder
        log.info("converting %s to %s", path, folder)
        model = from_open_clip(_read(path))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as half:
            with no_progress_bar():
                model.save_pretrained(Path(half) / "model")
            if not folder.is_dir():  # another process was faster
                os.replace(Path(half) / "model", folder)
    except ImportError as error:
        raise UserError(f"{PLACE} needs transformers: pip install 'sparring[text]'") from error
    except KeyError as error:
        wrong = f"{path} is not open_clip's ViT-H-14 ({error} is missing or unknown)"
        raise UserError(f"{PLACE}: {wrong}: name HPS_v2.1_compressed.pt") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError,
            safetensors.SafetensorError) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{PLACE}: {path} cannot be converted ({reason})") from error
    return folder


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if torch.__version__ < "2.6":  # compared as versions; CVE-2025-32434: it did not hold
        raise UserError(f"{PLACE}: reading {path.name} safely needs torch 2.6 or newer")
    held = torch.load(path, map_location="cpu", weights_only=True)
    state = held.get("state_dict", held) if isinstance(held, dict) else {}
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise KeyError("state_dict")
    return state
