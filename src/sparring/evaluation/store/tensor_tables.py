"""A long table of tensors, computed part by part into files, by one process or by several.

    parts = Parts(n_rows, size=256, folder=folder)
    parts.compute(lambda rows: {"features": ...})       # what is there is not computed again
    parts.read("features")                              # (n_rows, D)

Process i of P computes the parts i, i + P, ... A computation that was stopped goes on. Processes
meet in the folder alone, which all of them must see: who reads waits for the files of the others.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...support.errors import UserError
from ...support.whole_files import whole_file

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.1
MAX_CACHE_BYTES = 20 * 2**30  # more than this, and the folders that were used longest ago go


@dataclass(frozen=True)
class Processes:
    """Which process of how many this is."""

    index: int = 0
    count: int = 1

    @classmethod
    def started(cls) -> Self:
        """As `torchrun` and `accelerate launch` say in the environment."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_main(self) -> bool:
        return self.index == 0


class Parts:
    """See above: n_rows in all, `size` a part, in a folder of these values alone or in memory."""

    def __init__(
        self, n_rows: int, size: int, folder: Path | None = None, processes: Processes | None = None
    ) -> None:
        self.ranges = [range(i, min(i + size, n_rows)) for i in range(0, n_rows, size)]
        self.folder, self.processes = folder, processes or Processes()
        self.held: dict[range, dict[str, Tensor]] = {}

    def compute(
        self,
        values: Callable[[range], dict[str, Tensor]],
        on_part: Callable[[range], object] | None = None,
    ) -> None:
        """Compute this process's parts that are not there.

        `values` gives the tensors of some rows, by name, which must follow from the rows alone;
        `on_part` is called for each part that is there, for a progress bar. Raises UserError if
        several processes have no folder to meet in.
        """
        for rows in self.ranges[self.processes.index :: self.processes.count]:
            if not self._is_there(rows):
                self._write(rows, values(rows))
            if on_part is not None:
                on_part(rows)

    def read(self, name: str) -> Tensor:
        """One tensor of all parts, one after the other; waits for the other processes."""
        for rows in self.ranges:
            while not self._is_there(rows):
                if self.processes.count == 1:
                    raise FileNotFoundError(f"{self._file(rows)} is not computed")
                time.sleep(WAIT_SECONDS)
        lengths = [len(self._value(rows, name)) for rows in self.ranges]
        first = self._value(self.ranges[0], name)
        found = first.new_empty(sum(lengths), *first.shape[1:])  # one part at a time beside it
        for rows, place in zip(self.ranges, found.split(lengths), strict=True):
            place.copy_(self._value(rows, name))
        return found

    def pick(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some rows of one tensor that has as many as the table, in this order."""
        found = []
        for row in rows:
            part = next(part for part in self.ranges if row in part)
            found.append(self._value(part, name)[row - part.start])
        return torch.stack(found)

    def names(self) -> list[str]:
        """Of the tensors that the parts hold."""
        rows = self.ranges[0]
        if rows in self.held:
            return sorted(self.held[rows])
        with safe_open(self._file(rows), framework="pt") as file:
            return sorted(file.keys())

    def _file(self, rows: range) -> Path:
        assert self.folder is not None
        return self.folder / f"{rows.start:08}-{rows.stop:08}.safetensors"

    def _is_there(self, rows: range) -> bool:
        if rows in self.held:
            return True
        if self.folder is None or not self._file(rows).is_file():
            return False
        try:
            with safe_open(self._file(rows), framework="pt"):
                return True
        except (OSError, SafetensorError):
            return False

    def _value(self, rows: range, name: str) -> Tensor:
        if rows in self.held:
            return self.held[rows][name]
        with safe_open(self._file(rows), framework="pt") as file:
            return file.get_tensor(name)

    def _write(self, rows: range, tensors: dict[str, Tensor]) -> None:
        if self.folder is None:
            self.held[rows] = tensors
            return
        try:
            # two names may share memory, which the format refuses
            how = torch.contiguous_format
            own = {name: value.clone(memory_format=how) for name, value in tensors.items()}
            with whole_file(self._file(rows)) as half:
                save_file(own, half)
        except (OSError, SafetensorError) as error:
            if self.processes.count > 1:
                raise UserError(
                    f"{self.folder} cannot be written ({error}): several processes meet there, set "
                    "SPARRING_CACHE to a folder that all of them can write"
                ) from error
            log.warning("features are not kept: %s cannot be written (%s)", self.folder, error)
            self.held[rows] = tensors


def prune(root: Path, max_bytes: int = MAX_CACHE_BYTES) -> None:
    """Remove folders of parts, the one used longest ago first, until the rest fits."""
    folders = [path for path in root.glob("*") if path.is_dir()]
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for path in folders}
    total = sum(sizes.values())
    for path in sorted(folders, key=lambda path: path.stat().st_mtime):
        if total <= max_bytes:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]
