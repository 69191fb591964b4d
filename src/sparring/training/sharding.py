"""FSDP2: every process holds its share of the weights, gradients, moments and average.

A block's weights come together when it is called and go again after it; its gradients are summed
and dealt out in the backward pass. AdamW and the average work on rows, the gradient's norm is that
of all of them. With `training.sharding: hsdp` each machine holds a copy, dealt to its own
processes: weights travel inside machines only, and gradients are summed among them once.

It is asked for with `training.sharding`, or by the user's accelerate config (`accelerate launch
--use_fsdp --fsdp_version 2`), of which the wrapping policy is taken. Accelerate itself shards on
accelerators only and together with its own optimiser; here `fully_shard` is called directly, so it
works on a CPU (gloo) too, under torchrun.

The model, its average and the teacher are sharded; the small heads of a second player, and what it
looks through, are whole in every process. Every call of a sharded network is collective: that is
why `choose_rows` lets a process without a chosen row make the same calls as the others.

Source: Zhao et al. 2023 (arXiv 2304.11277), Rajbhandari et al. 2020 (arXiv 1910.02054, stage 3).
"""

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ..diffusion.denoiser import Denoiser
from ..models.lora import lora_config
from ..support.errors import UserError
from ..support.sharded_tensors import weights_of, whole
from .settings import TrainSettings

LEAST_PARAMETERS = 20_000_000  # of such a block: one of SDXL or DiT-XL has 27 millions


@dataclass(frozen=True)
class Sharding:
    """Which blocks are gathered by themselves; the rest of the network is one more.

    Where they are chosen by size, blocks are the members of module lists (the blocks of diffusers'
    networks), from the inside out, that have `n_least` parameters left.
    """

    block_names: tuple[str, ...] | None = None  # class names of the blocks; None: by their size
    n_least: int = LEAST_PARAMETERS
    bf16: bool = False  # weights travel in bfloat16; gradients are summed in float32 either way
    n_within: int | None = None  # processes that share one copy of the weights (HSDP); None: all


def wanted_sharding(settings: TrainSettings, n_processes: int) -> Sharding | None:
    """How the run is to be sharded; None if it is not, or if there is one process only.

    UserError for what goes with no sharding, or an accelerate config that asks for more.
    """
    by_accelerate = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if settings.sharding == "none" and not by_accelerate:
        return None
    if settings.compile or settings.mixed_precision == "fp16":
        what = "compile=true" if settings.compile else "mixed_precision=fp16"
        raise UserError(f"FSDP2 does not go with training.{what}: leave one of the two out")
    chosen = _of_accelerate() if by_accelerate else Sharding()
    if n_processes == 1:
        return None
    n_within = None
    if settings.sharding == "hsdp":
        n_within = int(os.environ.get("LOCAL_WORLD_SIZE", n_processes))
        if n_processes % n_within:
            why = f"needs as many processes on each machine, got {n_within} here of {n_processes}"
            raise UserError(f"training.sharding=hsdp {why}: use fsdp2")
    return replace(chosen, bf16=settings.mixed_precision == "bf16", n_within=n_within)


def _of_accelerate() -> Sharding:
    """The wrapping policy of the user's accelerate config."""
    told = {name: value for name, value in os.environ.items() if name.startswith("FSDP_")}
    if told.get("FSDP_VERSION", "1") != "2":
        advice = "choose fsdp_version 2 (accelerate launch --use_fsdp --fsdp_version 2)"
        raise UserError(f"the accelerate config asks for FSDP version 1: {advice}")
    for name, advice in {
        "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params must be false",
        "FSDP_ACTIVATION_CHECKPOINTING": "use training.gradient_checkpointing instead",
        "FSDP_IGNORED_MODULES": "fsdp_ignored_modules must be left out",
    }.items():
        if told.get(name, "false").lower() not in ("false", ""):
            raise UserError(f"accelerate's FSDP config asks for what is not supported: {advice}")
    if told.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() not in ("true", "full_shard"):
        raise UserError("fsdp_reshard_after_forward must be true: an attack freezes the weights")
    policy = told.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP").upper()
    names = told.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    if policy == "TRANSFORMER_BASED_WRAP" and names:
        return Sharding(tuple(name.strip() for name in names.split(",")))
    if policy == "SIZE_BASED_WRAP":
        return Sharding(n_least=max(int(told.get("FSDP_MIN_NUM_PARAMS", "0")), 1))
    return Sharding()


@dataclass
class Spare:
    """Copies from before a network was sharded."""

    network: nn.Module | None = None  # the same one, whole, on the CPU of the main process
    average: Denoiser | None = None  # with a network that is sharded too and never learns


def shard_denoiser(
    denoiser: Denoiser, sharding: Sharding | None, accelerator: Accelerator, *, average: bool
) -> Spare | None:
    """Shard a denoiser's network in place; None, and nothing done, without sharding.

    Every process holds the same weights before, whole: so it needs room for them once more.
    UserError for LoRA, or blocks of a name that the network does not have.
    """
    if sharding is None:
        return None
    if lora_config(denoiser.network) is not None:
        raise UserError("model.lora trains few weights: leave FSDP2 out (training.sharding=none)")
    spare = Spare()
    if accelerator.is_main_process:
        spare.network = copy.deepcopy(denoiser.network).to("cpu")
    if average:
        spare.average = copy.deepcopy(denoiser).requires_grad_(False).eval()
        shard(spare.average.network, sharding, accelerator)
    shard(denoiser.network, sharding, accelerator)
    return spare


def shard(network: nn.Module, sharding: Sharding, accelerator: Accelerator) -> None:
    """Deal the rows of a network's weights to the processes, in place; see `blocks_of`."""
    n = accelerator.num_processes
    n_within = sharding.n_within or n
    shape = (n,) if n_within == n else (n // n_within, n_within)
    names = ("copies", "rows")[-len(shape) :]
    mesh = init_device_mesh(accelerator.device.type, shape, mesh_dim_names=names)
    # inputs stay as they are: times in bfloat16 would be others
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if sharding.bf16 else None,
        reduce_dtype=torch.float32 if sharding.bf16 else None,
        cast_forward_inputs=False,
    )
    for block in [*blocks_of(network, sharding), network]:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def blocks_of(network: nn.Module, sharding: Sharding) -> list[nn.Module]:
    """What is gathered by itself, the inner blocks before the outer ones."""
    modules = dict(network.named_modules())
    if sharding.block_names is not None:
        found = [one for one in modules.values() if type(one).__name__ in sharding.block_names]
        if not found:
            advice = "fsdp_transformer_layer_cls_to_wrap in the accelerate config, or leave it out"
            why = f"{type(network).__name__} has no {', '.join(sharding.block_names)}"
            raise UserError(f"{why}: correct {advice}")
        return found[::-1]
    chosen: list[nn.Module] = []
    taken: set[int] = set()
    for name, module in reversed(modules.items()):  # children come after their parents
        parent = modules.get(name.rpartition(".")[0])
        left = [one for one in module.parameters() if id(one) not in taken]
        n_left = sum(one.numel() for one in left)
        if isinstance(parent, nn.ModuleList) and n_left >= sharding.n_least:
            chosen.append(module)
            taken.update(map(id, left))
    return chosen


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` was here."""
    return isinstance(network, FSDPModule)


@contextmanager
def gradients_stay(network: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Backward passes inside add to the gradients of each process alone, whole."""
    if not isinstance(network, FSDPModule):
        with accelerator.no_sync(network):
            yield
        return
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


@torch.no_grad()
def gather(network: nn.Module, averages: Mapping[str, Tensor], into: nn.Module | None) -> None:
    """Bring the weights together in `into`, the averages where there are any; None: nobody's need.

    To be called by all processes; one tensor at a time is whole.
    """
    place = {} if into is None else weights_of(into)
    for name, value in weights_of(network).items():
        together = whole(averages.get(name, value))
        if into is not None:
            place[name].copy_(together)
