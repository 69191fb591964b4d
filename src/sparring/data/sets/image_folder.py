"""Images below a folder."""

from collections.abc import Mapping
from typing import Any

from ...options.value_types import Place
from ..data_set import ImageFiles
from ..files.folder import folder
from ..files.source import Source


class ImageFolder(ImageFiles):
    """Every image below a folder.

    Args:
        train_data_dir: The folder, see `folder.folder`.
    """

    def __init__(self, *, train_data_dir: Place | None = None) -> None:
        self.train_data_dir = train_data_dir

    def source(self, split: str, fields: Mapping[str, Any]) -> Source:
        return folder(self.train_data_dir, split, fields.get("caption_column"))
