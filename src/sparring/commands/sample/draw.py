"""`sparring sample MODEL`: samples to files, with the protocol that made them."""

import csv
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ... import __version__
from ...config.schema import SamplingSection
from ...data.files.listing import EXTENSIONS
from ...data.files.own_output import NUMBERED, SAMPLING
from ...models.latents import AT_ONCE, decode
from ...models.pretrained import Model, load
from ...models.text import check_prompts
from ...sampling.images import grid, save_images
from ...sampling.sample import check_sampling, describe_sampling, sample
from ...sampling.settings import Sampling
from ...sampling.steps import Steps
from ...support.errors import UserError, one_line_errors
from ...support.terminal import echo
from ...support.whole_files import written
from ..shared.files import KEY, as_file_name, as_word, claim, digest, made_by, told_in_words, which
from ..shared.options import default_device

FILES = ("grid.png", "sweep.png", "samples.safetensors", "samples.csv", "scatter.png")
"""What there may be besides the protocol and numbered images."""
N_SHOWN, N_SWEPT = 64, 8
N_NAMES_SHOWN = 20  # of a model's classes, where one is asked for that it does not have


def sample_command(
    model: str,
    output_dir: str | Path | None = None,
    *,
    class_labels: Sequence[int | str] | None = None,
    sweep: Sequence[int] | None = None,
    device: str | None = None,
    overwrite: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """Draw samples and write them, as the command's options say.

    Images become 00000.png, 00001.png, ... and grid.png; vectors samples.safetensors, samples.csv
    and scatter.png; latents without a decoder samples.safetensors. sampling.json says how they
    were drawn. The same samples drawn again replace the first ones; others get a folder of their
    own in there, `ddim-50-seed0-1a2b3c4d`. By default all go to evaluation/samples in a run, or to
    samples/<name>, each with what differs from the run's own section sampling in its name.

    Classes are drawn in turn, by default all that the model was trained on; prompts are shown once
    each, unless `n_images` says otherwise.

    Returns:
        {"output", "n_images", "files", "protocol", "seconds"}.
    """
    device = device or default_device()
    loaded = load(model, device=device)
    own = SamplingSection(**((loaded.run_config or {}).get("sampling") or {})).model_dump()
    given = {key: value for key, value in given.items() if value is not None}
    if prompts := given.get("prompts"):
        own["n_images"] = len(prompts)
    chosen = own | given
    n = chosen.pop("n_images")
    if n < 1:
        raise UserError(f"n_images must be >= 1, got {n}")
    if chosen["prompts"] and loaded.text is not None:
        check_prompts(chosen["prompts"])
        for sentence in loaded.text.cut(chosen["prompts"], "prompts"):
            echo(sentence, err=True)
    labels = _labels(class_labels, n, loaded, model)
    with one_line_errors(model):
        sampling = Sampling(**chosen)
        cells = [replace(sampling, num_inference_steps=count) for count in sweep or ()]
        for one in (sampling, *cells):
            check_sampling(loaded, one)
    asked = {**chosen, "n_images": n, "class_labels": list(class_labels or ()) or None}
    asked |= {"sweep": list(sweep or ()) or None}
    told = {name: value for name, value in asked.items() if value != own.get(name)}
    told.pop("batch_size", None)  # of speed and memory only
    folder = _folder(model, output_dir, told)
    key = digest("sample", which(model), {**asked, "batch_size": None})
    if not overwrite and made_by(folder / SAMPLING) not in (None, key):
        words = f"{chosen['scheduler'] or 'samples'}-{chosen['num_inference_steps']}"
        folder = folder / f"{as_word(words)}-seed{chosen['seed']}-{key}"
    make_room(folder, key, overwrite)

    started = time.perf_counter()
    with tqdm(total=n, desc="sampling", unit="", disable=None) as bar:

        def show(steps: Steps, call: int, x: Tensor) -> Tensor:
            bar.update(steps.rows.start - bar.n)
            return x

        with one_line_errors(model, (ValueError, TypeError)):
            x = sample(loaded, n, sampling, class_labels=labels, move=show)
            bar.update(n - bar.n)
            rows = [_first(loaded, labels, n, one) for one in cells]
            protocol = describe_sampling(loaded, sampling)
    drawn = None if labels is None else sorted(set(labels.tolist()))
    names = list(loaded.class_names)
    protocol = {
        "model": model,
        "source": loaded.source,
        KEY: key,
        "n_images": n,
        "class_labels": drawn,
        "class_names": [names[label] for label in drawn] if drawn and names else None,
        **protocol,
        "versions": {"sparring": __version__, "torch": torch.__version__},
    }
    files = _write(x.cpu(), labels, loaded, folder, chosen["batch_size"])
    if rows:
        protocol["sweep"] = list(sweep or ())
        grid(torch.cat(rows), n_columns=len(rows[0])).save(folder / "sweep.png")
        files.append("sweep.png")
    (folder / SAMPLING).write_text(json.dumps(protocol, indent=2) + "\n", encoding="utf-8")
    return {
        "output": str(folder),
        "n_images": n,
        "files": files,
        "protocol": protocol,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _first(model: Model, labels: Tensor | None, n: int, sampling: Sampling) -> Tensor:
    """The first images with another number of steps, (at most N_SWEPT, C, H, W)."""
    if len(model.sample_shape) != 3:
        raise ValueError("a sweep is a picture, and these samples are vectors")
    few = min(n, N_SWEPT)
    own = None if labels is None else labels[:few]
    x = sample(model, few, sampling, class_labels=own).cpu()
    return x if model.vae is None else decode(model.vae, x)


def _labels(given: Sequence[int | str] | None, n: int, model: Model, name: str) -> Tensor | None:
    if model.num_classes is None:
        if given:
            raise UserError(f"{name} has no classes: leave class_labels out")
        return None
    if given:
        chosen = [class_of(str(one), model, name) for one in given]
    else:
        chosen = [i for i in range(model.num_classes) if i not in model.absent_classes]
    return torch.tensor(chosen)[torch.arange(n) % len(chosen)]


def class_of(said: str, model: Model, name: str) -> int:
    """The number of a class that is called by its name, or by its number where names are words."""
    names = [str(one) for one in model.class_names]
    by_number = {str(i): i for i in range(model.num_classes or 0)}
    known = {one: i for i, one in enumerate(names)}
    if not any(re.fullmatch(r"-?[0-9]+", one) for one in names):  # else 2 might mean two classes
        known = by_number | known
    if said not in known:
        shown = list(known if names else by_number)
        words = ", ".join(names[:N_NAMES_SHOWN] or [f"0 to {len(shown) - 1}"])
        more = ", ..." if len(names) > N_NAMES_SHOWN else ""
        raise UserError(f"{name} has no class '{said}' (it has {words}{more})")
    if known[said] in model.absent_classes:
        raise UserError(
            f"{name} was never trained on class '{said}', of which its data held no sample: "
            "choose another one"
        )
    return known[said]


def _folder(name: str, output_dir: str | Path | None, told: Mapping[str, Any]) -> Path:
    """Where the samples go; what differs from the run's own section is in the name."""
    if output_dir is not None:
        return Path(output_dir)
    is_run = (Path(name) / "config.yaml").is_file()
    place = Path(name, "evaluation", "samples") if is_run else Path("samples", as_file_name(name))
    return place.with_name(f"{place.name}{told_in_words(told)}")


def make_room(folder: Path, key: str, overwrite: bool) -> None:
    """Make the folder; take away what an earlier call left there, never anything else."""
    with written(folder, ": choose another folder with -o"):
        folder.mkdir(parents=True, exist_ok=True)
        images = [path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
        if images and not (folder / SAMPLING).is_file():
            raise UserError(
                f"{folder} holds images of another origin, {images[0].name} for one: choose "
                "another -o"
            )
        claim(folder, key, FILES, SAMPLING, overwrite=overwrite)
        old = [path for path in images if NUMBERED.fullmatch(path.name)]
        for path in [*old, *(folder / name for name in FILES)]:
            path.unlink(missing_ok=True)
        (folder / SAMPLING).write_text(json.dumps({KEY: key}) + "\n", encoding="utf-8")


def _write(
    x: Tensor, labels: Tensor | None, model: Model, folder: Path, batch_size: int
) -> list[str]:
    if model.vae is not None:
        x = decode(model.vae, x, min(batch_size, AT_ONCE))
    if x.ndim == 4 and x.shape[1] in (1, 3):
        grid(x[:N_SHOWN]).save(folder / "grid.png")
        return ["grid.png", *(path.name for path in save_images(x, folder))]
    named = {"x": x.contiguous()} | ({} if labels is None else {"class_labels": labels})
    save_file(named, folder / "samples.safetensors")
    if x.ndim != 2:
        return ["samples.safetensors"]
    with (folder / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([f"x{i}" for i in range(x.shape[1])] + ["label"] * (labels is not None))
        for i, row in enumerate(x.tolist()):
            rows.writerow(row if labels is None else [*row, int(labels[i])])
    _scatter(x, labels, folder / "scatter.png")
    return ["samples.safetensors", "samples.csv", "scatter.png"]


def _scatter(x: Tensor, labels: Tensor | None, path: Path) -> None:
    """The first three coordinates against each other; a histogram of a single one."""
    from matplotlib.figure import Figure

    d = min(3, x.shape[1])
    pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
    figure = Figure(figsize=(4 * max(1, len(pairs)), 4), layout="constrained")
    axes = figure.subplots(1, max(1, len(pairs)), squeeze=False)[0]
    if not pairs:
        axes[0].hist(x[:, 0].numpy(), bins=50)
        axes[0].set_xlabel("x0")
    for axis, (i, j) in zip(axes, pairs, strict=False):
        colours = {} if labels is None else {"c": labels.numpy(), "cmap": "tab10"}
        axis.scatter(x[:, i].numpy(), x[:, j].numpy(), s=4, alpha=0.6, **colours)
        axis.set_xlabel(f"x{i}")
        axis.set_ylabel(f"x{j}")
        axis.set_aspect("equal", adjustable="datalim")
    figure.savefig(path, dpi=120)
