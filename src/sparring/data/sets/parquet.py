"""Parquet files."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Count, Place
from ..data_set import DataSet, from_files, given
from ..images import ImageDataset
from ..sources import parquet
from ..table_shards import parquet_stream


class Parquet(DataSet):
    """Tables of images.

    Args:
        data_files: See `sources.parquet`.
        streaming: Read shard by shard.
        shuffle_lanes, shuffle_buffer: Of a stream, see shard_order.
    """

    def __init__(
        self,
        *,
        data_files: Place | list[Place] | None = None,
        streaming: bool = False,
        shuffle_lanes: Count | None = None,
        shuffle_buffer: Count | None = None,
    ) -> None:
        for key, value in (("shuffle_buffer", shuffle_buffer), ("shuffle_lanes", shuffle_lanes)):
            if value is not None and not streaming:
                raise ValueError(f"data.{key} applies to streams: set data.streaming=true")
        self.data_files = data_files
        self.streaming, self.lanes, self.buffer = streaming, shuffle_lanes, shuffle_buffer

    def read(self, split: str, fields: Mapping[str, Any]) -> ImageDataset:
        columns = given(fields, "image_column", "label_column", "caption_column")
        read = parquet_stream if self.streaming else parquet
        source = read(self.data_files, **columns)
        return from_files("parquet", source, split, fields, self.lanes, self.buffer)
