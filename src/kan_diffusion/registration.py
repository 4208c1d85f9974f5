"""Adds the pipelines to the names of diffusers, whichever of the two packages is imported first.

``DiffusionPipeline.from_pretrained`` looks up the class of a saved pipeline by name in the module
``diffusers``. That module gets a ``__getattr__`` (PEP 562) for our names: at once if it is already
imported, else by an import hook when it is. Nothing is imported for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODULE = "diffusers"


def offer(names: Collection[str], get: Callable[[str], object]) -> None:
    """Adds names to diffusers, which need not be imported yet.

    Args:
        names: The names.
        get: Returns the object that a name stands for, when it is used.
    """

    def look_up(asked: str) -> object:
        if asked in names:
            return get(asked)
        raise AttributeError(f"module '{_MODULE}' has no attribute '{asked}'")

    def add() -> None:
        sys.modules[_MODULE].__getattr__ = look_up  # type: ignore[method-assign]

    if _MODULE in sys.modules:
        add()
    else:
        sys.meta_path.insert(0, _AfterImport(add))


class _AfterImport:
    """Finds diffusers as the other finders do, and calls a function after its import."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_then(module: ModuleType) -> None:
                load(module)
                self._then()

            spec.loader.exec_module = load_and_then  # type: ignore[method-assign]
        return spec
