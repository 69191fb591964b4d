"""Data sets of the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Count, Place, Word
from ..data_set import DataSet, from_files, given
from ..images import ImageDataset
from ..sources import huggingface
from ..table_shards import huggingface_stream


class Huggingface(DataSet):
    """A data set of the hub.

    Args:
        dataset_name, dataset_config_name: See `sources.huggingface`.
        streaming: Read shard by shard.
        shuffle_lanes, shuffle_buffer: Of a stream, see shard_order.
    """

    def __init__(
        self,
        *,
        dataset_name: Place | None = None,
        dataset_config_name: Word | None = None,
        streaming: bool = False,
        shuffle_lanes: Count | None = None,
        shuffle_buffer: Count | None = None,
    ) -> None:
        for key, value in (("shuffle_buffer", shuffle_buffer), ("shuffle_lanes", shuffle_lanes)):
            if value is not None and not streaming:
                raise ValueError(f"data.{key} applies to streams: set data.streaming=true")
        self.dataset_name, self.dataset_config_name = dataset_name, dataset_config_name
        self.streaming, self.lanes, self.buffer = streaming, shuffle_lanes, shuffle_buffer

    def read(self, split: str, fields: Mapping[str, Any]) -> ImageDataset:
        columns = given(fields, "image_column", "label_column", "caption_column")
        read = huggingface_stream if self.streaming else huggingface
        source = read(
            self.dataset_name, self.dataset_config_name, split, **columns,
            own_held_out=split == "held_out" and bool(fields.get("held_out_share")),
        )  # fmt: skip
        return from_files(str(self.dataset_name), source, split, fields, self.lanes, self.buffer)
