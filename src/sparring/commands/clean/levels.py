"""`sparring clean DATA MODEL... --levels 0.1,0.2`: how well do models clean, where it is known?

DATA is clean. It gets Gaussian noise of each level, all images of it, and every model cleans it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.base import Dataset, joined
from ...data.datasets import build_dataset
from ...data.dirt.contaminated import contaminate
from ...diffusion.randomness import generator
from ...evaluation.networks.extractors import make_extractor
from ...evaluation.protocol import versions
from ...evaluation.studies.cleaning import cleaning_figures
from ...models.pretrained import load
from ...report.cleaning import render_levels
from ...sampling.images import grid
from ...support.errors import UserError
from ..shared import files
from ..shared.options import default_device
from .images import Cleaner, Sections, noise_of_each

FILES = ("report.json", "index.html", "level-*.png")
N_SHOWN = 12


@dataclass(frozen=True)
class Trial:
    """What models are tried with."""

    levels: list[float]  # sizes of the noise, [0, 1] scale
    sigma: float | str | None = None  # what models are told: the level, "auto" or a number
    n_images: int = 1000  # at most so many, a random subset of the data
    extractor: str | None = None
    n_resamples: int = 10  # halves behind each interval


def levels_command(
    sections: Sections,
    models: Sequence[str],
    trial: Trial,
    output_dir: str | Path | None = None,
    *,
    device: str | None = None,
    command: str = "",
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Noise of known sizes on clean images, and what each model makes of it.

    The kind of contamination is none, its `seed` is the noise's, and its `clip` says whether images
    are clipped to 8 bits, as they are in files. report.json, index.html and pictures go to the
    output folder; without one, cleaning-*.json into the `evaluation/` folder of each run. The
    command is for the record; the options are those of `Cleaner`.

    Returns:
        {"levels": [...], "noisy": [figures...], "models": {name: [figures...]}, "skipped",
        "protocol", "command"}, the figures of each level in each list.
    """
    data, contamination = sections
    if contamination.get("kind", "none") != "none":
        raise UserError("--levels puts noise on clean images: set contamination.kind=none")
    device = device or default_device()
    names = list(dict.fromkeys(models))
    dataset = build_dataset(**data)
    cleaners = {name: Cleaner(load(name, device), **options) for name in names}
    for cleaner in cleaners.values():
        cleaner.check(dataset)
    folders = {}
    for name in names if output_dir is None else [""]:  # "": all of them into one
        images = data.get("train_data_dir")
        folders[name] = files.results_folder(name, "evaluation", output_dir, images)
    asked = (*astuple(trial), {**options, "batch_size": None})
    key = files.digest(*sections, *asked, *map(files.which, names))
    if (shared := folders.get("")) is not None:
        files.claim(shared, key, FILES, "report.json", overwrite=overwrite)
    features = make_extractor(trial.extractor, build_dataset(**{**data, "split": "all"}), device)
    seed = int(contamination.get("seed") or 0)
    random = generator("cpu", seed, "images to clean")
    rows = torch.randperm(len(dataset), generator=random)[: trial.n_images].sort().values
    clean_images, index, skipped = _read(dataset, rows)
    if len(index) < 4:
        raise UserError(f"{dataset.name} has {len(index)} readable images: at least 4 are needed")
    of_clean = features(clean_images)
    noisy_figures: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    pictures = []
    for level in trial.levels:
        dirt = {"kind": "gaussian", "rate": 1.0, "sigma": level}
        noisy = contaminate(dataset, {**contamination, **dirt})
        told, _ = noise_of_each(noisy, level if trial.sigma is None else trial.sigma)
        batch = joined(list(noisy.chunks(index.tolist())))
        cleaned = [cleaner(batch, told[index], noisy) for cleaner in cleaners.values()]
        before = batch["x0"].clamp(0, 1)
        tried = zip([before, *cleaned], [noisy_figures, *found.values()], strict=True)
        for images, rows_of in tried:
            figures = cleaning_figures(
                images, clean_images, features(images), of_clean, trial.n_resamples, seed
            )
            rows_of.append({"level": level, "told": float(told[index].mean()), **figures})
        pictures.append(torch.cat([one[:N_SHOWN] for one in (clean_images, before, *cleaned)]))
    protocol = {
        "data": dataset.name, "data_fingerprint": dataset.fingerprint(),
        "split": data.get("split"), "n_images": len(index),
        "noise_seed": seed, "clip": contamination.get("clip") is not False,
        "told": "the level" if trial.sigma is None else trial.sigma,
        "extractor": features.name, "extractor_checksum": features.checksum, **features.details,
        **cleaners[names[0]].protocol(dataset), "n_resamples": trial.n_resamples,
        "versions": versions(),
    }  # fmt: skip
    result = {
        "levels": trial.levels, "noisy": noisy_figures, "models": found,
        "skipped": skipped, "protocol": protocol, "command": command, files.KEY: key,
    }  # fmt: skip
    for name, folder in folders.items():
        if folder is not None:
            _write(result, name, folder, pictures)
    return result


def _read(dataset: Dataset, rows: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """The readable ones of these images, (n, C, H, W), their numbers, and the other files."""
    batch = joined(list(dataset.chunks(rows.tolist())))
    images, index = batch["x0"], batch["index"]
    if dataset.truth is None and len(images) and (images.min() < 0 or images.max() > 1):
        raise UserError(f"{dataset.name} is not clean: its values leave [0, 1]")
    return images, index, list(dict.fromkeys(batch["unreadable"]))


def _write(result: Mapping[str, Any], name: str, folder: Path, pictures: list[Tensor]) -> None:
    """Everything with its page into a folder, or one model's figures into its run's."""
    if name:
        protocol = result["protocol"]
        words = [protocol["data"], protocol["split"], f"{protocol['n_steps']}-steps"]
        words += [f"{key}{protocol[key]:g}" for key in ("eta", "purify") if protocol[key]]
        words += [f"told-{protocol['told']}"] * (protocol["told"] != "the level")
        words += [f"seed{protocol['noise_seed']}"]
        own = {**result, "models": {name: result["models"][name]}}
        stem = f"{files.as_word('-'.join(map(str, words)), 120)}-{result[files.KEY]}"
        files.replace_json(folder / f"cleaning-{stem}.json", own)
        return
    for level, images in zip(result["levels"], pictures, strict=True):
        n_rows = 2 + len(result["models"])
        picture = grid(2 * images - 1, len(images) // n_rows)
        picture.save(folder / f"level-{level:g}.png")
    files.replace_json(folder / "report.json", result)
    files.replace_text(folder / "index.html", render_levels(result, folder))


def as_text(result: Mapping[str, Any]) -> str:
    """A table for a terminal: a line for each model, PSNR and feature distance by level."""
    lines = []
    levels = "".join(f"{level:>10.3g}" for level in result["levels"])
    for key, words in (("psnr", "PSNR, dB"), ("feature_distance", "feature distance")):
        lines.append(f"  {words + ' at noise':<36}{levels}")
        for name, figures in {"noisy": result["noisy"], **result["models"]}.items():
            lines.append(f"  {name:<36}" + "".join(f"{one[key]:>10.4g}" for one in figures))
    protocol = result["protocol"]
    lines.append(
        f"  {protocol['n_images']} images of {protocol['data']} ({protocol['split']}), told "
        f"{protocol['told']}, {protocol['n_steps']} step(s)"
    )
    return "\n".join(lines)
