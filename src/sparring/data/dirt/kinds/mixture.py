"""Several kinds of dirt in one data set."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ...base import Dataset
from ..contract import Corruption, Dirt
from ..options import refuse
from ..registry import make


@dataclass
class Mixture(Dirt):
    """Each dirty sample gets one of the parts, which are dealt out in turn: equally often.

    Which part follows from (seed, index): the dirty samples are the first of a permutation, and
    the k-th of them gets part k mod the number of parts.

    Args:
        parts: [{kind: jpeg, quality: [10, 40]}, {kind: gaussian}, ...], each with the options of
            its kind; a kind may come more than once.
    """

    parts: Sequence[Mapping[str, Any]] = ()
    dirt: list[Dirt] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.parts, list | tuple) or not self.parts:
            raise refuse("parts", "a list of {kind: ..., its options}", self.parts)
        for i, part in enumerate(self.parts):
            if not isinstance(part, Mapping) or not isinstance(part.get("kind"), str):
                raise refuse(f"parts[{i}]", "{kind: ..., its options}", part)
            options = {str(key): value for key, value in part.items() if key != "kind"}
            self.dirt.append(make(part["kind"], options, f"parts[{i}]"))
        self.images_only = any(part.images_only for part in self.dirt)

    def of(self, number: int) -> Corruption:
        return self.dirt[number % len(self.dirt)].of(number // len(self.dirt))

    def prepared(self, dataset: Dataset, seed: int) -> Self:
        mine = copy.copy(self)
        mine.dirt = [part.prepared(dataset, seed) for part in self.dirt]
        return mine

    def settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"parts": [{"kind": part.kind, **part.settings(shape)} for part in self.dirt]}
