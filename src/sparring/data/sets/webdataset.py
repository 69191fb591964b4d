"""Tar shards."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Count, Place
from ..data_set import DataSet, from_files, given
from ..images import ImageDataset
from ..tar_shards import webdataset


class Webdataset(DataSet):
    """Tar shards of images.

    Args:
        data_files: See `tar_shards.webdataset`.
        shuffle_lanes, shuffle_buffer: See shard_order.
    """

    def __init__(
        self,
        *,
        data_files: Place | list[Place] | None = None,
        shuffle_lanes: Count | None = None,
        shuffle_buffer: Count | None = None,
    ) -> None:
        self.data_files, self.lanes, self.buffer = data_files, shuffle_lanes, shuffle_buffer

    def read(self, split: str, fields: Mapping[str, Any]) -> ImageDataset:
        columns = given(fields, "image_column", "label_column", "caption_column")
        source = webdataset(self.data_files, **columns)
        return from_files("webdataset", source, split, fields, self.lanes, self.buffer)
