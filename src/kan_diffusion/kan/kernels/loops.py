r"""The loops of a B-spline layer on the CPU: only what is not zero is multiplied.

Of the G + k splines of an input, k + 1 differ from zero. With c the cell of :math:`x_{n,i}`, the
pieces :math:`p_j` of :mod:`kan_diffusion.kan.bases.spline` and the base activation b,

.. math:: y_n = \beta + \sum_i \Big( b(x_{n,i})\, W_{i,b} + \sum_{j=0}^{k} p_j\, W_{i,c+j} \Big),

with :math:`W_{i,g}` the row of weights (one an output) of function g of input i. That is k + 2
multiplications an edge instead of 1 + G + k, whatever the size of the grid, and no features in
memory. The gradients have the same form:

.. math:: \partial W_{i,c+j} \mathrel{+}= p_j\, \partial y_n, \qquad
    \partial x_{n,i} = \partial y_n \cdot
    \Big( b'\, W_{i,b} + \tfrac1h \sum_j p'_j\, W_{i,c+j} \Big),

with the pieces recomputed from x. To keep the arithmetic fed, the weights are laid out as rows of
up to 32 outputs (in the backward pass each beside the row of its gradient), the rows of the batch
and the inputs are cut into tiles whose weights stay in the cache, and every inner loop runs along
the outputs as one vector (:mod:`kan_diffusion.kan.kernels.simd`).
"""

from __future__ import annotations

import math

import numba
from numba import types
from numba.extending import overload

from kan_diffusion.kan.bases.spline import MAX_ORDER, piece_coefficients
from kan_diffusion.kan.kernels.simd import (
    axpy,
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
    store_as_int,
    transpose_8x8,
    zero_where_apart,
    zeros,
)

__all__ = [
    "BASE_SLOPES",
    "CAPACITY",
    "MAX_ROWS",
    "OPTIONS",
    "SCRATCH",
    "TILE",
    "block_lanes",
    "copy_rows",
    "expand",
    "gradients",
    "outputs",
    "place",
    "repack",
    "tile_columns",
]

LANES = 16  # of the loops over a tile's inputs
TILE = 2048
"""Inputs (rows times columns) of a tile."""
CAPACITY = TILE + LANES
"""Room for a tile; not a power of two, which would collide in the cache."""
MAX_ROWS = 256
"""Most rows of a tile."""
_CACHE_BYTES = 20480  # of weights that a tile's columns may take, of a first-level cache of 32 KiB

# Where the parts of a tile's scratch memory begin.
_X = 0
_U = CAPACITY
_BASES = 2 * CAPACITY
BASE_SLOPES = 3 * CAPACITY
_PIECES = 4 * CAPACITY
_SLOPES = _PIECES + (MAX_ORDER + 1) * CAPACITY
SCRATCH = _SLOPES + (MAX_ORDER + 1) * CAPACITY
"""Size of a tile's scratch memory."""

# A NaN must not decide where a row is written, so values are not assumed to be finite.
OPTIONS = {"nogil": True, "fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
_INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@numba.njit(**_INNER)
def block_lanes(left):
    """How many outputs the next block of a row takes when ``left`` are left."""
    return 32 if left >= 32 else (16 if left >= 16 else 8)


@numba.njit(**_INNER)
def copy_rows(source, at, source_stride, target, to, target_stride, rows, count):
    """Copies ``count`` numbers of each of some rows."""
    for r in range(rows):
        o = 0
        while o + 8 <= count:
            store(target, to + r * target_stride + o, load(source, at + r * source_stride + o, 8))
            o += 8
        while o < count:
            target[to + r * target_stride + o] = source[at + r * source_stride + o]
            o += 1


@numba.njit(**_INNER)
def tile_columns(inputs, stride, row_bytes):
    """How many inputs' weights stay in the first-level cache together."""
    columns = _CACHE_BYTES // (stride * row_bytes)
    return min(max(4, columns // 8 * 8), inputs, 32)


@numba.njit(**_INNER)
def transpose(source, at, source_stride, target, to, target_stride, rows, columns):
    """Writes the rows of a matrix as columns."""
    even_rows, even_columns = rows // 8 * 8, columns // 8 * 8
    for r in range(0, even_rows, 8):
        for c in range(0, even_columns, 8):
            here = at + r * source_stride + c
            transpose_8x8(
                source, here, source_stride, target, to + c * target_stride + r, target_stride
            )
    for r in range(rows):
        for c in range(even_columns if r < even_rows else 0, columns):
            target[to + c * target_stride + r] = source[at + r * source_stride + c]


@numba.njit(**_INNER)
def repack(unpack, weight, table, inputs, outputs, width, stride, first, reach, scale):
    """Writes the packed weight as rows of outputs, or takes its gradient from them.

    ``scale`` is 2 where the rows of the gradient lie between those of the weight. Functions beyond
    the grid, where there are any, have rows of zeros.
    """
    padded = (outputs + 7) // 8 * 8
    gap = 1 if reach else 0  # without one, the inputs follow each other in both
    column = 0
    while column < padded:
        lanes = block_lanes(padded - column)
        count = min(lanes, outputs - column)
        total = inputs * width
        for i in range(inputs if gap else 1):
            for part in range(2 if gap else 1):
                start = first if part == 1 else 0
                size = (width - first if part == 1 else first) if gap else total
                at = column * total + i * width + start
                row = i * stride + (first + reach if part == 1 else 0)
                to = (column * inputs * stride + row * lanes) * scale
                if unpack:
                    transpose(table, to + lanes, lanes * scale, weight, at, total, size, count)
                else:
                    transpose(weight, at, total, table, to, lanes * scale, count, size)
        column += lanes


@numba.njit(**_INNER)
def place(x, at, inputs, origin, inverse_step, i0, columns, rows, scratch):
    """Copies a tile's x and writes u = (x - origin) / step."""
    for r in range(rows):
        i = 0
        while i + 8 <= columns:
            value = load(x, at + r * inputs + i, 8)
            u = (value - load(origin, i0 + i, 8)) * load(inverse_step, i0 + i, 8)
            store(scratch, _X + r * columns + i, value)
            store(scratch, _U + r * columns + i, u)
            i += 8
        while i < columns:
            value = get(x, at + r * inputs + i)
            u = (value - get(origin, i0 + i)) * get(inverse_step, i0 + i)
            scratch[_X + r * columns + i] = value
            scratch[_U + r * columns + i] = u
            i += 1


def _is_literal(*parameters: types.Type) -> bool:
    return all(isinstance(parameter, types.IntegerLiteral) for parameter in parameters)


def expand(order, first, scratch, cells, count, intervals, linear, reach, slopes):
    """Cells, pieces and base activation of a tile, and their slopes.

    Like the loops below compiled for each order, and with (``first`` = 1) or without SiLU: numba
    calls what the decorated function returns, for constants.
    """
    raise NotImplementedError


@overload(expand, prefer_literal=True, jit_options=_INNER)
def _expand(order, first, scratch, cells, count, intervals, linear, reach, slopes):
    if not _is_literal(order, first):
        return None
    degree_k, with_base = order.literal_value, first.literal_value
    values = piece_coefficients(degree_k)
    derivatives = piece_coefficients(degree_k, 1)
    double = scratch.dtype.bitwidth == 64
    # The series of 2**r on [-1/2, 1/2], exact to rounding, and exponents of normal numbers.
    terms, bound = (14, 1022.0) if double else (8, 126.0)
    exponential = tuple(math.log(2) ** n / math.factorial(n) for n in range(terms))

    def loop(order, first, scratch, cells, count, intervals, linear, reach, slopes):
        real = scratch.dtype.type
        bottom = splat(real(-reach), LANES)
        top = splat(real(intervals + reach), LANES)
        last = splat(real(intervals + reach - 1), LANES)
        offset = splat(real(reach), LANES)
        one = splat(real(1), LANES)
        for at in range(0, count, LANES):
            u = load(scratch, _U + at, LANES)
            inside = minimum(maximum(u, bottom), top)
            cell = minimum(floor(inside), last)
            store_as_int(cells, at, cell + offset)
            f = inside - cell + nan_or_zero(u)
            beyond = u - inside
            for j in range(degree_k + 1):
                piece = splat(real(values[j][degree_k]), LANES)
                for degree in range(degree_k - 1, -1, -1):
                    piece = fma(piece, f, splat(real(values[j][degree]), LANES))
                if linear or slopes:
                    slope = splat(real(derivatives[j][degree_k - 1]), LANES)
                    for degree in range(degree_k - 2, -1, -1):
                        slope = fma(slope, f, splat(real(derivatives[j][degree]), LANES))
                    if linear:
                        piece = fma(slope, beyond, piece)
                    else:
                        slope = zero_where_apart(slope, u, inside)
                    store(scratch, _SLOPES + j * CAPACITY + at, slope)
                store(scratch, _PIECES + j * CAPACITY + at, piece)
            if with_base:
                x = load(scratch, _X + at, LANES)
                # exp(-x) = 2**whole * 2**rest, rest in [-1/2, 1/2].
                log2 = x * splat(real(-1 / math.log(2)), LANES)
                log2 = minimum(maximum(log2, splat(real(-bound), LANES)), splat(real(bound), LANES))
                whole = floor(log2 + splat(real(0.5), LANES))
                rest = log2 - whole
                power = splat(real(exponential[terms - 1]), LANES)
                for n in range(terms - 2, -1, -1):
                    power = fma(power, rest, splat(real(exponential[n]), LANES))
                sigmoid = one / (one + power * power_of_two(whole))
                # As torch has it: zero at the most negative numbers, NaN at minus infinity.
                lowest = splat(real(-bound * math.log(2)), LANES)
                special = minimum(x, splat(real(0), LANES)) * splat(real(0), LANES)
                base = maximum(x, lowest) * sigmoid + special + nan_or_zero(x)
                store(scratch, _BASES + at, base)
                if slopes:
                    store(scratch, BASE_SLOPES + at, sigmoid + base * (one - sigmoid))

    return loop


def outputs(order, first, lanes, cells, scratch, table, t, y, y_at, rows, columns, stride):
    """Adds a tile's products to a block of ``lanes`` outputs."""
    raise NotImplementedError


@overload(outputs, prefer_literal=True, jit_options=_INNER)
def _outputs(order, first, lanes, cells, scratch, table, t, y, y_at, rows, columns, stride):
    if not _is_literal(order, first, lanes):
        return None
    pieces, with_base, width = order.literal_value + 1, first.literal_value, lanes.literal_value

    def loop(order, first, lanes, cells, scratch, table, t, y, y_at, rows, columns, stride):
        for r in range(rows):
            even = load(y, y_at + r * width, width)
            odd = zeros(y, width)
            row = t
            for i in range(columns):
                at = r * columns + i
                cell = row + (get(cells, at) + with_base) * width
                if with_base:
                    odd = axpy(scratch, _BASES + at, load(table, row, width), odd)
                for j in range(pieces):
                    weight = load(table, cell + j * width, width)
                    if j % 2 == 0:
                        even = axpy(scratch, _PIECES + j * CAPACITY + at, weight, even)
                    else:
                        odd = axpy(scratch, _PIECES + j * CAPACITY + at, weight, odd)
                row += stride * width
            store(y, y_at + r * width, even + odd)

    return loop


def gradients(
    order, first, lanes, cells, scratch, table, t, grad, g_at, grad_u, rows, columns, stride
):
    """Adds a tile's products to the gradients of the weights and of u."""
    raise NotImplementedError


@overload(gradients, prefer_literal=True, jit_options=_INNER)
def _gradients(
    order, first, lanes, cells, scratch, table, t, grad, g_at, grad_u, rows, columns, stride
):
    if not _is_literal(order, first, lanes):
        return None
    pieces, with_base, width = order.literal_value + 1, first.literal_value, lanes.literal_value

    def loop(
        order, first, lanes, cells, scratch, table, t, grad, g_at, grad_u, rows, columns, stride
    ):
        for r in range(rows):
            g = load(grad, g_at + r * width, width)
            row = t
            for i in range(columns):
                at = r * columns + i
                cell = row + (get(cells, at) + with_base) * 2 * width
                slope = zeros(grad, width)
                if with_base:
                    slope = axpy(scratch, BASE_SLOPES + at, load(table, row, width), slope)
                    total = load(table, row + width, width)
                    store(table, row + width, axpy(scratch, _BASES + at, g, total))
                for j in range(pieces):
                    place = cell + 2 * j * width
                    weight = load(table, place, width)
                    slope = axpy(scratch, _SLOPES + j * CAPACITY + at, weight, slope)
                    place += width
                    total = load(table, place, width)
                    total = axpy(scratch, _PIECES + j * CAPACITY + at, g, total)
                    store(table, place, total)
                grad_u[at] += dot(slope, g)
                row += stride * 2 * width

    return loop
