"""Parquet files."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Place
from ..data_set import Table, columns
from ..files.source import Source
from ..files.tables import parquet
from ..streams.table_shards import parquet_stream


class Parquet(Table):
    """Tables of images.

    Args:
        data_files: Parquet files, by paths or patterns.
    """

    def __init__(self, *, data_files: Place | list[Place] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.data_files = data_files

    def source(self, split: str, fields: Mapping[str, Any]) -> Source:
        return (parquet_stream if self.streaming else parquet)(self.data_files, columns(fields))
