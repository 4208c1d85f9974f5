"""Objects of a user's own modules, named by where they are: ``"package.module:NAME"``.

Such a name works in every process, also in a worker on another machine, without registering
anything.
"""

from __future__ import annotations

import importlib
from typing import TypeVar

from kan_diffusion.errors import KanDiffusionError

__all__ = ["import_object"]

T = TypeVar("T")


def import_object(place: str, kind: str, of_type: type[T]) -> T:
    """Imports the object at ``"package.module:NAME"``.

    Args:
        place: The module and the name in it.
        kind: What the object is, in the singular, such as ``"family"``, for messages.
        of_type: The class it must be an instance of.

    Raises:
        KanDiffusionError: The name is not of that form, the module cannot be imported, or there is
            no such object in it.
    """
    module_name, _, attribute = place.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise KanDiffusionError(
            f"{kind} '{place}' is not of the form 'package.module:NAME'; name a module and an "
            f"object in it"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise KanDiffusionError(
            f"{kind} '{place}': module '{module_name}' cannot be imported ({error}); install it or "
            "put its folder on PYTHONPATH"
        ) from error
    name = of_type.__name__
    try:
        found = getattr(module, attribute)
    except AttributeError:
        raise KanDiffusionError(
            f"{kind} '{place}': module '{module_name}' has no '{attribute}'; define it there as a "
            f"{name}"
        ) from None
    if not isinstance(found, of_type):
        package = of_type.__module__.rpartition(".")[0]
        raise KanDiffusionError(
            f"{kind} '{place}' is of type {type(found).__name__}, not a {name}; make it one with "
            f"{package}.{name}"
        )
    return found
