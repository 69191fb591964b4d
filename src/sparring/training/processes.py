"""Accelerate at the border: processes, precision, the distributed network, the averaged one."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    ProjectConfiguration,
    patch_environment,
    set_seed,
)
from torch import nn

from ..adversarial.discriminators import Discriminator
from ..diffusion.denoiser import Denoiser
from ..diffusion.randomness import derive_seed
from ..support.errors import UserError
from ..support.terminal import echo
from .launcher import asked_for, on_cpu, without_launchers_own
from .players import Player
from .random_states import unchanged_random_states
from .settings import TrainSettings
from .sharding import Sharding, Spare, gather, is_sharded, shard
from .tracking import check_tracker

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def process_state() -> PartialState:
    """The processes of this run, joined: to be asked for before anybody else asks accelerate.

    Left alone, accelerate joins the processes of `torchrun` on GPUs only; each of several processes
    on a CPU would take itself for the only one.

    Raises:
        UserError: if not all processes that were started came together.
    """
    state = PartialState(cpu=_on_cpu())
    n_started = int(os.environ.get("WORLD_SIZE", "1"))
    if n_started != state.num_processes:
        raise UserError(
            f"{n_started} processes were started but {state.num_processes} came together: call "
            "sparring.training.process_state() before accelerate is used"
        )
    return state


def _on_cpu() -> bool:
    """Whether several processes have no GPU to share out, or shall not."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return on_cpu() or (several and not (torch.cuda.is_available() or torch.xpu.is_available()))


def make_accelerator(settings: TrainSettings, run_dir: Path) -> Accelerator:
    """The accelerator of a run, seeded: dropout draws from torch's own generator, by process.

    Raises:
        UserError: for fp16 on a CPU, a missing tracker, a distribution that is not supported, or
            what accelerate asks for and cannot be done.
    """
    check_tracker(settings.report_to)
    asked_for()  # refuses on every process what cannot be
    if settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    state = process_state()
    if settings.mixed_precision == "fp16" and torch.device(state.device or "cpu").type == "cpu":
        raise UserError("training.mixed_precision=fp16 needs a GPU: use bf16 or no")
    if state.distributed_type not in SUPPORTED:
        raise UserError(
            f"cannot train with {state.distributed_type.value}: use torchrun or one process; for "
            "models that are too large for one device, training.sharding=fsdp2"
        )
    # another run of this Python process may have had another precision
    AcceleratorState._reset_state(reset_partial_state=False)
    with patch_environment(**without_launchers_own()):
        accelerator = Accelerator(
            cpu=_on_cpu(),
            mixed_precision=settings.mixed_precision,
            log_with=None if settings.report_to == "none" else settings.report_to,
            project_config=ProjectConfiguration(str(run_dir), logging_dir=str(run_dir / "logs")),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    # what accelerate launch sets when it was asked for several processes but starts one
    if "ACCELERATE_MIXED_PRECISION" in os.environ and (
        "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    ):
        say(
            accelerator,
            "several processes were asked for and this is the only one (accelerate launch starts "
            "one on a CPU): use torchrun --nproc_per_node N -m sparring train ...",
        )
    if settings.mixed_precision != "no":
        say(accelerator, f"training.mixed_precision is {settings.mixed_precision} (no: float32)")
    set_seed(derive_seed(settings.seed, "process", accelerator.process_index) % 2**32)
    return accelerator


def say(accelerator: Accelerator, line: str) -> None:
    """One line on stderr, from the main process."""
    if accelerator.is_main_process:
        echo(f"sparring: {line}", err=True)


@contextmanager
def distributed(
    nets: Mapping[str, Any], players: Iterable[str], accelerator: Accelerator, *, compiled: bool
) -> Iterator[None]:
    """Inside, the players' networks cast and share gradients; the model is compiled if wanted.

    An objective may call them several times before a backward pass, with frozen parameters in
    between; buffers are not broadcast, which would change them under the graph's feet.
    """
    bare = nets["model"].network
    if compiled:
        bare.compile()
    for name in players:
        sharded = is_sharded(nets[name].network)  # then it shares its gradients by itself
        nets[name].network = accelerator.prepare_model(
            nets[name].network, device_placement=not sharded, evaluation_mode=sharded
        )
    try:
        yield
    finally:
        for name in players:
            nets[name].network = accelerator.unwrap_model(
                nets[name].network, keep_fp32_wrapper=False
            )
        bare._compiled_call_impl = None
        accelerator._models.clear()


def share_weights(network: nn.Module, accelerator: Accelerator) -> None:
    """Every process starts from the main process's weights, before an average is made of them."""
    if accelerator.num_processes > 1:
        for value in network.state_dict().values():
            dist.broadcast(value, src=0)


def live_average(
    denoiser: Denoiser, player: Player, accelerator: Accelerator, spare: Spare | None = None
) -> Denoiser:
    """A second denoiser whose weights are the player's average: one memory, no copying.

    What is frozen is shared with the first one, unless they are sharded: then it is `spare`'s.

    Raises:
        UserError: if no average is kept.
    """
    if player.ema is None:
        raise UserError("this objective calls the averaged network: set training.use_ema=true")
    if spare is not None and spare.average is not None:
        average = spare.average
        player.average_into(average.network)
    else:
        average = copy.deepcopy(denoiser).requires_grad_(False).eval()
        averages, live = player.averages(), dict(player.network.named_parameters())
        for name, parameter in average.network.named_parameters():
            parameter.data = averages.get(name, live[name].data)
    # placed already: a move would leave the shadows behind
    average.network = accelerator.prepare_model(
        average.network, device_placement=False, evaluation_mode=True
    )
    return average


def frozen_teacher(
    teacher: Denoiser | None, accelerator: Accelerator, sharding: Sharding | None = None
) -> Denoiser:
    """The teacher where the run is, at its precision; not distributed, as it never learns.

    With sharding each process holds its share of the weights. Raises UserError if there is none.
    """
    if teacher is None:
        raise UserError("this objective learns from a teacher: set objective.teacher to a model")
    teacher.to(accelerator.device).requires_grad_(False).eval()
    if sharding is not None:
        shard(teacher.network, sharding, accelerator)
    teacher.network = accelerator.prepare_model(
        teacher.network, device_placement=sharding is None, evaluation_mode=True
    )
    return teacher


def placed_discriminator(
    discriminator: Discriminator | None, accelerator: Accelerator
) -> Discriminator:
    """The discriminator where the run is; its heads the same on all processes, its eye frozen.

    Raises UserError if there is none.
    """
    if discriminator is None:
        raise UserError("this objective has two players: pass a discriminator")
    discriminator.to(accelerator.device)
    share_weights(discriminator.network, accelerator)
    discriminator.eye = accelerator.prepare_model(discriminator.eye, evaluation_mode=True)
    return discriminator


@contextmanager
def finished_weights(
    denoiser: Denoiser, player: Player, accelerator: Accelerator
) -> Iterator[Denoiser]:
    """The denoiser as it would be handed out now: bare network, averaged weights, eval mode.

    Training goes on afterwards as if nothing had happened. All processes enter it together, and
    the main one uses it: in the others the denoiser stays as it is.
    """
    if is_sharded(player.network):
        gather(player.network, player.averages(), player.whole)
    if not accelerator.is_main_process:
        yield denoiser
        return
    prepared, compiled = denoiser.network, player.network._compiled_call_impl
    player.network._compiled_call_impl = None  # other batch sizes would compile again
    with unchanged_random_states(), torch.no_grad(), _bare(player, accelerator) as bare:
        denoiser.network = bare
        denoiser.eval()
        try:
            yield denoiser
        finally:
            denoiser.train()
            denoiser.network, player.network._compiled_call_impl = prepared, compiled
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@contextmanager
def _bare(player: Player, accelerator: Accelerator) -> Iterator[nn.Module]:
    """The main process's whole network with its averaged weights, on the device."""
    if player.whole is None:
        with player.averaged_weights():
            yield player.network
        return
    try:
        yield player.whole.to(accelerator.device)
    finally:
        player.whole.to("cpu")


def keep_finished(
    denoiser: Denoiser,
    player: Player,
    accelerator: Accelerator,
    save_fn: Callable[[Denoiser], None] | None = None,
) -> None:
    """The run is over: the denoiser's network takes its finished weights, whole, and is saved.

    A sharded one is whole in the main process, on the CPU; the others keep their rows.
    """
    player.keep_average()
    if is_sharded(player.network):
        gather(player.network, {}, player.whole)
    denoiser.network = player.network if player.whole is None else player.whole
    if save_fn is not None and accelerator.is_main_process:
        with unchanged_random_states(), torch.no_grad():
            save_fn(denoiser.eval())
        denoiser.train()
