"""A player: a network that learns, with its optimiser, schedule, gradient scaler and average."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor

from ..support.errors import UserError
from ..support.sharded_tensors import as_rows_of, own_rows, read_like, whole
from .average import MovingAverage
from .settings import TrainSettings

# the schedules that honour lr_warmup_steps (diffusers' own "constant" does not)
_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}
_COUNTS = ("n_updates", "n_skipped", "n_skipped_in_a_row", "last_lr")


class Player:
    """Who learns in a turn, by the optimiser, schedule and average of `TrainSettings`.

    Its schedule and average count its own optimiser updates: neither accumulation, nor the number
    of processes, nor an update that the scaler skipped moves them. The bare network (neither
    distributed nor compiled wrappers) may be sharded: then the average works on the rows of this
    process, and the main one has the network `whole` too, on the CPU.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainSettings,
        *,
        ema_warmup: bool = True,
        scaler: GradScaler | None = None,
        whole: nn.Module | None = None,
    ) -> None:
        self.network, self.scaler, self.whole = network, scaler, whole
        named = network.named_parameters()
        self.parameters = {name: value for name, value in named if value.requires_grad}
        self.max_grad_norm = settings.max_grad_norm
        learned = list(self.parameters.values())
        self.fused = all(value.device.type in ("cpu", "cuda") for value in learned)
        self.optimizer = torch.optim.AdamW(
            learned,
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.adam_weight_decay,
            eps=settings.adam_epsilon,
            fused=self.fused,
        )
        self.lr_schedule = get_scheduler(
            _SCHEDULES[settings.lr_scheduler],
            self.optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=max(settings.max_train_steps, settings.lr_warmup_steps + 1),
        )
        self.rows = [nn.Parameter(own_rows(x)[0]) if isinstance(x, DTensor) else x for x in learned]
        self.ema = None
        if settings.use_ema:
            self.ema = MovingAverage(self.rows, settings.ema_decay, ema_warmup)
        self.last_lr = settings.learning_rate
        self.n_updates = self.n_skipped = self.n_skipped_in_a_row = 0

    def clip(self) -> Tensor:
        """Unscale this player's gradients, clip them by their global norm, return that norm."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        return whole(nn.utils.clip_grad_norm_(self.parameters.values(), limit))

    def step(self) -> None:
        """One update of the weights, then of the learning rate and the average."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.last_lr = self.optimizer.param_groups[0]["lr"]
        self.lr_schedule.step()
        if self.ema is not None:
            self.ema.step(self.rows)
        self.n_updates += 1
        self.n_skipped_in_a_row = 0

    def skip(self) -> None:
        """fp16's gradients overflowed: lower the loss scale and change nothing else."""
        if self.scaler is not None:
            self.scaler.update()
        self.n_skipped += 1
        self.n_skipped_in_a_row += 1

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The network has its averaged weights inside; the live ones wait in the CPU's memory."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.rows)
        try:
            self.ema.copy_to(self.rows)
            yield
        finally:
            self.ema.restore(self.rows)

    def keep_average(self) -> None:
        """The averaged weights become the network's own: the run is over."""
        if self.ema is not None:
            self.ema.copy_to(self.rows)

    def averages(self) -> dict[str, Tensor]:
        """The average of each learned parameter by name, {} if none is kept; no copies."""
        if self.ema is None:
            return {}
        pairs = zip(self.parameters.items(), self.ema.shadow, strict=True)
        return {name: as_rows_of(average, like) for (name, like), average in pairs}

    def average_into(self, network: nn.Module) -> None:
        """From now on the average lives in another network's weights, which hold the same rows."""
        weights = dict(network.named_parameters())
        if self.ema is not None:
            self.ema.shadow = [own_rows(weights[name])[0] for name in self.parameters]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps beside the network: moments and average, by file."""
        moments = {
            f"{name}|{moment}": value
            for name, parameter in self.parameters.items()
            for moment, value in self.optimizer.state[parameter].items()
        }
        return {"optimizer": moments, "ema": self.averages()}

    def state(self) -> dict[str, Any]:
        """The counts that go with `tensors`."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        n_averaged = None if self.ema is None else self.ema.n_updates
        scaler = None if self.scaler is None else self.scaler.state_dict()
        return counts | {"n_averaged": n_averaged, "scaler": scaler}

    def restore(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        may_begin_average: bool = False,
    ) -> None:
        """Continue from `tensors` and `state`; learning rate and decay are those of the settings.

        An average that was not kept is a UserError, or starts at the weights: `may_begin_average`.
        """
        is_averaged = state["n_averaged"] is not None
        if self.ema is not None and not is_averaged and not may_begin_average:
            raise UserError("the checkpoint has no EMA: resume with training.use_ema=false")
        for name in _COUNTS:
            setattr(self, name, state[name])
        moments = tensors["optimizer"]
        for key in moments:
            name, moment = key.rsplit("|", 1)
            parameter, is_count = self.parameters[name], moment == "step"
            value = moments[key] if is_count else read_like(moments, key, parameter)
            # AdamW's count of updates is a number that stays on the CPU unless one kernel does all
            place = "cpu" if is_count and not self.fused else parameter.device
            self.optimizer.state[parameter][moment] = value.to(place)
        # the schedule is a function of the count and of the settings, which may have changed
        self.lr_schedule.last_epoch = self.n_updates
        self.lr_schedule._step_count = self.n_updates + 1
        groups, schedule = self.optimizer.param_groups, self.lr_schedule
        for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.n_updates)
        schedule._last_lr = [group["lr"] for group in groups]
        for name, average in self.averages().items():
            live = self.parameters[name].detach()
            average.copy_(read_like(tensors["ema"], name, average) if is_averaged else live)
        if self.ema is not None and is_averaged:
            self.ema.n_updates = state["n_averaged"]
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
