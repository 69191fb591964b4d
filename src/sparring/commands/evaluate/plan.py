"""What is decided before a model is sampled and measured: its config, its data, its protocol.

`plan_of` is where `sparring evaluate` and `sparring attack` begin.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ...assembly.dirt_knowledge import KEPT
from ...config.checks import check
from ...config.overrides import with_overrides
from ...config.schema import EvaluationSection, RunConfig, SamplingSection
from ...data.audit.table import read_table
from ...data.base import Dataset, digest
from ...data.datasets import build_dataset
from ...data.dirt.contaminated import contaminate
from ...data.section import DataSection
from ...evaluation.evaluate import check_count, looks, protocol_of
from ...evaluation.networks.judges import Judges
from ...evaluation.store.cached_figures import code_key, model_key
from ...evaluation.store.comparison import Comparison
from ...evaluation.store.proximal import Proximal
from ...evaluation.store.reference import Reference, Settings
from ...evaluation.store.tensor_tables import Processes
from ...models.pretrained import Model, load
from ...models.text import PIPELINES
from ...sampling.sample import check_sampling, describe_sampling
from ...sampling.schedulers import default_sampler
from ...sampling.settings import Sampling
from ...support.cache import cache_folder, key_of
from ...support.errors import UserError, one_line_errors
from .sweep import combinations

log = logging.getLogger(__name__)

SECTIONS = ("data", "sampling", "evaluation")
RECORDED = ("eta", "eps_scale", "stop_ratio", "grid_power", "ratios")
"""Of section sampling, what a protocol holds as it is."""
References = dict[tuple[str, Settings], Reference]
"""Those that are read already, by the fingerprint of their data and how they measure."""


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
        return self.config.sampling.scheduler or default_sampler(self.model.denoiser)

    @property
    def how(self) -> str:
        """Sampler, steps and guidance in words."""
        guidance = self.config.sampling.guidance_scale
        words = f"{self.sampler} {self.config.sampling.num_inference_steps} steps"
        return words if guidance == 1 else f"{words}, guidance {guidance:g}"

    @property
    def kept(self) -> Path:
        """Where the features of the samples are, under all that decides them."""
        looked_at = (self.key, code_key(), looks(self.against))
        return kept_folder() / key_of(*looked_at, self.generation(), self.settings())

    def settings(self) -> dict[str, Any]:
        """All of section sampling that decides a sample."""
        given = self.config.sampling.model_dump(exclude={"n_images"})
        return given | {"scheduler": self.sampler}

    @property
    def sampling(self) -> Sampling:
        """What `sample` is told besides the number of samples and the labels."""
        return replace(self.config.sampling.settings, scheduler=self.sampler, prompts=self.prompts)

    @property
    def cells(self) -> list[Self]:
        """The plan of each combination of a sweep: the same model and reference."""
        sweep, sampling = self.config.evaluation.sweep, self.config.sampling
        return [] if sweep is None else list(map(self._sampled, combinations(sweep, sampling)))

    def _sampled(self, sampling: SamplingSection) -> Self:
        return replace(self, config=self.config.model_copy(update={"sampling": sampling}))

    def labels(self, n: int) -> Tensor | None:
        """Classes of the first n samples: those of the reference in its random order; None where it
        has none."""
        labels = self.reference.labels if self._has_labels else None
        return None if labels is None else labels[torch.arange(n) % len(labels)]

    @property
    def _has_labels(self) -> bool:
        return self.model.has_classes_of(self.reference.dataset)

    @property
    def prompts(self) -> list[str] | None:
        """What the samples are to show: the run's prompts, else the reference's captions."""
        if self.model.text is None:
            return self.config.sampling.prompts  # which sample refuses
        return self.config.sampling.prompts or self.reference.captions or None

    @property
    def captions(self) -> list[str] | None:
        """What each sample is to show, where there is anybody to judge that."""
        prompts = self.prompts
        if self.reference.panel is None or self.model.text is None or not prompts:
            return None
        return [prompts[i % len(prompts)] for i in range(self.n_samples)]

    def generation(self) -> dict[str, Any]:
        """The half of the protocol that says how the samples were drawn."""
        sampling, denoiser, prompts = self.config.sampling, self.model.denoiser, self.prompts
        with one_line_errors(f"{self.name}, {self.how}", (ValueError,)):
            clips = describe_sampling(self.model, self.sampling)["clip_sample"]
        weights = next(denoiser.parameters(), torch.zeros(0))
        dtype = denoiser.precision(weights)
        labels = "as in the reference" if self._has_labels else "each in turn"
        if sampling.prompts is None and prompts:
            prompts = "as in the reference"
        captions = self.captions
        return {
            "sampler": self.sampler,
            "steps": sampling.num_inference_steps,
            "guidance": sampling.guidance_scale,
            **{name: getattr(sampling, name) for name in RECORDED},
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
    name: str, overrides: Sequence[str], device: str, processes: Processes, references: References
) -> Plan:
    """The plan of a model, which shares its reference with those before it."""
    model = load(name, device=device)
    config = _config(name, model, overrides)
    evaluation = config.evaluation
    dataset = _dataset(config, evaluation.reference)
    told = _named_in(evaluation, Settings)
    told["metrics"] = tuple(evaluation.metrics)
    settings = Settings(**told, judges=Judges(**_named_in(evaluation, Judges)), device=device)
    reference = references.setdefault(
        (dataset.fingerprint(), settings),
        Reference(
            dataset, settings, evaluation.reference, _reading(config.data, dataset),
            kept=kept_folder(), processes=processes,
        ),
    )  # fmt: skip
    n_samples = evaluation.n_samples or len(reference)
    _check_studies(name, model, evaluation)
    _check_alike(name, model, dataset)
    _check_text(name, model)
    check_count(n_samples, dataset, settings)
    against = _comparison(name, model, reference)
    plan = Plan(name, model, config, against, n_samples, device, processes, model_key(model))
    if reference.panel is not None:
        reference.panel.check(plan.captions)
    for cell in (plan, *plan.cells):
        with one_line_errors(f"{name}, {cell.how}", (ValueError, TypeError)):
            check_sampling(model, cell.sampling)
    return plan


def _named_in(evaluation: EvaluationSection, kind: type[Any]) -> dict[str, Any]:
    """Of the section, what a dataclass has a field of the same name for."""
    names = [field.name for field in fields(kind) if field.name in type(evaluation).model_fields]
    return {name: getattr(evaluation, name) for name in names}


def kept_folder() -> Path:
    return cache_folder() / "features"


# Config and data


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
    return check(with_overrides(_without_objective(raw), overrides), name, overrides)


def _without_objective(raw: Mapping[str, Any]) -> dict[str, Any]:
    """How a model was trained does not matter here, and a user's own method may be elsewhere."""
    return {key: value for key, value in raw.items() if key != "objective"}


def _dataset(config: RunConfig, split: str) -> Dataset:
    """A split of the config's data, clean and in [0, 1]."""
    try:
        return build_dataset(**config.data.model_dump(exclude_none=True) | {"split": split})
    except ValueError as error:
        raise UserError(f"data: {error}") from error


def _comparison(name: str, model: Model, reference: Reference) -> Comparison:
    """The reference, and where there are any the clean training images of the model's own run, its
    held-out ones, and the training images as contaminated."""
    data, held_out = reference.dataset, None
    if model.run_config is None or not data.is_image:
        return Comparison(reference)
    own = check(_without_objective(model.run_config), name)
    training = _dataset(own, own.data.split)
    if training.sample_shape != data.sample_shape:
        return Comparison(reference)
    contaminated = contaminate(training, own.contamination.model_dump())
    dirty = None if contaminated is training else contaminated
    if own.data.split == "train":  # of others held_out is a part, or nobody knows
        try:
            held_out = _dataset(own, "held_out")
        except UserError as error:
            log.info("no held-out images calibrate the distance to training images: %s", error)
    return Comparison(reference, training, held_out, dirty)


def _reading(section: DataSection, data: Dataset) -> str | None:
    """How the reference's images were read, for the protocol: their size, and what was asked."""
    if not data.is_image:
        return None
    n_channels, height, width = data.sample_shape
    words = [f"{width}x{height}, {n_channels} channel{'s' * (n_channels > 1)}"]
    if section.resolution is not None:
        words.append(f"shorter side resized to {section.resolution}")
        words.append("cropped to the middle" if section.center_crop else "cropped at random")
    if section.n_channels is not None:
        words.append("grey repeated as RGB" if n_channels == 3 else "RGB read as its luma")
    return ", ".join(words)


# Whether it can be measured, asked before anything is sampled


def _check_studies(name: str, model: Model, evaluation: EvaluationSection) -> None:
    """Refuse mismatch of latents, and diagnostics of what has no field that could be looked at."""
    if evaluation.mismatch and model.vae is not None:
        raise UserError(
            f"{name} samples latents and the reference holds images: leave out evaluation.mismatch,"
            " or call sparring.evaluation.studies.mismatch.mismatch with latents"
        )
    if evaluation.diagnostics and (model.vae is not None or model.text is not None):
        raise UserError(
            f"{name} works on latents and the reference holds images: leave out evaluation."
            "diagnostics, or call sparring.evaluation.studies.diagnostics.diagnostics with them"
        )
    if evaluation.diagnostics and model.denoiser.boundary is not None:
        raise UserError(
            f"{name} is a consistency model, which jumps: leave out evaluation.diagnostics"
        )


def _check_alike(name: str, model: Model, data: Dataset) -> None:
    """Refuse a reference of another shape than the model's samples (of latents, the decoded ones),
    with the settings which read the images at the model's size."""
    made, given = model.data_shape, tuple(data.sample_shape)
    if made == given:
        return
    if len(made) != 3 or len(given) != 3:
        advice = "name the model's own data, such as data.name=digits"
    else:
        settings = [f"data.resolution={min(made[1:])}"] * (made[1:] != given[1:])
        settings += [f"data.n_channels={made[0]}"] * (made[0] != given[0])
        advice = f"read the reference at the model's size, {' '.join(settings)}, or name other data"
    raise UserError(f"{name} makes samples of shape {made} but {data.name} has {given}: {advice}")


def _check_text(name: str, model: Model) -> None:
    """Refuse a text-to-image pipeline whose text encoders are not known."""
    if model.text is not None or model.parts is None:
        return
    index = json.loads((model.parts / "model_index.json").read_text(encoding="utf-8"))
    if any((index.get(part) or [None])[0] is not None for part in ("text_encoder", "tokenizer")):
        raise UserError(
            f"{name} is a {index.get('_class_name')}, whose prompts sparring cannot encode (it can "
            f"for {', '.join(PIPELINES)})"
        )


# Choosing between models without a clean image, see evaluation/store/proximal.py


def proximal_of(plan: Plan, references: References) -> Proximal | None:
    """What evaluation.proximal asks for: the training images and the table of their dirt."""
    wanted = plan.config.evaluation.proximal
    if wanted is None:
        return None
    dirty = plan.against.dirty or plan.against.training
    if dirty is None:
        raise UserError(
            f"{plan.name}: evaluation.proximal compares with the images that a run was trained on: "
            "leave it out for vectors, for models that are no run, and where samples are measured "
            "at another size"
        )
    place = own_table(plan.name) if wanted == "auto" else wanted
    table = read_table(place, dirty, whole=dirty.sharding is None)  # of a stream: some images
    unasked = {"statistics": None, "memorization_extractor": None, "metrics": ()}
    settings = replace(plan.reference.settings, judges=Judges(), **unasked)
    reference = references.setdefault(
        (dirty.fingerprint(), settings),
        Reference(dirty, settings, "train", kept=plan.reference.kept, processes=plan.processes),
    )
    with one_line_errors(f"{plan.name}: evaluation.proximal", (ValueError,)):
        return Proximal(reference, table)


def own_table(name: str) -> Path:
    """The table of a run, or of the run that a checkpoint is of."""
    place = Path(name)
    for run in (place, *place.resolve().parents[:2]):
        if (run / KEPT).is_file():
            return run / KEPT
    raise UserError(
        f"{name} has no {KEPT} that says how dirty its training images are: make one with "
        "`sparring inspect DATA -o FOLDER`, look at it, and set evaluation.proximal=FOLDER/dirt.csv"
    )
