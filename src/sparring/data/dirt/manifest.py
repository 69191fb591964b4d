"""What was done to which sample, for reports: a line for each dirty sample with its values."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...support.text_files import lines_of
from ..base import Dataset
from .contaminated import layers


def manifest(dataset: Dataset) -> list[dict[str, Any]]:
    """What every dirty sample got: index, kind, the sample's values, and its file if it has one."""
    entries = []
    for layer in layers(dataset):
        for index in layer.dirty.nonzero().flatten().tolist():
            place = {} if (where := layer.where(index)) is None else {"where": where}
            entries.append({"index": index, **layer.details(index), **place})
    return sorted(entries, key=lambda entry: entry["index"])


def manifest_header(dataset: Dataset) -> dict[str, Any]:
    """The protocol of the whole: the outermost contamination's, with those below it."""
    protocols = [layer.protocol() for layer in layers(dataset)]
    outer = protocols.pop() if protocols else {"kind": "none", "rate": 0.0, "n_dirty": 0}
    return {
        "record": "protocol", "data": dataset.name, "fingerprint": dataset.fingerprint(),
        "n_samples": len(dataset), **outer, "below": protocols,
    }  # fmt: skip


def write_manifest(
    dataset: Dataset, path: str | Path, files: Mapping[int, str] | None = None, **more: Any
) -> None:
    """Write the manifest as JSON lines: the header with `more` entries, then the dirty samples.
    `files` are those of a copy on disk, by index; samples without one are left out."""
    entries = manifest(dataset)
    if files is not None:
        mine = (entry for entry in entries if entry["index"] in files)
        entries = [{**entry, "file": files[entry["index"]]} for entry in mine]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{**manifest_header(dataset), **more}, *entries]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read_manifest(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A manifest's header and entries."""
    lines = lines_of(Path(path).read_text(encoding="utf-8"))
    header, *entries = [json.loads(line) for line in lines if line]
    return header, entries
