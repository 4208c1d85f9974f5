r"""CPU kernel of units with learned functions or SiLU, gates, a modulation, a state and a product.

For a row with unit values y, gates q, carried state c and code k, and with
:math:`S, T` the scales and shifts of the modulation,

.. math:: z = (1 + S_0 + k^\top S) \odot y + T_0 + k^\top T + c, \qquad
    h = f(z) \odot q, \qquad \mathrm{output} = h W^\top + \beta.

All but the functions f may be absent. f is SiLU, or R splines of each unit; several have neither
gates nor what makes z of y. Without a weight h is the output.

One pass over a tile of rows computes z and h. It also computes the output if the weight is small,
for which torch's GEMM is slow; a large weight is left to that GEMM. The backward pass takes
:math:`\partial h = \partial\mathrm{output}\, W`. In one pass over the tiles it recomputes h and
computes

.. math::
    \partial z &\mathrel{+}= f'(z) \odot q \odot \partial h, &
    \partial q &= f(z) \odot \partial h, &
    \partial y &= (1 + S_0 + k^\top S) \odot \partial z, &
    \partial c &= \partial z, \\
    \partial T_j &= \textstyle\sum k_j\, \partial z, &
    \partial S_j &= \textstyle\sum k_j\, y \odot \partial z, &
    \partial k_j &= S_j \cdot (y \odot \partial z) + T_j \cdot \partial z.

Scales and shifts of a row are never in memory, and only the inputs are kept.

Units are in groups by turns, and group g has R splines with coefficients c on one grid. As a batch
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

from collections.abc import Callable, Sequence
from functools import cache

import numba
import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor
from torch.nn.functional import linear

from kan_diffusion.kan.bases import piece_coefficients
from kan_diffusion.kan.kernels.fused import Gradients
from kan_diffusion.kan.kernels.operands import UnitsOperands
from kan_diffusion.kan.kernels.runtime import INNER, chunks, compiled, launch
from kan_diffusion.kan.kernels.simd import (
    add_product,
    arrays_at,
    compiled_by_type,
    copy_rows,
    dot,
    floor,
    fma,
    get,
    load,
    maximum,
    minimum,
    nan_or_zero,
    pack,
    sigmoid_and_silu,
    splat,
    store,
    store_as_int,
    transpose,
)

_TILE = 512  # units of a tile, unless a row has more
_LANES = 16  # numbers of a tile in one vector
_WIDTH = 8  # functions of a unit in one vector, if it has more than one
_MAX_WIDTH = 128  # of weights that are multiplied here: torch's GEMM is slow for small ones

_FORWARD_WORK, _BACKWARD_WORK = 16, 32
"""Cost of a function of a unit, in multiplications, by which the number of threads is chosen."""


@numba.njit(**INNER)
def _round_up(count):
    """Rounds up to whole vectors."""
    return (count + _LANES - 1) // _LANES * _LANES


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _lay_out(order, powers, units, by_row, splines, sizes, modulation, rank):
    """Makes the polynomials of all cells, and room for a tile.

    ``splines`` are coefficients, origins and steps; ``sizes`` numbers of groups, of functions, of
    functions in whole vectors, and of intervals. A row of a tile is whole vectors if something is
    done row by row (``by_row``); if not, the units of all rows follow each other.

    Returns the table of polynomials, and where that of each unit begins; the rows of a tile and
    their size; room for values, gates, states before, z, and the gradients of z and of values;
    scales and shifts side by side in whole vectors, one row for each number of a code; and the
    grid: for each number of a tile the origin and the inverse of the step, their number of
    intervals, then room for places, bounded places and cells.
    """
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, powers, units, by_row, splines, sizes, modulation, rank):
        coefficients, origins, steps = splines
        groups, functions, width, intervals = sizes
        real = coefficients.dtype.type
        step = powers * width
        table = np.zeros(groups * (intervals + 2) * step, coefficients.dtype)
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
        height, pad = max(1, _TILE // units), _round_up(units) if by_row else units
        size = _round_up(height * pad)
        room = np.zeros((10, size), table.dtype)
        origin, per_x, places, bounded = room[6], room[7], room[8], room[9]
        offsets = np.zeros(units, np.int64)
        for unit in range(units if groups else 0):
            group = unit % groups
            offsets[unit] = group * (intervals + 2) * step
            for k in range(unit, height * pad, pad):
                origin[k], per_x[k] = origins[group], real(1) / steps[group]
        grid = origin, per_x, intervals, places, bounded, np.zeros(size, np.int32)
        modulations = np.zeros((rank + 1) * 2 * pad, table.dtype)
        copy_rows(modulation, 0, units, modulations, 0, pad, 2 * (rank + 1), units)
        buffers = room[0], room[1], room[2], room[3], room[4], room[5]
        return table, offsets, height, pad, buffers, modulations, grid

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _gather(order, powers, table, grad_coefficients, sizes):
    """Computes the gradient of the coefficients from that of the polynomials."""
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, powers, table, grad_coefficients, sizes):
        groups, functions, width, intervals = sizes
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
                    at = left + (cell + 1) * step
                    for j in range(degree + 1):
                        total = real(0)
                        for d in range(degree + 1):
                            total += real(pieces[j][d]) * table[at + d * width]
                        grad_coefficients[first + cell + j] += total

    return loop


@register_jitable(**INNER)
def _repack(tile, row_size, width, h, r0, rows, inputs, functions, unpack):
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


@register_jitable(**INNER)
def _states(states, modulations, sizes, first, rows, buffers):
    """Copies a tile's values and gates into rows of whole vectors, and returns the units' z."""
    source, carried, code = states
    units, pad, stride, reach, rank = sizes
    values, gates, before, z, _, _ = buffers
    copy_rows(source, first * stride, stride, values, 0, pad, rows, units)
    if stride > units:
        copy_rows(source, first * stride + units, stride, gates, 0, pad, rows, units)
    if rank < 0 and reach == 0:
        return values
    copy_rows(carried, first * reach, reach, before, 0, pad, rows, min(reach, units))
    for r in range(rows):
        for u in range(0, pad, _LANES):
            k, at = r * pad + u, 2 * rank * pad + u
            value, shift = load(values, k, _LANES), load(before, k, _LANES)
            if rank >= 0:
                factor = load(modulations, at, _LANES) + 1
                shift = shift + load(modulations, at + pad, _LANES)
                for j in range(rank):
                    at, number = 2 * j * pad + u, get(code, (first + r) * rank + j)
                    factor = fma(number, load(modulations, at, _LANES), factor)
                    shift = fma(number, load(modulations, at + pad, _LANES), shift)
                store(z, k, fma(value, factor, shift))
            else:
                store(z, k, value + shift)
    return z


@numba.njit(**INNER)
def _place(z, count, grid):
    """Finds the cells of a tile's numbers, 0 for the left tangent's, and the places in them."""
    origin, per_x, intervals, places, bounded, cells = grid
    for k in range(0, count, _LANES):
        u = (load(z, k, _LANES) - load(origin, k, _LANES)) * load(per_x, k, _LANES)
        cell = minimum(maximum(floor(u), -1), intervals)  # -1 for NaN
        f = u - maximum(cell, 0)
        store(places, k, f)
        store(bounded, k, minimum(maximum(f, 0), 1) + nan_or_zero(f))
        store_as_int(cells, k, cell + 1)


@numba.njit(**INNER)
def _value_and_slope(table, a, degree, f, kept):
    """Evaluates the polynomial of a cell at a place, and its slope at the place that is kept."""
    real = table.dtype.type
    value = get(table, a + degree)
    slope = real(degree) * value
    for d in range(degree - 1, 0, -1):
        coefficient = get(table, a + d)
        value = value * kept + coefficient
        slope = slope * kept + real(d) * coefficient
    return value * f + get(table, a), slope


@numba.njit(**INNER)
def _values_and_slopes(table, a, degree, width, f, kept):
    """Does the same for the functions of one vector, whose coefficients are side by side."""
    real = table.dtype.type
    value = load(table, a + degree * width, _WIDTH)
    slope = value * real(degree)
    for d in range(degree - 1, 0, -1):
        coefficient = load(table, a + d * width, _WIDTH)
        value = fma(value, kept, coefficient)
        slope = fma(slope, kept, coefficient * real(d))
    return fma(value, f, load(table, a, _WIDTH)), slope


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _through_spline(order, powers, polynomials, grid, tile, z, gates, products, grad_h):
    """Goes back through one spline of each unit of a tile.

    Writes products with gates, and gradients in the place of z and of gates; adds to the gradient
    of the polynomials.
    """
    degree, count = order.literal_value, powers.literal_value

    def loop(order, powers, polynomials, grid, tile, z, gates, products, grad_h):
        table, offsets, totals = polynomials
        _, per_x, _, places, bounded, cells = grid
        rows, units, pad, row_size, gated = tile
        one = table.dtype.type(1)
        for r in range(rows):
            for u in range(units):
                k, at = r * pad + u, r * row_size + u
                a = get(offsets, u) + get(cells, k) * count
                f, kept = get(places, k), get(bounded, k)
                value, slope = _value_and_slope(table, a, degree, f, kept)
                g = get(grad_h, at)
                if gated:
                    q = get(gates, k)
                    store(gates, k, g * value)
                    value = value * q
                    g = g * q
                store(products, at, value)
                store(z, k, g * slope * get(per_x, k))
                square = kept * kept  # not of f, which may overflow
                fourth = square * square
                powers = one, f, square, f * square, fourth, f * fourth, one, one
                store(totals, a, fma(pack(powers[:count]), g, load(totals, a, count)))

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _through_splines(order, powers, width, polynomials, grid, tile, z, products, grad_h):
    """Goes back through several splines of each unit, which have no gates.

    Writes their values, and gradients in the place of z; adds to the gradient of the polynomials.
    """
    degree = order.literal_value

    def loop(order, powers, width, polynomials, grid, tile, z, products, grad_h):
        table, offsets, totals = polynomials
        _, per_x, _, places, bounded, cells = grid
        rows, units, pad, row_size, _ = tile
        for r in range(rows):
            for u in range(units):
                k = r * pad + u
                a = get(offsets, u) + get(cells, k) * powers * width
                f, kept = get(places, k), get(bounded, k)
                to_x = table.dtype.type(0)
                for part in range(0, width, _WIDTH):
                    cell, at = a + part, r * row_size + u * width + part
                    value, slope = _values_and_slopes(table, cell, degree, width, f, kept)
                    g = load(grad_h, at, _WIDTH)
                    store(products, at, value)
                    to_x += dot(slope, g)
                    store(totals, cell, load(totals, cell, _WIDTH) + g)
                    power = g * f
                    for d in range(1, degree + 1):
                        total = load(totals, cell + d * width, _WIDTH)
                        store(totals, cell + d * width, total + power)
                        power = power * kept
                store(z, k, to_x * get(per_x, k))

    return loop


@numba.njit(**INNER)
def _through_silu(tile, z, gates, products, grad_h):
    """Goes back through SiLU of each unit of a tile, as :func:`_through_spline` does."""
    rows, units, pad, row_size, gated = tile
    for r in range(rows):
        for u in range(0, pad, _LANES):
            k, at = r * pad + u, r * row_size + u
            sigmoid, silu = sigmoid_and_silu(load(z, k, _LANES))
            g, value = load(grad_h, at, _LANES), silu
            if gated:
                q = load(gates, k, _LANES)
                store(gates, k, g * silu)
                value = silu * q
                g = g * q
            store(products, at, value)
            store(z, k, g * (sigmoid + silu * (1 - sigmoid)))
        products[r * row_size + units] = 1  # which a whole vector has overwritten


@register_jitable(**INNER)
def _through_modulation(rank, first, rows, pad, code, modulations, z, values, results):
    """Goes back from z of a tile's units to their values, scales, shifts and codes.

    Writes the gradients of values and codes, and adds to that of the modulation.
    """
    of_values, of_rows, codes, grad_modulations, grad_code = results
    for r in range(rows):
        for u in range(0, pad, _LANES):
            k, at = r * pad + u, 2 * r * pad + u
            of_z = load(z, k, _LANES)
            store(of_rows, at, of_z * load(values, k, _LANES))
            store(of_rows, at + pad, of_z)
            factor = load(modulations, 2 * rank * pad + u, _LANES) + 1
            for j in range(rank):
                scale = load(modulations, 2 * j * pad + u, _LANES)
                factor = fma(get(code, (first + r) * rank + j), scale, factor)
            store(of_values, k, of_z * factor)
    copy_rows(code, first * rank, rank, codes, 0, rank + 1, rows, rank)
    add_product(codes, 0, 1, rank + 1, of_rows, 2 * pad, grad_modulations, rank + 1, rows)
    real = modulations.dtype.type
    for r in range(rows):
        for j in range(rank):
            total = splat(real(0), _LANES)
            for at in range(0, 2 * pad, _LANES):
                row = load(modulations, 2 * j * pad + at, _LANES)
                total = fma(row, load(of_rows, 2 * r * pad + at, _LANES), total)
            grad_code[(first + r) * rank + j] = dot(total, splat(real(1), _LANES))


@cache
def _kernels(order: int, single: bool, double: bool) -> tuple[Callable[..., None], ...]:
    """Compiles the forward and backward pass, for one or several functions of a unit.

    Order 0 stands for SiLU. A tile is copied into rows of whole vectors, which have zeros behind
    their units; where nothing is done row by row, the numbers of all rows follow each other.
    """
    zero = np.float64(0) if double else np.float32(0)
    powers = 2 if order == 1 else 4 if order <= 3 else 8  # a polynomial is one vector
    spline = int(order > 0)
    degree = max(order, 1)
    several = 1 if single else _WIDTH

    def forward(
        input_at, carried_at, code_at, modulation_at, coefficients_at, origin_at, step_at,
        weight_at, bias_at, output_at, state_at, rows, units, outputs, stride, reach, groups,
        intervals, rank, functions,
    ):  # fmt: skip
        states = arrays_at((input_at, carried_at, code_at), zero)
        splines = arrays_at((coefficients_at, origin_at, step_at), zero)
        others = modulation_at, weight_at, bias_at, output_at, state_at
        modulation, weight, bias, output, state = arrays_at(others, zero)
        gated, by_row = stride > units, not spline or stride > units or rank >= 0 or reach > 0
        # A constant, where it is one, makes the loop over units a few per cent faster.
        width = 1 if several == 1 else (functions + several - 1) // several * several
        cell_step = powers * width
        # With a 1 beside the functions, constants are one more row of the weight.
        inner = units * width
        row_size, wide = _round_up(inner + 1), _round_up(outputs)
        weights = np.zeros(row_size * wide, output.dtype)
        if weight_at:
            # Without a gap, the functions of all units follow each other in both.
            count = functions if width > functions else inner
            for i in range(inner // width * functions // count):
                at, to = i * count, i * width * wide
                transpose(weight, at, units * functions, weights, to, wide, outputs, count)
        if bias_at:
            copy_rows(bias, 0, 0, weights, inner * wide, 0, 1, outputs)
        of_splines = groups, functions, width, intervals
        table, offsets, height, pad, buffers, modulations, grid = _lay_out(
            degree, powers, units, by_row, splines, of_splines, modulation, rank
        )
        _, gates, _, _, _, _ = buffers
        _, _, _, places, bounded, cells = grid
        products = np.ones(height * row_size, output.dtype)
        block = np.empty(height * wide, output.dtype)
        sizes = units, pad, stride, reach, rank
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            z = _states(states, modulations, sizes, r0, n, buffers)
            if state_at:
                copy_rows(z, 0, pad, state, r0 * units, units, n, units)
            if not spline:
                for r in range(n):
                    for u in range(0, pad, _LANES):
                        _, silu = sigmoid_and_silu(load(z, r * pad + u, _LANES))
                        if gated:
                            silu = silu * load(gates, r * pad + u, _LANES)
                        store(products, r * row_size + u, silu)
                    products[r * row_size + units] = 1  # which a whole vector has overwritten
            if spline:
                _place(z, n * pad, grid)
                for r in range(n):
                    for u in range(units):
                        k, to = r * pad + u, r * row_size + u * width
                        a = get(offsets, u) + get(cells, k) * cell_step
                        f, kept = get(places, k), get(bounded, k)
                        if several == 1:
                            value = _value_and_slope(table, a, degree, f, kept)[0]
                            if gated:
                                value = value * get(gates, k)
                            store(products, to, value)
                        for part in range(0, width if several > 1 else 0, several):
                            many, _ = _values_and_slopes(table, a + part, degree, width, f, kept)
                            store(products, to + part, many)
            if weight_at:
                block[:] = 0
                add_product(products, 0, row_size, 1, weights, wide, block, n, inner + 1)
                copy_rows(block, 0, wide, output, r0 * outputs, outputs, n, outputs)
            else:
                _repack(products, row_size, width, output, r0, n, units, functions, False)

    def backward(
        grad_at, grad_state_at, input_at, carried_at, code_at, modulation_at, coefficients_at,
        origin_at, step_at, weight_at, h_at, grad_input_at, grad_carried_at, grad_code_at,
        grad_modulation_at, grad_coefficients_at, grad_weight_at, grad_bias_at, rows, units,
        outputs, stride, reach, groups, intervals, rank, functions,
    ):  # fmt: skip
        states = arrays_at((input_at, carried_at, code_at), zero)
        splines = arrays_at((coefficients_at, origin_at, step_at), zero)
        others = grad_at, grad_state_at, modulation_at, weight_at, h_at
        grad, grad_state, modulation, weight, h = arrays_at(others, zero)
        of_rows_at = grad_input_at, grad_carried_at, grad_code_at
        grad_input, grad_carried, grad_code = arrays_at(of_rows_at, zero)
        sums = grad_modulation_at, grad_coefficients_at, grad_weight_at, grad_bias_at
        grad_modulation, grad_coefficients, grad_weight, grad_bias = arrays_at(sums, zero)
        gated, by_row = stride > units, not spline or stride > units or rank >= 0 or reach > 0
        width = 1 if several == 1 else (functions + several - 1) // several * several
        inner = units * width
        row_size = _round_up(inner + 1)
        weights = np.zeros(outputs * row_size, h.dtype)
        grad_weights = np.zeros(outputs * row_size, h.dtype)
        if weight_at:
            _repack(weights, row_size, width, weight, 0, outputs, units, functions, True)
        of_splines = groups, functions, width, intervals
        table, offsets, height, pad, buffers, modulations, grid = _lay_out(
            degree, powers, units, by_row, splines, of_splines, modulation, rank
        )
        values, gates, _, _, of_state, of_values = buffers
        totals, grad_modulations = np.zeros_like(table), np.zeros_like(modulations)
        polynomials = table, offsets, totals
        products = np.ones(height * row_size, h.dtype)
        grad_h = np.zeros(height * row_size, h.dtype)
        of_rows = np.zeros(height * 2 * pad, h.dtype)
        codes = np.ones(height * (rank + 1), h.dtype)
        sizes = units, pad, stride, reach, rank
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            tile = n, units, pad, row_size, gated
            z = _states(states, modulations, sizes, r0, n, buffers)
            if weight_at:
                grad_h[:] = 0
                add_product(grad, r0 * outputs, outputs, 1, weights, row_size, grad_h, n, outputs)
            else:
                _repack(grad_h, row_size, width, grad, r0, n, units, functions, True)
            if spline:
                _place(z, n * pad, grid)
            if not spline:
                _through_silu(tile, z, gates, products, grad_h)
            elif several == 1:
                _through_spline(degree, powers, polynomials, grid, tile, z, gates, products, grad_h)
            else:
                _through_splines(
                    degree, powers, width, polynomials, grid, tile, z, products, grad_h
                )
            if grad_state_at:
                copy_rows(grad_state, r0 * units, units, of_state, 0, pad, n, units)
                for k in range(0, n * pad, _LANES):
                    store(z, k, load(z, k, _LANES) + load(of_state, k, _LANES))
            if rank >= 0:
                results = of_values, of_rows, codes, grad_modulations, grad_code
                _through_modulation(rank, r0, n, pad, states[2], modulations, z, values, results)
            of_y = of_values if rank >= 0 else z
            copy_rows(of_y, 0, pad, grad_input, r0 * stride, stride, n, units)
            if gated:
                copy_rows(gates, 0, pad, grad_input, r0 * stride + units, stride, n, units)
            if carried_at:
                copy_rows(z, 0, pad, grad_carried, r0 * reach, reach, n, min(reach, units))
            if weight_at:
                add_product(
                    grad, r0 * outputs, 1, outputs, products, row_size, grad_weights, outputs, n
                )
            elif h_at:
                _repack(products, row_size, width, h, r0, n, units, functions, False)
        if spline:
            _gather(degree, powers, totals, grad_coefficients, of_splines)
        copy_rows(grad_modulations, 0, pad, grad_modulation, 0, units, 2 * (rank + 1), units)
        if weight_at:
            _repack(grad_weights, row_size, width, grad_weight, 0, outputs, units, functions, False)
        if grad_bias_at:
            copy_rows(grad_weights, inner, row_size, grad_bias, 0, 1, outputs, 1)

    return compiled(forward), compiled(backward)


def _settings(layer: UnitsOperands) -> tuple[int, ...]:
    """Returns the numbers that both passes take after the rows."""
    outputs = 0 if layer.weight is None else len(layer.weight)
    reach = 0 if layer.carried is None else layer.carried.shape[1]
    rank = -1 if layer.modulation is None else len(layer.modulation) - 1
    groups, known = (0, layer.order) if layer.coefficients is None else layer.coefficients.shape[1:]
    sizes = layer.units, outputs, layer.input.shape[1], reach
    return *sizes, groups, known - layer.order, rank, layer.functions


def _passes(layer: UnitsOperands) -> tuple[Callable[..., None], ...]:
    """Returns both kernels of a layer."""
    return _kernels(layer.order, layer.functions == 1, layer.input.dtype == torch.float64)


def _factors(layer: UnitsOperands) -> tuple[Tensor | None, Tensor | None]:
    """Returns weight and bias if the kernel itself multiplies by them."""
    small = layer.weight is not None and max(layer.weight.shape) <= _MAX_WIDTH
    return (layer.weight, layer.bias) if small else (None, None)


def forward(layer: UnitsOperands) -> tuple[Tensor, Tensor]:
    """Computes the output of units and their state."""
    settings, factors, input = _settings(layer), _factors(layer), layer.input
    units, outputs, stride, reach, _, _, rank, functions = settings
    rows, has_weight = input.shape[0], factors[0] is not None
    state = input.new_empty((rows, units) if layer.has_state else 0)
    output = input.new_empty(rows, outputs if has_weight else units * functions)
    shared = layer.modulation, layer.coefficients, layer.origin, layer.step, *factors
    operands = (
        (input, stride),
        (layer.carried, reach),
        (layer.code, max(rank, 0)),
        *((tensor, 0) for tensor in shared),
        (output, output.shape[1]),
        (state if layer.has_state else None, units),
    )
    kernel, _ = _passes(layer)
    launch(kernel, chunks(rows, units * functions * _FORWARD_WORK), operands, settings)
    if layer.weight is not None and not has_weight:
        output = linear(output, layer.weight, layer.bias)
    return output, state


def backward(
    layer: UnitsOperands, grads: Sequence[Tensor | None], for_first: bool = True
) -> Gradients:
    """Computes the gradients of the first seven operands, given those of output and state."""
    grad, grad_state = grads
    settings, factors, input = _settings(layer), _factors(layer), layer.input
    units, outputs, stride, reach, _, _, rank, functions = settings
    rows, rank = input.shape[0], max(rank, 0)
    if grad is None:
        grad = input.new_zeros(rows, outputs)
    by_gemm = None if factors[0] is not None else layer.weight
    grad_h = grad if by_gemm is None else grad @ by_gemm
    h = None if by_gemm is None else input.new_empty(rows, units * functions)
    grad_input, grad_carried, grad_code = (
        None if one is None else one.new_empty(one.shape) for one in layer[:3]
    )
    if grad_carried is not None and reach > units:
        grad_carried[:, units:] = 0
    shared = layer.modulation, layer.coefficients, layer.origin, layer.step, factors[0]
    operands = (
        (grad_h, grad_h.shape[1]),
        (grad_state if layer.has_state else None, units),
        (input, stride),
        (layer.carried, reach),
        (layer.code, rank),
        *((tensor, 0) for tensor in shared),
        (h, units * functions),
        (grad_input, stride),
        (grad_carried, reach),
        (grad_code, rank),
    )
    parts = chunks(rows, units * functions * _BACKWARD_WORK)
    summed = layer.modulation, layer.coefficients, *factors
    _, kernel = _passes(layer)
    sums = launch(kernel, parts, operands, settings, summed)
    if h is not None:
        sums[2:] = grad.t() @ h, None if layer.bias is None else grad.sum(0)
    return grad_input, grad_carried, grad_code, *sums
