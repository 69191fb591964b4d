"""LoRA: a frozen network with small trained matrices beside its linear layers and convolutions.

    W x  becomes  W x + (alpha / rank) B A x,    B = 0 at the start, so nothing changes at first

The base's weights stay as they are, to the bit. peft does it.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..diffusion.randomness import derive_seed
from ..support.errors import UserError
from ..support.sharded_tensors import same_bits

WEIGHTS = "pytorch_lora_weights.safetensors"
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
"""The layers that diffusers' text-to-image scripts adapt: those of all attentions."""
OF_CAPTIONS = ("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
"""The same of the captions' side, where images and captions attend to each other (SD 3)."""
_ADAPTABLE = (nn.Linear, nn.Conv2d)  # what peft adapts and every reader of LoRA files knows


def adapted(network: nn.Module, target_modules: Sequence[str] | None = None) -> list[str]:
    """Ends of the names of the layers that get LoRA; UserError if one is no layer's that can."""
    layers = dict(network.named_modules())
    if target_modules is None:
        return [end for end in (*ATTENTION, *OF_CAPTIONS) if _ending(layers, end)]
    place, kind = "model.lora.target_modules", type(network).__name__
    ends = list(dict.fromkeys(target_modules))
    if not ends:
        raise UserError(f"{place} is empty: name layers, or leave it out for those of attention")
    for end in ends:
        found = _ending(layers, end)
        if not found:
            raise UserError(f"{place}: {kind} has no layer {end!r}{_nearest(layers, end)}")
        for name in found:
            if not isinstance(layers[name], _ADAPTABLE):
                named = f"{end!r} names {name}, of kind {type(layers[name]).__name__}"
                adapts = f"LoRA adapts linear layers and convolutions{_nearest(layers, end)}"
                raise UserError(f"{place}: {named}, and {adapts}")
    return ends


def adapted_layers(
    network: nn.Module, target_modules: Sequence[str] | None = None
) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that get LoRA, by name; see `adapted`."""
    layers: dict[str, Any] = dict(network.named_modules())
    ends = adapted(network, target_modules)
    return {name: layers[name] for end in ends for name in _ending(layers, end)}


def _ending(layers: Iterable[str], end: str) -> list[str]:
    """The names that are `end` or end in it after a dot, as peft takes them."""
    return [name for name in layers if end and (name == end or name.endswith(f".{end}"))]


def _nearest(layers: Mapping[str, nn.Module], end: str) -> str:
    """The end of an error line: layers with a name like this one, or the names that there are."""
    names = [name for name, layer in layers.items() if isinstance(layer, _ADAPTABLE)]
    within = [name for name in names if f".{end}." in f".{name}."]
    if within and not end.isdigit():  # a block of layers: what is in it
        known = {name.rpartition(f"{end}.")[2] for name in within}
        return f" (in it: {', '.join(f'{end}.{one}' for one in sorted(known)[:6])})"
    known = {_short(name) for name in names}
    last = end.rpartition(".")[2]
    near = difflib.get_close_matches(end, [*known, *names], n=3, cutoff=0.6)
    near = near or difflib.get_close_matches(last, known, n=3, cutoff=0.6)
    if near:
        return f" - did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?"
    return f" (it has: {', '.join(sorted(known))})"


def _short(name: str) -> str:
    """The end of a name that says what a layer is: to_out.0, not 0."""
    parts = name.split(".")
    n = next((i for i, part in enumerate(reversed(parts), start=1) if not part.isdigit()), 1)
    return ".".join(parts[-n:])


def add_lora(
    network: Any,
    rank: int,
    alpha: float | None = None,
    target_modules: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Freeze a network of diffusers and put trainable LoRA matrices beside its layers.

    Args:
        rank: Of the matrices A (rank, n_in) and B (n_out, rank); of a convolution A has its size in
            pixels, (rank, n_in, h, w), and B has one, (n_out, rank, 1, 1).
        alpha: Their sum is scaled by alpha / rank; None: rank.
        target_modules: See `adapted`; None: ATTENTION, and of Stable Diffusion 3 OF_CAPTIONS too.
        seed: Of A, Gaussian of standard deviation 1 / rank.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("model.lora needs peft: pip install 'sparring[text]'") from error
    network.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # pyright: ignore[reportArgumentType]
        init_lora_weights="gaussian",
        target_modules=adapted(network, target_modules),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        network.add_adapter(config)


def lora_config(network: Any) -> dict[str, Any] | None:
    """The arguments of `add_lora` for what a network has; None without LoRA."""
    adapters = getattr(network, "peft_config", None)
    if not adapters:
        return None
    (config,) = adapters.values()
    layers = sorted(config.target_modules)
    return {"rank": config.r, "alpha": config.lora_alpha, "target_modules": layers}


def lora_weights(network: nn.Module) -> dict[str, Tensor]:
    """A and B of every layer, by parameter name, for `restore_lora_weights`."""
    return {name: value for name, value in network.named_parameters() if "lora_" in name}


def restore_lora_weights(network: nn.Module, tensors: dict[str, Tensor]) -> None:
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

    All layers go by peft's names, `unet.<layer>.lora_A.weight` and `.lora_B.weight`: readers judge
    a file by the first name they see. The file has alpha = rank, as every reader takes for granted:
    B is saved times alpha / rank. What `check_lora` refuses is a UserError.
    """
    prefix = _prefix(network)
    weights = {
        f"{prefix}.{name}.lora_{letter}.weight": value.cpu().contiguous()
        for name, (a, b) in effective(network).items()
        for letter, value in (("A", a), ("B", b))
    }
    save_file(weights, Path(folder) / WEIGHTS, metadata={"format": "pt"})
    check_lora(network, folder)


def effective(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, alpha / rank B) of every layer that has LoRA, by its name: W + B A is what it does."""
    found = {}
    for name, layer in _lora_layers(network).items():
        (adapter,) = layer.lora_A
        b = layer.lora_B[adapter].weight.detach()
        scaled = b if layer.scaling[adapter] == 1 else layer.scaling[adapter] * b
        found[name] = (layer.lora_A[adapter].weight.detach(), scaled)
    return found


def check_lora(network: Any, folder: str | Path) -> None:
    """Refuse a file that does not make a fresh network this one, layer by layer, to the bit.

    It is built of the config, its own weights are never written to, so that only LoRA's matrices
    take memory, and diffusers loads it, with its own idea of which names are whose.
    """
    with torch.device("meta"):
        fresh = type(network).from_config(network.config)
    fresh.to_empty(device="cpu")
    try:
        load_lora(fresh, folder, low_cpu_mem_usage=True)
    except RuntimeError as error:
        raise UserError(f"the LoRA weights could not be saved: {error}") from error
    live, read = effective(network), effective(fresh)
    differ = live.keys() ^ read.keys() | {
        name
        for name in live.keys() & read.keys()
        if not all(same_bits(a, b) for a, b in zip(live[name], read[name], strict=True))
    }
    if differ:
        raise UserError(
            f"the LoRA weights could not be saved: {WEIGHTS} reads otherwise than they are in "
            f"{len(differ)} of {len(live)} layers, such as {min(differ)}; the checkpoints hold them"
        )


def load_lora(network: Any, folder: str | Path, *, low_cpu_mem_usage: bool = False) -> None:
    """Put what `save_lora` wrote beside a network's layers, as diffusers' pipelines do.

    With `low_cpu_mem_usage` the matrices are taken as they are in the file; nothing is drawn first.
    UserError if peft is missing; RuntimeError if the file has matrices that found no place, or
    numbers that are not finite.
    """
    try:
        import peft  # noqa: F401 - diffusers asks for it later, with a longer message
    except ImportError as error:
        raise UserError("LoRA weights need peft: pip install 'sparring[text]'") from error
    file, prefix = Path(folder) / WEIGHTS, _prefix(network)
    with safe_open(file, framework="pt") as content:
        names = set(content.keys())
    network.load_lora_adapter(
        str(folder), prefix=prefix, weight_name=WEIGHTS, use_safetensors=True,
        local_files_only=True, low_cpu_mem_usage=low_cpu_mem_usage,
    )  # fmt: skip
    placed = {
        f"{prefix}.{name}.lora_{letter}.weight" for name in _lora_layers(network) for letter in "AB"
    }
    if names != placed:
        n_spare, n_lost, one = len(names - placed), len(placed - names), min(names ^ placed)
        spare = f"{n_spare} of {len(names)} matrices are for no layer"
        raise RuntimeError(f"{file}: {spare}, and {n_lost} are missing, such as {one}")
    broken = [name for name, value in lora_weights(network).items() if not value.isfinite().all()]
    if broken:
        raise RuntimeError(f"{file}: {broken[0]} holds numbers that are not finite")


def _lora_layers(network: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: one for name, one in network.named_modules() if isinstance(one, LoraLayer)}


def _prefix(network: Any) -> str:
    """What the names in a pipeline's file of LoRA weights begin with."""
    return "unet" if type(network).__name__.startswith("UNet") else "transformer"
