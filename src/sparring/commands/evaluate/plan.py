"""What is decided before a model is sampled and measured: its config, its data, its protocol.

`plan_of` is where `sparring evaluate` and `sparring attack` begin.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...config.checks import check
from ...config.overrides import with_overrides
from ...config.schema import RunConfig, SamplingSection
from ...data.base import Dataset, digest
from ...data.datasets import build_dataset
from ...data.dirt.contaminated import contaminate
from ...evaluation.evaluate import check_count, looks, protocol_of
from ...evaluation.networks.judges import Judges
from ...evaluation.store.cached_figures import code_key, model_key
from ...evaluation.store.comparison import Comparison
from ...evaluation.store.reference import Reference, Settings
from ...evaluation.store.tensor_tables import Processes
from ...models.pretrained import load
from ...sampling.sample import check_sampling, describe_sampling
from ...sampling.schedulers import default_sampler
from ...sampling.settings import Sampling
from ...support.cache import cache_folder, key_of
from ...support.errors import UserError, one_line_errors
from .diagnostics import check_diagnostics
from .mismatch import check_mismatch
from .reference import check_alike, check_prompts, reading
from .sweep import combinations

if TYPE_CHECKING:
    from ...models.pretrained import Model

log = logging.getLogger(__name__)

SECTIONS = ("data", "sampling", "evaluation")


@dataclass(frozen=True)
class Plan:
    """One model with all that is decided before it is sampled."""

    name: str
    model: Model
    config: RunConfig
    against: Comparison
    n_samples: int
    device: str
    processes: Processes
    key: str  # of the model

    @property
    def reference(self) -> Reference:
        return self.against.reference

    @property
    def sampler(self) -> str:
        chosen = self.config.sampling.scheduler
        return chosen or default_sampler(self.model.denoiser)

    @property
    def how(self) -> str:
        """Sampler, steps and guidance in words."""
        sampling = self.config.sampling
        guidance = sampling.guidance_scale
        words = f"{self.sampler} {sampling.num_inference_steps} steps"
        return words if guidance == 1 else f"{words}, guidance {guidance:g}"

    @property
    def kept(self) -> Path:
        """Where the features of the samples are, under all that decides them."""
        decides = [
            self.key, code_key(), looks(self.against), self.generation(), self.settings(),
        ]  # fmt: skip
        return kept_folder() / key_of(*decides)

    def settings(self) -> dict[str, Any]:
        """All of section sampling that decides a sample."""
        given = self.config.sampling.model_dump(exclude={"n_images"})
        return given | {"scheduler": self.sampler}

    @property
    def sampling(self) -> Sampling:
        """What `sample` is told besides the number of samples and the labels."""
        return replace(self.config.sampling.settings, scheduler=self.sampler, prompts=self.prompts)

    def with_sampling(self, sampling: SamplingSection) -> Plan:
        """The same model and reference with another section sampling."""
        return replace(self, config=self.config.model_copy(update={"sampling": sampling}))

    @property
    def labels_from_reference(self) -> bool:
        return self.model.has_classes_of(self.reference.dataset)

    @property
    def prompts(self) -> list[str] | None:
        """What the samples are to show: the run's prompts, else the reference's captions."""
        if self.model.text is None:
            return self.config.sampling.prompts  # which sample refuses
        return self.config.sampling.prompts or self.reference.captions or None

    @property
    def prompts_from_reference(self) -> bool:
        return self.config.sampling.prompts is None and bool(self.prompts)

    @property
    def captions(self) -> list[str] | None:
        """What each sample is to show, where there is anybody to judge that."""
        prompts = self.prompts
        if self.reference.panel is None or self.model.text is None or not prompts:
            return None
        return [prompts[i % len(prompts)] for i in range(self.n_samples)]

    def generation(self) -> dict[str, Any]:
        """The half of the protocol that says how the samples were drawn."""
        sampling, denoiser = self.config.sampling, self.model.denoiser
        with one_line_errors(f"{self.name}, {self.how}", (ValueError,)):
            clips = describe_sampling(self.model, self.sampling)["clip_sample"]
        dtype = next((p.dtype for p in denoiser.parameters()), torch.float32)
        labels = "as in the reference" if self.labels_from_reference else "each in turn"
        prompts = "as in the reference" if self.prompts_from_reference else self.prompts
        captions = self.captions
        return {
            "sampler": self.sampler,
            "steps": sampling.num_inference_steps,
            "guidance": sampling.guidance_scale,
            "eta": sampling.eta,
            "eps_scale": sampling.eps_scale,
            "stop_ratio": sampling.stop_ratio,
            "grid_power": sampling.grid_power,
            "ratios": sampling.ratios,
            "clip_sample": clips,
            "precision": str(dtype).removeprefix("torch."),
            "class_labels": labels if self.model.num_classes else None,
            **({} if self.model.text is None else {"prompts": prompts or [""]}),
            **({} if captions is None else {"captions": digest(captions)}),
            "seeds": {"sampling": sampling.seed},
        }

    def protocol(self) -> dict[str, Any]:
        measurement, generation = protocol_of(self.against, self.n_samples), self.generation()
        return measurement | generation | {"seeds": measurement["seeds"] | generation["seeds"]}


def plan_of(
    name: str,
    overrides: Sequence[str],
    device: str,
    processes: Processes,
    references: dict[tuple[str, Settings], Reference],
) -> Plan:
    model = load(name, device=device)
    config = _config(name, model, overrides)
    evaluation = config.evaluation
    dataset = _dataset(config, evaluation.reference)
    settings = Settings(
        extractor=evaluation.extractor,
        n_resamples=evaluation.n_resamples,
        seed=evaluation.seed,
        k=evaluation.k,
        device=device,
        weights=evaluation.weights,
        statistics=evaluation.statistics,
        judges=Judges(**{f.name: getattr(evaluation, f.name) for f in fields(Judges)}),
        memorization_extractor=evaluation.memorization_extractor,
        lpips_weights=evaluation.lpips_weights,
        metrics=tuple(evaluation.metrics),
    )
    key = (dataset.fingerprint(), settings)
    read_as = reading(config.data, dataset)
    kept = {"kept": kept_folder(), "processes": processes}
    reference = references.setdefault(
        key, Reference(dataset, settings, evaluation.reference, read_as, **kept)
    )
    n_samples = evaluation.n_samples or len(reference)
    check_mismatch(name, model, evaluation)
    check_diagnostics(name, model, evaluation)
    check_alike(name, model, dataset)
    check_prompts(name, model)
    check_count(n_samples, dataset, settings)
    against = Comparison(reference, *_training_sets(name, model, dataset))
    plan = Plan(name, model, config, against, n_samples, device, processes, model_key(model))
    if reference.panel is not None:
        reference.panel.check(plan.captions)
    _check_samplers(plan)
    return plan


def _check_samplers(plan: Plan) -> None:
    """That of the section sampling, and those of a sweep."""
    sweep = plan.config.evaluation.sweep
    cells = [] if sweep is None else combinations(sweep, plan.config.sampling)
    for cell in (plan, *(plan.with_sampling(one) for one in cells)):
        with one_line_errors(f"{plan.name}, {cell.how}", (ValueError, TypeError)):
            check_sampling(plan.model, cell.sampling)


def _config(name: str, model: Model, overrides: Sequence[str]) -> RunConfig:
    """The model's own config with the overrides; for a model without one, only the overrides."""
    for override in overrides:
        key = override.partition("=")[0]
        if key.partition(".")[0] not in SECTIONS:
            raise UserError(
                f"override {override!r}: evaluate takes {', '.join(f'{s}.*' for s in SECTIONS)}"
            )
        if key == "data.split":
            raise UserError(
                f"override {override!r}: data.split is what the model trained on; the reference is "
                "evaluation.reference (train, held_out or all)"
            )
    raw = model.run_config or {"model": {"pretrained_model_name_or_path": name}}
    named = with_overrides({}, overrides).get("data") or {}
    if model.run_config is None and "name" not in named:
        raise UserError(
            f"{name} has no config.yaml that says what it was trained on: name the reference data, "
            "such as data.name=digits"
        )
    return check(with_overrides(_without_objective(raw), overrides), f"{name}", overrides)


def _without_objective(raw: Mapping[str, Any]) -> dict[str, Any]:
    """How a model was trained does not matter here, and a user's own method may be elsewhere."""
    return {key: value for key, value in raw.items() if key != "objective"}


def _dataset(config: RunConfig, split: str) -> Dataset:
    """A split of the config's data, clean and in [0, 1]."""
    fields = config.data.model_dump(exclude_none=True) | {"split": split}
    try:
        return build_dataset(**fields)
    except ValueError as error:
        raise UserError(f"data: {error}") from error


def _training_sets(
    name: str, model: Model, reference: Dataset
) -> tuple[Dataset | None, Dataset | None, Dataset | None]:
    """The clean training images of the model's own run, its held-out ones, and the training images
    as contaminated; None for what there is not."""
    if model.run_config is None or not reference.is_image:
        return None, None, None
    own = check(_without_objective(model.run_config), name)
    training = _dataset(own, own.data.split)
    if training.sample_shape != reference.sample_shape:
        return None, None, None
    contaminated = contaminate(training, own.contamination.model_dump())
    dirty = None if contaminated is training else contaminated
    if own.data.split != "train":  # of which held_out is a part, or nobody knows
        return training, None, dirty
    try:
        held_out = _dataset(own, "held_out")
    except UserError as error:
        log.info("no held-out images calibrate the distance to training images: %s", error)
        return training, None, dirty
    return training, held_out, dirty


def labels_of(plan: Plan, n: int) -> Tensor | None:
    """Classes of the samples: those of the reference, in a random order; None where it has none."""
    labels = plan.reference.labels if plan.labels_from_reference else None
    return None if labels is None else labels[torch.arange(n) % len(labels)]


def kept_folder() -> Path:
    return cache_folder() / "features"
