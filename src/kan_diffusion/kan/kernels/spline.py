r"""CPU kernel of a B-spline layer, which multiplies only functions that are not zero.

Of the G + k splines of an input, k + 1 differ from zero. With c the cell of :math:`x_{n,i}`, the
pieces :math:`p_j` of :mod:`kan_diffusion.kan.bases` and the base activation b,

.. math:: y_n = \beta + \sum_i \Big( b(x_{n,i})\, W_{i,b} + \sum_{j=0}^{k} p_j\, W_{i,c+j} \Big),

with :math:`W_{i,g}` the row of weights, one per output, of function g of input i. That takes k + 2
multiplications per edge instead of 1 + G + k, whatever the size of the grid, and stores no
features. The gradients have the same form:

.. math:: \partial W_{i,c+j} \mathrel{+}= p_j\, \partial y_n, \qquad
    \partial x_{n,i} = \partial y_n \cdot
    \Big( b'\, W_{i,b} + \tfrac1h \sum_j p'_j\, W_{i,c+j} \Big),

where the pieces are recomputed from x. For speed, the weights are laid out as rows of up to 32
outputs (in the backward pass each beside the row of its gradient), the rows of the batch and the
inputs are cut into tiles whose weights stay in the cache, and every inner loop runs along the
outputs as one vector (:mod:`kan_diffusion.kan.kernels.simd`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numba
import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor

from kan_diffusion.kan.bases import MAX_ORDER, piece_coefficients
from kan_diffusion.kan.kernels.fused import Gradients
from kan_diffusion.kan.kernels.operands import SplineOperands
from kan_diffusion.kan.kernels.runtime import INNER, chunks, compiled, launch
from kan_diffusion.kan.kernels.simd import (
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
    zero_where_apart,
)

_LANES = 16  # of the loops over a tile's inputs
_TILE = 2048
"""Inputs (rows times columns) of a tile."""
_CAPACITY = _TILE + _LANES
"""Room for a tile; not a power of two, which would collide in the cache."""
_MAX_ROWS = 256
"""Most rows of a tile."""
_CACHE_BYTES = 20480  # for the weights of a tile's columns, in a first-level cache of 32 KiB

# Where the parts of a tile's scratch memory begin.
_X = 0
_U = _CAPACITY
_BASES = 2 * _CAPACITY
_BASE_SLOPES = 3 * _CAPACITY
_PIECES = 4 * _CAPACITY
_SLOPES = _PIECES + (MAX_ORDER + 1) * _CAPACITY
_SCRATCH = _SLOPES + (MAX_ORDER + 1) * _CAPACITY
"""Size of a tile's scratch memory."""

# Here a division may become a multiplication by the reciprocal.
_FASTMATH = {"fastmath": {"contract", "nsz", "arcp"}}
_INNER = {**INNER, **_FASTMATH}


@numba.njit(**_INNER)
def blocks(outputs):
    """Yields the first output of each block of a row, and its number of lanes."""
    column, padded = 0, (outputs + 7) // 8 * 8
    while column < padded:
        left = padded - column
        lanes = 32 if left >= 32 else (16 if left >= 16 else 8)
        yield column, lanes
        column += lanes


@register_jitable(**_INNER)
def repack(unpack, weight, table, inputs, outputs, width, stride, reach, scale):
    """Writes the packed weight as rows of outputs, or reads its gradient from them.

    ``scale`` is 2 where the rows of the gradient lie between those of the weight. Functions beyond
    the grid, where there are any, have rows of zeros.
    """
    gap = 1 if reach else 0  # without a gap, the inputs follow each other in both
    total = inputs * width
    for column, lanes in blocks(outputs):
        count = min(lanes, outputs - column)
        for i in range(inputs if gap else 1):
            for part in range(1 + gap):  # of the base, and of the splines
                size = (width - 1 if part else 1) if gap else total
                at = column * total + i * width + part
                row = i * stride + part * (1 + reach)
                to = (column * inputs * stride + row * lanes) * scale
                if unpack:
                    transpose(table, to + lanes, lanes * scale, weight, at, total, size, count)
                else:
                    transpose(weight, at, total, table, to, lanes * scale, count, size)


@register_jitable(**_INNER)
def make_room(weight, step, inputs, outputs, width, reach, scale):
    """Lays out the weights, and makes room for tiles.

    Returns a row's size; the table of weights; each input's inverse step; columns and rows of a
    tile; and memory for it.
    """
    stride, padded = width + 2 * reach, (outputs + 7) // 8 * 8
    table = np.zeros(inputs * stride * padded * scale, weight.dtype)
    repack(False, weight, table, inputs, outputs, width, stride, reach, scale)
    inverse_step = np.empty(inputs, weight.dtype)
    for i in range(inputs):
        inverse_step[i] = 1 / step[i]
    row_bytes = min(padded, 32) * weight.itemsize * scale
    columns = _CACHE_BYTES // (stride * row_bytes)  # inputs whose weights stay in the cache
    columns = min(max(4, columns // 8 * 8), inputs, 32)
    height = min(_MAX_ROWS, _TILE // columns)
    memory = np.empty(_SCRATCH, weight.dtype), np.empty(_CAPACITY, np.int32)
    return (
        stride,
        table,
        inverse_step,
        columns,
        height,
        memory,
        np.zeros(height * padded, weight.dtype),
    )


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


@compiled_by_type(prefer_literal=True, jit_options=_INNER)
def expand(order, scratch, cells, count, intervals, reach, slopes):
    """Computes cells, pieces and SiLU of a tile, and with ``slopes`` their slopes.

    Like the loops below, it is compiled for each order. Splines ``reach`` over so many intervals
    beyond the grid; over none if they go on by their tangents.
    """
    degree_k = order.literal_value
    values = piece_coefficients(degree_k)
    derivatives = piece_coefficients(degree_k, 1)

    def loop(order, scratch, cells, count, intervals, reach, slopes):
        real = scratch.dtype.type
        for at in range(0, count, _LANES):
            u = load(scratch, _U + at, _LANES)
            inside = minimum(maximum(u, -reach), intervals + reach)
            cell = minimum(floor(inside), intervals + reach - 1)
            store_as_int(cells, at, cell + reach)
            f = inside - cell + nan_or_zero(u)
            beyond = u - inside
            for j in range(degree_k + 1):
                piece = splat(real(values[j][degree_k]), _LANES)
                for degree in range(degree_k - 1, -1, -1):
                    piece = fma(piece, f, values[j][degree])
                if slopes or not reach:
                    slope = splat(real(derivatives[j][degree_k - 1]), _LANES)
                    for degree in range(degree_k - 2, -1, -1):
                        slope = fma(slope, f, derivatives[j][degree])
                    if reach:
                        slope = zero_where_apart(slope, u, inside)
                    else:
                        piece = fma(slope, beyond, piece)
                    store(scratch, _SLOPES + j * _CAPACITY + at, slope)
                store(scratch, _PIECES + j * _CAPACITY + at, piece)
            sigmoid, base = sigmoid_and_silu(load(scratch, _X + at, _LANES))
            store(scratch, _BASES + at, base)
            if slopes:
                store(scratch, _BASE_SLOPES + at, sigmoid + base * (1 - sigmoid))

    return loop


@compiled_by_type(prefer_literal=True, jit_options=_INNER)
def outputs(order, lanes, tile, t, y, y_at):
    """Adds a tile's products to a block of ``lanes`` outputs."""
    pieces, width = order.literal_value + 1, lanes.literal_value

    def loop(order, lanes, tile, t, y, y_at):
        cells, scratch, table, rows, columns, stride = tile
        for r in range(rows):
            even = load(y, y_at + r * width, width)
            odd = splat(y.dtype.type(0), width)
            row = t
            for i in range(columns):
                at = r * columns + i
                cell = row + (get(cells, at) + 1) * width
                odd = fma(get(scratch, _BASES + at), load(table, row, width), odd)
                for j in range(pieces):
                    weight = load(table, cell + j * width, width)
                    if j % 2 == 0:
                        even = fma(get(scratch, _PIECES + j * _CAPACITY + at), weight, even)
                    else:
                        odd = fma(get(scratch, _PIECES + j * _CAPACITY + at), weight, odd)
                row += stride * width
            store(y, y_at + r * width, even + odd)

    return loop


@compiled_by_type(prefer_literal=True, jit_options=_INNER)
def gradients(order, lanes, tile, t, grad, g_at, grad_u, slopes):
    """Adds a tile's products to the gradients of the weights and, with ``slopes``, of u."""
    pieces, width = order.literal_value + 1, lanes.literal_value

    def loop(order, lanes, tile, t, grad, g_at, grad_u, slopes):
        cells, scratch, table, rows, columns, stride = tile
        for r in range(rows):
            g = load(grad, g_at + r * width, width)
            row = t
            for i in range(columns):
                at = r * columns + i
                cell = row + (get(cells, at) + 1) * 2 * width
                if slopes:
                    slope = splat(grad.dtype.type(0), width)
                    weight = load(table, row, width)
                    slope = fma(get(scratch, _BASE_SLOPES + at), weight, slope)
                    for j in range(pieces):
                        weight = load(table, cell + 2 * j * width, width)
                        slope = fma(get(scratch, _SLOPES + j * _CAPACITY + at), weight, slope)
                    grad_u[at] += dot(slope, g)
                total = load(table, row + width, width)
                store(table, row + width, fma(get(scratch, _BASES + at), g, total))
                for j in range(pieces):
                    entry = cell + (2 * j + 1) * width
                    total = load(table, entry, width)
                    total = fma(get(scratch, _PIECES + j * _CAPACITY + at), g, total)
                    store(table, entry, total)
                row += stride * 2 * width

    return loop


@cache
def _kernels(order: int, double: bool) -> tuple[Callable[..., None], ...]:
    """Compiles the forward and backward pass."""
    zero = np.float64(0) if double else np.float32(0)

    def forward(
        x_at, weight_at, bias_at, origin_at, step_at, y_at, rows, inputs, outputs_, intervals, reach
    ):  # fmt: skip
        addresses = x_at, weight_at, bias_at, origin_at, step_at, y_at
        x, weight, bias, origin, step, y = arrays_at(addresses, zero)
        stride, table, inverse_step, columns, height, memory, block = make_room(
            weight, step, inputs, outputs_, 1 + intervals + order, reach, 1
        )
        scratch, cells = memory
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            for column, lanes in blocks(outputs_):
                count = min(lanes, outputs_ - column)
                copy_rows(bias, column, 0, block, column * height, lanes, n, count)
            for i0 in range(0, inputs, columns):
                m = min(columns, inputs - i0)
                place(x, r0 * inputs + i0, inputs, origin, inverse_step, i0, m, n, scratch)
                expand(order, scratch, cells, n * m, intervals, reach, False)
                tile = cells, scratch, table, n, m, stride
                for column, lanes in blocks(outputs_):
                    t, at = (column * inputs + i0 * lanes) * stride, column * height
                    if lanes == 32:
                        outputs(order, 32, tile, t, block, at)
                    elif lanes == 16:
                        outputs(order, 16, tile, t, block, at)
                    else:
                        outputs(order, 8, tile, t, block, at)
            for column, lanes in blocks(outputs_):
                count = min(lanes, outputs_ - column)
                to = r0 * outputs_ + column
                copy_rows(block, column * height, lanes, y, to, outputs_, n, count)

    def backward(
        grad_at, x_at, weight_at, origin_at, step_at, grad_x_at, grad_weight_at, grad_bias_at, rows,
        inputs, outputs_, intervals, reach,
    ):  # fmt: skip
        addresses = grad_at, x_at, weight_at, origin_at, step_at
        grad, x, weight, origin, step = arrays_at(addresses, zero)
        sums = grad_x_at, grad_weight_at, grad_bias_at
        grad_x, grad_weight, grad_bias = arrays_at(sums, zero)
        slopes = grad_x_at != 0  # else the gradient of x is not wanted
        width = 1 + intervals + order
        for o in range(outputs_):
            grad_bias[o] = 0
        stride, table, inverse_step, columns, height, memory, block = make_room(
            weight, step, inputs, outputs_, width, reach, 2
        )
        scratch, cells = memory
        grad_u = np.empty(_CAPACITY, x.dtype)
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            for column, lanes in blocks(outputs_):
                count = min(lanes, outputs_ - column)
                at = r0 * outputs_ + column
                copy_rows(grad, at, outputs_, block, column * height, lanes, n, count)
            for r in range(r0, r0 + n):
                for o in range(outputs_):
                    grad_bias[o] += grad[r * outputs_ + o]
            for i0 in range(0, inputs, columns):
                m = min(columns, inputs - i0)
                place(x, r0 * inputs + i0, inputs, origin, inverse_step, i0, m, n, scratch)
                expand(order, scratch, cells, n * m, intervals, reach, slopes)
                for r in range(n if slopes else 0):
                    for i in range(m):  # the gradient is gathered in units of the grid's step
                        scratch[_BASE_SLOPES + r * m + i] *= step[i0 + i]
                for at in range(n * m):
                    grad_u[at] = 0
                tile = cells, scratch, table, n, m, stride
                for column, lanes in blocks(outputs_):
                    t, at = (column * inputs + i0 * lanes) * stride * 2, column * height
                    if lanes == 32:
                        gradients(order, 32, tile, t, block, at, grad_u, slopes)
                    elif lanes == 16:
                        gradients(order, 16, tile, t, block, at, grad_u, slopes)
                    else:
                        gradients(order, 8, tile, t, block, at, grad_u, slopes)
                for r in range(n if slopes else 0):
                    for i in range(m):
                        u = grad_u[r * m + i]
                        grad_x[(r0 + r) * inputs + i0 + i] = u * inverse_step[i0 + i]
        repack(True, grad_weight, table, inputs, outputs_, width, stride, reach, 2)

    return compiled(forward, **_FASTMATH), compiled(backward, **_FASTMATH)


def forward(layer: SplineOperands) -> Tensor:
    """Computes the outputs (N, out) of a layer."""
    x, weight, bias, origin, step = layer[:5]
    rows, sizes = len(x), layer.sizes()
    inputs, outputs, _, _ = sizes
    y = x.new_empty(rows, outputs)
    bias = weight.new_zeros(outputs) if bias is None else bias
    operands = (x, inputs), (weight, 0), (bias, 0), (origin, 0), (step, 0), (y, outputs)
    kernel, _ = _kernels(layer.order, x.dtype == torch.float64)
    launch(kernel, chunks(rows, inputs * outputs * (layer.order + 1)), operands, sizes)
    return y


def backward(
    layer: SplineOperands, grads: Sequence[Tensor | None], for_first: bool = True
) -> Gradients:
    """Computes the gradients of x (None unless wanted), weight and bias from that of the output."""
    (grad,) = grads
    x, weight, bias, origin, step = layer[:5]
    rows, sizes = len(x), layer.sizes()
    inputs, outputs, _, _ = sizes
    grad_x = x.new_empty(rows, inputs) if for_first else None
    operands = (grad, outputs), (x, inputs), (weight, 0), (origin, 0), (step, 0), (grad_x, inputs)
    sums = weight, weight.new_empty(outputs)
    _, kernel = _kernels(layer.order, x.dtype == torch.float64)
    parts = chunks(rows, 2 * inputs * outputs * (layer.order + 1))
    grad_weight, grad_bias = launch(kernel, parts, operands, sizes, sums)
    return grad_x, grad_weight, None if bias is None else grad_bias
