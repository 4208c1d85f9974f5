"""Forms of a coefficient as a function of the signal level, see the package."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

if TYPE_CHECKING:
    import sympy

Array = NDArray[np.float64]
Value = TypeVar("Value", Array, "sympy.Expr")

_STARTS = (-0.6, 0.5)
_SMALLEST = 0.01
"""Denominators smaller than this count as poles: modes are wider than a tenth of the spread."""


@dataclass(frozen=True)
class LevelForm:
    """A function of the signal level, its constants left open.

    Attributes:
        diagonal: Whether c is -1, as for the coordinate whose score it is.
        power: Power p.
        numerator: Whether there is a constant n.
        denominator: Powers of alpha in the denominator: (), (2,), (4,) or (2, 4).
    """

    diagonal: bool
    power: int
    numerator: bool
    denominator: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of constants: c (unless diagonal), n, then b and e, as far as there are any."""
        return (not self.diagonal) + self.numerator + len(self.denominator)

    def _parts(self, alpha: Value, constants: Iterable[Value]) -> tuple[Value, Value]:
        """Computes what is divided and by what, in arrays of any shape or in expressions."""
        rest, one, square = list(constants), alpha**0, alpha * alpha
        above = -one if self.diagonal else one * rest.pop(0)
        for _ in range(self.power):  # far faster than a power
            above = above * alpha
        if self.numerator:
            above = above * (1 + rest.pop(0) * square)
        below = one
        for constant, power in zip(rest, self.denominator, strict=True):
            below = below + constant * (square if power == 2 else square * square)
        return above, below

    def values(self, alpha: Array, constants: Array) -> Array:
        """Evaluates the form at signal levels of any shape."""
        above, below = self._parts(alpha, constants)
        return np.asarray(above / np.maximum(below, _SMALLEST))

    def is_regular(self, constants: Array) -> bool:
        """Whether the denominator is positive at all signal levels, 0 to 1."""
        _, below = self._parts(np.linspace(0, 1, 201), constants)
        return bool(below.min() >= _SMALLEST)

    def expression(self, alpha: sympy.Expr, constants: Sequence[sympy.Expr]) -> sympy.Expr:
        """Writes the form in SymPy, with given constants."""
        above, below = self._parts(alpha, constants)
        return above / below


def forms_of(diagonal: bool, least_power: int) -> list[LevelForm]:
    """Lists the forms of the coordinate itself, or those of powers from ``least_power``."""
    if diagonal:
        parts = itertools.product((False, True), ((), (2,), (4,), (2, 4)))
        return [LevelForm(True, 0, numerator, below) for numerator, below in parts]
    powers = range(least_power, least_power + 3)
    plain = [LevelForm(False, p, False, below) for p in powers for below in ((), (2,), (4,))]
    return plain + [LevelForm(False, least_power, True, below) for below in ((2,), (4,))]


def first_fit(form: LevelForm, alpha: Array, values: Array, weights: Array) -> Array:
    """Fits the constants of a form to a coefficient's numbers."""
    if form.size == 0:
        return np.zeros(0)

    def residuals(p: Array) -> Array:
        return weights * (form.values(alpha, p) - values)

    fits = []
    for start in _STARTS:
        first = np.full(form.size, start)
        if not form.diagonal:
            first[0] = 1.0
            base = weights * form.values(alpha, first)
            first[0] = float(base @ (weights * values)) / max(float(base @ base), 1e-12)
        fits.append(least_squares(residuals, first, method="lm", max_nfev=100))
    return np.asarray(min(fits, key=lambda fit: float(fit.cost)).x)
