"""One YAML file is a run: read it, apply `key=value` overrides, check it before anything is built.

    resolve("digits", ["row=clean", "objective=detail", "objective.lam=3"]) -> RunConfig
    dump(config) -> YAML that resolves to the same config

`objectives: {detail: {lam: 30}}` in a file says what an objective uses in this experiment:
`objective=NAME` selects NAME with its defaults and these leaves on top, in the file and on the
command line. Configs build objects and never enter them (assembly does that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import sets
from ..support.errors import UserError
from ..support.home_folder import expanded
from ..support.yaml_files import write_yaml
from .checks import check, check_section
from .files import chosen_row, find, merge
from .overrides import with_overrides
from .schema import RunConfig, SamplingSection


def resolve(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked settings of the run that a file and the overrides describe.

    Args:
        path: A YAML file, or the name of one that comes with sparring.
        overrides: `key=value` each, the key dotted; later ones win. `row=NAME` names a row of a
            file that is a table.

    Raises:
        UserError: one line that names the file or override, the key and what is allowed there.
    """
    path = find(path)
    raw, overrides, name = chosen_row(path, overrides)
    config = check(with_overrides(raw, overrides), f"config {path}", overrides)
    if config.training.output_dir is None:
        config.training.output_dir = str(Path("runs") / name)
    return config


def dump(config: RunConfig) -> str:
    """The settings as YAML, every leaf written out."""
    return write_yaml(config.model_dump(mode="json"))


def sampling_of(overrides: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """What `sparring sample` was told: options, and `sampling.key=value`, checked."""
    for override in overrides:
        if not override.startswith("sampling."):
            raise UserError(f"override {override!r}: sample takes sampling.* only")
    known = {key: value for key, value in options.items() if key in SamplingSection.model_fields}
    words = {**known, **with_overrides({}, overrides).get("sampling", {})}
    said = check_section(SamplingSection, words, "sampling", overrides)
    return {**options, **said.model_dump(exclude_unset=True)}


def _is_bundled(name: str) -> bool:
    """Whether this is a data set that is there without a file or a download."""
    if name not in sets.names():
        return False
    from ..data.datasets import find  # torch is imported here

    return find(name).is_bundled


def contamination_of(
    data: str, overrides: Sequence[str], kind: str, command: str = "contaminate"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sections data and contamination for `sparring contaminate` and `sparring inspect`.

    Args:
        data: A folder of images, a parquet file or pattern, tar shards, a bundled set such as
            digits, a config file, or the name of a data set on the hub.
        overrides: `key=value` of these two sections.
        kind: Of contamination, where a config or an override does not say it.
        command: Who asks, for error messages.
    """
    data = expanded(data)
    raw: dict[str, Any] = {"contamination": {"kind": kind}}
    if data.endswith((".yaml", ".yml")):
        own, overrides, _ = chosen_row(find(data), overrides)
        raw = merge(raw, own)
    elif _is_bundled(data):
        raw["data"] = {"name": data}
    elif data.endswith(".parquet"):
        raw["data"] = {"name": "parquet", "data_files": data}
    elif data.endswith((".tar", ".tar.gz", ".tgz")):  # the packed ones are told to be unpacked
        raw["data"] = {"name": "webdataset", "data_files": data}
    elif Path(data).exists() or data.count("/") != 1 or data.startswith((".", "/")):
        raw["data"] = {"name": "image_folder", "train_data_dir": data}
    else:
        raw["data"] = {"name": "huggingface", "dataset_name": data}
    for override in overrides:
        if override.partition(".")[0] not in ("data", "contamination"):
            raise UserError(f"override {override!r}: {command} takes data.* and contamination.*")
    merged = with_overrides(raw, overrides)
    needed = {"network": {"_class_name": "UNet2DModel"}}  # a config needs a model; it is not used
    config = check({**merged, "model": needed}, f"{command} {data}", overrides)
    sections = config.data, config.contamination
    data_fields, contamination = (one.model_dump(exclude_none=True) for one in sections)
    return data_fields, contamination
