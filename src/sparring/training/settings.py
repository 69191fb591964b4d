"""The numbers of a training run, in diffusers' words."""

import math
from dataclasses import dataclass
from typing import Any

START = ("resume_from_checkpoint", "overwrite_output_dir", "fork_from", "wait_for_lock")
"""What says how a start begins; it is no part of what a run is."""


@dataclass(frozen=True)
class TrainSettings:
    """What the loop needs to know; the names are those of a config's section `training`.

    A step is one optimiser update of the model: the learning rate, the EMA, checkpoints, logs and
    `max_train_steps` count these. Work is cut into whole global batches of `train_batch_size` x
    processes x `gradient_accumulation_steps` samples. A method that makes K updates of a batch
    (Free-AT) ends with the first whole batch at or past `max_train_steps`, and what is due every n
    steps happens after the first whole batch at or past each multiple of n.

    Args:
        seed: All randomness follows from it.
        train_batch_size: Samples per process and micro-batch.
        gradient_accumulation_steps: Micro-batches per global batch.
        max_train_steps: Updates of the model, at least.
        learning_rate: AdamW's, after the warm-up.
        lr_scheduler: "constant" or "cosine" (to zero at max_train_steps), both after the warm-up.
        lr_warmup_steps: Updates in which the learning rate rises linearly from zero.
        max_grad_norm: Gradients are scaled down to this global norm; None for no clipping.
        mixed_precision: "no", "bf16" or "fp16" (GPU only).
        use_ema: Keep an exponential moving average of the weights; samples and the finished model
            use it.
        ema_decay: Its decay per update.
        ema_warmup: Whether the decay rises as 1 - (1 + n)^(-3/4) before it reaches `ema_decay`;
            without, it is `ema_decay` from the first update on. None: as the objective prefers.
        compile: torch.compile the network.
        sharding: "none": every process holds all weights; "fsdp2": each holds its share of the
            weights, gradients, moments and average; "hsdp": the processes of each machine share
            a copy (see `training.sharding`).
        checkpointing_steps: Steps between checkpoints; None for the last one only.
        checkpoints_total_limit: How many to keep, the newest always; None for all.
        resume_from_checkpoint: "latest", a checkpoint's folder or its name; "auto": the latest if
            there is any, else the beginning.
        overwrite_output_dir: Whether an existing run in the folder may be deleted.
        fork_from: A run or a checkpoint of one, whose state a new run begins with.
        wait_for_lock: Seconds to wait while another start writes the run folder; None: not at all.
        log_every_steps: Steps between two lines of metrics.jsonl; each is a mean over these steps.
        validation_steps: Steps between sample grids; None for none.
        report_to: "tensorboard", "wandb", "trackio" or "none".
        n_threads: torch's CPU threads; None leaves them alone.
    """

    seed: int = 0
    train_batch_size: int = 128
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 3000
    learning_rate: float = 1e-4
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    mixed_precision: str = "no"
    use_ema: bool = True
    ema_decay: float = 0.9999
    ema_warmup: bool | None = None
    compile: bool = False
    sharding: str = "none"
    checkpointing_steps: int | None = 500
    checkpoints_total_limit: int | None = 2
    resume_from_checkpoint: str | None = None
    overwrite_output_dir: bool = False
    fork_from: str | None = None
    wait_for_lock: float | None = None
    log_every_steps: int = 50
    validation_steps: int | None = 500
    report_to: str = "tensorboard"
    n_threads: int | None = None

    def __post_init__(self) -> None:
        for name, choices in {
            "lr_scheduler": ("constant", "cosine"),
            "mixed_precision": ("no", "bf16", "fp16"),
            "sharding": ("none", "fsdp2", "hsdp"),
            "report_to": ("tensorboard", "wandb", "trackio", "none"),
        }.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}")
        for name in (
            "train_batch_size",
            "gradient_accumulation_steps",
            "max_train_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
            "log_every_steps",
            "validation_steps",
            "n_threads",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.wait_for_lock is not None and not 0 <= self.wait_for_lock < math.inf:
            raise ValueError(f"wait_for_lock must be at least 0, got {self.wait_for_lock}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    @property
    def n_own_samples(self) -> int:
        """Of a global batch, for each process."""
        return self.train_batch_size * self.gradient_accumulation_steps

    @property
    def start(self) -> dict[str, Any]:
        """How this start begins: the arguments of `open_run`."""
        return {name: getattr(self, name) for name in START}
