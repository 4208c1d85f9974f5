r"""Splines as piecewise polynomials in a kernel: their tables, the places of numbers, values.

Inputs are in groups by turns, and group g has R splines with coefficients c on one grid. As a batch
is much longer than a grid, a call first turns the splines into one polynomial per cell m,
:math:`a_{g,m,d,r} = \sum_j c_{r,g,m+j}\, p_{j,d}` with the pieces
:math:`p_j(f) = \sum_d p_{j,d} f^d` of :mod:`kan_diffusion.kan.bases`. The tangents are two
more cells, -1 and G, in which only :math:`a_0` and :math:`a_1` differ from zero. Let f be the place
in a cell, from 0 to 1 inside the grid and unbounded in the cells of the tangents, and
:math:`\bar f` that place clamped to 0 to 1. Then, with step :math:`\Delta` of the grid,

.. math:: h_r = a_{0,r} + f\,(a_{1,r} + \bar f\,(a_{2,r} + \dots)), \qquad
    \partial a_{d,r} \mathrel{+}= f^d\,\partial h_r, \qquad
    \partial x = \tfrac 1\Delta \sum_r \partial h_r\,
    (a_{1,r} + \bar f\,(2 a_{2,r} + \bar f\,(3 a_{3,r} + \dots))),

where an infinite or huge f meets no zero. The gradient of the coefficients follows from that of the
polynomials by the transposed sum. Cells and places are found for a tile of rows at once, in
vectors. Several functions of an input form a vector; the gradients of a single one do, along d.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import register_jitable

from kan_diffusion.kan.bases import piece_coefficients
from kan_diffusion.kan.kernels.runtime import INNER
from kan_diffusion.kan.kernels.simd import (
    compiled_by_type,
    copy_rows,
    floor,
    fma,
    load,
    maximum,
    minimum,
    nan_or_zero,
    store,
    store_as_int,
)

__all__ = [
    "LANES",
    "gather",
    "lay_out",
    "place",
    "place_tile",
    "power_bits",
    "repack",
    "round_up",
    "value_and_slope",
]

LANES = 16
"""Numbers whose cells are searched for together."""


@numba.njit(**INNER)
def round_up(count):
    """Rounds up to a multiple of 16."""
    return (count + 15) // 16 * 16


@numba.njit(**INNER)
def place(u, intervals, places, f_at, kept_at, cells, at):
    """Writes the cells of a vector of u, 0 for the left tangent's, and the places in them."""
    cell = minimum(maximum(floor(u), -1), intervals)  # -1 for NaN
    f = u - maximum(cell, 0)
    store(places, f_at, f)
    store(places, kept_at, minimum(maximum(f, 0), 1) + nan_or_zero(f))
    store_as_int(cells, at, cell + 1)


@numba.njit(**INNER)
def place_tile(x, start, count, grid):
    """Writes cells and places of ``count`` numbers of x from ``start`` on."""
    origin, per_x, intervals, scratch, room, cells = grid
    whole = count // LANES * LANES
    copy_rows(x, start + whole, 0, scratch, 2 * room, 0, 1, count - whole)
    for at in range(0, count, LANES):
        value = load(x, start + at, LANES) if at < whole else load(scratch, 2 * room, LANES)
        u = (value - load(origin, at, LANES)) * load(per_x, at, LANES)
        place(u, intervals, scratch, at, room + at, cells, at)


@numba.njit(**INNER)
def power_bits(powers, like):
    """Makes masks of the bits of the exponents below ``powers``, each before its complement.

    A vector of all powers is a product with one factor per bit of the exponent.
    """
    bits = np.zeros(6 * powers, like.dtype)
    for bit in range(3):
        for d in range(powers):
            bits[2 * bit * powers + d] = (d >> bit) & 1
            bits[(2 * bit + 1) * powers + d] = 1 - ((d >> bit) & 1)
    return bits


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def lay_out(order, powers, splines, groups, functions, width, intervals, inputs, room):
    """Makes the polynomials of all cells, and the grid of each number in a tile's rows.

    ``splines`` are coefficients, origins and steps. There are ``room`` numbers in a tile. Returns
    the table of polynomials; the origin and the inverse of the step for each number; and where the
    table of each input begins.
    """
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, powers, splines, groups, functions, width, intervals, inputs, room):
        coefficients, origins, steps = splines
        real = coefficients.dtype.type
        step = powers * width
        table = np.zeros(groups * (intervals + 2) * step, coefficients.dtype)
        origin, per_x = np.zeros(room, table.dtype), np.zeros(room, table.dtype)
        offsets = np.zeros(inputs, np.int64)
        for group in range(groups):
            for r in range(functions):
                first = (r * groups + group) * (intervals + degree)
                left = group * (intervals + 2) * step + r
                last = left + intervals * step
                for cell in range(intervals):
                    for d in range(degree + 1):
                        total = real(0)
                        for j in range(degree + 1):
                            total += real(pieces[j][d]) * coefficients[first + cell + j]
                        table[left + (cell + 1) * step + d * width] = total
                value, slope = real(0), real(0)
                for d in range(degree + 1):
                    value += table[last + d * width]
                    slope += real(d) * table[last + d * width]
                table[left] = table[left + step]
                table[left + width] = table[left + step + width]
                table[last + step], table[last + step + width] = value, slope
        for i in range(inputs if groups else 0):
            group = i % groups
            offsets[i] = group * (intervals + 2) * step
            origin[i], per_x[i] = origins[group], real(1) / steps[group]
        for at in range(inputs, room):
            origin[at], per_x[at] = origin[at - inputs], per_x[at - inputs]
        return table, origin, per_x, offsets

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def gather(order, powers, table, grad_coefficients, groups, functions, width, intervals):
    """Computes the gradient of the coefficients from that of the polynomials."""
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, powers, table, grad_coefficients, groups, functions, width, intervals):
        real = table.dtype.type
        step = powers * width
        for group in range(groups):
            for r in range(functions):
                first = (r * groups + group) * (intervals + degree)
                left = group * (intervals + 2) * step + r
                last = left + intervals * step
                table[left + step] += table[left]
                table[left + step + width] += table[left + width]
                for d in range(degree + 1):
                    slope = real(d) * table[last + step + width]
                    table[last + d * width] += table[last + step] + slope
                for function in range(intervals + degree):
                    grad_coefficients[first + function] = 0
                for cell in range(intervals):
                    for j in range(degree + 1):
                        total = real(0)
                        for d in range(degree + 1):
                            total += (
                                real(pieces[j][d]) * table[left + (cell + 1) * step + d * width]
                            )
                        grad_coefficients[first + cell + j] += total

    return loop


@register_jitable(**INNER)
def repack(tile, row_size, width, h, r0, rows, inputs, functions, unpack):
    """Copies functions from whole vectors in a tile to side by side, or back with ``unpack``."""
    size = inputs * functions
    # Without a gap, all functions of a row are copied together.
    count = size if width == functions else functions
    for i in range(size // count):
        at = r0 * size + i * count
        if unpack:
            copy_rows(h, at, size, tile, i * width, row_size, rows, count)
        else:
            copy_rows(tile, i * width, row_size, h, at, size, rows, count)


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def value_and_slope(lanes, table, a, degree, width, f, kept):
    """Evaluates the polynomials of a cell at a place, and their slopes at the place that is kept.

    Those of ``lanes`` functions, whose coefficients are side by side.
    """
    several = lanes.literal_value

    def loop(lanes, table, a, degree, width, f, kept):
        real = table.dtype.type
        value = load(table, a + degree * width, several)
        slope = value * real(degree)
        for d in range(degree - 1, 0, -1):
            coefficient = load(table, a + d * width, several)
            value = fma(value, kept, coefficient)
            slope = fma(slope, kept, coefficient * real(d))
        return fma(value, f, load(table, a, several)), slope

    return loop
