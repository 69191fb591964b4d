"""`sparring export`: the audit of a set as a table and folders that other trainers read.

    OUT/images/    every readable image, and metadata.jsonl: a line for each (an image folder of
                   Hugging Face's `datasets`)
    OUT/clean/     the images called clean, a caption as a text file beside each that has one
    OUT/from-S/    with --from-level S: those that may be used from noise level S on, likewise
    OUT/export.json

From its least noise level on, an image's dirt is hidden: that is the level of its own noise (its
standard deviation, images in [-1, 1]) or of what compression or blur took away, the larger one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ... import __version__
from ...data.audit.audit import audit_images
from ...data.audit.registry import hiding_kinds
from ...data.audit.table import Table, as_record, read_table, rounded
from ...data.base import READ_CHUNK, Dataset
from ...data.captions import Caption
from ...data.trust.trusted import SCALE, trust_of, weights_of
from ...objectives.own_noise import largest_deviation
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ..contaminate.copies import file_name, place_of, write_image
from ..inspect.findings import at_one_size
from ..shared.files import check_place, whole_folder

NEVER = 1000.0
"""A noise level above those of all schedules; a number, because loaders take no null for one."""


class Known(NamedTuple):
    """A set of images and what is known of them.

    Attributes:
        images: The set.
        table: A row for each.
        is_readable: Whether each could be read, (n,), bool.
    """

    images: Dataset
    table: Table
    is_readable: np.ndarray


def export_command(
    data: Mapping[str, Any],
    contamination: Mapping[str, Any],
    output_dir: str | Path,
    dirt: str | None = None,
    say: Callable[[str], object] = print,
    *,
    from_level: float | None = None,
    copy: bool = False,
) -> dict[str, Any]:
    """Write the table and the folders.

    Images of a folder are linked, or copied where links cannot be made; those of other places are
    written as PNG files, as training would read them.

    Args:
        data: `name`, `split` and fields as in `build_dataset`.
        contamination: `kind` and fields as in `Contaminated`.
        output_dir: A folder that is empty or not there.
        dirt: A table of `sparring inspect`; None: the images are looked at.
        say: Takes the lines for the user while it works.
        from_level: Noise level sigma_t / alpha_t, images in [-1, 1], of one more folder.
        copy: Whether files are copied, not linked.

    Returns:
        output_dir, n_images (readable ones), n_clean, n_of_weight (those of a weight above 0),
        from_level and n_from_level (None where it is None), is_linked, data, contamination, dirt
        and version.

    Raises:
        UserError: if the data are no images, a stream, or the table is not theirs, or the folder
            is not empty, lies inside the data or cannot be written.
    """
    out = expanded_path(output_dir)
    check_place(out, data)
    n_workers = data.get("dataloader_num_workers") or 0
    known, data = at_one_size(
        lambda images: _looked_at(images, n_workers) if dirt is None else _told(images, dirt),
        data, contamination, say,
    )  # fmt: skip
    level = least_levels(known)
    weight = weights_of(known.table)
    folders = {"clean": known.table.is_clean}
    if from_level is not None:
        folders[f"from-{from_level:g}"] = level <= from_level
    is_file = contamination.get("kind") == "none" and data.get("train_data_dir") is not None
    with whole_folder(out) as partial:
        put = _Put(copy=copy)
        write = _linked if is_file else _drawn
        names = write(known, partial, data.get("train_data_dir"), put)
        for folder, chosen in folders.items():
            _choose(known, partial, folder, names, chosen, put)
        _write_table(known, partial / "images/metadata.jsonl", names, level, weight)
        n_of = {name: int((mine & known.is_readable).sum()) for name, mine in folders.items()}
        result = {
            "output_dir": str(out),
            "n_images": len(names),
            "n_clean": n_of.pop("clean"),
            "n_of_weight": int(((weight > 0) & known.is_readable).sum()),
            "from_level": from_level,
            "n_from_level": next(iter(n_of.values()), None),
            "is_linked": is_file and not put.copy,
            "data": dict(data),
            "contamination": dict(contamination),
            "dirt": dirt,
            "version": __version__,
        }
        (partial / "export.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _looked_at(images: Dataset, n_workers: int) -> Known:
    _check_no_stream(images)
    audit = audit_images(images, n_workers)
    return Known(images, audit.table, audit.is_readable)


def _told(images: Dataset, dirt: str) -> Known:
    """By a table; the images are read to see whether they can be."""
    _check_no_stream(images)
    table, is_readable = read_table(dirt, images), np.zeros(len(images), bool)
    with tqdm(total=len(images), unit="image", disable=None) as progress:
        for start in range(0, len(images), READ_CHUNK):
            asked = torch.arange(start, min(start + READ_CHUNK, len(images)))
            used = images.__getitems__(asked.tolist())["index"]
            is_readable[asked.numpy()] = (used == asked).numpy()
            progress.update(len(asked))
    return Known(images, table, is_readable)


def _check_no_stream(images: Dataset) -> None:
    if images.sharding is not None:
        raise UserError(
            f"export needs a row for each image, and of {images.name}, a stream, a sample is "
            "audited: set data.streaming=false, or name a folder"
        )


def least_levels(known: Known) -> np.ndarray:
    """Noise level sigma_t / alpha_t from which each image may be used, (n,); 0 for clean ones.

    `NEVER` for images of no weight, and for those with holes or dead pixels: the library leaves
    such pixels out of the loss, and other trainers cannot.
    """
    table, shape = known.table, known.images.sample_shape
    inside = torch.ones(len(table), dtype=torch.bool)
    trust = trust_of(table, inside, None, SCALE, shape)
    level = torch.maximum(largest_deviation(trust, *shape[1:]), trust.level).numpy()
    is_useless = np.any([trust.weight.numpy() == 0, *map(table.has, hiding_kinds())], 0)
    return np.where(is_useless, np.float32(NEVER), level)


class _Put:
    """Puts files into folders by links, or by copies.

    Attributes:
        copy: Whether by copies; it becomes true where the system makes no links.
    """

    def __init__(self, *, copy: bool) -> None:
        self.copy = copy

    def __call__(self, source: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if not self.copy:
            try:
                place.symlink_to(source)
                return
            except OSError:  # Windows without the right to, a file system without links
                self.copy = True
        shutil.copyfile(source, place)


def _linked(known: Known, out: Path, root: str | None, put: _Put) -> dict[int, str]:
    """The names of the images in OUT/images, by their numbers: files as they are in the data."""
    names = {}
    for i in np.flatnonzero(known.is_readable).tolist():
        names[i] = place_of(known.images, i, None, root).as_posix()
        put(_file_of(known.images, i), out / "images" / names[i])
    return names


def _drawn(known: Known, out: Path, root: str | None, put: _Put) -> dict[int, str]:
    """The same of images that are no files of their own: as they are read."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    rows = np.flatnonzero(known.is_readable)
    for start in range(0, len(rows), READ_CHUNK):
        asked = rows[start : start + READ_CHUNK].tolist()
        batch = known.images.__getitems__(asked)
        labels = batch["label"].tolist() if "label" in batch else [None] * len(asked)
        for i, label, x in zip(asked, labels, batch["x0"], strict=True):
            names[i] = file_name(known.images, i, label, root, taken)
            write_image(x, out / "images" / names[i])
    return names


def _choose(
    known: Known, out: Path, folder: str, names: Mapping[int, str], chosen: np.ndarray, put: _Put
) -> None:
    """A folder of some of the images, a text file beside each that has a caption."""
    (out / folder).mkdir()
    captions = known.images.captions
    for i, name in names.items():
        if not chosen[i]:
            continue
        place, own = out / folder / name, out / "images" / name
        if own.is_symlink():
            put(Path(os.readlink(own)), place)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(own, place)
        texts = _texts(None if captions is None else captions[i])
        if texts:
            place.with_suffix(".txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def _write_table(
    known: Known, path: Path, names: Mapping[int, str], level: np.ndarray, weight: np.ndarray
) -> None:
    """A line for each image; numbers of few decimals, as in the table of `sparring inspect`."""
    captions, is_clean = known.images.captions, known.table.is_clean
    several = captions is not None and any(isinstance(one, tuple) for one in captions)
    with path.open("w", encoding="utf-8") as file:
        for i, name in names.items():
            line: dict[str, Any] = {"file_name": name}
            if captions is not None:
                texts = _texts(captions[i])
                line["text"] = texts if several else "".join(texts)
            numbers = as_record(known.table, i)
            kinds = numbers.pop("kinds")
            line |= {
                "index": i,
                "is_clean": bool(is_clean[i]),
                "least_level": _short("level", level[i]),
                **numbers,
                "weight": _short("weight", weight[i]),
                "clipped": bool(known.table.clipped[i]),
                **kinds,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _texts(caption: Caption) -> list[str]:
    """All captions of an image, each on one line."""
    if caption is None:
        return []
    return [" ".join(one.split()) for one in ([caption] if isinstance(caption, str) else caption)]


def _short(column: str, value: np.floating) -> float:
    return float(str(rounded(column, np.asarray(value))))


def _file_of(images: Dataset, index: int) -> Path:
    where = images.where(index)
    assert where is not None  # an image of a folder has a name
    return Path(where).resolve()


def as_text(result: Mapping[str, Any]) -> str:
    """What was written, in lines."""
    out, n = result["output_dir"], result["n_images"]
    how = "linked" if result["is_linked"] else "copied"
    lines = [
        f"{out}/images: {n} images ({how}), and metadata.jsonl with a line for each",
        f"{out}/clean: {result['n_clean']} images called clean",
    ]
    if result["from_level"] is not None:
        lines.append(
            f"{out}/from-{result['from_level']:g}: {result['n_from_level']} images that may be "
            f"used from noise level {result['from_level']:g} on"
        )
    if lost := n - result["n_of_weight"]:
        lines.append(f"{lost} images have weight 0: they are to teach nothing")
    return "\n".join(lines)
