"""LoRA: a frozen network with small trained matrices beside its linear layers, through peft.

    W x  becomes  W x + (alpha / rank) B A x,    B = 0 at the start, so nothing changes at first

The base's weights stay as they are, to the bit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError
from .randomness import derive_seed

WEIGHTS = "pytorch_lora_weights.safetensors"
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
"""The layers that diffusers' text-to-image scripts adapt: those of all attentions."""
OF_CAPTIONS = ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
"""The same of the captions' side, where images and captions attend to each other (SD 3)."""


def adapted(network: Any, target_modules: Sequence[str] | None = None) -> list[str]:
    """Ends of the names of the layers that get LoRA; None: see `add_lora`."""
    if target_modules is not None:
        return list(target_modules)
    is_joint = type(network).__name__ == "SD3Transformer2DModel"
    return [*ATTENTION, *OF_CAPTIONS] if is_joint else list(ATTENTION)


def add_lora(
    network: Any,
    rank: int,
    alpha: float | None = None,
    target_modules: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Freeze a network of diffusers and put trainable LoRA matrices beside its layers.

    Args:
        network: Changed in place.
        rank: Of the matrices A (rank, n_in) and B (n_out, rank).
        alpha: Their sum is scaled by alpha / rank; None: rank.
        target_modules: Ends of the names of the layers that get them; None: ATTENTION, and of
            Stable Diffusion 3 OF_CAPTIONS too.
        seed: Of A, Gaussian of standard deviation 1 / rank.

    Raises:
        UserError: if peft is missing, or no layer has such a name.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("model.lora needs peft: pip install 'sparring[text]'") from error
    network.requires_grad_(False)
    target_modules = adapted(network, target_modules)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # pyright: ignore[reportArgumentType]
        init_lora_weights="gaussian",
        target_modules=target_modules,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        try:
            network.add_adapter(config)
        except ValueError as error:
            raise UserError(
                f"model.lora.target_modules: {type(network).__name__} has no layer "
                f"{', '.join(target_modules)}"
            ) from error


def lora_config(network: Any) -> dict[str, Any] | None:
    """The arguments of `add_lora` for what a network has; None without LoRA."""
    adapters = getattr(network, "peft_config", None)
    if not adapters:
        return None
    (config,) = adapters.values()
    return {
        "rank": config.r,
        "alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules),
    }


def lora_weights(network: nn.Module) -> dict[str, Tensor]:
    """A and B of every layer, by parameter name."""
    return {name: value for name, value in network.named_parameters() if "lora_" in name}


def restore_lora_weights(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Undo of `lora_weights`.

    Raises:
        RuntimeError: if they are those of other layers or of another rank.
    """
    own = lora_weights(network)
    if own.keys() != tensors.keys():
        raise RuntimeError("its LoRA weights are those of other layers")
    network.load_state_dict(tensors, strict=False)


def merge_lora(network: Any) -> None:
    """W <- W + (alpha / rank) B A, and no LoRA any more."""
    network.fuse_lora()
    network.unload_lora()


def save_lora(network: Any, folder: str | Path) -> None:
    """Write pytorch_lora_weights.safetensors, for `pipeline.load_lora_weights(folder)`.

    The file has alpha = rank, as every reader takes for granted: B is saved times alpha / rank.
    """
    from diffusers.loaders.lora_pipeline import SD3LoraLoaderMixin, StableDiffusionLoraLoaderMixin
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft.utils.save_and_load import get_peft_model_state_dict

    config = lora_config(network)
    assert config is not None
    scale = config["alpha"] / config["rank"]
    adapter = next(iter(network.peft_config))
    weights = {
        name: (scale * value if "lora_B" in name else value).detach().cpu().contiguous()
        for name, value in get_peft_model_state_dict(network, adapter_name=adapter).items()
    }
    if _prefix(network) == "transformer":
        SD3LoraLoaderMixin.save_lora_weights(str(folder), transformer_lora_layers=weights)
    else:
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            str(folder), unet_lora_layers=convert_state_dict_to_diffusers(weights)
        )


def load_lora(network: Any, folder: str | Path) -> None:
    """Put what `save_lora` wrote beside a network's layers, as diffusers' pipelines do.

    Raises:
        UserError: if peft is missing.
    """
    try:
        import peft  # noqa: F401 - diffusers asks for it later, with a longer message
    except ImportError as error:
        raise UserError("LoRA weights need peft: pip install 'sparring[text]'") from error
    network.load_lora_adapter(
        str(folder),
        prefix=_prefix(network),
        weight_name=WEIGHTS,
        use_safetensors=True,
        local_files_only=True,
    )


def _prefix(network: Any) -> str:
    """What the names in a pipeline's file of LoRA weights begin with."""
    return "unet" if type(network).__name__.startswith("UNet") else "transformer"
