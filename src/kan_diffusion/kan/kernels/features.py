r"""What an input is expanded into, and the gradient that comes back, as loops over vectors.

The functions of :mod:`kan_diffusion.kan.bases` that are dense, all of them different from zero:
Gaussians, Chebyshev polynomials, harmonics and rational functions. The rows of a batch run along
the vector, so a function is a row of the result. Gaussians are one exponential each; the others
need few operations or are recurrences: with :math:`c_g, s_g` cosine and sine of :math:`g \theta`

.. math::
    c_{g+1} = c_g c_1 - s_g s_1, \quad s_{g+1} = s_g c_1 + c_g s_1, \qquad
    T_{g+1} = 2 z T_g - T_{g-1}, \quad U_{g+1} = 2 z U_g - U_{g-1},

and :math:`\theta` is reduced to a quarter turn without an error first. With B the functions, b the
base activation and :math:`\partial B` the gradients that reach them,
:math:`\partial x = b' \, \partial b + \frac1h \sum_g B_g'\, \partial B_g`. A rational function
:math:`B = P / S`, :math:`S = 1 + |Q|`, also has gradients for its coefficients:

.. math::
    B' = \frac{P' - B \operatorname{sgn}(Q)\, Q'}{S}, \quad
    \frac{\partial B}{\partial a_j} = \frac{x^j}{S}, \quad
    \frac{\partial B}{\partial b_j} = -\frac{B \operatorname{sgn}(Q)\, x^j}{S}.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba infers the types of what it compiles
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import math

import numba
import numpy as np
from numba import types
from numba.extending import overload

from kan_diffusion.kan.bases.rational import DENOMINATOR_DEGREE, NUMERATOR_DEGREE
from kan_diffusion.kan.kernels.simd import (
    dot,
    floor,
    fma,
    get,
    load,
    maximum,
    minimum,
    nan_or_zero,
    power_of_two,
    splat,
    store,
    zero_where_apart,
    zeros,
)

__all__ = [
    "CLAMP",
    "COEFFICIENTS",
    "KINDS",
    "LANES",
    "LINEAR",
    "OPTIONS",
    "PLAIN",
    "expand",
    "silu",
]

LANES = 16
"""Rows of a vector."""

# Functions are continued by their tangent, held, or taken as they are.
PLAIN, CLAMP, LINEAR = 0, 1, 2

COEFFICIENTS = NUMERATOR_DEGREE + 1 + DENOMINATOR_DEGREE
"""Coefficients of a rational function: a_0, ..., a_m, b_1, ..., b_n."""

# A NaN must stay one, so values are not assumed to be finite; nor are divisions exchanged for
# multiplications, which would move the place on the grid.
OPTIONS = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
_INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _numbers(vector) -> tuple[bool, int, type]:
    """Whether a vector is of doubles, its lanes, and the type of its numbers."""
    double = vector.dtype.bitwidth == 64
    return double, vector.lanes, np.float64 if double else np.float32


def _constant(like, value):
    raise NotImplementedError


@overload(_constant, jit_options=_INNER)
def _(like, value):
    _, lanes, real = _numbers(like)
    return lambda like, value: splat(real(value), lanes)


def _exp2(whole, rest):
    """``2**(whole + rest)`` for a whole number and -1/2 to 1/2; 0 where ``whole`` is at its end."""
    raise NotImplementedError


@overload(_exp2, jit_options=_INNER)
def _(whole, rest):
    double, lanes, real = _numbers(rest)
    terms = 14 if double else 8  # of the series, exact to rounding
    series = tuple(math.log(2) ** n / math.factorial(n) for n in range(terms))

    def impl(whole, rest):
        power = splat(real(series[terms - 1]), lanes)
        for n in range(terms - 2, -1, -1):
            power = fma(power, rest, splat(real(series[n]), lanes))
        return power * power_of_two(whole)

    return impl


def _gaussian(square, nan):
    """``exp(-square)``, with NaN where ``nan`` is one and 0 elsewhere."""
    raise NotImplementedError


@overload(_gaussian, jit_options=_INNER)
def _(square, nan):
    double, lanes, real = _numbers(square)
    end = 1023 if double else 127  # 2**-end is written as a zero
    largest, factor = end * math.log(2), -1 / math.log(2)

    def impl(square, nan):
        square = minimum(square, splat(real(largest), lanes))
        log2 = splat(real(factor), lanes)
        whole = maximum(floor(fma(square, log2, splat(real(0.5), lanes))), splat(real(-end), lanes))
        # The product is not rounded before the difference.
        rest = fma(square, log2, nan - whole)
        return _exp2(whole, rest)

    return impl


def _sigmoid_and_silu(x):
    """The logistic function and its product with x."""
    raise NotImplementedError


@overload(_sigmoid_and_silu, jit_options=_INNER)
def _(x):
    double, lanes, real = _numbers(x)
    end = 1022 if double else 126  # exponents of normal numbers

    def impl(x):
        one, bound = splat(real(1), lanes), splat(real(end), lanes)
        log2 = x * splat(real(-1 / math.log(2)), lanes)
        log2 = minimum(maximum(log2, splat(real(-end), lanes)), bound)
        whole = floor(log2 + splat(real(0.5), lanes))
        sigmoid = one / (one + _exp2(whole, log2 - whole))
        # As torch has it: zero at the most negative numbers, NaN at minus infinity.
        lowest = splat(real(-end * math.log(2)), lanes)
        zero = splat(real(0), lanes)
        special = minimum(x, zero) * zero + nan_or_zero(x)
        return sigmoid, maximum(x, lowest) * sigmoid + special

    return impl


def _cosine_and_sine(turns):
    """Cosine and sine of ``2 pi turns`` for -1/8 to 1/8."""
    raise NotImplementedError


@overload(_cosine_and_sine, jit_options=_INNER)
def _(turns):
    double, lanes, real = _numbers(turns)
    terms = 9 if double else 5  # of both series, exact to rounding
    powers = [(-1) ** (n // 2) * (2 * math.pi) ** n / math.factorial(n) for n in range(2 * terms)]
    cosines, sines = tuple(powers[::2]), tuple(powers[1::2])

    def impl(turns):
        square = turns * turns
        cosine = splat(real(cosines[terms - 1]), lanes)
        sine = splat(real(sines[terms - 1]), lanes)
        for n in range(terms - 2, -1, -1):
            cosine = fma(cosine, square, splat(real(cosines[n]), lanes))
            sine = fma(sine, square, splat(real(sines[n]), lanes))
        return cosine, sine * turns

    return impl


@numba.njit(**_INNER)
def _harmonic(place, period):
    """Cosine and sine of ``2 pi place / period``; a place is reduced without an error first."""
    zero, one, two = _constant(place, 0), _constant(place, 1), _constant(place, 2)
    quarter, bound = _constant(place, 0.25), _constant(place, 0.125)
    quarters = floor(place / _constant(place, 0.25 * period) + _constant(place, 0.5))
    rest = fma(zero - quarters, _constant(place, 0.25 * period), place)
    # Of places whole periods apart from the next number, the rest would mean nothing.
    turns = minimum(maximum(rest / _constant(place, period), zero - bound), bound)
    cosine, sine = _cosine_and_sine(turns + nan_or_zero(rest))
    quarters = quarters - (two + two) * floor(quarters * quarter)  # 0 to 3
    turned, beside = quarters - two, quarters - one
    along = maximum(turned, zero - turned) - one  # the cosine of so many quarters: 1, 0, -1, 0
    across = one - maximum(beside, zero - beside)  # and their sine: 0, 1, 0, -1
    return cosine * along - sine * across, sine * along + cosine * across


@numba.njit(**_INNER)
def _place(x, origin, step, size, mode):
    """The place u on the grid, where functions are evaluated for it, and the distance of both.

    All three are NaN where x is; the distance is that along the tangent, zero without one.
    """
    u = (x - _constant(x, origin)) / _constant(x, step)
    zero = _constant(x, 0)
    if mode == PLAIN:
        return u, u, zero
    inside = minimum(maximum(u, zero), _constant(x, size)) + nan_or_zero(u)
    if mode == CLAMP:
        return u, inside, zero
    return u, inside, u - inside


@numba.njit(**_INNER)
def _return_slope(slope, u, inside, mode, step, grad_x, at):
    """Adds a gradient in u to that in x."""
    if mode == CLAMP:
        slope = zero_where_apart(slope, u, inside)
    total = load(grad_x, at, LANES) + slope / _constant(slope, step)
    store(grad_x, at, total)


@numba.njit(**_INNER)
def silu(x, at, count, functions, grads, to, backward, grad_x):
    """The base activation of one input; with ``backward`` begins the gradient in x, too."""
    for r in range(0, count, LANES):
        value = load(x, at + r, LANES)
        sigmoid, base = _sigmoid_and_silu(value)
        store(functions, to + r, base)
        if backward:
            slope = sigmoid + base * (_constant(value, 1) - sigmoid)
            store(grad_x, at + r, slope * load(grads, to + r, LANES))


@numba.njit(**_INNER)
def _rbf(
    x, at, count, i, origin, step, size, mode, functions, grads, to, stride, backward, grad_x,
    totals,
):  # fmt: skip
    """The Gaussians of input i."""
    low, width = get(origin, i), get(step, i)
    for r in range(0, count, LANES):
        u, inside, beyond = _place(load(x, at + r, LANES), low, width, size, mode)
        nan = nan_or_zero(inside)
        distance, one = inside, _constant(inside, 1)
        slopes = zeros(x, LANES)
        place = to + r
        for _ in range(size + 1):
            value = _gaussian(distance * distance, nan)
            slope = (distance + distance) * value
            if mode == LINEAR:
                store(functions, place, value - beyond * slope)
            else:
                store(functions, place, value)
            if backward:
                slopes = slopes - slope * load(grads, place, LANES)
            distance = distance - one
            place += stride
        if backward:
            _return_slope(slopes, u, inside, mode, width, grad_x, at + r)


@numba.njit(**_INNER)
def _chebyshev(
    x, at, count, i, origin, step, size, mode, functions, grads, to, stride, backward, grad_x,
    totals,
):  # fmt: skip
    """The Chebyshev polynomials of input i."""
    low, width = get(origin, i), get(step, i)
    for r in range(0, count, LANES):
        u, inside, beyond = _place(load(x, at + r, LANES), low, width, size, mode)
        one = _constant(inside, 1)
        z = (inside + inside) / _constant(inside, size) - one
        twice = z + z
        beyond = beyond * _constant(inside, 2 / size)
        # T_g with T_{g+1}, and U_{g-1} with U_g.
        first, first_next = one, z
        second, second_next = zeros(x, LANES), one
        slopes = zeros(x, LANES)
        place = to + r
        for g in range(size + 1):
            slope = second * _constant(second, g)
            if mode == LINEAR:
                store(functions, place, fma(beyond, slope, first))
            else:
                store(functions, place, first)
            if backward:
                slopes = fma(slope, load(grads, place, LANES), slopes)
            first, first_next = first_next, twice * first_next - first
            second, second_next = second_next, twice * second_next - second
            place += stride
        if backward:
            slopes = slopes * _constant(slopes, 2 / size)
            _return_slope(slopes, u, inside, mode, width, grad_x, at + r)


@numba.njit(**_INNER)
def _fourier(
    x, at, count, i, origin, step, size, mode, functions, grads, to, stride, backward, grad_x,
    totals,
):  # fmt: skip
    """The harmonics of input i."""
    low, width = get(origin, i), get(step, i)
    frequency = 2 * math.pi / size
    for r in range(0, count, LANES):
        u, inside, beyond = _place(load(x, at + r, LANES), low, width, size, mode)
        cosine, sine = _harmonic(inside, size)
        first_cosine, first_sine = cosine, sine
        beyond = beyond * _constant(u, frequency)
        slopes = zeros(x, LANES)
        place = to + r
        for g in range(1, size + 1):
            harmonic = _constant(u, g)
            if mode == LINEAR:
                far = beyond * harmonic
                store(functions, place, cosine - far * sine)
                store(functions, place + stride, sine + far * cosine)
            else:
                store(functions, place, cosine)
                store(functions, place + stride, sine)
            if backward:
                slope = cosine * load(grads, place + stride, LANES)
                slope = slope - sine * load(grads, place, LANES)
                slopes = fma(slope, harmonic, slopes)
            cosine, sine = (
                cosine * first_cosine - sine * first_sine,
                sine * first_cosine + cosine * first_sine,
            )
            place += 2 * stride
        if backward:
            slopes = slopes * _constant(slopes, frequency)
            _return_slope(slopes, u, inside, mode, width, grad_x, at + r)


@numba.njit(**_INNER)
def _rational(
    x, at, count, i, numerator, denominator, size, mode, functions, grads, to, stride, backward,
    grad_x, totals,
):  # fmt: skip
    """The rational function of group i; also adds to the gradients of its coefficients."""
    a, b = i * (NUMERATOR_DEGREE + 1), i * DENOMINATOR_DEGREE - 1  # a_0, and b_0 would be
    sums = np.zeros(COEFFICIENTS * LANES, x.dtype)
    for r in range(0, count, LANES):
        value = load(x, at + r, LANES)
        one, zero = _constant(value, 1), zeros(x, LANES)
        above = _constant(value, get(numerator, a + NUMERATOR_DEGREE))
        above_slope = zero
        for degree in range(NUMERATOR_DEGREE - 1, -1, -1):
            above_slope = fma(above_slope, value, above)
            above = fma(above, value, _constant(value, get(numerator, a + degree)))
        below = _constant(value, get(denominator, b + DENOMINATOR_DEGREE))
        below_slope = zero
        for degree in range(DENOMINATOR_DEGREE - 1, 0, -1):
            below_slope = fma(below_slope, value, below)
            below = fma(below, value, _constant(value, get(denominator, b + degree)))
        below_slope = fma(below_slope, value, below)
        below = below * value
        divisor = one + maximum(below, zero - below)
        ratio = above / divisor
        store(functions, to + r, ratio)
        if backward:
            # -1, 0 or 1; once is too little for the smallest numbers.
            steep = _constant(below, _steepest(below))
            sign = minimum(maximum(below * steep * steep, zero - one), one)
            share = load(grads, to + r, LANES) / divisor
            signed = ratio * sign
            store(
                grad_x,
                at + r,
                load(grad_x, at + r, LANES) + share * (above_slope - signed * below_slope),
            )
            for degree in range(NUMERATOR_DEGREE + 1):
                _add(sums, degree, share)
                if 1 <= degree <= DENOMINATOR_DEGREE:
                    _add(sums, NUMERATOR_DEGREE + degree, zero - share * signed)
                share = share * value
    if backward:
        for j in range(COEFFICIENTS):
            vector = load(sums, j * LANES, LANES)
            totals[i * COEFFICIENTS + j] += dot(vector, _constant(vector, 1))


@numba.njit(**_INNER)
def _add(sums, place, vector):
    at = place * LANES
    store(sums, at, load(sums, at, LANES) + vector)


def _steepest(like):
    """The reciprocal of the smallest normal number."""
    raise NotImplementedError


@overload(_steepest, jit_options=_INNER)
def _(like):
    steepest = 2.0**1022 if like.dtype.bitwidth == 64 else 2.0**126
    return lambda like: steepest


# The functions by name of their basis, which is a constant where they are compiled.
KINDS = {"rbf": _rbf, "chebyshev": _chebyshev, "fourier": _fourier, "rational": _rational}


def expand(
    kind, x, at, count, i, first, second, size, mode, functions, grads, to, stride, backward,
    grad_x, totals,
):  # fmt: skip
    """The functions of one input over the rows of a tile, and the gradients that come back.

    Args:
        kind: Place of the basis in ``KINDS``, a constant.
        x: Inputs of a tile, one input's rows after another.
        at: Where the rows of this input begin, there and in ``grad_x``.
        count: Number of rows; what follows up to a whole vector is computed, too.
        i: Which input; the group of a rational function.
        first: Left ends of the grids; the coefficients of numerators.
        second: Widths of the grids' intervals; the coefficients of denominators.
        size: Number of intervals.
        mode: ``PLAIN``, ``CLAMP`` or ``LINEAR``.
        functions: Where the functions are written.
        grads: Gradients in the functions, at the same places.
        to: Where the rows of the first function begin.
        stride: How far apart the rows of two functions are.
        backward: Whether there are gradients.
        grad_x: What the gradients in the inputs are added to.
        totals: What the gradients in the coefficients are added to, in double precision.
    """
    raise NotImplementedError


@overload(expand, prefer_literal=True, jit_options=_INNER)
def _expand(
    kind, x, at, count, i, first, second, size, mode, functions, grads, to, stride, backward,
    grad_x, totals,
):  # fmt: skip
    if not isinstance(kind, types.IntegerLiteral):
        return None
    basis = tuple(KINDS.values())[kind.literal_value]

    def impl(
        kind, x, at, count, i, first, second, size, mode, functions, grads, to, stride, backward,
        grad_x, totals,
    ):  # fmt: skip
        basis(
            x, at, count, i, first, second, size, mode, functions, grads, to, stride, backward,
            grad_x, totals,
        )  # fmt: skip

    return impl
