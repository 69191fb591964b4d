"""`sparring contaminate`: a dirty copy of a data set on disk, for any other tool to train on."""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...data import transforms
from ...data.base import READ_CHUNK, Dataset
from ...data.captions import Caption
from ...data.datasets import build_dataset
from ...data.dirt.contaminated import Contaminated, check_contamination
from ...data.dirt.contaminated import contaminate as contaminated
from ...data.dirt.manifest import write_manifest
from ...data.files.folder import seeming_splits
from ...data.files.listing import hidden
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ..shared.files import check_place, whole_folder


def contaminate(
    data: Mapping[str, Any],
    contamination: Mapping[str, Any],
    output_dir: str | Path,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Write a dirty copy of a data set: 8-bit PNG files in class folders, manifest.jsonl, and of
    captions, wherever they come from, metadata.jsonl.

    Eight bits hold nothing outside [0, 1], so the copy is clipped, whatever `clip` was; the
    manifest says so (`clip: true`). Read back it is what training with the same contamination sees
    by default. Unreadable images are left out and listed in the manifest's header. The copy appears
    under its name when it is complete; an interrupted one leaves nothing.

    Returns:
        output_dir, manifest, n_images, n_dirty, n_unreadable, unreadable, clip and
        clipped_values_share (of the dirty images' values, those that clipping moved).
    """
    out = expanded_path(output_dir)
    check_place(out, data)
    check_contamination(contamination)
    source = build_dataset(**data)
    if not source.is_image:
        raise UserError(f"contaminate writes images, and {source.name} holds vectors")
    exact = contaminated(source, {**contamination, "clip": False})
    if not isinstance(exact, Contaminated):
        raise UserError("choose what to do to the images: contamination.kind=gaussian, for example")
    is_unclipped = contamination.get("clip") is False
    say(
        f"writing {len(exact)} images to {out} in 8 bits: values outside [0, 1] are clipped"
        + ("; contamination.clip=false is for training in memory" if is_unclipped else "")
    )
    with whole_folder(out) as partial:
        summary = _write(exact, partial, data.get("train_data_dir"))
    summary = {"output_dir": str(out), "manifest": str(out / "manifest.jsonl"), **summary}
    say(
        f"{summary['n_dirty']} of {summary['n_images']} images are dirty; clipping moved "
        f"{100 * summary['clipped_values_share']:.2g} % of their values; what each got: "
        f"{summary['manifest']}"
    )
    if summary["unreadable"]:
        say(f"left out {summary['n_unreadable']} unreadable file(s), see in the manifest's header")
    return summary


def _write(dataset: Contaminated, folder: Path, root: str | None) -> dict[str, Any]:
    """Write images and manifest into an empty folder; what is in the summary but the places."""
    n_dirty, n_moved, n_values = 0, 0, 0
    unreadable: dict[str, None] = {}
    files: dict[int, str] = {}
    names: set[str] = set()
    with tqdm(total=len(dataset), unit="image", disable=None) as progress:
        for start in range(0, len(dataset), READ_CHUNK):
            asked = range(start, min(start + READ_CHUNK, len(dataset)))
            batch = dataset.__getitems__(asked)
            unreadable |= dict.fromkeys(batch["unreadable"])
            labels = batch["label"].tolist() if "label" in batch else [None] * len(asked)
            used = batch["index"].tolist()
            for i, index, label, x in zip(asked, used, labels, batch["x0"], strict=True):
                progress.update()
                if index != i:
                    continue  # another image stands in for this unreadable one
                files[i] = file_name(dataset, i, label, root, names)
                write_image(x, folder / files[i])
                if dataset.dirty[i]:
                    n_dirty += 1
                    n_moved += int(((x < 0) | (x > 1)).sum())
                    n_values += x.numel()
    counts = {
        "n_images": len(files), "n_dirty": n_dirty, "n_unreadable": len(unreadable),
        "unreadable": list(unreadable), "clip": True,
        "clipped_values_share": n_moved / max(n_values, 1),
    }  # fmt: skip
    write_manifest(dataset, folder / "manifest.jsonl", files, **counts)
    write_captions(dataset.captions, files, folder / "metadata.jsonl")
    return counts


def write_captions(
    captions: Sequence[Caption] | None, files: Mapping[int, str], path: Path
) -> None:
    """The captions of the images that were written, by index, as a table that an image folder
    reads; nothing without any."""
    said = {name: captions[i] for i, name in files.items()} if captions is not None else {}
    several = any(isinstance(one, tuple) for one in said.values())
    lines = []
    for name, caption in said.items():
        if caption is not None:
            text = [caption] if several and isinstance(caption, str) else caption
            lines.append(json.dumps({"file_name": name, "text": text}) + "\n")
    if lines:
        path.write_text("".join(lines), encoding="utf-8")


def file_name(
    dataset: Dataset, index: int, label: int | None, root: str | None, names: set[str]
) -> str:
    """Where in the copy an image goes; all are PNG files."""
    name = place_of(dataset, index, label, root).with_suffix(".png").as_posix()
    while name in names:  # a.jpg beside a.png
        name = name.removesuffix(".png") + f"-{_number(dataset, index)}.png"
    names.add(name)
    return name


def place_of(dataset: Dataset, index: int, label: int | None, root: str | None) -> Path:
    """Where an image goes in a folder of images made of others: as in `root`, the folder that it
    comes from, else class/number.png."""
    where = dataset.where(index)
    if root is not None and where is not None:
        return Path(where).relative_to(expanded_path(root))
    folder = "" if label is None else _folders(tuple(dataset.class_names))[label]
    return Path(folder) / f"{_number(dataset, index)}.png"


def _number(dataset: Dataset, index: int) -> str:
    return str(index).zfill(len(str(len(dataset) - 1)))


@functools.lru_cache(maxsize=1)
def _folders(class_names: tuple[str, ...]) -> list[str]:
    """Each class's name as that of a folder, which no other class has."""
    folders: list[str] = []
    splits = seeming_splits(class_names)
    for number, name in enumerate(class_names):
        folder = re.sub(r"[/\\\0]", "_", name).strip()
        if not folder or hidden(folder) or name in splits:
            folder = f"class-{number}"
        while folder in folders:  # a/b beside a_b
            folder += f"-{number}"
        folders.append(folder)
    return folders


FORMATS: dict[str, dict[str, Any]] = {
    **{suffix: {"quality": 95, "subsampling": 0} for suffix in (".jpg", ".jpeg", ".jfif")},
    ".webp": {"lossless": True},
}
"""How files are written where the format's own default would lose much."""


def write_image(x: Tensor, path: Path) -> None:
    """One image in [0, 1], (C, H, W), clipped and rounded to 8 bits, in the name's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = transforms.to_uint8(x).permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels)
    image.save(path, **FORMATS.get(path.suffix.lower(), {}))
