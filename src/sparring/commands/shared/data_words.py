"""DATA of `sparring contaminate`, `inspect` and `clean`, in the words of a config's sections."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config.checks import check
from ...config.files import chosen_row, find, merge
from ...config.overrides import with_overrides
from ...data import sets
from ...support.errors import UserError
from ...support.home_folder import expanded


def _is_bundled(name: str) -> bool:
    """Whether this is a data set that is there without a file or a download."""
    if name not in sets.names():
        return False
    from ...data.datasets import find  # torch is imported here

    return find(name).is_bundled


def sections_of(
    data: str, overrides: Sequence[str], kind: str, command: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sections data and contamination, with overrides of these two.

    DATA is a folder of images, a parquet file or pattern, tar shards, a bundled set such as digits,
    a config file, or the name of a data set on the hub. The kind of contamination is said where a
    config or an override does not say it; the command is who asks, for error messages.
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
    return (
        config.data.model_dump(exclude_none=True),
        config.contamination.model_dump(exclude_none=True),
    )
