r"""Every random number of a step follows from (seed, step, name, position in the global batch).

A step is a global batch here; it makes one update of the model, or several, or none.

A process never owns a random state, so a resumed run repeats itself, and the number of processes or
micro-batches changes nothing. Each name has a stream of its own, so a new draw in one place shifts
no other. It is drawn for the whole global batch and then sliced: that costs microseconds, and lets
every process see what the others drew (the times of all rows, say) without a message.
"""

import hashlib
from copy import copy
from numbers import Number
from typing import Any

import torch
from torch import Tensor


def derive_seed(*key: Any) -> int:
    """A 63-bit seed from whole numbers and strings, the same on every machine and in every run.

    Numbers of equal value give equal seeds, whoever made them: 3, 3.0, np.int64(3), torch.tensor(3)
    and True for 1. A text is its characters, also where its class is a subclass of str; ("a", 1)
    and ("a1",) give different seeds. Raises TypeError for anything else, such as 0.5 or None.
    """
    text = "\x1f".join(_word(part) for part in key)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _word(part: Any) -> str:
    """`int:3` or `str:a`."""
    if isinstance(part, str):
        return f"str:{str.__str__(part)}"
    try:
        number = part.item() if hasattr(part, "item") else part  # of numpy or torch
        whole = int(number) if isinstance(number, Number) else None  # pyright: ignore
    except (TypeError, ValueError, OverflowError, RuntimeError):  # complex, nan, inf, several
        whole = number = None
    if whole is None or whole != number:
        raise TypeError(f"a seed follows from whole numbers and text, got {part!r:.60}")
    return f"int:{whole}"


def generator(device: torch.device | str, *key: Any) -> torch.Generator:
    """A torch generator on `device`, seeded from `key` (see `derive_seed`)."""
    return torch.Generator(device=device).manual_seed(derive_seed(*key))


class StepRandom:
    """The random numbers of one step, for some rows of its global batch.

    Args:
        seed: The run's seed.
        step: The number of the global batch.
        n_rows: Size of the global batch: rows of all processes and micro-batches.
        rows: The rows this call is responsible for; all of them by default.
        device, dtype: Of the numbers.
        micro: Which of the step's micro-batches the rows are.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        n_rows: int,
        rows: slice | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        micro: int = 0,
    ) -> None:
        self.seed, self.step, self.n_rows, self.micro = seed, step, n_rows, micro
        self.rows = slice(0, n_rows) if rows is None else rows
        self.device, self.dtype = torch.device(device), dtype

    def on(self, device: torch.device | str) -> "StepRandom":
        """The same rows of the same step, with numbers made on another device.
        Decisions (times, chosen rows) are drawn on the CPU, where looking at them costs no wait."""
        twin = copy(self)
        twin.device = torch.device(device)
        return twin

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal numbers for the own rows, shape (n_own, *shape)."""
        return self.normal_all(name, shape)[self.rows]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers in [0, 1) for the own rows, shape (n_own, *shape)."""
        return self.uniform_all(name, shape)[self.rows]

    def normal_all(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal numbers for the whole global batch, shape (n_rows, *shape)."""
        return torch.randn(self.n_rows, *shape, generator=self._stream(name), **self._kind)

    def uniform_all(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform numbers in [0, 1) for the whole global batch, shape (n_rows, *shape)."""
        return torch.rand(self.n_rows, *shape, generator=self._stream(name), **self._kind)

    def permutation(self, name: str) -> Tensor:
        """A random order of the global batch's rows, shape (n_rows,), the same on all processes."""
        return torch.randperm(self.n_rows, generator=self._stream(name), device=self.device)

    def shared(self, name: str) -> torch.Generator:
        """For what all rows of a micro-batch share, on all processes: a generator on the CPU."""
        return generator("cpu", self.seed, "step", self.step, "micro", self.micro, name)

    def seeds(self, name: str) -> list[int]:
        """One of each own row, for numbers whose count is not known beforehand."""
        rows = range(self.n_rows)[self.rows]
        return [derive_seed(self.seed, "step", self.step, name, row) for row in rows]

    @property
    def _kind(self) -> dict:
        return {"device": self.device, "dtype": self.dtype}

    def _stream(self, name: str) -> torch.Generator:
        return generator(self.device, self.seed, "step", self.step, name)
