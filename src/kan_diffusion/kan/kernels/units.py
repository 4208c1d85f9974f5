r"""Units that each have a spline of their own, on the CPU.

At the start of a call the coefficients c of unit u become one polynomial a cell m,
:math:`a_{u,m,d} = \sum_j c_{u,m+j}\, p_{j,d}` with the pieces
:math:`p_j(f) = \sum_d p_{j,d} f^d` of :mod:`kan_diffusion.kan.bases.spline`: a batch is much longer
than a grid. The tangents are two more cells, -1 and G, of which only :math:`a_0` and :math:`a_1`
differ from zero. Let f be the place in a cell, from 0 to 1 inside the grid and without an end in
the cells of the tangents, and :math:`\bar f` that place kept from 0 to 1. Then

.. math:: y = a_0 + f\,(a_1 + \bar f\,(a_2 + \bar f\,(a_3 + \dots))), \qquad
    \partial x = \tfrac1h\,\partial y\,(a_1 + \bar f\,(2 a_2 + \bar f\,(3 a_3 + \dots))), \qquad
    \partial a_d \mathrel{+}= f^d\,\partial y,

where an infinite or huge f meets no zero, and the gradient of the coefficients follows from that of
the polynomials by the transposed sum. Cells and places are found for a tile of numbers at once, in
vectors; nothing but x is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from numba import types
from torch import Tensor

from kan_diffusion.kan.bases.spline import piece_coefficients
from kan_diffusion.kan.kernels.runtime import INNER, chunks, compiled, launch, source_digest
from kan_diffusion.kan.kernels.simd import (
    array_at,
    axpy,
    compiled_by_type,
    floor,
    fma,
    get,
    load,
    maximum,
    minimum,
    nan_or_zero,
    splat,
    store,
    store_as_int,
)

__all__ = ["backward", "forward"]

_LANES = 16  # of the search for cells
_TILE = 1024  # numbers that are placed at once
_CAPACITY = _TILE + _LANES
# Where the parts of a tile's scratch memory begin.
_PLACES = 0
_KEPT = _CAPACITY
_REST = 2 * _CAPACITY
_SCRATCH = _REST + _LANES

_FORWARD_WORK, _BACKWARD_WORK = 16, 32
"""Cost of a number in multiplications of a layer, by which the threads are counted."""


@numba.njit(**INNER)
def _place(x, low, per_x, intervals, scratch, cells, at):
    """Writes the cells of ``_LANES`` numbers, counted from the left tangent's, and the places."""
    real = scratch.dtype.type
    u = (x - real(low)) * real(per_x)
    cell = minimum(maximum(floor(u), -1), intervals)  # -1 for NaN
    f = u - maximum(cell, 0)
    store(scratch, _PLACES + at, f)
    store(scratch, _KEPT + at, minimum(maximum(f, 0), 1) + nan_or_zero(f))
    store_as_int(cells, at, cell + 1)


@numba.njit(**INNER)
def _place_tile(x, start, count, low, per_x, intervals, scratch, cells):
    """The same of ``count`` numbers of x from ``start`` on."""
    whole = count // _LANES * _LANES
    for at in range(0, whole, _LANES):
        _place(load(x, start + at, _LANES), low, per_x, intervals, scratch, cells, at)
    if whole < count:
        for at in range(whole, count):
            scratch[_REST + at - whole] = x[start + at]
        rest = load(scratch, _REST, _LANES)
        _place(rest, low, per_x, intervals, scratch, cells, whole)


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _tabulate(order, lanes, coefficients, table, units, intervals, gap):
    """Writes the polynomials of all cells, ``gap`` vectors from one to the next."""
    if not isinstance(order, types.IntegerLiteral):
        return None
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, lanes, coefficients, table, units, intervals, gap):
        real = table.dtype.type
        step = lanes * gap
        for unit in range(units):
            first = unit * (intervals + degree)
            left = unit * (intervals + 2) * step
            last = left + intervals * step
            for cell in range(intervals):
                for d in range(degree + 1):
                    total = real(0)
                    for j in range(degree + 1):
                        total += real(pieces[j][d]) * coefficients[first + cell + j]
                    table[left + (cell + 1) * step + d] = total
            value, slope = real(0), real(0)
            for d in range(degree + 1):
                value += table[last + d]
                slope += real(d) * table[last + d]
            table[left], table[left + 1] = table[left + step], table[left + step + 1]
            table[last + step], table[last + step + 1] = value, slope

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _gather(order, lanes, table, grad_coefficients, units, intervals):
    """The gradient of the coefficients from that of the polynomials."""
    if not isinstance(order, types.IntegerLiteral):
        return None
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, lanes, table, grad_coefficients, units, intervals):
        real = table.dtype.type
        step = 2 * lanes
        for unit in range(units):
            first = unit * (intervals + degree)
            left = unit * (intervals + 2) * step + lanes
            last = left + intervals * step
            table[left + step] += table[left]
            table[left + step + 1] += table[left + 1]
            for d in range(degree + 1):
                table[last + d] += table[last + step] + real(d) * table[last + step + 1]
            for function in range(intervals + degree):
                grad_coefficients[first + function] = 0
            for cell in range(intervals):
                for j in range(degree + 1):
                    total = real(0)
                    for d in range(degree + 1):
                        total += real(pieces[j][d]) * table[left + (cell + 1) * step + d]
                    grad_coefficients[first + cell + j] += total

    return loop


@cache
def _kernels(order: int, double: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """The compiled forward and backward pass, which take addresses as those of a layer do."""
    zero = np.float64(0) if double else np.float32(0)
    digest = source_digest()
    lanes = 2 if order == 1 else 4 if order <= 3 else 8  # a polynomial is one vector

    def forward(x_at, coefficients_at, y_at, rows, units, intervals, low, per_x):
        len(digest)
        stride = (intervals + 2) * lanes  # of a unit
        x = array_at(x_at, rows * units, zero)
        coefficients = array_at(coefficients_at, units * (intervals + order), zero)
        y = array_at(y_at, rows * units, zero)
        table = np.zeros(units * stride, x.dtype)
        _tabulate(order, lanes, coefficients, table, units, intervals, 1)
        scratch = np.zeros(_SCRATCH, x.dtype)
        cells = np.empty(_CAPACITY, np.int32)
        unit = 0
        for start in range(0, rows * units, _TILE):
            count = min(_TILE, rows * units - start)
            _place_tile(x, start, count, low, per_x, intervals, scratch, cells)
            done = 0
            while done < count:  # a row, or what of it is in the tile
                end = min(done + units - unit, count)
                row = unit * stride
                for i in range(done, end):
                    a = row + get(cells, i) * lanes
                    kept = get(scratch, _KEPT + i)
                    value = get(table, a + order)
                    for d in range(order - 1, 0, -1):
                        value = value * kept + get(table, a + d)
                    store(y, start + i, value * get(scratch, _PLACES + i) + get(table, a))
                    row += stride
                unit += end - done
                unit = 0 if unit == units else unit
                done = end

    def backward(
        grad_at, x_at, coefficients_at, grad_x_at, grad_coefficients_at, rows, units, intervals,
        low, per_x,
    ):  # fmt: skip
        len(digest)
        stride = (intervals + 2) * 2 * lanes
        grad = array_at(grad_at, rows * units, zero)
        x = array_at(x_at, rows * units, zero)
        coefficients = array_at(coefficients_at, units * (intervals + order), zero)
        grad_x = array_at(grad_x_at, rows * units, zero)
        grad_coefficients = array_at(grad_coefficients_at, units * (intervals + order), zero)
        real = x.dtype.type
        # The gradient of a polynomial lies behind it.
        table = np.zeros(units * stride, x.dtype)
        _tabulate(order, lanes, coefficients, table, units, intervals, 2)
        # A vector of powers is the product of those with one bit of the exponent set or not.
        bits = np.zeros(6 * lanes, x.dtype)
        for bit in range(3):
            for d in range(lanes):
                bits[2 * bit * lanes + d] = (d >> bit) & 1
                bits[(2 * bit + 1) * lanes + d] = 1 - ((d >> bit) & 1)
        ones_on, ones_off = load(bits, 0, lanes), load(bits, lanes, lanes)
        twos_on, twos_off = load(bits, 2 * lanes, lanes), load(bits, 3 * lanes, lanes)
        fours_on, fours_off = load(bits, 4 * lanes, lanes), load(bits, 5 * lanes, lanes)
        scratch = np.zeros(_SCRATCH, x.dtype)
        cells = np.empty(_CAPACITY, np.int32)
        unit = 0
        for start in range(0, rows * units, _TILE):
            count = min(_TILE, rows * units - start)
            _place_tile(x, start, count, low, per_x, intervals, scratch, cells)
            done = 0
            while done < count:
                end = min(done + units - unit, count)
                row = unit * stride
                for i in range(done, end):
                    a = row + get(cells, i) * 2 * lanes
                    kept = get(scratch, _KEPT + i)
                    slope = real(order) * get(table, a + order)
                    for d in range(order - 1, 0, -1):
                        slope = slope * kept + real(d) * get(table, a + d)
                    store(grad_x, start + i, get(grad, start + i) * slope * real(per_x))
                    powers = axpy(scratch, _PLACES + i, ones_on, ones_off)
                    if lanes > 2:
                        square = kept * kept  # not of f, which may overflow
                        powers = powers * fma(splat(square, lanes), twos_on, twos_off)
                    if lanes > 4:
                        fourth = square * square
                        powers = powers * fma(splat(fourth, lanes), fours_on, fours_off)
                    total = load(table, a + lanes, lanes)
                    store(table, a + lanes, axpy(grad, start + i, powers, total))
                    row += stride
                unit += end - done
                unit = 0 if unit == units else unit
                done = end
        _gather(order, lanes, table, grad_coefficients, units, intervals)

    return compiled(forward), compiled(backward)


def forward(x: Tensor, coefficients: Tensor, low: float, per_x: float, order: int) -> Tensor:
    """Computes the spline of each unit at its inputs.

    Args:
        x: Inputs with shape (*, units); as all tensors float32 or float64 and on the CPU.
        coefficients: Coefficients with shape (units, G + k).
        low: Left end of the grid.
        per_x: Intervals in a unit of x, the inverse of the grid's step.
        order: Degree k of the splines, 1 to 5.

    Returns:
        Outputs with the shape of x.
    """
    units, functions = coefficients.shape
    kernel, _ = _kernels(order, x.dtype == torch.float64)
    x, coefficients = x.contiguous(), coefficients.contiguous()
    y = x.new_empty(x.shape)
    operands = (x, units), (coefficients, 0), (y, units)
    settings = units, functions - order, low, per_x
    launch(kernel, chunks(x.numel() // units, units * _FORWARD_WORK), operands, settings)
    return y


def backward(
    grad: Tensor, x: Tensor, coefficients: Tensor, low: float, per_x: float, order: int
) -> tuple[Tensor, Tensor]:
    """Computes the gradients of x and the coefficients, given that of the output."""
    units, functions = coefficients.shape
    _, kernel = _kernels(order, x.dtype == torch.float64)
    grad, x, coefficients = grad.contiguous(), x.contiguous(), coefficients.contiguous()
    parts = chunks(x.numel() // units, units * _BACKWARD_WORK)
    grad_x = x.new_empty(x.shape)
    # One gradient a thread, added up in the order of the rows.
    each = (len(parts),) if len(parts) > 1 else ()
    totals = coefficients.new_empty(*each, units, functions)
    operands = (grad, units), (x, units), (coefficients, 0), (grad_x, units)
    launch(kernel, parts, operands, (units, functions - order, low, per_x), (totals,))
    return grad_x, totals.sum(0) if each else totals
