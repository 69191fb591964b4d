"""Who plays in a run: the networks by role, and those of them that learn."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from ..adversarial.discriminators import Discriminator
from ..diffusion.denoiser import Denoiser
from ..objectives.base import Objective
from ..support.errors import UserError
from .checkpoint import Checkpoint
from .players import Player
from .processes import frozen_teacher, live_average, placed_discriminator, share_weights
from .settings import TrainSettings
from .sharding import shard_denoiser, wanted_sharding


@dataclass(frozen=True)
class Trained:
    """What is trained: who learns, from what, and who else takes part."""

    denoiser: Denoiser
    objective: Objective
    teacher: Denoiser | None = None  # of distillation; it is frozen and in eval mode
    discriminator: Discriminator | None = None  # of adversarial diffusion tuning; its heads learn
    discriminator_settings: TrainSettings | None = None  # None: those of the run; no average


def roles(
    trained: Trained, settings: TrainSettings, accelerator: Accelerator
) -> tuple[dict[str, Any], dict[str, Player]]:
    """The networks that the objective needs, on their device, and the players among them.

    Both are by role: "model", "ema", "teacher", "discriminator"; UserError if one that is needed is
    missing. The settings are those of the model's optimiser.
    """
    denoiser, objective = trained.denoiser, trained.objective
    network = denoiser.to(accelerator.device).train().network
    share_weights(network, accelerator)
    sharding = wanted_sharding(settings, accelerator.num_processes)
    spare = shard_denoiser(denoiser, sharding, accelerator, average=objective.needs_ema)
    warmup = objective.ema_warmup if settings.ema_warmup is None else settings.ema_warmup
    whole = None if spare is None else spare.network
    model = Player(network, settings, ema_warmup=warmup, scaler=accelerator.scaler, whole=whole)
    players: dict[str, Player] = {"model": model}
    nets: dict[str, Any] = {"model": denoiser}
    if objective.needs_ema:
        nets["ema"] = live_average(denoiser, model, accelerator, spare)
    if objective.needs_teacher:
        nets["teacher"] = frozen_teacher(trained.teacher, accelerator, sharding)
    if objective.needs_discriminator:
        rival = nets["discriminator"] = placed_discriminator(trained.discriminator, accelerator)
        own = (trained.discriminator_settings or settings).model_copy(update={"use_ema": False})
        players["discriminator"] = Player(rival.network, own, scaler=accelerator.scaler)
        objective.set_up(denoiser, rival)
    return nets, players


def restore(
    checkpoint: Checkpoint,
    players: dict[str, Player],
    objective: Objective,
    *,
    is_fork: bool = False,
) -> list[str]:
    """Continue weights, optimisers, averages and what the objective remembers.

    In a fork, a second player, an average or an objective's memory that the checkpoint has not
    begins afresh: returned is which, in words. Everything else that is missing or of another shape
    is a UserError.
    """
    afresh = []
    checkpoint.restore_network(players["model"].network)
    for name, player in players.items():
        try:
            checkpoint.restore_player(name, player, may_begin_average=is_fork)
        except UserError:
            if not is_fork:
                raise
            afresh.append(f"the {name}")
    try:
        checkpoint.restore_objective(objective)
    except UserError:
        if not is_fork:
            raise
        afresh.append("what the objective remembers")
    return afresh
