"""The sections of a config file and what each leaf may hold; checks.py reads mappings into them.

Keys are diffusers' words where the meaning is the same. Torch is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_serializer, model_validator

from ..data.dirt.section import ContaminationSection
from ..data.section import DataSection
from ..options.sections import Section
from ..options.value_types import (
    EDM_SCHEDULERS,
    FLOW_SCHEDULERS,
    SCHEDULERS,
    Count,
    CountOrZero,
    Listed,
    NotNegative,
    Place,
    Positive,
    Share,
    Word,
)
from ..sampling.settings import SamplerName, SamplingSection
from ..support.errors import UserError, did_you_mean
from ..support.home_folder import expanded


class LoraSection(Section):
    """Small matrices that are trained in the network's place; see models/lora.py."""

    rank: Count = 4
    alpha: Positive | None = None  # None: rank
    target_modules: list[str] | None = None  # None: the layers of all attentions


class ModelSection(Section):
    """Where the network comes from: built from `network`, or loaded."""

    pretrained_model_name_or_path: Place | None = None
    network: dict[str, Any] | None = None  # a config.json of diffusers, or {_class_name: MLP, ...}
    # None: what the pretrained model says; without one epsilon, no learned variance, DDPM.
    prediction_type: (
        Literal["epsilon", "sample", "v_prediction", "flow_prediction", "edm"] | None
    ) = None
    learned_variance: bool | None = None
    class_conditional: bool = False
    scheduler: dict[str, Any] | None = None  # a scheduler_config.json of diffusers
    lora: LoraSection | None = None  # None: the whole network is trained

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSection:
        if self.pretrained_model_name_or_path is not None:
            if self.network is not None:
                raise ValueError(
                    "model: give either pretrained_model_name_or_path or network, not both"
                )
            if self.scheduler is not None:
                raise ValueError(
                    "model.scheduler comes with the pretrained model; leave it out (null)"
                )
            return self
        if self.lora is not None:
            raise ValueError(
                "model.lora needs a trained model: model.pretrained_model_name_or_path"
            )
        if self.network is None:
            raise ValueError(
                "model.network is missing: describe the network ({_class_name: UNet2DModel, ...}) "
                "or name a model in model.pretrained_model_name_or_path"
            )
        if not isinstance(self.network.get("_class_name"), str):
            raise ValueError("model.network._class_name is missing: for example UNet2DModel or MLP")
        try:  # path/to/file.py:Class
            self.network["_class_name"] = expanded(self.network["_class_name"])
        except UserError as error:
            raise ValueError(f"model.network._class_name: {error}") from error
        kind = self.prediction_type or "epsilon"
        self.prediction_type = kind
        self.learned_variance = bool(self.learned_variance)
        scheduler = self.scheduler or {}
        if "_class_name" not in scheduler:
            scheduler = {**_default_scheduler(kind), **scheduler}
        _check_scheduler(scheduler, kind)
        self.scheduler = scheduler
        return self


def _default_scheduler(kind: str) -> dict[str, Any]:
    if kind == "flow_prediction":
        return {"_class_name": FLOW_SCHEDULERS[0]}
    if kind == "edm":
        return {"_class_name": EDM_SCHEDULERS[0]}
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    return {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, **betas}


def _check_scheduler(scheduler: Mapping[str, Any], kind: str) -> None:
    name = scheduler.get("_class_name")
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise ValueError(
            f"model.scheduler._class_name: unknown scheduler {name!r}"
            f"{did_you_mean(str(name), SCHEDULERS)}"
        )
    said = scheduler.get("prediction_type")
    if said is not None and said != kind and name not in EDM_SCHEDULERS:
        raise ValueError(
            f"model.scheduler.prediction_type is {said!r} but model.prediction_type is {kind!r}; "
            "say it once, in model.prediction_type"
        )
    if (name in FLOW_SCHEDULERS) != (kind == "flow_prediction"):
        raise ValueError(
            f"model.scheduler {name} does not go with prediction_type {kind}: "
            f"flow_prediction needs {FLOW_SCHEDULERS[0]}, and that scheduler needs flow_prediction"
        )
    if (name in EDM_SCHEDULERS) != (kind == "edm"):
        raise ValueError(
            f"model.scheduler {name} does not go with prediction_type {kind}: edm needs "
            f"{EDM_SCHEDULERS[0]}, and that scheduler needs edm"
        )
    if scheduler.get("rescale_betas_zero_snr") and kind == "epsilon":
        raise ValueError(
            "model.prediction_type epsilon cannot be learned with zero terminal SNR "
            "(model.scheduler.rescale_betas_zero_snr): at the last step x_t holds no signal; "
            "use prediction_type v_prediction"
        )


class TrainingSection(Section):
    """The numbers of a run, in diffusers' words.

    A step is one optimiser update of the model; every count of steps counts these. Work is cut into
    whole global batches of `train_batch_size` x processes x `gradient_accumulation_steps` samples.
    A method that makes K updates of a batch (Free-AT) ends with the first whole batch at or past
    `max_train_steps`, and what is due every n steps happens after the first whole batch at or past
    each multiple of n.
    """

    output_dir: Place | None = None  # None: runs/<the config file's stem>
    seed: int = 0
    train_batch_size: Count = 128  # per process and micro-batch
    gradient_accumulation_steps: Count = 1
    max_train_steps: Count = 3000
    learning_rate: Positive = 1e-4
    lr_scheduler: Literal["constant", "cosine"] = "constant"  # cosine: to zero at the last step
    lr_warmup_steps: CountOrZero = 0  # in which the learning rate rises from zero
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_weight_decay: NotNegative = 0.01
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Positive | None = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    use_ema: bool = True
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    ema_warmup: bool | None = None  # None: as the objective prefers (off for DRO)
    gradient_checkpointing: bool = False  # less memory, more time, the same gradients
    compile: bool = False
    sharding: Literal["none", "fsdp2", "hsdp"] = "none"  # the model is dealt to all processes, or
    # to those of each machine
    timestep_sampling: Literal["uniform", "logit_normal", "lognormal", "loss_second_moment"] = (
        "uniform"
    )
    # None: the sampler's own default
    timestep_mean: float | None = None  # logit_normal, lognormal
    timestep_std: Positive | None = None
    timestep_history: Count | None = None  # loss_second_moment
    timestep_uniform_prob: Share | None = None
    conditioning_dropout_prob: Share = 0.0
    checkpointing_steps: Count | None = 500
    checkpoints_total_limit: Count | None = 2
    resume_from_checkpoint: Place | None = None  # "latest", a checkpoint's folder, or "auto"
    overwrite_output_dir: bool = False
    fork_from: Place | None = None  # a run or a checkpoint of one: a new run begins with its state
    wait_for_lock: NotNegative | None = None  # seconds, while another start writes the run folder
    log_every_steps: Count = 50
    validation_steps: Count | None = 500
    report_to: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    push_to_hub: bool = False
    hub_model_id: Word | None = None
    n_threads: Count | None = None  # None: torch's own choice


class SweepSection(Section):
    """Every combination of these is sampled and measured; None: as in section sampling."""

    scheduler: Listed[SamplerName] | None = None
    num_inference_steps: Listed[Count] | None = None
    guidance_scale: Listed[NotNegative] | None = None

    @model_validator(mode="after")
    def _something_is_swept(self) -> SweepSection:
        if not self.model_dump(exclude_none=True):
            raise ValueError(
                "evaluation.sweep lists nothing: give it scheduler, num_inference_steps or "
                "guidance_scale, such as {num_inference_steps: [5, 10, 50]}"
            )
        return self


class EvaluationSection(Section):
    n_samples: Count | None = None  # None: as many as the reference holds
    # classifier (None: given labels), pixels, inception (-768, -192, -64), file.py:function
    extractor: Place | None = None
    weights: Place | None = None  # of inception; None: from the cache, or the public address
    statistics: Place | None = None  # a file of --save-reference; None: the reference is read anew
    reference: Word = "all"
    # judges of samples and captions, by folder, file or hub name; None: not asked
    clip: Place | None = None  # clip_score, cmmd
    pick_score: Place | None = None
    hps: Place | None = None
    aesthetic: Place | None = None  # reads evaluation.clip
    memorization_extractor: Place | None = None  # where copies are looked for; None: extractor
    lpips_weights: Place | None = None  # of LPIPS; None: from the cache, or no lpips_diversity
    # also the distance of samples made dirty to the dirty training images: auto, as the run's own
    # table says, or a table of `sparring inspect`
    proximal: Literal["auto"] | Place | None = None
    metrics: list[Place] = Field(default=[])  # of one's own, path/to/file.py:Name each
    sweep: SweepSection | None = None  # the figures of other samplers, steps, guidance as well
    n_resamples: Count = 10
    seed: int = 0
    k: Count = 5
    mismatch: bool = False  # also the distance of x_t while sampling to q(x_t), per t
    mismatch_steps: list[Count] | None = None  # None: sampling.num_inference_steps
    mismatch_samples: Count = 2048  # trajectories, and samples in each set of q(x_t)
    diagnostics: bool = False  # also equivariance error, Lipschitz estimate, straightness, score
    diagnostics_points: Annotated[int, Field(ge=2)] = 64  # clean samples at which that is looked at

    @model_serializer(mode="wrap")
    def _without_metrics_that_nobody_named(self, handler: Any) -> dict[str, Any]:
        said = handler(self)  # so that an older version reads the config of a run
        return said if self.metrics else {k: v for k, v in said.items() if k != "metrics"}

    @field_validator("metrics")
    @classmethod
    def _metrics_are_ones_own(cls, names: list[str]) -> list[str]:
        for name in names:
            if ".py:" not in name:
                raise ValueError(
                    "evaluation.metrics names your own, path/to/file.py:Name; those that are built "
                    f"in are measured wherever the data allow, got {name!r}"
                )
        return names

    @model_validator(mode="after")
    def _mismatch_is_asked_for(self) -> EvaluationSection:
        if self.mismatch_steps is not None and not self.mismatch:
            raise ValueError("evaluation.mismatch_steps needs evaluation.mismatch=true")
        return self


class AttackSection(Section):
    """Of `sparring attack`, no part of a run; see sampling/trajectory_attacks.py."""

    kind: Literal["random", "fgsm", "pgd"] = "pgd"
    norm: Literal["linf", "l2"] = "linf"
    radii: Annotated[list[Positive], Field(min_length=1)] = Field(
        default=[0.1, 0.2, 0.4]
    )  # noise units
    aim: Literal["final", "denoising", "features"] = "final"
    # calls of the network (whole numbers) or shares of the path (other numbers, 0.0 to 1.0), or all
    where: Annotated[list[int | float], Field(min_length=1)] | Literal["all"] = Field(
        default=[0.25, 0.5, 0.75]
    )
    n_attack_steps: Count | None = None  # of pgd; None: 10
    n_path_steps: Count | Literal["all"] = 1  # calls that the aim looks ahead
    n_expectation: Count | None = None  # None: the attacker knows the sampler's noise
    transfer_from: Place | None = None  # the model the attacker has; None: the attacked one
    corruptions: list[Literal["shift", "contrast", "blur", "block", "impulse"]] = Field(default=[])
    n_samples: Count = 256
    n_seeds: Count = 3
    seed: int = 0

    @model_validator(mode="after")
    def _goes_together(self) -> AttackSection:
        if self.kind != "pgd" and self.n_attack_steps is not None:
            raise ValueError(
                f"attack.n_attack_steps goes with attack.kind=pgd, not with {self.kind}"
            )
        told = {"aim", "n_path_steps", "n_expectation", "transfer_from"}
        if self.kind == "random" and (unused := sorted(told & self.model_fields_set)):
            raise ValueError(
                f"attack.{unused[0]} needs attack.kind=fgsm or pgd: random noise has no aim"
            )
        return self


class RunConfig(Section):
    model: ModelSection
    data: SerializeAsAny[DataSection] = Field(default_factory=DataSection)  # see read.py
    contamination: ContaminationSection = Field(default_factory=ContaminationSection)
    objective: Any = None  # a section of objectives/registry.py; checks.py sets it
    training: TrainingSection = Field(default_factory=TrainingSection)
    sampling: SamplingSection = Field(default_factory=SamplingSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
