"""`sparring inspect`: what images a set holds, which are dirty, and what to train them with."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ... import __version__
from ...data.audit.audit import NEAR, Audit, audit_images
from ...data.audit.detectors.jpeg import file_quality
from ...data.audit.judging import LEAST_SIDE
from ...data.audit.known import compare
from ...data.audit.summary import QUANTILES, Found, found_in, suggestion
from ...data.audit.table import as_record, write_table
from ...data.base import Dataset, Wrapper
from ...data.datasets import build_dataset
from ...data.dirt.contaminated import check_contamination, contaminate
from ...data.files.allowed_files import Unreadable
from ...data.files.decoding import header
from ...data.files.images import ImageDataset, SizesDiffer
from ...data.files.survey import common_side, survey
from ...data.trust.trusted import levels_besides_noise, weights_of
from ...support.cache import key_of
from ...support.errors import UserError
from ...support.whole_files import written
from ..shared import files

Seen = TypeVar("Seen")
TABLE = "dirt.csv"
FILES = ("report.json", TABLE, "examples/*.png", "index.html")
N_SHOWN = 32  # most examples of a kind in its picture
N_GROUPS, N_SIZES, N_BINS = 20, 20, 30


def inspect_command(
    data: Mapping[str, Any],
    contamination: Mapping[str, Any],
    output_dir: str | Path | None = None,
    say: Callable[[str], object] = print,
    *,
    overwrite: bool = False,
    with_images: bool = False,
) -> dict[str, Any]:
    """Audit a data set as training would read it.

    Images that differ in size are read at the smallest side there is (but of odd ones, see
    `survey.ODD`), unless data.resolution says otherwise. What is found is compared with what
    contamination did. report.json, dirt.csv, examples of each kind and index.html go to the output
    folder; `overwrite` also replaces a table that somebody corrected there.

    Returns:
        The content of report.json: what `summary` says, data, contamination, made_by and
        table_digest; beside it output_dir and, if asked for, images, a record of each.
    """
    key = files.digest("inspect", data, contamination)
    out = None if output_dir is None else Path(output_dir)
    if out is not None:
        files.check_outside(out, data.get("train_data_dir"))
        files.check_writable(out)
        files.claim(out, key, FILES, "report.json", overwrite=overwrite)
        if not overwrite:
            _check_uncorrected(out)
    n_workers = data.get("dataloader_num_workers") or 0
    audit, data = at_one_size(
        lambda images: audit_images(images, n_workers), data, contamination, say
    )
    result = summary(audit) | {"data": dict(data), "contamination": dict(contamination)}
    result[files.KEY] = key
    if out is not None:
        with written(out):
            _write(out, audit, result)
    result["output_dir"] = None if out is None else str(out)
    return result | ({"images": images_of(audit)} if with_images else {})


def _check_uncorrected(out: Path) -> None:
    """Refuse to replace a table that somebody corrected."""
    table, record = out / TABLE, out / "report.json"
    if not table.is_file() or files.made_by(record) is None:
        return
    written = json.loads(record.read_text(encoding="utf-8")).get("table_digest")
    if written != key_of(table.read_bytes()):
        raise UserError(
            f"{table} was changed after it was written: keep it elsewhere, choose another -o, or "
            "replace it with --overwrite"
        )


def at_one_size(
    look: Callable[[Dataset], Seen],
    data: Mapping[str, Any],
    contamination: Mapping[str, Any],
    say: Callable[[str], object],
) -> tuple[Seen, Mapping[str, Any]]:
    """What `look` finds in the images, and section data with the size at which those that differ
    in size were read."""
    try:
        return look(dataset_of(data, contamination)), data
    except SizesDiffer:
        side = _least_side(data)
        say(f"the images differ in size: looking at squares of the smallest side, {side} pixels")
        data = {**data, "resolution": side}
        return look(dataset_of(data, contamination)), data


def dataset_of(data: Mapping[str, Any], contamination: Mapping[str, Any]) -> Dataset:
    """The images of these sections."""
    check_contamination(contamination)
    source = build_dataset(**data)
    if not source.is_image:
        raise UserError(f"inspect looks at images, and {source.name} holds vectors")
    return contaminate(source, contamination)


def _least_side(data: Mapping[str, Any]) -> int | None:
    source = build_dataset(**{**data, "resolution": 1})
    if not isinstance(source, ImageDataset):
        return None
    return common_side(survey(source.files, range(len(source))))


def summary(audit: Audit) -> dict[str, Any]:
    """The figures of an audit; found has a record per kind, clean last, and known is None for data
    that nobody contaminated here."""
    dataset, groups = audit.dataset, (audit.duplicates, audit.near_duplicates)
    same, alike = (
        {"n_groups": len(one), "n_extra": sum(map(len, one)) - len(one), "groups": one[:N_GROUPS]}
        for one in groups
    )
    found = found_in(audit.table, audit.is_readable)
    return {
        "n_images": len(dataset),
        "n_looked_at": len(audit.table),
        "n_readable": int(audit.is_readable.sum()),
        "unreadable": audit.unreadable,
        "remarks": [*dataset.remarks, *remarks_on(*dataset.sample_shape[1:])],
        "sizes": [
            {"width": width, "height": height, "n_images": n}
            for (width, height), n in audit.sizes.most_common()
        ],
        "jpeg_files": jpeg_files(dataset),
        "looked_at": {"width": dataset.sample_shape[2], "height": dataset.sample_shape[1],
                      "n_channels": dataset.sample_shape[0]},
        "duplicates": same,
        "near_duplicates": {**alike, "rms_of_thumbnails": NEAR},
        "n_blank": int(audit.is_blank.sum()),
        "found": [asdict(one) for one in found],
        "sigma_histogram": sigma_histogram(audit),
        "suggestion": suggestion(found),
        "known": compare(audit.table.select(audit.is_readable), dataset),
        "version": __version__,
    }  # fmt: skip


def remarks_on(height: int, width: int) -> list[str]:
    """What cannot be looked for in images of this size."""
    words = f"are too small for dirt to be found: {LEAST_SIDE} a side are needed"
    is_small = min(height, width) < LEAST_SIDE
    return [f"images of {width}x{height} pixels {words}"] * is_small


def jpeg_files(dataset: Dataset) -> dict[str, Any] | None:
    """How the files say they were compressed; None where none is a JPEG, or there are no files.
    A hint: resizing, and a copy as PNG, leave other traces than the file's tables."""
    source = dataset
    while isinstance(source, Wrapper):
        source = source.dataset
    if not isinstance(source, ImageDataset):
        return None
    opened, quality = copy(source.files), []  # so that streams opened here are closed again
    looked_at = opened.surveyed()
    for i in looked_at:
        with suppress(Unreadable):
            quality.append(file_quality(header(opened.open(i))))
    known = [one for one in quality if one is not None]
    if not known:
        return None
    low, median, high = np.quantile(known, list(QUANTILES.values())).tolist()
    return {
        "n_looked_at": len(looked_at), "n_jpeg": len(known),
        "quality": {"low": low, "median": median, "high": high},
    }  # fmt: skip


def sigma_histogram(audit: Audit) -> dict[str, Any] | None:
    """Images by the size of their noise, [0, 1] scale; None where none is noisy."""
    sigma = audit.table.sigma[audit.table.sigma > 0]
    if len(sigma) == 0:
        return None
    counts, edges = np.histogram(sigma, N_BINS, (0, float(sigma.max()) * 1.001))
    return {"edges": edges.tolist(), "n_images": counts.tolist()}


def images_of(audit: Audit) -> list[dict[str, Any]]:
    """A record per image that could be read: index, source, kinds, every size, and the level and
    weight with which training takes it."""
    table, index = audit.table, audit.table.index.tolist()
    levels = levels_besides_noise(table, audit.dataset.sample_shape).round(4)
    weights = weights_of(table).round(4)
    return [
        {
            "index": index[row],
            "source": audit.dataset.where(index[row]),
            **as_record(table, row),
            "level": float(str(levels[row])),
            "weight": float(str(weights[row])),
        }
        for row in np.flatnonzero(audit.is_readable).tolist()
    ]


def _write(out: Path, audit: Audit, result: dict[str, Any]) -> None:
    from ...report.audit import render  # which loads diffusers
    from ...sampling.images import grid

    write_table(audit.table, audit.dataset, out / TABLE)
    result["table_digest"] = key_of((out / TABLE).read_bytes())
    folder = out / "examples"
    folder.mkdir(exist_ok=True)
    for kind in (*audit.table.kinds, "clean"):
        (folder / f"{kind}.png").unlink(missing_ok=True)
    for kind, index in examples_of(audit).items():
        x0 = audit.dataset.__getitems__(index.tolist())["x0"]
        grid(2 * x0 - 1, 8).save(folder / f"{kind}.png")
    files.replace_json(out / "report.json", result)
    files.replace_text(out / "index.html", render(result, out))


def examples_of(audit: Audit) -> dict[str, np.ndarray]:
    """Numbers of some images of each kind that was found, and of clean ones.

    From the most certain to the least, evenly spread, since the least certain ones show where the
    threshold is.
    """
    table = audit.table
    likeliest = np.max([np.zeros(len(table), np.float32), *table.kinds.values()], 0)
    clean = (table.is_clean & audit.is_readable, -likeliest)
    groups = {kind: (table.has(kind) & audit.is_readable, p) for kind, p in table.kinds.items()}
    examples = {}
    for kind, (has, certain) in {**groups, "clean": clean}.items():
        rows = np.flatnonzero(has)
        if len(rows):
            order = rows[np.argsort(-certain[rows], kind="stable")]
            n = min(N_SHOWN, len(rows))
            examples[kind] = table.index[order[np.arange(n) * len(rows) // n]]
    return examples


def as_text(result: Mapping[str, Any]) -> str:
    """The findings in lines."""
    seen, n = result["looked_at"], result["n_looked_at"]
    some = f" of {result['n_images']}, a sample," if n < result["n_images"] else ""
    lines = [
        f"{result['n_readable']} images{some} looked at as {seen['width']}x{seen['height']} with "
        f"{seen['n_channels']} channel(s)",
        *_file_lines(result),
        *remarks_on(seen["height"], seen["width"]),
        *dirt_lines(result),
    ]
    if result.get("output_dir"):
        lines.append(f"the page, the table and examples: {result['output_dir']}/index.html")
    return "\n".join(lines)


def _file_lines(result: Mapping[str, Any]) -> list[str]:
    unreadable, sizes = result["unreadable"], result["sizes"]
    lines = [f"unreadable: {len(unreadable)}"]
    lines += [f"  {place}" for place in unreadable[:N_GROUPS]]
    listed = ", ".join(
        f"{one['width']}x{one['height']} ({one['n_images']})" for one in sizes[:N_SIZES]
    )
    more = f" and {len(sizes) - N_SIZES} more" if len(sizes) > N_SIZES else ""
    lines.append(f"sizes in the files: {listed}{more}")
    if (jpeg := result["jpeg_files"]) is not None:
        low, median, high = (f"{jpeg['quality'][key]:.0f}" for key in QUANTILES)
        lines.append(
            f"{jpeg['n_jpeg']} of {jpeg['n_looked_at']} files looked at are JPEG, quality {low} to "
            f"{high}, median {median} (of the files: resizing hides what that did)"
        )
    same, alike = result["duplicates"], result["near_duplicates"]
    lines.append(
        f"duplicates: {same['n_extra']} equal to an earlier image, {alike['n_extra']} nearly so; "
        f"without any content: {result['n_blank']}"
    )
    return lines


def dirt_lines(result: Mapping[str, Any]) -> list[str]:
    """What is said about the dirt: a line per kind, what was done, and what to do."""
    lines = [Found(**one).line() for one in result["found"]]
    if result["known"] is not None:
        lines += _known_lines(result["known"])
    advice = result["suggestion"]
    lines.append(f"suggestion: {' '.join(advice['overrides'])}")
    lines += [f"  {sentence}" for sentence in advice["because"]]
    if (command := handed_back(result)) is not None:
        lines.append(f"  correct {result['output_dir']}/{TABLE} where it is wrong, then: {command}")
    return lines


def handed_back(result: Mapping[str, Any]) -> str | None:
    """The settings that train with the table; None where there is none, or it is of a sample."""
    is_whole = result["n_looked_at"] == result["n_images"]
    if not result.get("output_dir") or not is_whole:
        return None
    return f"objective=detail objective.dirt={result['output_dir']}/{TABLE}"


def _known_lines(known: Mapping[str, Any]) -> list[str]:
    """How what was found compares with what was done."""
    clean = ""
    if known["called_dirty"] is not None:
        clean = f"; of the clean ones {100 * known['called_dirty']:.1f} % are called dirty"
    lines = [f"known: {100 * known['rate']:.1f} % of the images are dirty{clean}"]
    for kind, one in known["kinds"].items():
        rate, found = 100 * one["rate"], 100 * one["found"]
        words = [f"  {kind} on {rate:.1f} %, of which {found:.1f} % found"]
        if one["auc"] is not None:
            words.append(f"told from clean ones with probability {one['auc']:.3f}")
        if "sigma_rmse" in one:
            words.append(f"an image's own sigma is off by {one['sigma_rmse']:.3g} (rms)")
        lines.append(", ".join(words))
    return lines
