r"""The functions that an edge may turn out to be.

An edge is matched by :math:`c\,f(a x + b) + s x + d` with f from a library: affine inside and
outside, and a linear part (s = 0 for the simplest matches) because scores have one nearly
everywhere. The constant d belongs to the unit the edge enters. ``linear`` is the edge that has
nothing else.

A library is a mapping of names to :class:`EdgeFunction`. One of one's own is an ``EdgeFunction`` in
a module that can be imported, named ``"package.module:NAME"``: a network with such an edge is saved
by that name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError, unknown_name

if TYPE_CHECKING:
    import sympy

__all__ = ["LIBRARY", "LINEAR", "EdgeFunction", "Library", "get_functions"]

Parity = Literal["odd", "even"] | None

_SMALL = 1e-6
"""Where functions that end at 0 are held."""


@dataclass(frozen=True)
class EdgeFunction:
    """A function f of one number.

    Attributes:
        name: What reports write.
        values: f of a tensor, elementwise and differentiable.
        expression: f of a SymPy expression, the very same function.
        complexity: What it costs when matches are compared: 1 for a straight line.
        parity: Whether f(-z) is -f(z) (odd) or f(z) (even); a search then needs one sign of a.
        shiftless: Whether a shift of z comes to another factor of f, so that b = 0 will do.
        scaleless: Whether a factor of z comes to another factor of f, so that a = 1 will do.
    """

    name: str
    values: Callable[[Tensor], Tensor]
    expression: Callable[[sympy.Expr], sympy.Expr]
    complexity: int
    parity: Parity = None
    shiftless: bool = False
    scaleless: bool = False


Library = Mapping[str, EdgeFunction]

LINEAR = "linear"
"""Name of the edge with nothing but a slope."""


def _of_sympy(name: str) -> Callable[[sympy.Expr], sympy.Expr]:
    def expression(z: sympy.Expr) -> sympy.Expr:
        import sympy

        made: sympy.Expr = getattr(sympy, name)(z)
        return made

    return expression


def _held(name: str) -> Callable[[sympy.Expr], sympy.Expr]:
    """A function of SymPy's that is not defined below 0, held at a small number there."""

    def expression(z: sympy.Expr) -> sympy.Expr:
        import sympy

        made: sympy.Expr = getattr(sympy, name)(sympy.Max(z, _SMALL))
        return made

    return expression


def _sigmoid(z: sympy.Expr) -> sympy.Expr:
    import sympy

    made: sympy.Expr = 1 / (1 + sympy.exp(-z))
    return made


def _gaussian(z: sympy.Expr) -> sympy.Expr:
    import sympy

    made: sympy.Expr = sympy.exp(-(z**2))
    return made


LIBRARY: Library = {
    function.name: function
    for function in (
        EdgeFunction(LINEAR, lambda z: z, lambda z: z, 1, "odd", True, True),
        EdgeFunction("square", lambda z: z**2, lambda z: z**2, 2, "even", scaleless=True),
        EdgeFunction("abs", lambda z: z.abs(), _of_sympy("Abs"), 2, "even", scaleless=True),
        EdgeFunction("cube", lambda z: z**3, lambda z: z**3, 3, "odd", scaleless=True),
        EdgeFunction("tanh", torch.tanh, _of_sympy("tanh"), 3, "odd"),
        EdgeFunction("sin", torch.sin, _of_sympy("sin"), 3, "odd"),
        EdgeFunction("exp", torch.exp, _of_sympy("exp"), 3, None, True),
        EdgeFunction("gaussian", lambda z: torch.exp(-(z**2)), _gaussian, 3, "even"),
        EdgeFunction("rational", lambda z: 1 / (1 + z**2), lambda z: 1 / (1 + z**2), 3, "even"),
        # After tanh, of which it is an affine function: the first of two equals is taken.
        EdgeFunction("sigmoid", torch.sigmoid, _sigmoid, 3),
        EdgeFunction("log", lambda z: z.clamp(min=_SMALL).log(), _held("log"), 4),
        EdgeFunction("sqrt", lambda z: z.clamp(min=_SMALL).sqrt(), _held("sqrt"), 4),
        EdgeFunction("power4", lambda z: z**4, lambda z: z**4, 4, "even", scaleless=True),
    )
}
"""The built-in functions, the simplest first."""


def _imported(place: str, importing: bool) -> EdgeFunction:
    module_name, _, attribute = place.partition(":")
    if not importing and module_name not in sys.modules:
        raise KanDiffusionError(
            f"the network has an edge function of your own, '{place}': import {module_name} before "
            "you read it; a file must not decide what code runs"
        )
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise KanDiffusionError(
            f"edge function '{place}' cannot be imported ({error}); name a module that is on "
            "PYTHONPATH and an EdgeFunction in it"
        ) from error
    if not isinstance(found, EdgeFunction):
        raise KanDiffusionError(
            f"edge function '{place}' is of type {type(found).__name__}, not an EdgeFunction"
        )
    # Matches and edges have it by its name, and find it again by its place alone.
    return replace(found, name=place)


def get_functions(names: Iterable[str], *, importing: bool = True) -> Library:
    """A library by names.

    Args:
        names: Names of ``LIBRARY``, or ``"package.module:NAME"`` for functions of one's own, which
            are known by that place.
        importing: Whether to import their modules; if not, they must be imported already.

    Raises:
        KanDiffusionError: There is no such function, or its module is not imported.
    """
    library = {}
    for name in names:
        if ":" in name:
            library[name] = _imported(name, importing)
        elif name in LIBRARY:
            library[name] = LIBRARY[name]
        else:
            raise unknown_name("edge function", name, LIBRARY)
    return library
