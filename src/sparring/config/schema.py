"""The sections of a config file and what each leaf may hold; checks.py reads mappings into them.

Keys are diffusers' words where the meaning is the same. Torch is not imported here.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_serializer, model_validator

from ..data.dirt.section import ContaminationSection
from ..data.section import DataSection
from ..options import value_types
from ..options.sections import Section
from ..options.value_types import Count, CountOrZero, Listed, NotNegative, Place, Positive, Share
from ..sampling.settings import SamplerName, SamplingSection
from .model_section import ModelSection

BelowOne = Annotated[float, Field(ge=0, lt=1)]
TimestepSampling = Literal["uniform", "logit_normal", "lognormal", "loss_second_moment"]


class TrainingSection(Section):
    """The numbers of a run, in diffusers' words.

    A step is one optimiser update of the model; every count of steps counts these. Work is cut into
    whole global batches of `train_batch_size` x processes x `gradient_accumulation_steps` samples.
    A method that makes K updates of a batch (Free-AT) ends with the first whole batch at or past
    `max_train_steps`, and what is due every n steps happens after the first whole batch at or past
    each multiple of n.

    Attributes:
        output_dir: Folder of the run; null: runs/ and the name of the config file.
        seed: All randomness of training follows from it.
        train_batch_size: Samples per process and micro-batch.
        gradient_accumulation_steps: Micro-batches per global batch.
        max_train_steps: Updates of the model, at least.
        learning_rate: AdamW's, after the warm-up.
        lr_scheduler: What the learning rate does after the warm-up; cosine: falls to zero at
            max_train_steps.
        lr_warmup_steps: Updates in which the learning rate rises linearly from zero.
        adam_beta1, adam_beta2: Decays of AdamW's two moments.
        adam_weight_decay: AdamW's decay of the weights.
        adam_epsilon: Added to AdamW's denominator.
        max_grad_norm: Gradients are scaled down to this global norm; null: no clipping.
        mixed_precision: Precision of the forward passes; fp16 on GPUs only. auto: bf16 for images
            of at least 16 pixels where the machine multiplies it in hardware (GPUs, AMX,
            AVX512-BF16), else no; a run that goes on keeps what it began with.
        use_ema: Keep an exponential moving average of the weights; samples and the finished model
            use it.
        ema_decay: Decay of the average per update.
        ema_warmup: Whether the decay rises as 1 - (1 + n)^(-3/4) before it reaches `ema_decay`;
            null: as the objective prefers (off for DRO).
        gradient_checkpointing: Less memory, more time, the same gradients.
        compile: torch.compile the network.
        sharding: none: every process holds all weights; fsdp2: each holds its share of weights,
            gradients, moments and average; hsdp: the processes of each machine share a copy.
        timestep_sampling: How training times are drawn.
        timestep_mean: Of logit_normal and lognormal; null: the sampler's own default.
        timestep_std: Likewise.
        timestep_history: Of loss_second_moment: losses that are kept per time; null: its default.
        timestep_uniform_prob: Of loss_second_moment: share of uniform draws; null: its default.
        conditioning_dropout_prob: Share of rows whose class or caption is left out, for guidance.
        checkpointing_steps: Updates between checkpoints; null: the last one only.
        checkpoints_total_limit: How many checkpoints are kept, the newest always; null: all.
        resume_from_checkpoint: latest, a checkpoint's folder or its name; auto: the latest if there
            is any, else the beginning.
        overwrite_output_dir: Whether an existing run in the folder may be deleted.
        fork_from: A run or a checkpoint of one, whose state a new run begins with.
        wait_for_lock: Seconds to wait while another start writes the run folder; null: not at all.
        log_every_steps: Updates between lines of metrics.jsonl; each is a mean over them.
        validation_steps: Updates between grids of samples; null: none.
        report_to: The tracker.
        push_to_hub: Whether the finished model is pushed to the hub.
        hub_model_id: Under which name; null: that of the run's folder.
        n_threads: torch's CPU threads; null: torch's own choice.
    """

    output_dir: Place | None = None
    seed: int = 0
    train_batch_size: Count = 128
    gradient_accumulation_steps: Count = 1
    max_train_steps: Count = 3000
    learning_rate: Positive = 1e-4
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: CountOrZero = 0
    adam_beta1: BelowOne = 0.9
    adam_beta2: BelowOne = 0.999
    adam_weight_decay: NotNegative = 0.01
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Positive | None = 1.0
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    use_ema: bool = True
    ema_decay: BelowOne = 0.9999
    ema_warmup: bool | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    sharding: Literal["none", "fsdp2", "hsdp"] = "none"
    timestep_sampling: TimestepSampling = "uniform"
    timestep_mean: float | None = None
    timestep_std: Positive | None = None
    timestep_history: Count | None = None
    timestep_uniform_prob: Share | None = None
    conditioning_dropout_prob: Share = 0.0
    checkpointing_steps: Count | None = 500
    checkpoints_total_limit: Count | None = 2
    resume_from_checkpoint: Place | None = None
    overwrite_output_dir: bool = False
    fork_from: Place | None = None
    wait_for_lock: NotNegative | None = None
    log_every_steps: Count = 50
    validation_steps: Count | None = 500
    report_to: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    push_to_hub: bool = False
    hub_model_id: value_types.Word | None = None
    n_threads: Count | None = None


class SweepSection(Section):
    """Every combination of these is sampled and measured; null: as in section sampling.

    Attributes:
        scheduler: Samplers.
        num_inference_steps: Numbers of steps.
        guidance_scale: Guidance scales.
    """

    scheduler: Listed[SamplerName] | None = None
    num_inference_steps: Listed[Count] | None = None
    guidance_scale: Listed[NotNegative] | None = None

    @model_validator(mode="after")
    def _something_is_swept(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(
                "evaluation.sweep lists nothing: give it scheduler, num_inference_steps or "
                "guidance_scale, such as {num_inference_steps: [5, 10, 50]}"
            )
        return self


class EvaluationSection(Section):
    """What is measured, and against what.

    Attributes:
        n_samples: How many samples are drawn; null: as many as the reference holds.
        extractor: Features of the distances: classifier, pixels, inception, inception-768 (-192,
            -64), dinov2 or `path/to/file.py:function`; null: classifier where there are labels,
            else pixels.
        weights: Of inception or dinov2, a file, folder or hub name; null: from the cache, or the
            public address.
        statistics: A file of --save-reference; null: the reference is read anew.
        reference: Split of the data that is the reference.
        clip: CLIP by folder or hub name, for clip_score and cmmd; null: not asked.
        pick_score: PickScore by folder or hub name; null: not asked.
        hps: The file of HPS v2; null: not asked.
        aesthetic: The file of LAION's predictor, which reads evaluation.clip; null: not asked.
        memorization_extractor: Features in which copies are looked for; null: those of extractor.
        lpips_weights: Of LPIPS; null: from the cache, or no lpips_diversity.
        proximal: Also the distance of samples made dirty to the dirty training images: auto, as the
            run's own table says, or a table of `sparring inspect`.
        metrics: Metrics of one's own, `path/to/file.py:Name` each.
        sweep: Also the figures of other samplers, steps and guidance scales.
        n_resamples: Resamples behind intervals and floors.
        seed: Of what evaluation itself draws.
        k: Neighbours of precision, recall, density and coverage.
        mismatch: Also the distance of x_t while sampling to q(x_t), per t.
        mismatch_steps: Numbers of steps of that; null: sampling.num_inference_steps.
        mismatch_samples: Trajectories of that, and samples in each set of q(x_t).
        diagnostics: Also equivariance error, Lipschitz estimate, straightness and score error.
        diagnostics_points: Clean samples at which these are looked at.
    """

    n_samples: Count | None = None
    extractor: Place | None = None
    weights: Place | None = None
    statistics: Place | None = None
    reference: value_types.Word = "all"
    clip: Place | None = None
    pick_score: Place | None = None
    hps: Place | None = None
    aesthetic: Place | None = None
    memorization_extractor: Place | None = None
    lpips_weights: Place | None = None
    proximal: Literal["auto"] | Place | None = None
    metrics: list[Place] = Field(default=[])
    sweep: SweepSection | None = None
    n_resamples: Count = 10
    seed: int = 0
    k: Count = 5
    mismatch: bool = False
    mismatch_steps: list[Count] | None = None
    mismatch_samples: Count = 2048
    diagnostics: bool = False
    diagnostics_points: Annotated[int, Field(ge=2)] = 64

    @model_serializer(mode="wrap")
    def _without_metrics_that_nobody_named(self, handler: Any) -> dict[str, Any]:
        said = handler(self)  # so that an older version reads the config of a run
        return said if self.metrics else {k: v for k, v in said.items() if k != "metrics"}

    @field_validator("metrics")
    @classmethod
    def _metrics_are_ones_own(cls, names: list[str]) -> list[str]:
        if built_in := [name for name in names if ".py:" not in name]:
            raise ValueError(
                "evaluation.metrics names your own, path/to/file.py:Name; those that are built in "
                f"are measured wherever the data allow, got {built_in[0]!r}"
            )
        return names

    @model_validator(mode="after")
    def _mismatch_is_asked_for(self) -> Self:
        if self.mismatch_steps is not None and not self.mismatch:
            raise ValueError("evaluation.mismatch_steps needs evaluation.mismatch=true")
        return self


class AttackSection(Section):
    """Of `sparring attack`, no part of a run; see sampling/trajectory_attacks.py.

    Attributes:
        kind: random noise, fgsm (one gradient) or pgd; the random control is always drawn too.
        norm: linf bounds each element of the perturbation, l2 its rms.
        radii: Of the ball, in `units`; 0 is added.
        units: noise, where 0.1 is a tenth of the noise that x_t carries, or sample, where it is the
            same move of x_t at all noise levels.
        per: Whether a radius is per element or, for l2, the length over an image.
        aim: What is maximised: final, the squared shift of the sample; features, that of the
            evaluation's features of it; denoising, the error of eps at the moved point.
        where: Attacked calls of the network (whole numbers, from noise) or shares of the path
            (other numbers, 0.0 to 1.0), or all.
        n_attack_steps: Gradients per attacked call, of pgd; null: 10.
        n_path_steps: Calls of the network that the aim looks ahead; all: to the sample itself.
        n_expectation: Draws of the sampler's noise that the attacker averages over; null: the
            attacker knows the noise.
        transfer_from: The model the attacker has; null: the attacked one.
        corruptions: Of the starting noise, without a gradient, each with rms = radius.
        n_samples: Samples in each repetition.
        n_seeds: Repetitions, with the seeds of sampling and attack counted up.
        seed: Of the attack.
    """

    kind: Literal["random", "fgsm", "pgd"] = "pgd"
    norm: Literal["linf", "l2"] = "linf"
    radii: Listed[Positive] = Field(default=[0.1, 0.2, 0.4])
    units: Literal["noise", "sample"] = "noise"
    per: Literal["element", "image"] = "element"
    aim: Literal["final", "denoising", "features"] = "final"
    where: Listed[int | float] | Literal["all"] = Field(default=[0.25, 0.5, 0.75])
    n_attack_steps: Count | None = None
    n_path_steps: Count | Literal["all"] = 1
    n_expectation: Count | None = None
    transfer_from: Place | None = None
    corruptions: list[Literal["shift", "contrast", "blur", "block", "impulse"]] = Field(default=[])
    n_samples: Count = 256
    n_seeds: Count = 3
    seed: int = 0

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
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
