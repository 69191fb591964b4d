"""The model card: README.md of a saved model, with YAML front matter for the hub."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

N_CLASSES_SHOWN = 100


def model_card(
    name: str,
    *,
    run: Mapping[str, Any],
    command: str,
    versions: Mapping[str, str],
    usage: str,
    prompted: bool = False,
    figures: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    known: Sequence[str] = (),
) -> str:
    """Markdown that says how a model was made and how to sample it; text of the user is escaped.

    Args:
        name: What to call it.
        run: The resolved config: sections objective, data, contamination, model, training.
        command: The command that trained it.
        versions: Package -> version.
        usage: Python that samples it, see `pretrained.usage`.
        prompted: Whether it is told what to show by a text.
        figures: Figures of an evaluation, if there are any, by name.
        class_names: Of a class-conditional model.
        known: What training was told of its images, a line for each kind of dirt.
    """
    data, dirt = _section(run, "data"), _section(run, "contamination")
    objective, model = _section(run, "objective"), _section(run, "model")
    training = _section(run, "training")
    is_dirty = dirt.get("kind", "none") != "none" and dirt.get("rate", 1)
    front = {
        "library_name": "diffusers" if usage.startswith("from diffusers") else "sparring",
        "pipeline_tag": "text-to-image" if prompted else "unconditional-image-generation",
        "tags": ["sparring", "diffusion", "robust-training", str(objective.get("name", "plain"))],
    }
    network = model.get("network")
    start = model.get("pretrained_model_name_or_path") or "scratch"
    rows = {
        "Objective": _settings(objective),
        "Data": _settings(data),
        "Contamination of the training data": _settings(dirt) if is_dirty else "none",
        **({"What training was told of them": "; ".join(known)} if known else {}),
        "Network": _settings(network) if isinstance(network, Mapping) else "see config.json",
        **({"Classes": _listed(class_names)} if class_names else {}),
        "Prediction": model.get("prediction_type") or "as the pretrained model",
        "Started from": start,
        "Steps": training.get("max_train_steps", "unknown"),
        "Seed": training.get("seed", "unknown"),
        "Versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {_escaped(name)}",
        "",
        "A diffusion model trained with [sparring](https://pypi.org/project/sparring/).",
        "The weights are the moving average (EMA) where the run kept one.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_escaped(value)} |" for key, value in rows.items()),
        "",
        "## Sample",
        "",
        _fenced(usage, "python"),
        "",
        "## Train",
        "",
        _fenced(command, "bash"),
        "",
    ]
    if figures:
        lines += ["## Figures", "", "| | |", "|---|---|"]
        lines += [f"| {_escaped(key)} | {_escaped(value)} |" for key, value in figures.items()]
        lines.append("")
    return "\n".join(lines)


def _section(run: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = run.get(name)
    return value if isinstance(value, Mapping) else {}


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
