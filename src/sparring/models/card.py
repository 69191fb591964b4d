"""The model card: README.md of a saved model, with YAML front matter for the hub."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from ..options.value_types import VP_SCHEDULERS
from .description import component_of, plain_pipeline, samples_with_lcm
from .text import TextEncoder

N_CLASSES_SHOWN = 100
_DEFAULT_CLASSES = {
    "EDMDPMSolverMultistepScheduler": "EDMEulerScheduler",
    "FlowMatchHeunDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
}
"""Classes that a model may be trained with, and those of the samplers that are our default."""


def model_card(
    name: str,
    description: Mapping[str, Any],
    *,
    run: Mapping[str, Any],
    command: str,
    versions: Mapping[str, str],
    text: TextEncoder | None = None,
    known: Sequence[str] = (),
) -> str:
    """Markdown that says how a model was made and how to sample it; text of the user is escaped.

    The name is also that of the folder in the code to sample it. `description` is `describe`'s,
    `run` the resolved config, `command` trained it with these versions by package. `text` reads the
    captions of a text-to-image model; `known` is what training was told of its images, a line for
    each kind of dirt.
    """
    sections = ("data", "contamination", "objective", "model", "training")
    data, dirt, objective, model, training = (run.get(name) or {} for name in sections)
    is_dirty = dirt.get("kind", "none") != "none" and dirt.get("rate", 1)
    code, class_names = usage(description, name, text), description["class_names"]
    front = ModelCardData(
        library_name="diffusers" if code.startswith("from diffusers") else "sparring",
        pipeline_tag="unconditional-image-generation" if text is None else "text-to-image",
        tags=["sparring", "diffusion", "robust-training", str(objective.get("name", "plain"))],
    )
    network = model.get("network")
    rows = {
        "Objective": _settings(objective),
        "Data": _settings(data),
        "Contamination of the training data": _settings(dirt) if is_dirty else "none",
        **({"What training was told of them": "; ".join(known)} if known else {}),
        "Network": _settings(network) if isinstance(network, Mapping) else "see config.json",
        **({"Classes": _listed(class_names)} if class_names else {}),
        "Prediction": model.get("prediction_type") or "as the pretrained model",
        "Started from": model.get("pretrained_model_name_or_path") or "scratch",
        "Steps": training.get("max_train_steps", "unknown"),
        "Seed": training.get("seed", "unknown"),
        "Versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
    }
    table = "\n".join(f"| {key} | {_escaped(value)} |" for key, value in rows.items())
    return f"""---
{front.to_yaml()}
---

# {_escaped(name)}

A diffusion model trained with [sparring](https://pypi.org/project/sparring/).
The weights are the moving average (EMA) where the run kept one.

| | |
|---|---|
{table}

## Sample

{_fenced(code, "python")}

## Train

{_fenced(command, "bash")}
"""


def _settings(section: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in section.items() if value is not None}
    name = kept.pop("name", kept.pop("_class_name", kept.pop("kind", None)))
    words = [str(name)] if name is not None else []
    return ", ".join(words + [f"{key} {value}" for key, value in kept.items()])


def _listed(class_names: Sequence[str]) -> str:
    """Number and name of each class, of many the first."""
    known = [f"{number}: {name}" for number, name in enumerate(class_names[:N_CLASSES_SHOWN])]
    more = len(class_names) - len(known)
    return ", ".join(known) + (f" and {more} more, see model.json" if more else "")


def _escaped(value: Any) -> str:
    """One line in which neither HTML nor Markdown means anything."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#!|~])", r"\\\1", text)


def _fenced(code: str, language: str) -> str:
    """A code block that no line of the code can close."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code.strip()}\n{fence}"


def usage(description: Mapping[str, Any], folder: str, text: TextEncoder | None = None) -> str:
    """Python that samples a saved model as `sample` does by default, for its card.

    With the same noise the images are those of training's own grids, where the number of steps
    divides that of the training times (see `GridDDIMScheduler`). The arguments are `model_card`'s.
    """
    name, base = description["network"]["_class_name"], description["base"]
    trained_with = description["scheduler"]["_class_name"]
    is_default = description["boundary"] is None and trained_with in VP_SCHEDULERS
    boundary, has_classes = description["boundary"], description["num_classes"] is not None
    if base is None and component_of(name) is None:
        return f"import sparring\n\nx = sparring.sample(sparring.load({folder!r}), 16)"
    plain = plain_pipeline(description) if base is None else "DiffusionPipeline"
    words = ["class_labels=[0, 1]" if has_classes else "batch_size=16"]
    start, trust, lines, scheduler = folder, "", [], ""
    if base is not None:
        words = words if has_classes else ["'a photo'"]
        trust = "" if text is None else "".join(f", {part}=None" for part in text.absent)
        scheduler = ', timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True'
        if description["lora"] is not None:
            start = base
            lines.append(f"pipe.load_lora_weights({folder!r})")
        if text is not None:
            words.append(f"height={text.size[0]}, width={text.size[1]}")
    elif plain is None:
        trust = ", trust_remote_code=True"
    names, pipeline, n_steps = [], "DiffusionPipeline", 50 if boundary is None else 4
    if samples_with_lcm(description):
        if base is not None:
            names.append("LCMScheduler")
            lines.append("pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)")
        if description["lora"] is not None:  # such a student has its guidance inside
            words.append("guidance_scale=1.0")
    elif plain is None and description["null_condition"]:
        words.append("guidance_scale=2.0")
    if is_default and plain in ("DDPMPipeline", "DDIMPipeline"):
        pipeline = "DDIMPipeline"  # takes the noise that goes with a clipped x0, if it is told to
        words.append("use_clipped_model_output=True")
    elif is_default:
        names.append("DDIMScheduler")
        made = f"DDIMScheduler.from_config(pipe.scheduler.config{scheduler})"
        lines.append(f"pipe.scheduler = {made}")
    elif boundary is None and trained_with in _DEFAULT_CLASSES:
        names.append(_DEFAULT_CLASSES[trained_with])
        lines.append(f"pipe.scheduler = {names[-1]}.from_config(pipe.scheduler.config)")
    first = f"from diffusers import {', '.join(sorted([pipeline, *names]))}\n"
    made = f"pipe = {pipeline}.from_pretrained({start!r}{trust})"
    drawn = f"images = pipe({', '.join(words)}, num_inference_steps={n_steps}).images"
    return "\n".join([first, made, *lines, drawn])
