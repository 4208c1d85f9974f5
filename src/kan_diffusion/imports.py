"""Objects of a user's own modules, named by where they are: ``"package.module:NAME"``.

Importing a module runs its code. A module is therefore imported only where the user names it: on
the command line, in a study file that the user gives, or in a program. A name in a file of a run is
looked up among the modules that are already imported.

A named module may lie in the working folder, which is never on the path: what the module or any
package imports is not looked for there, or a stranger's ``bottleneck.py`` would run with pandas.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TypeVar

from kan_diffusion.errors import KanDiffusionError, one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")


def own_class(place: str, base: type[T]) -> type[T]:
    """Loads a class of this package from ``"module:NAME"``, as its registries have it."""
    found = pkgutil.resolve_name(place)
    assert issubclass(found, base)
    return found


def is_place(name: str) -> bool:
    """Whether a name is of the form ``"package.module:NAME"``."""
    return isinstance(name, str) and ":" in name


def import_own(name: str) -> None:
    """Imports a module that a user has named: an installed one, or one of the working folder.

    Raises:
        KanDiffusionError: It cannot be imported.
    """
    if name in sys.modules:
        return
    if not all(part.isidentifier() for part in name.split(".")):
        raise KanDiffusionError(
            f"module '{name}' cannot be imported: it is not of the form package.module; name a "
            "module, not a file"
        )
    root = name.partition(".")[0]
    is_installed = root in sys.modules or importlib.util.find_spec(root) is not None
    try:
        spec = None if is_installed else PathFinder.find_spec(root, [str(Path.cwd())])
        if spec is not None:
            sys.modules[root] = importlib.util.module_from_spec(spec)
            if spec.loader is not None:  # a folder without __init__.py has none
                spec.loader.exec_module(sys.modules[root])
        module = importlib.import_module(name)
    except Exception as error:  # a module of one's own may raise any
        if not is_installed:
            sys.modules.pop(root, None)
        if isinstance(error, KanDiffusionError):
            raise
        said = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise KanDiffusionError(
            f"module '{name}' cannot be imported ({said}{one_line(str(error))}); mend or install "
            "it, put its folder on PYTHONPATH, or make a package of modules that import each other"
        ) from error
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
    found = getattr(sys.modules[module_name], attribute, None)
    if not isinstance(found, of_type):
        raise KanDiffusionError(
            f"{kind} '{place}' is no {of_type.__name__}; make one of that name with "
            f"{of_type.__module__}.{of_type.__name__}"
        )
    return found
