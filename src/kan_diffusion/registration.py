"""Adds the pipelines to the names of diffusers, whichever of the two packages is imported first.

``DiffusionPipeline.from_pretrained`` looks up the class of a saved pipeline by name in the module
``diffusers``. That module gets a ``__getattr__`` (PEP 562) for our names: at once if it is
already imported, else by an import hook when it is. Nothing is imported for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["offer"]


class _AfterImport:
    """Import hook: finds a module like the other finders and calls a function after its import."""

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self._module = module
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds the module, with a loader that calls the function after loading."""
        if name != self._module:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_then(module: ModuleType) -> None:
                load(module)
                self._then()

            spec.loader.exec_module = load_and_then  # type: ignore[method-assign]
        return spec


def offer(module: str, names: Sequence[str], get: Callable[[str], object]) -> None:
    """Adds names to a module, which are looked up when they are used.

    Args:
        module: Name of the module, which need not be imported yet and is not imported.
        names: The names.
        get: Returns the object that a name stands for.
    """

    def add() -> None:
        def look_up(asked: str) -> object:
            if asked in names:
                return get(asked)
            raise AttributeError(f"module '{module}' has no attribute '{asked}'")

        sys.modules[module].__getattr__ = look_up  # type: ignore[method-assign]

    if module in sys.modules:
        add()
    else:
        sys.meta_path.insert(0, _AfterImport(module, add))
