r"""CPU kernel of units with learned functions or SiLU, gates, a modulation, a state and a product.

For a row with unit values y, gates q, carried state c and code k, and with
:math:`S, T` the scales and shifts of the modulation,

.. math:: z = (1 + S_0 + k^\top S) \odot y + T_0 + k^\top T + c, \qquad
    h = f(z) \odot q, \qquad \mathrm{output} = h W^\top + \beta.

All but the functions f may be absent. f is SiLU, or R splines of each unit
(:mod:`kan_diffusion.kan.kernels.polynomials`); several have neither gates nor what makes z of y.
Without a weight h is the output.

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
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from kan_diffusion.kan.kernels.polynomials import (
    LANES,
    gather,
    lay_out,
    place,
    place_tile,
    power_bits,
    repack,
    round_up,
    value_and_slope,
)
from kan_diffusion.kan.kernels.runtime import INNER, chunks, compiled, launch
from kan_diffusion.kan.kernels.simd import (
    add_product,
    arrays_at,
    compiled_by_type,
    copy_rows,
    dot,
    fma,
    get,
    load,
    sigmoid_and_silu,
    splat,
    store,
    transpose,
)

__all__ = ["backward", "forward"]

_TILE = 512  # units of a tile, unless a row has more
_WIDTH = 8  # functions of a unit in one vector, if it has more than one
_MAX_WIDTH = 128  # of weights that are multiplied here: torch's GEMM is slow for small ones

_FORWARD_WORK, _BACKWARD_WORK = 16, 32
"""Cost of a function of a unit, in multiplications, by which the number of threads is chosen."""


@numba.njit(**INNER)
def _next_block(at, lanes, units):
    """Returns where the next vector of a row begins; the last may overlap the one before it."""
    return at + lanes if at + 2 * lanes <= units or at + lanes == units else units - lanes


@compiled_by_type(prefer_literal=True, jit_options=INNER)
def _states(lanes, spline, source, first, stride, before, modulated, rows, units, z, grid):
    """Writes z of a tile's units and, for splines, their cells and places.

    Cell 0 is that of the left tangent.
    """
    width, has_grid = lanes.literal_value, spline.literal_value

    def loop(lanes, spline, source, first, stride, before, modulated, rows, units, z, grid):
        code, modulation, rank = modulated
        origin, per_x, intervals, scratch, room, cells = grid
        for r in range(rows):
            at = 0
            while at < units:
                k, own = r * units + at, (first + r) * rank
                shift = load(before, k, width)
                value = load(source, (first + r) * stride + at, width)
                if rank >= 0:
                    row = 2 * rank * units + at
                    factor = load(modulation, row, width) + 1
                    shift = shift + load(modulation, row + units, width)
                    for j in range(rank):
                        row, number = 2 * j * units + at, get(code, own + j)
                        factor = fma(number, load(modulation, row, width), factor)
                        shift = fma(number, load(modulation, row + units, width), shift)
                    value = value * factor
                value = value + shift
                store(z, k, value)
                if has_grid:
                    u = (value - load(origin, at, width)) * load(per_x, at, width)
                    place(u, intervals, scratch, k, room + k, cells, k)
                at = _next_block(at, width, units)

    return loop


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
        weight_at, bias_at, found_at, state_at, rows, units, outputs, stride, reach, groups,
        intervals, rank, functions,
    ):  # fmt: skip
        states = input_at, carried_at, code_at, modulation_at
        source, carried, code, modulation = arrays_at(states, zero)
        splines = arrays_at((coefficients_at, origin_at, step_at), zero)
        weight, bias, found, state = arrays_at((weight_at, bias_at, found_at, state_at), zero)
        # A constant, where it is one, makes the loop over units a few per cent faster.
        width = 1 if several == 1 else (functions + several - 1) // several * several
        cell_step = powers * width
        # With a 1 beside the functions, constants are one more row of the weight.
        inner = units * width
        row_size, wide = round_up(inner + 1), round_up(outputs)
        weights = np.zeros(row_size * wide, found.dtype)
        if weight_at:
            # Without a gap, the functions of all units follow each other in both.
            count = functions if width > functions else inner
            for i in range(inner // width * functions // count):
                at, to = i * count, i * width * wide
                transpose(weight, at, units * functions, weights, to, wide, outputs, count)
        if bias_at:
            copy_rows(bias, 0, 0, weights, inner * wide, 0, 1, outputs)
        height = max(1, _TILE // units)
        size = height * units
        room = size + LANES
        table, origin, per_x, offsets = lay_out(
            degree, powers, splines, groups, functions, width, intervals, units, room
        )
        z, scratch = np.empty(size, found.dtype), np.zeros(2 * room + LANES, found.dtype)
        cells = np.empty(room, np.int32)
        grid = origin, per_x, intervals, scratch, room, cells
        before = np.zeros(size, found.dtype)
        products = np.ones(height * row_size, found.dtype)
        block = np.empty(height * wide, found.dtype)
        gated = stride > units
        plain = spline > 0 and not gated and rank < 0 and carried_at == 0  # z is y
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            if plain:
                place_tile(source, r0 * units, n * units, grid)
                if state_at:
                    copy_rows(source, r0 * units, 0, state, r0 * units, 0, 1, n * units)
            else:
                if carried_at:
                    reached = min(reach, units)
                    copy_rows(carried, r0 * reach, reach, before, 0, units, n, reached)
                modulated = code, modulation, rank
                _states(lanes, spline, source, r0, stride, before, modulated, n, units, z, grid)
                if state_at:
                    copy_rows(z, 0, 0, state, r0 * units, 0, 1, n * units)
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
                        for part in range(0, width, several):
                            value = value_and_slope(
                                several, table, a + part, degree, width, f, kept
                            )[0]
                            if gated:
                                value = value * get(source, row * stride + units + u)
                            store(products, (row - r0) * row_size + u * width + part, value)
                        k += 1
            if weight_at:
                block[:] = 0
                add_product(products, 0, row_size, 1, weights, wide, block, n, inner + 1)
                copy_rows(block, 0, wide, found, r0 * outputs, outputs, n, outputs)
            else:
                repack(products, row_size, width, found, r0, n, units, functions, False)

    def backward(
        grad_at, grad_state_at, input_at, carried_at, code_at, modulation_at, coefficients_at,
        origin_at, step_at, weight_at, h_at, grad_input_at, grad_carried_at, grad_code_at,
        grad_modulation_at, grad_coefficients_at, grad_weight_at, grad_bias_at, rows, units,
        outputs, stride, reach, groups, intervals, rank, functions,
    ):  # fmt: skip
        states = input_at, carried_at, code_at, modulation_at
        source, carried, code, modulation = arrays_at(states, zero)
        splines = arrays_at((coefficients_at, origin_at, step_at), zero)
        others = grad_at, grad_state_at, weight_at, h_at
        grad, grad_state, weight, h = arrays_at(others, zero)
        of_rows_at = grad_input_at, grad_carried_at, grad_code_at
        grad_input, grad_carried, grad_code = arrays_at(of_rows_at, zero)
        sums = grad_modulation_at, grad_coefficients_at, grad_weight_at, grad_bias_at
        grad_modulation, grad_coefficients, grad_weight, grad_bias = arrays_at(sums, zero)
        width = 1 if several == 1 else (functions + several - 1) // several * several
        cell_step = powers * width
        real = h.dtype.type
        inner = units * width
        row_size = round_up(inner + 1)
        weights = np.zeros(outputs * row_size, h.dtype)
        grad_weights = np.zeros(outputs * row_size, h.dtype)
        if weight_at:
            repack(weights, row_size, width, weight, 0, outputs, units, functions, True)
        # Scales and shifts lie side by side in whole vectors, one row for each number of a code.
        half = round_up(units)
        pair = 2 * half
        modulations = np.zeros((rank + 1) * pair, h.dtype)
        grad_modulations = np.zeros((rank + 1) * pair, h.dtype)
        copy_rows(modulation, 0, units, modulations, 0, half, 2 * (rank + 1), units)
        height = max(1, _TILE // units)
        size = height * units
        room = size + LANES
        table, origin, per_x, offsets = lay_out(
            degree, powers, splines, groups, functions, width, intervals, units, room
        )
        totals = np.zeros(len(table), h.dtype)
        bits = power_bits(powers, totals)
        ones_on, ones_off = load(bits, 0, powers), load(bits, powers, powers)
        twos_on, twos_off = load(bits, 2 * powers, powers), load(bits, 3 * powers, powers)
        fours_on, fours_off = load(bits, 4 * powers, powers), load(bits, 5 * powers, powers)
        z, scratch = np.empty(size, h.dtype), np.zeros(2 * room + LANES, h.dtype)
        slopes, before = np.empty(size, h.dtype), np.zeros(size, h.dtype)
        of_states = np.empty(size, h.dtype)
        cells = np.empty(room, np.int32)
        grid = origin, per_x, intervals, scratch, room, cells
        products = np.ones(height * row_size, h.dtype)
        grad_h = np.zeros(height * row_size, h.dtype)
        of_rows = np.zeros(height * pair, h.dtype)
        codes = np.ones(height * (rank + 1), h.dtype)
        gated = stride > units
        plain = spline > 0 and not gated and rank < 0 and carried_at == 0  # z is y
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            if plain:
                place_tile(source, r0 * units, n * units, grid)
            else:
                if carried_at:
                    reached = min(reach, units)
                    copy_rows(carried, r0 * reach, reach, before, 0, units, n, reached)
                modulated = code, modulation, rank
                _states(lanes, spline, source, r0, stride, before, modulated, n, units, z, grid)
            if weight_at:
                grad_h[:] = 0
                add_product(grad, r0 * outputs, outputs, 1, weights, row_size, grad_h, n, outputs)
            else:
                repack(grad_h, row_size, width, grad, r0, n, units, functions, True)
            if spline:
                k = 0
                for row in range(r0, r0 + n):
                    for u in range(units):
                        a = get(offsets, u) + get(cells, k) * cell_step
                        f, kept = get(scratch, k), get(scratch, room + k)
                        to_x = real(0)
                        for part in range(0, width, several):
                            at, own = a + part, (row - r0) * row_size + u * width + part
                            value, slope = value_and_slope(
                                several, table, at, degree, width, f, kept
                            )
                            g = load(grad_h, own, several)
                            if gated:
                                q = get(source, row * stride + units + u)
                                store(grad_input, row * stride + units + u, g * value)
                                value = value * q
                                g = g * q
                            store(products, own, value)
                            to_x += dot(slope, g)
                            if several == 1:
                                exponents = fma(f, ones_on, ones_off)
                                if powers > 2:
                                    square = kept * kept  # not of f, which may overflow
                                    exponents = exponents * fma(square, twos_on, twos_off)
                                if powers > 4:
                                    fourth = square * square
                                    exponents = exponents * fma(fourth, fours_on, fours_off)
                                total = load(totals, at, powers)
                                store(totals, at, fma(exponents, splat(g, powers), total))
                            else:
                                store(totals, at, load(totals, at, several) + g)
                                power = g * f
                                for d in range(1, degree + 1):
                                    total = load(totals, at + d * width, several)
                                    store(totals, at + d * width, total + power)
                                    power = power * kept
                        store(slopes, k, to_x * get(per_x, u))
                        k += 1
            direct = plain and grad_state_at == 0
            if direct:
                copy_rows(slopes, 0, 0, grad_input, r0 * units, 0, 1, n * units)
            for row in range(r0, r0 if direct else r0 + n):
                at = 0
                while at < units:
                    k = row * units + at
                    if spline:
                        of_z = load(slopes, k - r0 * units, lanes)
                    else:
                        sigmoid, silu = sigmoid_and_silu(load(z, k - r0 * units, lanes))
                        own = (row - r0) * row_size + at
                        g = load(grad_h, own, lanes)
                        if gated:
                            q = load(source, row * stride + units + at, lanes)
                            store(grad_input, row * stride + units + at, g * silu)
                            store(products, own, silu * q)
                            g = g * q
                        else:
                            store(products, own, silu)
                        of_z = g * (sigmoid + silu * (1 - sigmoid))
                    if grad_state_at:
                        of_z = of_z + load(grad_state, k, lanes)
                    store(of_states, k - r0 * units, of_z)
                    if rank >= 0:
                        own = (row - r0) * pair + at
                        store(of_rows, own, of_z * load(source, row * stride + at, lanes))
                        store(of_rows, own + half, of_z)
                        factor = load(modulations, rank * pair + at, lanes) + 1
                        for j in range(rank):
                            scale = load(modulations, j * pair + at, lanes)
                            factor = fma(get(code, row * rank + j), scale, factor)
                        of_z = of_z * factor
                    store(grad_input, row * stride + at, of_z)
                    at = _next_block(at, lanes, units)
            if rank >= 0:
                copy_rows(code, r0 * rank, rank, codes, 0, rank + 1, n, rank)
                add_product(
                    codes, 0, 1, rank + 1, of_rows, pair, grad_modulations, rank + 1, n
                )  # fmt: skip
                for r in range(n):
                    for j in range(rank):
                        total = splat(real(0), 16)
                        for at in range(0, pair, 16):
                            row = load(modulations, j * pair + at, 16)
                            total = fma(row, load(of_rows, r * pair + at, 16), total)
                        grad_code[(r0 + r) * rank + j] = dot(total, splat(real(1), 16))
            if weight_at:
                add_product(
                    grad, r0 * outputs, 1, outputs, products, row_size, grad_weights, outputs, n
                )
            elif h_at:
                repack(products, row_size, width, h, r0, n, units, functions, False)
            if carried_at:
                reached = min(reach, units)
                copy_rows(of_states, 0, units, grad_carried, r0 * reach, reach, n, reached)
        if spline:
            gather(degree, powers, totals, grad_coefficients, groups, functions, width, intervals)
        copy_rows(grad_modulations, 0, half, grad_modulation, 0, units, 2 * (rank + 1), units)
        if weight_at:
            repack(grad_weights, row_size, width, grad_weight, 0, outputs, units, functions, False)
        if grad_bias_at:
            copy_rows(grad_weights, inner, row_size, grad_bias, 0, 1, outputs, 1)

    return compiled(forward), compiled(backward)


def _kernels_for(
    input: Tensor, coefficients: Tensor | None, units: int, order: int
) -> tuple[Callable[..., None], ...]:
    single = coefficients is None or len(coefficients) == 1
    lanes = 16 if units >= 16 else 8 if units >= 8 else 1
    return _kernels(order, single, lanes, input.dtype == torch.float64)


def _settings(
    input: Tensor,
    carried: Tensor | None,
    modulation: Tensor | None,
    coefficients: Tensor | None,
    weight: Tensor | None,
    order: int,
    has_state: bool,
) -> tuple[int, ...]:
    """Returns the numbers that both passes take after the rows."""
    units = input.shape[1]
    functions, groups, known = (1, 0, order) if coefficients is None else coefficients.shape
    if has_state and weight is not None:
        units = weight.shape[1]
    outputs = 0 if weight is None else weight.shape[0]
    reach = 0 if carried is None else carried.shape[1]
    rank = -1 if modulation is None else len(modulation) - 1
    return units, outputs, input.shape[1], reach, groups, known - order, rank, functions


def _is_small(weight: Tensor | None) -> bool:
    """Tells whether the kernel itself multiplies by a weight (out, in * R)."""
    return weight is not None and max(weight.shape) <= _MAX_WIDTH


def forward(
    input: Tensor,
    carried: Tensor | None,
    code: Tensor | None,
    modulation: Tensor | None,
    coefficients: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    origin: Tensor | None,
    step: Tensor | None,
    order: int,
    has_state: bool,
) -> tuple[Tensor, Tensor]:
    """Computes the output of units and their state.

    Args:
        input: Unit values and gates side by side with shape (N, 2 in), or unit values alone (N,
            in); like all tensors float32 or float64 on the CPU.
        carried: The state that is added, with shape (N, m), or None; if m is not the number of
            units, it is cut off or padded with zeros.
        code: Codes with shape (N, rank), or None.
        modulation: Scales and shifts for each number of a code, then the constant ones, with shape
            (rank + 1, 2, in); or None.
        coefficients: Coefficients of splines with shape (R, groups, G + k); None for SiLU.
        weight: Weights with shape (out, in * R); None for the functions themselves.
        bias: Constants with shape (out,), or None.
        origin: Left end of each group's grid, with shape (groups,), or None.
        step: Width of an interval of each group's grid, with shape (groups,), or None.
        order: Degree k of the splines, 1 to 5; 0 for SiLU.
        has_state: Whether the state is wanted, which takes a weight; gates do, too.

    Returns:
        The output (N, out), or the functions (N, in * R), those of a unit side by side; and the
        state z with shape (N, in), or (0,).
    """
    settings = _settings(input, carried, modulation, coefficients, weight, order, has_state)
    units, _, stride, reach, _, _, rank, functions = settings
    rows = input.shape[0]
    kernel, _ = _kernels_for(input, coefficients, units, order)
    state = input.new_empty((rows, units) if has_state else 0)
    multiplies = _is_small(weight)
    factors = (weight, bias) if multiplies else (None, None)
    found = input.new_empty(rows, settings[1] if multiplies else units * functions)
    operands = (
        (input, stride),
        (carried, reach),
        (code, max(rank, 0)),
        *((tensor, 0) for tensor in (modulation, coefficients, origin, step, *factors)),
        (found, found.shape[1]),
        (state if has_state else None, units),
    )
    launch(kernel, chunks(rows, units * functions * _FORWARD_WORK), operands, settings)
    if weight is not None and not multiplies:
        found = linear(found, weight, bias)
    return found, state


def backward(
    grad: Tensor | None,
    grad_state: Tensor | None,
    input: Tensor,
    carried: Tensor | None,
    code: Tensor | None,
    modulation: Tensor | None,
    coefficients: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    origin: Tensor | None,
    step: Tensor | None,
    order: int,
    has_state: bool,
) -> tuple[Tensor | None, ...]:
    """Computes the gradients of the first seven operands, given those of output and state."""
    settings = _settings(input, carried, modulation, coefficients, weight, order, has_state)
    units, outputs, stride, reach, _, _, rank, functions = settings
    rows = input.shape[0]
    _, kernel = _kernels_for(input, coefficients, units, order)
    if grad is None:
        grad = input.new_zeros(rows, outputs)
    multiplies = _is_small(weight)
    by_gemm = None if multiplies else weight
    given = grad if by_gemm is None else grad @ by_gemm
    h = None if by_gemm is None else input.new_empty(rows, units * functions)
    grad_input = input.new_empty(input.shape)
    grad_carried = None if carried is None else input.new_empty(carried.shape)
    grad_code = None if code is None else input.new_empty(code.shape)
    if grad_carried is not None and reach > units:
        grad_carried[:, units:] = 0
    factors = (weight, bias) if multiplies else (None, None)
    rank = max(rank, 0)
    operands = (
        (given, given.shape[1]),
        (grad_state if has_state else None, units),
        (input, stride),
        (carried, reach),
        (code, rank),
        *((tensor, 0) for tensor in (modulation, coefficients, origin, step, factors[0])),
        (h, units * functions),
        (grad_input, stride),
        (grad_carried, reach),
        (grad_code, rank),
    )
    parts = chunks(rows, units * functions * _BACKWARD_WORK)
    sums = launch(kernel, parts, operands, settings, (modulation, coefficients, *factors))
    if h is not None:
        sums[2:] = grad.t() @ h, None if bias is None else grad.sum(0)
    return grad_input, grad_carried, grad_code, *sums
