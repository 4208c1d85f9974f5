r"""The functions that edges are matched to.

An edge is matched to :math:`c\,f(a x + b) + s x + d` with f from a library. The match has a linear
part (s = 0 for the simplest matches) because scores have one nearly everywhere. The constant d is
added to the bias of the unit that the edge enters. A ``linear`` edge has the linear part alone.

A library is a mapping of names to :class:`EdgeFunction`. A user's function is an ``EdgeFunction``
in a module that can be imported, named ``"package.module:NAME"``; a saved network refers to it by
that name. A built-in function is a line of ``LIBRARY``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kan_diffusion.errors import look_up
from kan_diffusion.imports import find_object, is_place

if TYPE_CHECKING:
    import sympy

_SMALL = 1e-6
"""Smallest argument of functions that are defined above 0; smaller ones are clamped to it."""


@dataclass(frozen=True)
class EdgeFunction:
    """A function f of one number.

    Attributes:
        name: Name in reports and configurations.
        values: Evaluates f on a tensor, elementwise and differentiably.
        expression: Applies the same function to a SymPy expression.
        complexity: Cost when matches are compared: 1 for a straight line.
        parity: ``"odd"`` if f(-z) = -f(z), ``"even"`` if f(-z) = f(z); a search then needs one
            sign of a.
        shiftless: Whether c or d can absorb a shift of z, so that b = 0 is enough.
        scaleless: Whether c can absorb a factor of z, so that a = 1 is enough.

    Example:
        >>> import sympy
        >>> from kan_diffusion.denoisers import EdgeFunction
        >>> cube = EdgeFunction("cube", lambda x: x**3, lambda x: x**3, complexity=3, parity="odd")
        >>> cube.values(torch.tensor(2.0)).item(), cube.expression(sympy.Symbol("x"))
        (8.0, x**3)
    """

    name: str
    values: Callable[[Tensor], Tensor]
    expression: Callable[[sympy.Expr], sympy.Expr]
    complexity: int
    parity: Literal["odd", "even"] | None = None
    shiftless: bool = False
    scaleless: bool = False


Library = Mapping[str, EdgeFunction]

LINEAR = "linear"
"""Name of the edge that is a straight line."""


def _sympy(name: str, *parts: sympy.Expr) -> sympy.Expr:
    import sympy  # which takes a while

    return getattr(sympy, name)(*parts)


def _held(name: str, z: sympy.Expr) -> sympy.Expr:
    return _sympy(name, _sympy("Max", z, _SMALL))


LIBRARY: Library = {
    function.name: function
    for function in (
        EdgeFunction(LINEAR, lambda z: z, lambda z: z, 1, "odd", True, True),
        EdgeFunction("square", lambda z: z**2, lambda z: z**2, 2, "even", scaleless=True),
        EdgeFunction("abs", torch.abs, partial(_sympy, "Abs"), 2, "even", scaleless=True),
        EdgeFunction("cube", lambda z: z**3, lambda z: z**3, 3, "odd", scaleless=True),
        EdgeFunction("tanh", torch.tanh, partial(_sympy, "tanh"), 3, "odd"),
        EdgeFunction("sin", torch.sin, partial(_sympy, "sin"), 3, "odd"),
        EdgeFunction("exp", torch.exp, partial(_sympy, "exp"), 3, shiftless=True),
        EdgeFunction(
            "gaussian", lambda z: torch.exp(-(z**2)), lambda z: _sympy("exp", -(z**2)), 3, "even"
        ),
        EdgeFunction("rational", lambda z: 1 / (1 + z**2), lambda z: 1 / (1 + z**2), 3, "even"),
        # After tanh: sigmoid is an affine function of it, and the first of two equals is taken.
        EdgeFunction("sigmoid", torch.sigmoid, lambda z: 1 / (1 + _sympy("exp", -z)), 3),
        EdgeFunction("log", lambda z: z.clamp(min=_SMALL).log(), partial(_held, "log"), 4),
        EdgeFunction("sqrt", lambda z: z.clamp(min=_SMALL).sqrt(), partial(_held, "sqrt"), 4),
        EdgeFunction("power4", lambda z: z**4, lambda z: z**4, 4, "even", scaleless=True),
    )
}
"""The built-in functions, the simplest first."""


def get_functions(names: Iterable[str], *, importing: bool = False) -> Library:
    """Looks functions up by their names.

    Args:
        names: Names of ``LIBRARY``, or ``"package.module:NAME"`` for a user's functions.
        importing: Whether to import their modules; if not, they must be imported already.

    Raises:
        KanDiffusionError: There is no such function, or its module is not imported.
    """
    functions = {}
    for name in names:
        if is_place(name):
            function = find_object(name, "edge function", EdgeFunction, importing=importing)
            # Matches and edges keep the name alone, so it must say where the function is.
            functions[name] = replace(function, name=name)
        else:
            functions[name] = look_up("edge function", name, LIBRARY)
    return functions
