r"""The functions that an edge may turn out to be.

An edge is matched by :math:`c\,f(a x + b) + s x + d` with f from a library: affine inside and
outside, and a linear part (s = 0 for the simplest matches) because scores have one nearly
everywhere. The constant d belongs to the unit the edge enters. ``linear`` is the edge that has
nothing else.

A library is a mapping of names to :class:`EdgeFunction`. A function of one's own is an
``EdgeFunction`` in a module that can be imported, named ``"package.module:NAME"``; a network with
such an edge is saved by that name. A built-in one is a line of ``LIBRARY``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kan_diffusion.errors import KanDiffusionError, look_up
from kan_diffusion.imports import import_object

if TYPE_CHECKING:
    import sympy

__all__ = ["LIBRARY", "LINEAR", "EdgeFunction", "Library", "get_functions"]

Parity = Literal["odd", "even"] | None

_SMALL = 1e-6
"""Functions that end at 0 have their value at this number for all smaller ones."""


@dataclass(frozen=True)
class EdgeFunction:
    """A function f of one number.

    Attributes:
        name: Name in reports and configurations.
        values: Evaluates f of a tensor, elementwise and differentiable.
        expression: Evaluates the very same function of a SymPy expression.
        complexity: Cost when matches are compared: 1 for a straight line.
        parity: ``"odd"`` if f(-z) = -f(z), ``"even"`` if f(-z) = f(z); a search then needs one
            sign of a.
        shiftless: Whether a shift of z is a factor of f, so that b = 0 is enough.
        scaleless: Whether a factor of z is a factor of f, so that a = 1 is enough.
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
"""Name of the edge that is a straight line."""


class _LazySympy:
    """SymPy, which takes a while to import, imported when a function of it is needed."""

    def __getattr__(self, name: str) -> Callable[..., sympy.Expr]:
        import sympy

        function: Callable[..., sympy.Expr] = getattr(sympy, name)
        return function


_sympy = _LazySympy()


def _held(z: Tensor) -> Tensor:
    return z.clamp(min=_SMALL)


def _held_at(z: sympy.Expr) -> sympy.Expr:
    return _sympy.Max(z, _SMALL)


LIBRARY: Library = {
    function.name: function
    for function in (
        EdgeFunction(LINEAR, lambda z: z, lambda z: z, 1, "odd", True, True),
        EdgeFunction("square", lambda z: z**2, lambda z: z**2, 2, "even", scaleless=True),
        EdgeFunction("abs", torch.abs, lambda z: _sympy.Abs(z), 2, "even", scaleless=True),
        EdgeFunction("cube", lambda z: z**3, lambda z: z**3, 3, "odd", scaleless=True),
        EdgeFunction("tanh", torch.tanh, lambda z: _sympy.tanh(z), 3, "odd"),
        EdgeFunction("sin", torch.sin, lambda z: _sympy.sin(z), 3, "odd"),
        EdgeFunction("exp", torch.exp, lambda z: _sympy.exp(z), 3, None, True),
        EdgeFunction(
            "gaussian", lambda z: torch.exp(-(z**2)), lambda z: _sympy.exp(-(z**2)), 3, "even"
        ),
        EdgeFunction("rational", lambda z: 1 / (1 + z**2), lambda z: 1 / (1 + z**2), 3, "even"),
        # After tanh, of which it is an affine function: the first of two equals is taken.
        EdgeFunction("sigmoid", torch.sigmoid, lambda z: 1 / (1 + _sympy.exp(-z)), 3),
        EdgeFunction("log", lambda z: _held(z).log(), lambda z: _sympy.log(_held_at(z)), 4),
        EdgeFunction("sqrt", lambda z: _held(z).sqrt(), lambda z: _sympy.sqrt(_held_at(z)), 4),
        EdgeFunction("power4", lambda z: z**4, lambda z: z**4, 4, "even", scaleless=True),
    )
}
"""The built-in functions, the simplest first."""


def _own(place: str, importing: bool) -> EdgeFunction:
    module = place.partition(":")[0]
    if not importing and module not in sys.modules:
        raise KanDiffusionError(
            f"the network has an edge function of your own, '{place}': import {module} before "
            "you read it; a file must not decide what code runs"
        )
    # Matches and edges have it by its name, and find it again by its place alone.
    return replace(import_object(place, "edge function", EdgeFunction), name=place)


def get_functions(names: Iterable[str], *, importing: bool = True) -> Library:
    """Looks functions up by their names.

    Args:
        names: Names of ``LIBRARY``, or ``"package.module:NAME"`` for functions of one's own, which
            are known by that place.
        importing: Whether to import their modules; if not, they must be imported already.

    Returns:
        The functions by name.

    Raises:
        KanDiffusionError: There is no such function, or its module is not imported.
    """
    return {
        name: _own(name, importing) if ":" in name else look_up("edge function", name, LIBRARY)
        for name in names
    }
