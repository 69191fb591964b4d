"""Numbers, settings and what a run is, as text."""

import json
from collections.abc import Mapping
from typing import Any

from .runs import Run, is_number


def show(value: Any) -> str:
    """About three significant digits: 88.0, 4.93, 0.410, 0.0075, 3.2e-05; n/a where no number."""
    if not is_number(value):
        return "n/a"
    if isinstance(value, int) or value == 0:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1e7:
        return f"{value:.2e}"
    for limit, digits in ((1000, 0), (10, 1), (1, 2), (0.1, 3), (1e-3, 4)):
        if size >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.1e}"


def show_seconds(seconds: Any) -> str:
    """A duration: 0.42 s, 38 s, 4 min 52 s, 2 h 05 min."""
    if not is_number(seconds):
        return "n/a"
    if seconds < 10:
        return f"{seconds:.2g}\u00a0s"
    if round(seconds) < 60:
        return f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def show_value(value: Any) -> str:
    """A leaf of a config or protocol as it would be written in YAML or JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def describe_objective(run: Run) -> str:
    """'detail · lam 10, noise auto (found 0.42)': the objective, its leaves, what it found out."""
    leaves = [
        f"{key} {show_value(value)}" for key, value in run.section("objective").items()
        if key != "name" and value is not None and not isinstance(value, dict | list | bool)
    ]  # fmt: skip
    metrics = run.metrics[-1] if run.metrics else {}
    for name, key in (("noise auto", "noise_scale"), ("window auto", "window")):
        if is_number(found := metrics.get(key)):
            words = f"found {show(found)}" if found > 0 else "found none"
            leaves = [f"{leaf} ({words})" if leaf == name else leaf for leaf in leaves]
    return " · ".join([run.objective, ", ".join(leaves)] if leaves else [run.objective])


NOT_A_STRENGTH = ("record", "data", "fingerprint", "kind", "rate", "seed", "clip", "scale", "below",
                  "n_samples", "n_dirty", "parts", "images_fingerprint")  # fmt: skip


def describe_contamination(run: Run) -> str:
    """What was done to the training data, from the manifest's header or else from the config; of
    data that were left alone, which may be dirty all the same, their name."""
    header = run.manifest or run.contamination
    said = [_describe_layer(layer) for layer in (header, *header.get("below", []))]
    data = run.section("data")
    name = data.get("train_data_dir") or data.get("dataset_name") or data.get("name", "data")
    return ", on top of ".join(filter(None, said)) or f"{name}, as they are"


def _describe_layer(layer: Mapping[str, Any]) -> str:
    """'90 % of the samples (1,293 of 1,437): gaussian, sigma 0.2 on the scale [0, 1], clipped'."""
    if layer.get("kind", "none") in ("none", None):
        return ""
    rate, count = layer.get("rate"), ""
    if is_number(layer.get("n_dirty")) and is_number(layer.get("n_samples")):
        count = f" ({show(layer['n_dirty'])} of {show(layer['n_samples'])})"
    share = f"{100 * rate:.3g} % of the samples{count}: " if is_number(rate) else ""
    kind, *strengths = _said(layer)
    if strengths and layer.get("scale"):
        units = layer["scale"] == "data units"
        strengths[-1] += " in data units" if units else f" on the scale {layer['scale']}"
    words = [kind, *strengths]
    parts = [" ".join(_said(part)) for part in layer.get("parts", [])]
    if parts:
        words[0] += f" in equal parts of {'; '.join(parts)}"
    if isinstance(layer.get("clip"), bool) and layer.get("scale") != "data units":
        words.append("clipped to 8 bits" if layer["clip"] else "not clipped")
    return share + ", ".join(words)


def _said(layer: Mapping[str, Any]) -> list[str]:
    """A kind and its options: ['gaussian', 'sigma 0.2']."""
    return [str(layer["kind"]).replace("_", " ")] + [
        f"{key.replace('_', ' ')} {show_value(value)}" for key, value in layer.items()
        if key not in NOT_A_STRENGTH and value is not None
    ]  # fmt: skip
