"""A device without float64, as Apple's `mps` is one, that works on any machine.

A tensor "on" it holds its values in a CPU tensor of its own, says that it is elsewhere, and lets
nobody mix it with tensors of the CPU. Whatever makes or reads float64 there raises `TooWide`. The
device is torch's `lazy`, whose name is free where no such backend is built in, and whose backward
passes run in the caller's thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from sparring.diffusion import randomness

DEVICE = torch.device("lazy", 0)
MAY_MIX = {"aten::copy_", "aten::_to_copy", "aten::index.Tensor", "aten::index_put_"}
"""What takes tensors of two devices elsewhere too."""


class TooWide(AssertionError):  # noqa: N818 - it is a state of the device
    """float64 has left the CPU."""


class Narrow(Tensor):
    """A tensor on the device."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Narrow":
        if held.dtype in (torch.float64, torch.complex128):
            raise TooWide(f"a tensor of shape {tuple(held.shape)} in {held.dtype}")
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"Narrow({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Makers(TorchDispatchMode):
    """What is made on the device, or brought there."""

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _OfNumbers(TorchFunctionMode):
    """`torch.tensor` and `torch.as_tensor`, whose last step no dispatch mode sees."""

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            del kwargs["device"]
            return func(*args, **kwargs).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def narrow_device() -> Iterator[torch.device]:
    """Inside, the device is there."""
    of_cpu, autocast = randomness.generator, torch.autocast

    def some_autocast(kind: str, *args: Any, **words: Any) -> Any:
        return nullcontext() if kind == DEVICE.type else autocast(kind, *args, **words)

    with (
        mock.patch.object(randomness, "generator", lambda _, *key: of_cpu("cpu", *key)),
        mock.patch.object(torch, "autocast", some_autocast),
        _OfNumbers(),
        _Makers(),
    ):
        yield DEVICE


def moved(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the device."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                there = Narrow(value.detach().clone())
                part._parameters[name] = nn.Parameter(there, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = Narrow(value.clone())
    return module


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A call of torch, made on the CPU with what the tensors hold."""
    flat, spec = tree_flatten((args, kwargs))
    ours = [one for one in flat if isinstance(one, Narrow)]
    wanted = kwargs.get("device")
    is_here = bool(ours) if wanted is None else torch.device(wanted) == DEVICE
    if ours and func.name() not in MAY_MIX:
        foreign = [one for one in flat if isinstance(one, Tensor) and not isinstance(one, Narrow)]
        if any(one.ndim > 0 for one in foreign):
            raise RuntimeError(f"{func} of tensors on {DEVICE} and on the CPU")
    plain = [_plain(one) for one in flat]
    args, kwargs = tree_unflatten(plain, spec)
    found = func(*args, **kwargs)
    if not is_here:
        return found
    known = {id(one.held): one for one in ours}  # what is changed in place stays itself

    def there(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return known[id(one)] if id(one) in known else Narrow(one)

    return tree_map(there, found)


def _plain(one: Any) -> Any:
    if isinstance(one, Narrow):
        return one.held
    return torch.device("cpu") if isinstance(one, torch.device) and one == DEVICE else one
