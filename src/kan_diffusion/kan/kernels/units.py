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

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor
from torch.nn.functional import linear

from kan_diffusion.kan.bases import piece_coefficients
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
    sigmoid_and_silu,
    splat,
    store,
    store_as_int,
    transpose,
)

_TILE = 512  # units of a tile, unless a row has more
_WIDTH = 8  # functions of a unit in one vector, if it has more than one
_MAX_WIDTH = 128  # of weights that are multiplied here: torch's GEMM is slow for small ones

_LANES = 16  # numbers whose cells are searched for together

_FORWARD_WORK, _BACKWARD_WORK = 16, 32
"""Cost of a function of a unit, in multiplications, by which the number of threads is chosen."""


@numba.njit(**INNER)
def _round_up(count):
    """Rounds up to a multiple of 16."""
    return (count + 15) // 16 * 16


@numba.njit(**INNER)
def _place(u, intervals, places, f_at, kept_at, cells, at):
    """Writes the cells of a vector of u, 0 for the left tangent's, and the places in them."""
    cell = minimum(maximum(floor(u), -1), intervals)  # -1 for NaN
    f = u - maximum(cell, 0)
    store(places, f_at, f)
    store(places, kept_at, minimum(maximum(f, 0), 1) + nan_or_zero(f))
    store_as_int(cells, at, cell + 1)


@numba.njit(**INNER)
def _place_tile(x, start, count, grid):
    """Writes cells and places of ``count`` numbers of x from ``start`` on."""
    origin, per_x, intervals, scratch, room, cells = grid
    whole = count // _LANES * _LANES
    copy_rows(x, start + whole, 0, scratch, 2 * room, 0, 1, count - whole)
    for at in range(0, count, _LANES):
        value = load(x, start + at, _LANES) if at < whole else load(scratch, 2 * room, _LANES)
        u = (value - load(origin, at, _LANES)) * load(per_x, at, _LANES)
        _place(u, intervals, scratch, at, room + at, cells, at)


@numba.njit(**INNER)
def _power_bits(powers, like):
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
def _lay_out(order, powers, splines, groups, functions, width, intervals, inputs):
    """Makes the polynomials of all cells, and room for a tile of rows.

    ``splines`` are coefficients, origins and steps. Returns the table of polynomials; where that of
    each input begins; the rows of a tile; room for its states and for those before; and its grid:
    for each number the origin and the inverse of the step, then places, their number, and cells.
    """
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, powers, splines, groups, functions, width, intervals, inputs):
        coefficients, origins, steps = splines
        real = coefficients.dtype.type
        height = max(1, _TILE // inputs)
        size = height * inputs
        room = size + _LANES
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
        scratch, cells = np.zeros(2 * room + _LANES, table.dtype), np.empty(room, np.int32)
        grid = origin, per_x, intervals, scratch, room, cells
        z, before = np.empty(size, table.dtype), np.zeros(size, table.dtype)
        return table, offsets, height, z, before, grid

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _gather(order, powers, table, grad_coefficients, groups, functions, width, intervals):
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


@numba.njit(**INNER)
def _next_block(at, lanes, units):
    """Returns where the next vector of a row begins; the last may overlap the one before it."""
    return at + lanes if at + 2 * lanes <= units or at + lanes == units else units - lanes


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _states(lanes, spline, states, first, sizes, rows, z, before, grid):
    """Writes z of a tile's units and, for splines, their cells (0 left of the grid) and places.

    Returns whether z is y itself, and was not written.
    """
    width, has_grid = lanes.literal_value, spline.literal_value

    def loop(lanes, spline, states, first, sizes, rows, z, before, grid):
        source, carried, code, modulation = states
        units, stride, reach, rank = sizes
        origin, per_x, intervals, scratch, room, cells = grid
        if has_grid and stride == units and rank < 0 and reach == 0:
            _place_tile(source, first * units, rows * units, grid)
            return True
        copy_rows(carried, first * reach, reach, before, 0, units, rows, min(reach, units))
        for r in range(rows):
            at = 0
            while at < units:
                k, codes_at = r * units + at, (first + r) * rank
                shift = load(before, k, width)
                value = load(source, (first + r) * stride + at, width)
                if rank >= 0:
                    row = 2 * rank * units + at
                    factor = load(modulation, row, width) + 1
                    shift = shift + load(modulation, row + units, width)
                    for j in range(rank):
                        row, number = 2 * j * units + at, get(code, codes_at + j)
                        factor = fma(number, load(modulation, row, width), factor)
                        shift = fma(number, load(modulation, row + units, width), shift)
                    value = value * factor
                value = value + shift
                store(z, k, value)
                if has_grid:
                    u = (value - load(origin, at, width)) * load(per_x, at, width)
                    _place(u, intervals, scratch, k, room + k, cells, k)
                at = _next_block(at, width, units)
        return False

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _through_spline(order, powers, polynomials, grid, tile, arrays, results):
    """Goes back through one spline of each unit of a tile.

    Writes products with gates, slopes times gradients, and gradients of gates; adds to the
    gradient of the polynomials.
    """
    degree, count = order.literal_value, powers.literal_value

    def loop(order, powers, polynomials, grid, tile, arrays, results):
        table, offsets, bits, totals = polynomials
        _, per_x, _, scratch, room, cells = grid
        r0, rows, units, stride, row_size = tile
        source, grad_h = arrays
        products, slopes, grad_input = results
        ones_on, ones_off = load(bits, 0, count), load(bits, count, count)
        twos_on, twos_off = load(bits, 2 * count, count), load(bits, 3 * count, count)
        fours_on, fours_off = load(bits, 4 * count, count), load(bits, 5 * count, count)
        k = 0
        for row in range(r0, r0 + rows):
            for u in range(units):
                a = get(offsets, u) + get(cells, k) * count
                f, kept = get(scratch, k), get(scratch, room + k)
                at = (row - r0) * row_size + u
                value, slope = _value_and_slope(table, a, degree, f, kept)
                g = get(grad_h, at)
                if stride > units:
                    gate = row * stride + units + u
                    q = get(source, gate)
                    store(grad_input, gate, g * value)
                    value = value * q
                    g = g * q
                store(products, at, value)
                store(slopes, k, g * slope * get(per_x, u))
                power = fma(f, ones_on, ones_off)
                if count > 2:
                    square = kept * kept  # not of f, which may overflow
                    power = power * fma(square, twos_on, twos_off)
                if count > 4:
                    fourth = square * square
                    power = power * fma(fourth, fours_on, fours_off)
                store(totals, a, fma(power, g, load(totals, a, count)))
                k += 1

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _through_splines(order, powers, width, polynomials, grid, tile, grad_h, results):
    """Goes back through several splines of each unit, which have no gates.

    Writes their values and the sums of slopes times gradients; adds to the gradient of the
    polynomials.
    """
    degree = order.literal_value

    def loop(order, powers, width, polynomials, grid, tile, grad_h, results):
        table, offsets, _, totals = polynomials
        _, per_x, _, scratch, room, cells = grid
        _, rows, units, _, row_size = tile
        products, slopes, _ = results
        k = 0
        for row in range(rows):
            for u in range(units):
                a = get(offsets, u) + get(cells, k) * powers * width
                f, kept = get(scratch, k), get(scratch, room + k)
                to_x = table.dtype.type(0)
                for part in range(0, width, _WIDTH):
                    cell, at = a + part, row * row_size + u * width + part
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
                store(slopes, k, to_x * get(per_x, u))
                k += 1

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _through_silu(lanes, z, tile, arrays, results):
    """Goes back through SiLU of each unit of a tile, as :func:`_through_spline` does."""
    width = lanes.literal_value

    def loop(lanes, z, tile, arrays, results):
        r0, rows, units, stride, row_size = tile
        source, grad_h = arrays
        products, slopes, grad_input = results
        for row in range(r0, r0 + rows):
            u = 0
            while u < units:
                k, at = (row - r0) * units + u, (row - r0) * row_size + u
                sigmoid, silu = sigmoid_and_silu(load(z, k, width))
                g, value = load(grad_h, at, width), silu
                if stride > units:
                    gate = row * stride + units + u
                    q = load(source, gate, width)
                    store(grad_input, gate, g * silu)
                    value = silu * q
                    g = g * q
                store(products, at, value)
                store(slopes, k, g * (sigmoid + silu * (1 - sigmoid)))
                u = _next_block(u, width, units)

    return loop


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _through_state(lanes, has_grad_state, rank, tile, arrays, modulations, results):
    """Goes back from z of a tile's units to their values y.

    Writes the gradients of z and, with a modulation, those of its scales and shifts by row.
    """
    width = lanes.literal_value

    def loop(lanes, has_grad_state, rank, tile, arrays, modulations, results):
        r0, rows, units, stride, _ = tile
        source, grad_state, code, slopes = arrays
        of_states, of_rows, grad_input = results
        half = _round_up(units)
        pair = 2 * half
        for row in range(r0, r0 + rows):
            u = 0
            while u < units:
                k = (row - r0) * units + u
                of_z = load(slopes, k, width)
                if has_grad_state:
                    of_z = of_z + load(grad_state, row * units + u, width)
                store(of_states, k, of_z)
                if rank >= 0:
                    at = (row - r0) * pair + u
                    store(of_rows, at, of_z * load(source, row * stride + u, width))
                    store(of_rows, at + half, of_z)
                    factor = load(modulations, rank * pair + u, width) + 1
                    for j in range(rank):
                        scale = load(modulations, j * pair + u, width)
                        factor = fma(get(code, row * rank + j), scale, factor)
                    of_z = of_z * factor
                store(grad_input, row * stride + u, of_z)
                u = _next_block(u, width, units)

    return loop


@register_jitable(**INNER)
def _through_modulation(rank, tile, code, codes, of_rows, modulations, results):
    """Adds a tile to the gradient of the modulation, and writes that of its codes."""
    r0, rows, units, _, _ = tile
    grad_modulations, grad_code = results
    pair = 2 * _round_up(units)
    copy_rows(code, r0 * rank, rank, codes, 0, rank + 1, rows, rank)
    add_product(codes, 0, 1, rank + 1, of_rows, pair, grad_modulations, rank + 1, rows)
    real = modulations.dtype.type
    for r in range(rows):
        for j in range(rank):
            total = splat(real(0), 16)
            for at in range(0, pair, 16):
                row = load(modulations, j * pair + at, 16)
                total = fma(row, load(of_rows, r * pair + at, 16), total)
            grad_code[(r0 + r) * rank + j] = dot(total, splat(real(1), 16))


@cache
def _kernels(order: int, single: bool, lanes: int, double: bool) -> tuple[Callable[..., None], ...]:
    """Compiles the forward and backward pass, for one or several functions of a unit.

    Order 0 stands for SiLU. Vectors of ``lanes`` units cover a row, and the last ends with the row:
    units that it shares with the one before are computed twice and counted once.
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
        states = arrays_at((input_at, carried_at, code_at, modulation_at), zero)
        source, sizes = states[0], (units, stride, reach, rank)
        splines = arrays_at((coefficients_at, origin_at, step_at), zero)
        weight, bias, output, state = arrays_at((weight_at, bias_at, output_at, state_at), zero)
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
        table, offsets, height, z, before, grid = _lay_out(
            degree, powers, splines, groups, functions, width, intervals, units
        )
        _, _, _, scratch, room, cells = grid
        products = np.ones(height * row_size, output.dtype)
        block = np.empty(height * wide, output.dtype)
        gated = stride > units
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            plain = _states(lanes, spline, states, r0, sizes, n, z, before, grid)
            if state_at:
                begin = r0 * units if plain else 0
                copy_rows(source if plain else z, begin, 0, state, r0 * units, 0, 1, n * units)
            if not spline:
                for row in range(r0, r0 + n):
                    at = 0
                    while at < units:
                        _, silu = sigmoid_and_silu(load(z, (row - r0) * units + at, lanes))
                        if gated:
                            silu = silu * load(source, row * stride + units + at, lanes)
                        store(products, (row - r0) * row_size + at, silu)
                        at = _next_block(at, lanes, units)
            if spline:
                k = 0
                for row in range(r0, r0 + n):
                    for u in range(units):
                        a = get(offsets, u) + get(cells, k) * cell_step
                        f, kept = get(scratch, k), get(scratch, room + k)
                        to = (row - r0) * row_size + u * width
                        if several == 1:
                            value = _value_and_slope(table, a, degree, f, kept)[0]
                            if gated:
                                value = value * get(source, row * stride + units + u)
                            store(products, to, value)
                        for part in range(0, width if several > 1 else 0, several):
                            many, _ = _values_and_slopes(table, a + part, degree, width, f, kept)
                            store(products, to + part, many)
                        k += 1
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
        states = arrays_at((input_at, carried_at, code_at, modulation_at), zero)
        source, _, code, modulation = states
        sizes = units, stride, reach, rank
        splines = arrays_at((coefficients_at, origin_at, step_at), zero)
        others = grad_at, grad_state_at, weight_at, h_at
        grad, grad_state, weight, h = arrays_at(others, zero)
        of_rows_at = grad_input_at, grad_carried_at, grad_code_at
        grad_input, grad_carried, grad_code = arrays_at(of_rows_at, zero)
        sums = grad_modulation_at, grad_coefficients_at, grad_weight_at, grad_bias_at
        grad_modulation, grad_coefficients, grad_weight, grad_bias = arrays_at(sums, zero)
        width = 1 if several == 1 else (functions + several - 1) // several * several
        inner = units * width
        row_size = _round_up(inner + 1)
        weights = np.zeros(outputs * row_size, h.dtype)
        grad_weights = np.zeros(outputs * row_size, h.dtype)
        if weight_at:
            _repack(weights, row_size, width, weight, 0, outputs, units, functions, True)
        # Scales and shifts lie side by side in whole vectors, one row for each number of a code.
        half = _round_up(units)
        pair = 2 * half
        modulations = np.zeros((rank + 1) * pair, h.dtype)
        grad_modulations = np.zeros((rank + 1) * pair, h.dtype)
        copy_rows(modulation, 0, units, modulations, 0, half, 2 * (rank + 1), units)
        table, offsets, height, z, before, grid = _lay_out(
            degree, powers, splines, groups, functions, width, intervals, units
        )
        totals = np.zeros(len(table), h.dtype)
        polynomials = table, offsets, _power_bits(powers, totals), totals
        slopes, of_states = np.empty(len(z), h.dtype), np.empty(len(z), h.dtype)
        products = np.ones(height * row_size, h.dtype)
        grad_h = np.zeros(height * row_size, h.dtype)
        of_rows = np.zeros(height * pair, h.dtype)
        codes = np.ones(height * (rank + 1), h.dtype)
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            tile = r0, n, units, stride, row_size
            plain = _states(lanes, spline, states, r0, sizes, n, z, before, grid)
            if weight_at:
                grad_h[:] = 0
                add_product(grad, r0 * outputs, outputs, 1, weights, row_size, grad_h, n, outputs)
            else:
                _repack(grad_h, row_size, width, grad, r0, n, units, functions, True)
            arrays, results = (source, grad_h), (products, slopes, grad_input)
            if not spline:
                _through_silu(lanes, z, tile, arrays, results)
            elif several == 1:
                _through_spline(degree, powers, polynomials, grid, tile, arrays, results)
            else:
                _through_splines(degree, powers, width, polynomials, grid, tile, grad_h, results)
            if plain and grad_state_at == 0:
                copy_rows(slopes, 0, 0, grad_input, r0 * units, 0, 1, n * units)
            else:
                of_units = source, grad_state, code, slopes
                written = of_states, of_rows, grad_input
                _through_state(
                    lanes, grad_state_at != 0, rank, tile, of_units, modulations, written
                )
            if rank >= 0:
                sums = grad_modulations, grad_code
                _through_modulation(rank, tile, code, codes, of_rows, modulations, sums)
            if weight_at:
                add_product(
                    grad, r0 * outputs, 1, outputs, products, row_size, grad_weights, outputs, n
                )
            elif h_at:
                _repack(products, row_size, width, h, r0, n, units, functions, False)
            if carried_at:
                reached = min(reach, units)
                copy_rows(of_states, 0, units, grad_carried, r0 * reach, reach, n, reached)
        if spline:
            _gather(degree, powers, totals, grad_coefficients, groups, functions, width, intervals)
        copy_rows(grad_modulations, 0, half, grad_modulation, 0, units, 2 * (rank + 1), units)
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
    lanes = 16 if layer.units >= 16 else 8 if layer.units >= 8 else 1
    return _kernels(layer.order, layer.functions == 1, lanes, layer.input.dtype == torch.float64)


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
    layer: UnitsOperands, grad: Tensor | None, grad_state: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Computes the gradients of the first seven operands, given those of output and state."""
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
