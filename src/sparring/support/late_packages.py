"""Packages that are run when they are first asked for a name, not when a module in them is.

A U-Net of diffusers needs two modules of `diffusers.models.transformers`, whose `__init__` imports
forty, and by them peft and the models of transformers: 1.5 of 5 seconds from a command to its first
step. Python runs a package before a module in it; here it is left until somebody wants a name of it
(`from diffusers.models.transformers import ...`). Only commands do so, see `cli`: a program that
imports sparring has diffusers as it is.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

LATE = frozenset(("diffusers.hooks", "diffusers.models.transformers", "diffusers.models.unets"))


def leave_until_asked_for() -> None:
    """From now on, in this process; what is imported already stays."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec: Any = PathFinder.find_spec(name, path, target) if name in LATE else None
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Late(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Not yet."""


class _Late(ModuleType):
    """A package that was not run: it has a place, so modules in it are found."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        me: Any = self
        me.__class__ = ModuleType
        me.__loader__.real.exec_module(me)
        return getattr(me, name)
