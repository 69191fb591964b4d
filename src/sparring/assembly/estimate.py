r"""What a run will need, from the configs of its parts: nothing is loaded.

The networks are built of fake tensors, which have shapes and no memory; one forward pass of each
says what autograd would keep for the way back. So the peak is

    weights + gradients + optimiser + average + max over who is alive of what is kept

without the allocator's waste, temporaries of kernels and CUDA's own half gigabyte: an estimate.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..adversarial.discriminators import DiscriminatorSection
from ..config.model_section import LoraSection
from ..config.schema import RunConfig
from ..diffusion.precision import SHORT
from ..models.lora import adapted_layers
from ..objectives import Objective
from ..support.errors import UserError

GB = 1e9
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
KNOWN: dict[str, dict[str, Any]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {
        "network": {
            "_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        "vae": {**_VAE, "latent_channels": 4},
        "text": 123_060_480,
    },
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "network": {
            "_class_name": "UNet2DConditionModel", "sample_size": 128, "cross_attention_dim": 2048,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**_VAE, "latent_channels": 4},
        "text": 123_060_480 + 694_659_840,
    },
    "stabilityai/stable-diffusion-3-medium-diffusers": {
        "network": {
            "_class_name": "SD3Transformer2DModel", "sample_size": 128, "num_layers": 24,
            "num_attention_heads": 24, "joint_attention_dim": 4096,
            "caption_projection_dim": 1536, "out_channels": 16, "pos_embed_max_size": 192,
        },
        "vae": {
            **_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False,
        },
        "text": 123_650_304 + 694_659_840 + 4_762_310_656,
    },
}  # fmt: skip
"""Of pipelines on the hub that are not here: what their published config.json files say, and the
number of their text encoders' weights."""
_DINO = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, blocks and heads of facebook/dinov2-<name>."""


def estimate(config: RunConfig, objective: Objective) -> list[str]:
    """Lines on network calls and memory of one update, for the summary of a dry run; the memory of
    what a config describes itself is told by `memory_from_scratch`."""
    calls = objective.network_calls()
    lines = [] if calls is None else [f"network calls {calls}"]
    name = config.model.pretrained_model_name_or_path
    parts = None if name is None else parts_of(name)
    if parts is not None:
        lines.append(f"memory        {memory_of(config, parts, objective)}")
    elif config.model.lora is not None:
        lines.append("memory        unknown: the model's configs are not here")
    return lines


def memory_from_scratch(
    config: RunConfig, network: nn.Module, shape: tuple[int, ...], objective: Objective
) -> str:
    r"""The estimate of one update's peak memory of a network on "meta" for samples of a shape, in
    words; where it cannot be called with a sample and a time, why.

    weights (4 bytes each, a teacher's as well) + gradients (4) + AdamW (8) + average (4)
    + what autograd keeps of one sample x samples of a micro-batch x graphs alive at once
    """
    training = config.training
    known: Any = network
    can_checkpoint = getattr(known, "_supports_gradient_checkpointing", False)
    if training.gradient_checkpointing and can_checkpoint:
        known.enable_gradient_checkpointing()
    arguments = inspect.signature(network.forward).parameters
    with torch.device("meta"):
        told: dict[str, Any] = {"return_dict": False} if "return_dict" in arguments else {}
        if config.model.class_conditional and "class_labels" in arguments:
            told["class_labels"] = torch.zeros(1, dtype=torch.long)
        x, t = torch.zeros(1, *shape), torch.zeros(1)
        try:
            kept = _saved(lambda: network(x, t, **told))
        except Exception as error:  # whatever a network may raise
            return f"unknown: {type(network).__name__} cannot be called ({error})"
    active = 2 if training.mixed_precision in SHORT else 4
    activations = active * kept * training.train_batch_size * objective.n_graphs
    n = _count(network)
    weights = 4 * n * (1 + objective.needs_teacher)
    learning = (4 + 8 + 4 * training.use_ema) * n
    total = weights + learning + activations
    left_out = ", without the discriminator" if objective.needs_discriminator else ""
    return (
        f"about {_bytes(total)}: weights {_bytes(weights)}, gradients, AdamW and average "
        f"{_bytes(learning)}, activations {_bytes(activations)}{left_out}"
    )


def _bytes(n: float) -> str:
    return f"{n / GB:.1f} GB" if n >= GB else f"{n / 1e6:.0f} MB"


def parts_of(name: str) -> dict[str, Any] | None:
    """Configs of a pipeline's network and VAE, and the size of its text encoders; None: unknown."""
    folder = Path(name)
    if not (folder / "model_index.json").is_file():
        return KNOWN.get(name)
    files = {"network": "unet" if (folder / "unet").is_dir() else "transformer", "vae": "vae"}
    files = {part: folder / inner / "config.json" for part, inner in files.items()}
    if not all(file.is_file() for file in files.values()):
        return None
    n_bytes = sum(file.stat().st_size for file in folder.glob("text_encoder*/*.safetensors"))
    read = {part: json.loads(file.read_text(encoding="utf-8")) for part, file in files.items()}
    return read | {"text": n_bytes // 4}


def memory_of(config: RunConfig, parts: Mapping[str, Any], objective: Objective) -> str:
    """The estimate of one update's peak memory, in words."""
    training, lora = config.training, config.model.lora
    own = config.objective.discriminator if objective.needs_discriminator else None
    active = 2 if training.mixed_precision in SHORT else 4
    rows = training.train_batch_size
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, vae = _build(parts["network"]), _build(parts["vae"])
        n_all = _count(network)
        n_learned = n_all if lora is None else _as_with_lora(network, lora)
        if training.gradient_checkpointing:
            network.enable_gradient_checkpointing()
            vae.enable_gradient_checkpointing()
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        side = config.data.resolution or factor * network.config.sample_size
        latent = torch.randn(1, network.config.in_channels, side // factor, side // factor)
        kept = rows * objective.n_graphs * _saved(lambda: _call(network, latent))
        judged, n_eye = (0, 0) if own is None else _judged(own, vae, network, latent)
    if own is not None:
        by_dino, n_dino = _seen_by_dino(own)
        judged = min(rows, objective.rows_at_once) * (judged + by_dino)
        n_eye += n_dino
    n_frozen = (0 if lora is None else n_all) + _count(vae) + parts["text"]
    spared = lora is not None and training.mixed_precision == "bf16"
    weights = 4 * (n_learned + n_eye) + (2 if spared else 4) * n_frozen
    learning = (4 + 8 + 4 * training.use_ema) * n_learned
    total = weights + learning + active * max(kept, judged)
    of_eye = f", decoder and discriminator {active * judged / GB:.1f} (not both)" if judged else ""
    return (
        f"about {total / GB:.0f} GB: weights {weights / GB:.1f}, gradients, AdamW and average "
        f"{learning / GB:.1f}, activations of the network {active * kept / GB:.1f}{of_eye}"
    )


def _as_with_lora(network: nn.Module, lora: LoraSection) -> int:
    """Let only those layers learn that LoRA adapts, which keep what LoRA keeps; its weights."""
    network.requires_grad_(False)
    n_learned = 0
    for layer in adapted_layers(network, lora.target_modules).values():
        layer.weight.requires_grad_(True)
        n_in = layer.weight[0].numel()  # of a convolution, times its size in pixels
        n_learned += lora.rank * (n_in + len(layer.weight))
    return n_learned


def _judged(own: DiscriminatorSection, vae: Any, network: Any, latent: Tensor) -> tuple[int, int]:
    """Numbers kept for the gradient by one generated sample, and the weights of who judges it."""
    z = latent.detach().requires_grad_()
    if own.features == "denoiser":
        return _saved(lambda: _call(network.requires_grad_(False), z)), _count(network)
    vae.requires_grad_(False)
    return _saved(lambda: vae.decode(z).sample), 0


def _seen_by_dino(own: DiscriminatorSection) -> tuple[int, int]:
    """Numbers kept by a DINOv2 that sees one image, and its weights; (0, 0) if there is none."""
    if own.features in ("denoiser", "labels"):
        return 0, 0
    from transformers import AutoConfig, AutoModel, Dinov2Config

    if (Path(own.features) / "config.json").is_file():
        config = AutoConfig.from_pretrained(own.features)
    else:
        width, depth, heads = _DINO[next((one for one in _DINO if one in own.features), "small")]
        words = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
        config = Dinov2Config(**words, patch_size=14, image_size=518)  # pyright: ignore
    with torch.device("meta"):
        dino = AutoModel.from_config(config).requires_grad_(False).eval()
        image = torch.randn(1, 3, own.side, own.side, requires_grad=True)
        kept = _saved(lambda: dino(image, output_hidden_states=True).last_hidden_state)
    return kept, _count(dino)


def _build(config: Mapping[str, Any]) -> Any:
    words = {key: value for key, value in config.items() if not key.startswith("_")}
    return getattr(diffusers, config["_class_name"])(**words)


def _call(network: Any, latent: Tensor) -> Tensor:
    """One call with a condition of the right shapes."""
    config, t = network.config, torch.zeros(1)
    if "joint_attention_dim" in config:
        text = torch.randn(1, 333, config.joint_attention_dim)  # 77 tokens of CLIP, 256 of T5
        pooled = torch.randn(1, config.pooled_projection_dim)
        return network(latent, text, pooled, t, return_dict=False)[0]
    if "cross_attention_dim" not in config:
        raise UserError(f"the memory of {type(network).__name__} cannot be estimated")
    added = None
    if config.addition_embed_type == "text_time":
        n_text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(1, n_text), "time_ids": torch.zeros(1, 6)}
    text = torch.randn(1, 77, config.cross_attention_dim)
    return network(
        latent, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False
    )[0]


def _saved(run: Callable[[], Tensor]) -> int:
    """Numbers that autograd keeps for the way back, weights not counted."""
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x if x._base is None else x._base, nn.Parameter):  # a view of the weights
            held = x.untyped_storage()
            seen[held._cdata] = held.nbytes() // x.element_size()  # all that a view keeps alive
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = run()
    del out
    return sum(seen.values())


def _count(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())
