r"""Basis functions of a KAN's edges.

An edge of a KAN (Liu et al. 2024, arXiv:2404.19756) is a learned function of one variable,

.. math:: \phi(x) = w\,b(x) + \sum_{g=0}^{G+k-1} c_g\, B_g(x),

with a fixed base activation :math:`b` (SiLU) and :math:`G + k` B-splines of order :math:`k` on
:math:`G` uniform intervals. On uniform knots every B-spline is one function, shifted: with
:math:`u = (x - x_0) / h`, cell :math:`c = \lfloor u \rfloor` and :math:`f = u - c \in [0, 1)`, only
the :math:`k + 1` functions :math:`B_c, \dots, B_{c+k}` differ from zero, and

.. math:: B_{c+j}(x) = p_{k,j}(f), \qquad
    p_{k,j}(f) = \frac{f + k - j}{k}\, p_{k-1,j-1}(f) + \frac{1 + j - f}{k}\, p_{k-1,j}(f),

polynomials of degree :math:`k` with :math:`p_{0,0} = 1` (the Cox-de Boor recursion on uniform
knots, de Boor 1978, solved once here instead of at every evaluation; in matrix form it is Qin 2000,
"General matrix representations for B-splines").
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

__all__ = ["MAX_ORDER", "piece_coefficients"]

MAX_ORDER = 5
"""The highest spline order supported; degree 5 is four times continuously differentiable."""

Polynomial = tuple[Fraction, ...]


def _times_linear(polynomial: Polynomial, constant: Fraction, slope: Fraction) -> Polynomial:
    """``polynomial(f) * (constant + slope * f)``, coefficients from degree 0 upwards."""
    product = [Fraction(0)] * (len(polynomial) + 1)
    for degree, coefficient in enumerate(polynomial):
        product[degree] += coefficient * constant
        product[degree + 1] += coefficient * slope
    return tuple(product)


@cache
def _pieces(order: int) -> tuple[Polynomial, ...]:
    if order == 0:
        return ((Fraction(1),),)
    lower = _pieces(order - 1)
    zero = (Fraction(0),) * order
    pieces = []
    for j in range(order + 1):
        left = lower[j - 1] if j > 0 else zero
        right = lower[j] if j < order else zero
        rising = _times_linear(left, Fraction(order - j, order), Fraction(1, order))
        falling = _times_linear(right, Fraction(1 + j, order), Fraction(-1, order))
        pieces.append(tuple(a + b for a, b in zip(rising, falling, strict=True)))
    return tuple(pieces)


@cache
def piece_coefficients(order: int, derivative: int = 0) -> tuple[tuple[float, ...], ...]:
    """Coefficients of the polynomial pieces of a uniform B-spline, or of their derivatives.

    Args:
        order: Degree k of the spline, 0 to ``MAX_ORDER``.
        derivative: How often to differentiate with respect to f (in units of the grid step).

    Returns:
        k + 1 rows, one a piece j, each with k + 1 coefficients of 1, f, ..., f^k.
    """
    rows = []
    for piece in _pieces(order):
        polynomial = list(piece)
        for _ in range(derivative):
            polynomial = [*(n * c for n, c in enumerate(polynomial[1:], start=1)), Fraction(0)]
        rows.append(tuple(float(c) for c in polynomial))
    return tuple(rows)
