"""Objects of a user's own modules, named by where they are: ``"package.module:NAME"``.

Importing a module runs its code. A module is therefore imported only where the user names it: on
the command line, in a study file that the user gives, or in a program. A name in a file of a run is
looked up among the modules that are already imported.

A named module may lie in the working folder, which is never on the path: what the module or any
package imports is not looked for there, or a stranger's ``bottleneck.py`` would run with pandas.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from kan_diffusion.errors import KanDiffusionError, one_line

__all__ = ["find_object", "from_extra", "import_own", "is_place", "own_class"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


def own_class(place: str, base: type[T]) -> type[T]:
    """Loads a class of this package from ``"module:NAME"``, as its registries have it."""
    found = pkgutil.resolve_name(place)
    assert issubclass(found, base)
    return found


def is_place(name: str) -> bool:
    """Whether a name is of the form ``"package.module:NAME"``."""
    return ":" in name


class _WorkingFolder(MetaPathFinder):
    """Finds one module or package in the working folder, and nothing else there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None and fullname == self._name:
            return PathFinder.find_spec(fullname, [str(Path.cwd())])
        return None


def import_own(name: str) -> None:
    """Imports a module that a user has named: an installed one, or one of the working folder.

    Raises:
        KanDiffusionError: It cannot be imported.
    """
    if name in sys.modules:
        return
    finder = _WorkingFolder(name.partition(".")[0])
    sys.meta_path.append(finder)  # the last: an installed module comes first
    try:
        module = importlib.import_module(name)
    except KanDiffusionError:
        raise
    except Exception as error:  # a module of one's own may raise any
        said = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise KanDiffusionError(
            f"module '{name}' cannot be imported ({said}{one_line(str(error))}); mend or install "
            "it, put its folder on PYTHONPATH, or make a package of modules that import each other"
        ) from error
    finally:
        sys.meta_path.remove(finder)
    if not name.startswith("kan_diffusion."):
        logger.info("module '%s' is imported from '%s'", name, module.__file__)


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Says how to install what imports inside the block lack; the package is on no index.

    Args:
        extra: The extra of this package that installs them.
        what: What needs them, in the plural, such as ``"prompts"``.

    Raises:
        KanDiffusionError: One of them is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise KanDiffusionError(
            f"{what} need '{error.name}'; install it in a clone of the repository: pip install "
            f"'.[{extra}]'"
        ) from error


def find_object(place: str, kind: str, of_type: type[T], *, importing: bool = False) -> T:
    """Looks up the object at ``"package.module:NAME"``.

    Args:
        place: The module and the name in it.
        kind: What the object is, in the singular, such as ``"family"``, for messages.
        of_type: The class it must be an instance of.
        importing: Whether to import the module, because a user has named it; if not, it must be
            imported already.

    Raises:
        KanDiffusionError: The name is not of that form, the module cannot be imported or is not
            imported, or there is no such object in it.
    """
    module_name, _, attribute = place.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise KanDiffusionError(
            f"{kind} '{place}' is not of the form 'package.module:NAME'; name a module and an "
            f"object in it"
        )
    if importing:
        import_own(module_name)
    if module_name not in sys.modules:
        raise KanDiffusionError(
            f"{kind} '{place}' is code of your own, and a file does not decide what code runs: "
            f"import {module_name} first"
        )
    name = of_type.__name__
    name = f"an {name}" if name[0] in "AEIOU" else f"a {name}"
    try:
        found = getattr(sys.modules[module_name], attribute)
    except AttributeError:
        raise KanDiffusionError(
            f"{kind} '{place}': module '{module_name}' has no '{attribute}'; define it there as "
            f"{name}"
        ) from None
    if not isinstance(found, of_type):
        raise KanDiffusionError(
            f"{kind} '{place}' is of type {type(found).__name__}, not {name}; make it one with "
            f"{of_type.__module__}.{of_type.__name__}"
        )
    return found
