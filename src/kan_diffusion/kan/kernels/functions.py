r"""CPU kernel of learned splines, shared by groups of inputs, and of layers of them.

Inputs are in groups by turns, and group g has R splines with coefficients c on one grid. As
a batch is much longer than a grid, a call first turns the splines into one polynomial per cell m,
:math:`a_{g,m,d,r} = \sum_j c_{r,g,m+j}\, p_{j,d}` with the pieces
:math:`p_j(f) = \sum_d p_{j,d} f^d` of :mod:`kan_diffusion.kan.bases.spline`. The tangents are two
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

In a layer the functions are multiplied by the weight, :math:`y = h W^\top + \beta`: by a small one
in the same pass, by a large one with torch's GEMM. The backward pass recomputes h while it turns
:math:`\partial h = \partial y\,W` into the gradients of x and the coefficients, so that only x is
kept.
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

from kan_diffusion.kan.bases.spline import piece_coefficients
from kan_diffusion.kan.kernels.runtime import INNER, chunks, compiled, launch
from kan_diffusion.kan.kernels.simd import (
    add_product,
    array_at,
    axpy,
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
    splat,
    store,
    store_as_int,
    transpose,
)

__all__ = [
    "backward",
    "forward",
    "gather",
    "is_small",
    "lay_out",
    "place",
    "power_bits",
    "round_up",
    "tabulate",
    "value_and_slope",
]

_LANES = 16  # of the search for cells
_TILE = 512  # numbers that are placed at once, unless a row has more
_WIDTH = 8  # functions of an input in one vector, if it has more than one
_MAX_WIDTH = 128  # of weights that are multiplied here: torch's GEMM is slow for small ones

_FORWARD_WORK, _BACKWARD_WORK = 16, 32
"""Cost of a function of a number, in multiplications, by which the number of threads is chosen."""


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
def _place_tile(x, start, count, origin, per_x, intervals, scratch, room, cells):
    """Writes cells and places of ``count`` numbers of x from ``start`` on."""
    whole = count // _LANES * _LANES
    copy_rows(x, start + whole, 0, scratch, 2 * room, 0, 1, count - whole)
    for at in range(0, count, _LANES):
        value = load(x, start + at, _LANES) if at < whole else load(scratch, 2 * room, _LANES)
        u = (value - load(origin, at, _LANES)) * load(per_x, at, _LANES)
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
def tabulate(order, powers, coefficients, table, groups, functions, width, intervals):
    """Writes the polynomials of all cells."""
    degree = order.literal_value
    pieces = piece_coefficients(degree)

    def loop(order, powers, coefficients, table, groups, functions, width, intervals):
        real = table.dtype.type
        step = powers * width
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


@numba.njit(**INNER)
def lay_out(origins, steps, groups, inputs, size, origin, per_x, offsets, stride):
    """Writes the grid of each number in a tile's rows, and where each input's table begins."""
    for i in range(inputs):
        group = i % groups
        store(offsets, i, group * stride)
        store(origin, i, get(origins, group))
        store(per_x, i, per_x.dtype.type(1) / get(steps, group))
    for at in range(inputs, size):
        store(origin, at, get(origin, at - inputs))
        store(per_x, at, get(per_x, at - inputs))


@register_jitable(**INNER)
def _repack(tile, row_size, width, h, r0, rows, inputs, functions, unpack):
    """Copies functions from whole vectors in a tile to side by side, or back with ``unpack``."""
    size = inputs * functions
    if width == functions:
        at = r0 * size
        if unpack:
            copy_rows(h, at, size, tile, 0, row_size, rows, size)
        else:
            copy_rows(tile, 0, row_size, h, at, size, rows, size)
        return
    for i in range(inputs):
        at = r0 * size + i * functions
        if unpack:
            copy_rows(h, at, size, tile, i * width, row_size, rows, functions)
        else:
            copy_rows(tile, i * width, row_size, h, at, size, rows, functions)


@numba.njit(**INNER)
def value_and_slope(table, a, degree, f, kept):
    """Evaluates the polynomial of a cell at a place, and its slope at the place that is kept."""
    real = table.dtype.type
    value = get(table, a + degree)
    slope = real(degree) * value
    for d in range(degree - 1, 0, -1):
        coefficient = get(table, a + d)
        value = value * kept + coefficient
        slope = slope * kept + real(d) * coefficient
    return value * f + get(table, a), slope


@cache
def _kernels(order: int, single: bool, double: bool) -> tuple[Callable[..., None], ...]:
    """Compiles the forward and backward pass, for one or several functions per input."""
    zero = np.float64(0) if double else np.float32(0)
    powers = 2 if order == 1 else 4 if order <= 3 else 8  # a polynomial is one vector
    lanes = 1 if single else _WIDTH

    def forward(
        x_at, coefficients_at, origin_at, step_at, weight_at, bias_at, found_at, rows,
        inputs, groups, functions, intervals, outputs,
    ):  # fmt: skip
        blocks = (functions + lanes - 1) // lanes
        width = blocks * lanes
        cell_step = powers * width
        x = array_at(x_at, rows * inputs, zero)
        coefficients = array_at(coefficients_at, functions * groups * (intervals + order), zero)
        origins = array_at(origin_at, groups, zero)
        steps = array_at(step_at, groups, zero)
        h = array_at(found_at, rows * inputs * functions, zero)
        table = np.zeros(groups * (intervals + 2) * cell_step, x.dtype)
        tabulate(order, powers, coefficients, table, groups, functions, width, intervals)
        height = max(1, _TILE // inputs)
        room = height * inputs + _LANES
        origin, per_x = np.empty(room, x.dtype), np.empty(room, x.dtype)
        offsets = np.empty(inputs, np.int64)
        stride = (intervals + 2) * cell_step  # of a group
        lay_out(origins, steps, groups, inputs, room, origin, per_x, offsets, stride)
        scratch = np.zeros(2 * room + _LANES, x.dtype)
        cells = np.empty(room, np.int32)
        # With a 1 beside the functions, constants are one more row of the weight.
        inner = inputs * width
        row_size, wide = round_up(inner + 1), round_up(outputs)
        weights = np.zeros(row_size * wide, x.dtype)
        if weight_at:
            weight = array_at(weight_at, outputs * inputs * functions, zero)
            for i in range(inputs):
                to = i * width * wide
                transpose(
                    weight, i * functions, inputs * functions, weights, to, wide, outputs, functions
                )
        if bias_at:
            copy_rows(array_at(bias_at, outputs, zero), 0, 0, weights, inner * wide, 0, 1, outputs)
        y = array_at(found_at, rows * outputs, zero)
        tile = np.ones(height * row_size, x.dtype)
        block = np.empty(height * wide, x.dtype)
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            _place_tile(x, r0 * inputs, n * inputs, origin, per_x, intervals, scratch, room, cells)
            k = 0
            for row in range(n):
                for i in range(inputs):
                    a = get(offsets, i) + get(cells, k) * cell_step
                    f, kept = get(scratch, k), get(scratch, room + k)
                    to = row * row_size + i * width
                    if lanes == 1:
                        store(tile, to, value_and_slope(table, a, order, f, kept)[0])
                    else:
                        for part in range(0, width, lanes):
                            value = load(table, a + part + order * width, lanes)
                            for d in range(order - 1, 0, -1):
                                value = fma(value, kept, load(table, a + part + d * width, lanes))
                            store(tile, to + part, fma(value, f, load(table, a + part, lanes)))
                    k += 1
            if weight_at:
                block[:] = 0
                add_product(tile, 0, row_size, 1, weights, wide, block, n, inner + 1)
                copy_rows(block, 0, wide, y, r0 * outputs, outputs, n, outputs)
            else:
                _repack(tile, row_size, width, h, r0, n, inputs, functions, False)

    def backward(
        grad_at, x_at, coefficients_at, origin_at, step_at, weight_at, h_at,
        grad_x_at, grad_coefficients_at, grad_weight_at, grad_bias_at, rows, inputs, groups,
        functions, intervals, outputs,
    ):  # fmt: skip
        blocks = (functions + lanes - 1) // lanes
        width = blocks * lanes
        cell_step = powers * width
        grad = array_at(grad_at, rows * inputs * functions, zero)
        x = array_at(x_at, rows * inputs, zero)
        coefficients = array_at(coefficients_at, functions * groups * (intervals + order), zero)
        origins = array_at(origin_at, groups, zero)
        steps = array_at(step_at, groups, zero)
        h = array_at(h_at, rows * inputs * functions, zero)
        grad_x = array_at(grad_x_at, rows * inputs, zero)
        grad_coefficients = array_at(
            grad_coefficients_at, functions * groups * (intervals + order), zero
        )
        real = x.dtype.type
        table = np.zeros(groups * (intervals + 2) * cell_step, x.dtype)
        tabulate(order, powers, coefficients, table, groups, functions, width, intervals)
        totals = np.zeros(groups * (intervals + 2) * cell_step, x.dtype)
        bits = power_bits(powers, totals)
        ones_on, ones_off = load(bits, 0, powers), load(bits, powers, powers)
        twos_on, twos_off = load(bits, 2 * powers, powers), load(bits, 3 * powers, powers)
        fours_on, fours_off = load(bits, 4 * powers, powers), load(bits, 5 * powers, powers)
        height = max(1, _TILE // inputs)
        room = height * inputs + _LANES
        origin, per_x = np.empty(room, x.dtype), np.empty(room, x.dtype)
        offsets = np.empty(inputs, np.int64)
        stride = (intervals + 2) * cell_step  # of a group
        lay_out(origins, steps, groups, inputs, room, origin, per_x, offsets, stride)
        scratch = np.zeros(2 * room + _LANES, x.dtype)
        cells = np.empty(room, np.int32)
        inner = inputs * width
        row_size = round_up(inner + 1)
        weights = np.zeros(outputs * row_size, x.dtype)
        grad_weights = np.zeros(outputs * row_size, x.dtype)
        if weight_at:
            weight = array_at(weight_at, outputs * inputs * functions, zero)
            _repack(weights, row_size, width, weight, 0, outputs, inputs, functions, True)
        grad_y = array_at(grad_at, rows * outputs, zero)
        tile = np.ones(height * row_size, x.dtype)
        grads = np.zeros(height * row_size, x.dtype)
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            _place_tile(x, r0 * inputs, n * inputs, origin, per_x, intervals, scratch, room, cells)
            if weight_at:
                grads[:] = 0
                add_product(
                    grad_y, r0 * outputs, outputs, 1, weights, row_size, grads, n, outputs
                )  # fmt: skip
            else:
                _repack(grads, row_size, width, grad, r0, n, inputs, functions, True)
            k = 0
            for row in range(n):
                for i in range(inputs):
                    a = get(offsets, i) + get(cells, k) * cell_step
                    f, kept = get(scratch, k), get(scratch, room + k)
                    number, own = r0 * inputs + k, row * row_size + i * width
                    if lanes == 1:
                        g = get(grads, own)
                        one, rise = value_and_slope(table, a, order, f, kept)
                        store(tile, own, one)
                        store(grad_x, number, g * rise * get(per_x, k))
                        exponents = axpy(scratch, k, ones_on, ones_off)
                        if powers > 2:
                            square = kept * kept  # not of f, which may overflow
                            exponents = exponents * fma(splat(square, powers), twos_on, twos_off)
                        if powers > 4:
                            fourth = square * square
                            exponents = exponents * fma(splat(fourth, powers), fours_on, fours_off)
                        total = load(totals, a, powers)
                        store(totals, a, fma(exponents, splat(g, powers), total))
                    else:
                        to_x = real(0)
                        for part in range(0, width, lanes):
                            at = a + part
                            g_r = load(grads, own + part, lanes)
                            value = load(table, at + order * width, lanes)
                            slope = value * real(order)
                            for d in range(order - 1, 0, -1):
                                c_r = load(table, at + d * width, lanes)
                                value = fma(value, kept, c_r)
                                slope = fma(slope, kept, c_r * real(d))
                            store(tile, own + part, fma(value, f, load(table, at, lanes)))
                            to_x += dot(slope, g_r)
                            store(totals, at, load(totals, at, lanes) + g_r)
                            power = g_r * f
                            for d in range(1, order + 1):
                                total = load(totals, at + d * width, lanes)
                                store(totals, at + d * width, total + power)
                                power = power * kept
                        store(grad_x, number, to_x * get(per_x, k))
                    k += 1
            if weight_at:
                add_product(
                    grad_y, r0 * outputs, 1, outputs, tile, row_size, grad_weights, outputs, n
                )  # fmt: skip
            elif h_at:
                _repack(tile, row_size, width, h, r0, n, inputs, functions, False)
        gather(order, powers, totals, grad_coefficients, groups, functions, width, intervals)
        if weight_at:
            grad_weight = array_at(grad_weight_at, outputs * inputs * functions, zero)
            _repack(
                grad_weights, row_size, width, grad_weight, 0, outputs, inputs, functions, False
            )
        if grad_bias_at:
            grad_bias = array_at(grad_bias_at, outputs, zero)
            copy_rows(grad_weights, inner, row_size, grad_bias, 0, 1, outputs, 1)

    return compiled(forward), compiled(backward)


def is_small(weight: Tensor) -> bool:
    """Tells whether the kernel itself multiplies by a weight (out, in)."""
    return max(weight.shape) <= _MAX_WIDTH


def forward(
    x: Tensor,
    coefficients: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    origin: Tensor,
    step: Tensor,
    order: int,
) -> Tensor:
    """Computes the learned functions of each input, or a layer's output.

    Args:
        x: Inputs with shape (N, in); like all tensors float32 or float64 on the CPU.
        coefficients: Coefficients with shape (R, groups, G + k).
        weight: Weights of the functions with shape (out, in * R); None for the functions.
        bias: Constants with shape (out,), or None.
        origin: Left end of each group's grid, with shape (groups,).
        step: Width of an interval of each group's grid, with shape (groups,), positive.
        order: Degree k of the splines, 1 to 5.

    Returns:
        Functions with shape (N, in * R), those of an input side by side; given a weight, the output
        with shape (N, out) instead.
    """
    rows, inputs = x.shape
    functions, groups, width = coefficients.shape
    kernel, _ = _kernels(order, functions == 1, x.dtype == torch.float64)
    factors = (weight, bias) if weight is not None and is_small(weight) else (None, None)
    outputs = 0 if factors[0] is None else len(factors[0])
    found = x.new_empty(rows, outputs or inputs * functions)
    operands = (
        (x, inputs),
        *((one, 0) for one in (coefficients, origin, step, *factors)),
        (found, found.shape[1]),
    )
    parts = chunks(rows, inputs * functions * _FORWARD_WORK)
    launch(kernel, parts, operands, (inputs, groups, functions, width - order, outputs))
    return found if weight is None or outputs else linear(found, weight, bias)


def backward(
    grad: Tensor,
    x: Tensor,
    coefficients: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    origin: Tensor,
    step: Tensor,
    order: int,
) -> tuple[Tensor | None, ...]:
    """Computes the gradients of x, coefficients, weight and bias; None for what is None.

    ``grad`` is the gradient of the functions or, with a weight, of the output.
    """
    rows, inputs = x.shape
    functions, groups, width = coefficients.shape
    _, kernel = _kernels(order, functions == 1, x.dtype == torch.float64)
    parts = chunks(rows, inputs * functions * _BACKWARD_WORK)
    factors = (weight, bias) if weight is not None and is_small(weight) else (None, None)
    outputs = 0 if factors[0] is None else len(factors[0])
    by_gemm = None if outputs else weight
    given = grad if by_gemm is None else grad @ by_gemm
    h = None if by_gemm is None else x.new_empty(rows, inputs * functions)
    grad_x = x.new_empty(rows, inputs)
    operands = (
        (given, given.shape[1]),
        (x, inputs),
        *((one, 0) for one in (coefficients, origin, step, factors[0])),
        (h, inputs * functions),
        (grad_x, inputs),
    )
    settings = inputs, groups, functions, width - order, outputs
    sums = launch(kernel, parts, operands, settings, (coefficients, *factors))
    if h is not None:
        sums[1:] = grad.t() @ h, None if bias is None else grad.sum(0)
    return grad_x, *sums
