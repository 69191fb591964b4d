"""`sparring clean DATA MODEL -o OUT`: clean one's own images with a diffusion model.

Each image is handed to the model at the t whose noise is the image's own (see sampling.clean): a
given one, or found as `sparring inspect` finds it; images without noise are left as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...data import transforms
from ...data.audit.audit import audit_images
from ...data.base import READ_CHUNK, Batch, Dataset
from ...data.datasets import build_dataset
from ...data.dirt.contaminated import check_contamination, contaminate
from ...evaluation.protocol import versions
from ...models.pretrained import Model, load
from ...report.cleaning import render
from ...sampling.clean import clean, matching_time
from ...sampling.images import grid
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ..contaminate.copies import place_of, write_captions, write_image
from ..shared.files import check_place, replace_json, replace_text, whole_folder
from ..shared.options import default_device

Sections = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Section data, as `build_dataset` takes it, and section contamination."""
N_SHOWN = 32


@dataclass(frozen=True)
class Cleaner:
    """A model and how it cleans images in [0, 1]: as in `sampling.clean`, but purify is on that
    scale."""

    model: Model
    n_steps: int = 1
    eta: float = 0.0
    purify: float = 0.0
    seed: int = 0
    batch_size: int = 256

    def check(self, data: Dataset) -> None:
        """Refuse data that the model cannot clean: vectors, other shapes and unknown classes."""
        model, name = self.model, self.model.source
        if not data.is_image:
            raise UserError(f"clean works on images, and {data.name} holds vectors")
        if model.vae is not None:
            raise UserError(
                f"{name} works on latents, where the noise of an image is no Gaussian noise: "
                "clean needs a model of pixels"
            )
        if tuple(model.sample_shape) != tuple(data.sample_shape):
            advice = ""
            if len(model.sample_shape) == 3:
                n, *sides = model.sample_shape
                advice = f": set data.resolution={min(sides)} and data.n_channels={n} (shrinking "
                advice += "an image shrinks its noise)"
            raise UserError(
                f"{name} knows samples of shape {tuple(model.sample_shape)}, {data.name} has "
                f"{tuple(data.sample_shape)}{advice}"
            )
        if model.num_classes is not None and self.labels_are(data) is None:
            raise UserError(
                f"{name} wants to know the class of an image: {data.name} does not have its "
                f"{model.num_classes} classes, and the model knows no null class"
            )

    def labels_are(self, data: Dataset) -> str | None:
        """Where the labels of a class-conditional model come from, for the protocol."""
        model = self.model
        if model.num_classes is None:
            return None
        if model.has_classes_of(data):
            return "the data's own"
        return "the null class" if "class_labels" in model.denoiser.null_condition else None

    def __call__(self, batch: Batch, sigma: Tensor, data: Dataset) -> Tensor:
        """Cleaned images (B, C, H, W) in [0, 1] of a batch whose noise is sigma (B,), [0, 1] scale.
        Images that the model leaves alone come back as they were."""
        condition = {}
        if (labels := self.labels_are(data)) == "the data's own":
            condition["class_labels"] = batch["label"]
        elif labels is not None:
            null: Any = self.model.denoiser.null_condition["class_labels"]
            condition["class_labels"] = torch.full((len(sigma),), null)
        cleaned = clean(
            self.model, transforms.to_model_range(batch["x0"]), 2 * sigma, n_steps=self.n_steps,
            eta=self.eta, purify=2 * self.purify, clip_sample=True, condition=condition,
            seed=self.seed, index=batch["index"], batch_size=self.batch_size,
        )  # fmt: skip
        return transforms.from_model_range(cleaned).clamp(0, 1).float()

    def time(self, sigma: float) -> float | None:
        """The t at which an image of this noise is handed in; None where it is left alone."""
        schedule = self.model.denoiser.schedule
        level = torch.tensor([2 * max(sigma, self.purify)], dtype=torch.float64)
        if level <= 0 or abs(schedule.ratio(schedule.time_of_ratio(level)) / level - 1) > 1e-6:
            return None
        return matching_time(schedule, level).item()

    def protocol(self, data: Dataset) -> dict[str, Any]:
        """How it cleans, JSON-ready."""
        return {
            "n_steps": self.n_steps, "eta": self.eta, "purify": self.purify, "seed": self.seed,
            "clip_sample": True, "class_labels": self.labels_are(data), "scale": "[0, 1]",
            "matching_t": "sigma_t / alpha_t = 2 sigma",
        }  # fmt: skip


def clean_command(
    sections: Sections,
    model: str,
    output_dir: str | Path,
    sigma: float | str,
    *,
    say: Callable[[str], object] = print,
    device: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Clean a set of images: OUT/images in the tree and the formats of the input.

    Contamination is done to them first, for trying. Sigma is their noise on the [0, 1] scale, or
    "auto"; the options are those of `Cleaner`. OUT appears when it is complete.

    Returns:
        What OUT/cleaning.json holds, and output_dir.
    """
    out, (data, contamination) = expanded_path(output_dir), sections
    check_place(out, data)
    device = device or default_device()
    check_contamination(contamination)
    dataset = contaminate(build_dataset(**data), contamination)
    cleaner = Cleaner(load(model, device), **options)
    cleaner.check(dataset)
    noise, found = noise_of_each(dataset, sigma)
    with whole_folder(out) as partial:
        result = {
            "model": model, "data": dict(data), "contamination": dict(contamination),
            "data_fingerprint": dataset.fingerprint(), "sigma": sigma, "estimate": found,
            "protocol": cleaner.protocol(dataset) | {"versions": versions()},
        }  # fmt: skip
        result |= _write(dataset, cleaner, noise, partial, data.get("train_data_dir"))
        replace_json(partial / "cleaning.json", result)
        replace_text(partial / "index.html", render(result, partial))
    say(
        f"{result['n_cleaned']} of {result['n_images']} images were cleaned, the others are as "
        f"they were: {out}/images; what each got: {out}/cleaning.json"
    )
    if result["skipped"]:
        say(f"left out {len(result['skipped'])} unreadable file(s), listed in cleaning.json")
    return result | {"output_dir": str(out)}


def noise_of_each(dataset: Dataset, sigma: float | str) -> tuple[Tensor, dict[str, Any] | None]:
    """The noise of each image, (N,), [0, 1] scale, and for "auto" what was found.

    "auto" is the image's own noise as the audit finds it, that of a grey pixel where it depends on
    the brightness: sqrt(sigma^2 + slope / 2).
    """
    if sigma != "auto":
        return torch.full((len(dataset),), float(sigma), dtype=torch.float64), None
    table = audit_images(dataset, whole_stream=True).table
    own = np.sqrt(np.square(table.sigma.astype(float)) + table.slope / 2)
    if not own.any():
        raise UserError(f"no noise was found in {dataset.name}: set --sigma")
    noise = torch.zeros(len(dataset), dtype=torch.float64)
    noise[torch.from_numpy(table.index)] = torch.from_numpy(own)
    found = {
        "sigma": float(np.median(own[own > 0])), "rate": float((own > 0).mean()),
        "n_noisy": int((own > 0).sum()),
    }  # fmt: skip
    return noise, found


def _write(
    dataset: Dataset, cleaner: Cleaner, noise: Tensor, folder: Path, root: str | None
) -> dict[str, Any]:
    """Clean and write all images; the counts, and a record of each image."""
    n, records = len(dataset), []
    skipped: dict[str, None] = {}
    shown, before, after = set(range(0, n, -(-n // N_SHOWN))), [], []
    with tqdm(total=n, unit="image", disable=None) as progress:
        for batch in dataset.chunks():
            skipped |= dict.fromkeys(batch["unreadable"])
            index = batch["index"].tolist()
            cleaned = cleaner(batch, noise[batch["index"]], dataset)
            labels = batch["label"].tolist() if "label" in batch else [None] * len(index)
            for i, label, x, y in zip(index, labels, cleaned, batch["x0"], strict=True):
                file = Path("images") / place_of(dataset, i, label, root)
                write_image(x, folder / file)
                sigma = float(noise[i])
                records.append({
                    "file": file.as_posix(), "source": dataset.where(i), "index": i,
                    "sigma": sigma, "t": cleaner.time(sigma),
                })  # fmt: skip
                if i in shown:
                    before.append(y)
                    after.append(x)
            progress.update(min(READ_CHUNK, n - progress.n))
    names = {one["index"]: Path(one["file"]).relative_to("images").as_posix() for one in records}
    write_captions(dataset.captions, names, folder / "images" / "metadata.jsonl")
    for name, images in (("before", before), ("after", after)):
        grid(2 * torch.stack(images) - 1, 8).save(folder / f"{name}.png")
    n_cleaned = sum(record["t"] is not None for record in records)
    counts = {"n_images": len(records), "n_cleaned": n_cleaned}
    return counts | {"skipped": list(skipped), "images": records}
