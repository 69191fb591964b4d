"""Data sets of the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Place, Word
from ..data_set import Table, columns
from ..files.hub import checked_name
from ..files.source import Source
from ..files.tables import huggingface
from ..streams.table_shards import huggingface_stream


class Huggingface(Table):
    """A data set of the hub.

    Args:
        dataset_name, dataset_config_name: The name on the hub, and which of its configs.
    """

    def __init__(
        self,
        *,
        dataset_name: Place | None = None,
        dataset_config_name: Word | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.dataset_name, self.dataset_config_name = dataset_name, dataset_config_name

    @property
    def name(self) -> str:
        return str(self.dataset_name)

    def source(self, split: str, fields: Mapping[str, Any]) -> Source:
        read = huggingface_stream if self.streaming else huggingface
        own_held_out = split == "held_out" and bool(fields.get("held_out_share"))
        name = checked_name(self.dataset_name)
        return read(name, self.dataset_config_name, split, columns(fields), own_held_out)
