"""The states of the generators that training may draw from, dropout above all."""

import base64
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's own generators, as JSON can hold them."""
    version, numbers, gauss = random.getstate()
    legacy = cast("tuple[Any, ...]", np.random.get_state(legacy=True))
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [legacy[0], np.asarray(legacy[1]).tolist(), *legacy[2:]],
        "torch": _to_text(torch.get_rng_state()),
        "cuda": [_to_text(state) for state in on_gpus],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_from_text(states["torch"]))
    if torch.cuda.is_available():
        n_devices = min(len(states["cuda"]), torch.cuda.device_count())
        torch.cuda.set_rng_state_all([_from_text(text) for text in states["cuda"][:n_devices]])


@contextmanager
def unchanged_random_states() -> Iterator[None]:
    """Whatever is drawn inside, training goes on as if nothing had been."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def _to_text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _from_text(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
