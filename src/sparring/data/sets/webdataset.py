"""Tar shards."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Place
from ..data_set import Sharded, columns
from ..files.source import Source
from ..streams.tar_shards import webdataset


class Webdataset(Sharded):
    """Tar shards of images.

    Args:
        data_files: Tar shards, by paths or patterns.
    """

    def __init__(self, *, data_files: Place | list[Place] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.data_files = data_files

    def source(self, split: str, fields: Mapping[str, Any]) -> Source:
        return webdataset(self.data_files, columns(fields))
