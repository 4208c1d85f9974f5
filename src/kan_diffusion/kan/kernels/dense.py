r"""CPU kernel of layers whose basis functions all differ from zero.

A compiled pass writes the Gaussians, Chebyshev polynomials or harmonics of a batch, and torch's
GEMM multiplies them by the weight. They are written transposed, (in * functions, N), so that
vectors run along the rows of the batch. The backward pass recomputes them while it turns their
gradients into the gradient of x, so that only x is kept.

Each Gaussian is one exponential; the other functions follow from recurrences, with :math:`c_g, s_g`
the cosine and sine of :math:`g \theta`,

.. math::
    c_{g+1} = c_g c_1 - s_g s_1, \quad s_{g+1} = s_g c_1 + c_g s_1, \qquad
    T_{g+1} = 2 z T_g - T_{g-1}, \quad U_{g+1} = 2 z U_g - U_{g-1},

where :math:`\theta` is first reduced to a quarter turn, which is exact. With B the functions, b the
base activation and :math:`\partial B` the gradients that reach them,
:math:`\partial x = b' \, \partial b + \frac1h \sum_g B_g'\, \partial B_g`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from torch import Tensor

from kan_diffusion.kan.kernels.runtime import INNER, chunks, compiled, launch
from kan_diffusion.kan.kernels.simd import (
    array_at,
    compiled_by_type,
    exp2,
    floor,
    fma,
    get,
    load,
    maximum,
    minimum,
    nan_or_zero,
    sigmoid_and_silu,
    store,
    transpose,
    zero_where_apart,
    zeros,
)

__all__ = ["backward", "forward"]

_LANES = 16  # rows of a vector
_ROWS = 256  # of a tile
# Outside the grid functions are evaluated as they are, held, or continued by their tangent.
_PLAIN, _CLAMP, _LINEAR = 0, 1, 2
_MODES = {"linear": _LINEAR, "clamp": _CLAMP, "zero": _PLAIN, "periodic": _PLAIN}


@compiled_by_type(jit_options=INNER)
def _gaussian(square, nan):
    """Computes ``exp(-square)``, or NaN where ``nan`` is NaN; elsewhere ``nan`` is 0."""
    end = 1023 if square.dtype.bitwidth == 64 else 127  # 2**-end comes out as 0
    largest, factor = end * math.log(2), -1 / math.log(2)

    def implementation(square, nan):
        square = minimum(square, largest)
        whole = maximum(floor(fma(square, factor, 0.5)), -end)
        # The product is not rounded before the difference.
        return exp2(whole, fma(square, factor, nan - whole))

    return implementation


@compiled_by_type(jit_options=INNER)
def _cosine_and_sine(turns):
    """Computes cosine and sine of ``2 pi turns`` for turns from -1/8 to 1/8."""
    terms = 9 if turns.dtype.bitwidth == 64 else 5  # of both series, exact to rounding
    powers = [(-1) ** (n // 2) * (2 * math.pi) ** n / math.factorial(n) for n in range(2 * terms)]
    cosines, sines = tuple(powers[::2]), tuple(powers[1::2])

    def implementation(turns):
        square = turns * turns
        cosine = fma(square, cosines[terms - 1], cosines[terms - 2])
        sine = fma(square, sines[terms - 1], sines[terms - 2])
        for n in range(terms - 3, -1, -1):
            cosine = fma(cosine, square, cosines[n])
            sine = fma(sine, square, sines[n])
        return cosine, sine * turns

    return implementation


@numba.njit(**INNER)
def _harmonic(place, period):
    """Computes cosine and sine of ``2 pi place / period``; the place is first reduced exactly."""
    quarter = 0.25 * period
    quarters = floor(place / quarter + 0.5)
    rest = fma(0 - quarters, quarter, place)
    # For places whose next float is whole periods away, the rest would be meaningless.
    turns = minimum(maximum(rest / period, -0.125), 0.125)
    cosine, sine = _cosine_and_sine(turns + nan_or_zero(rest))
    quarters = quarters - 4 * floor(quarters * 0.25)  # 0 to 3
    turned, beside = quarters - 2, quarters - 1
    along = maximum(turned, 0 - turned) - 1  # cosine of the quarter turns: 1, 0, -1, 0
    across = 1 - maximum(beside, 0 - beside)  # and their sine: 0, 1, 0, -1
    return cosine * along - sine * across, sine * along + cosine * across


# Each of the next three writes the functions of one input for a vector of rows, from ``at`` on,
# ``stride`` apart. With ``backward`` it reads the gradients of the functions at the same places of
# another array and returns the gradient of the grid coordinate.


@numba.njit(**INNER)
def _rbf(inside, beyond, size, linear, functions, grads, at, stride, backward):
    nan = nan_or_zero(inside)
    distance, total = inside, zeros(functions, _LANES)
    for _ in range(size + 1):
        value = _gaussian(distance * distance, nan)
        slope = (distance + distance) * value
        store(functions, at, value - beyond * slope if linear else value)
        if backward:
            total = total - slope * load(grads, at, _LANES)
        distance = distance - 1
        at += stride
    return total


@numba.njit(**INNER)
def _chebyshev(inside, beyond, size, linear, functions, grads, at, stride, backward):
    chain = 2 / size
    z = (inside + inside) / size - 1
    twice, beyond = z + z, beyond * chain
    # T_g with T_{g+1}, and U_{g-1} with U_g.
    first, first_next = zeros(functions, _LANES) + 1, z
    second, second_next = zeros(functions, _LANES), zeros(functions, _LANES) + 1
    total = zeros(functions, _LANES)
    for g in range(size + 1):
        slope = second * g
        store(functions, at, fma(beyond, slope, first) if linear else first)
        if backward:
            total = fma(slope, load(grads, at, _LANES), total)
        first, first_next = first_next, twice * first_next - first
        second, second_next = second_next, twice * second_next - second
        at += stride
    return total * chain


@numba.njit(**INNER)
def _fourier(inside, beyond, size, linear, functions, grads, at, stride, backward):
    frequency = 2 * math.pi / size
    beyond = beyond * frequency
    first_cosine, first_sine = _harmonic(inside, size)
    cosine, sine = first_cosine, first_sine
    total = zeros(functions, _LANES)
    for g in range(1, size + 1):
        far = beyond * g
        store(functions, at, cosine - far * sine if linear else cosine)
        store(functions, at + stride, sine + far * cosine if linear else sine)
        if backward:
            slope = cosine * load(grads, at + stride, _LANES) - sine * load(grads, at, _LANES)
            total = fma(slope, g, total)
        cosine, sine = (
            cosine * first_cosine - sine * first_sine,
            sine * first_cosine + cosine * first_sine,
        )
        at += 2 * stride
    return total * frequency


@cache
def _expansion(basis: str, double: bool) -> Callable[..., None]:
    """Compiles the pass over a batch, forward or backward."""
    is_rbf, is_chebyshev = basis == "rbf", basis == "chebyshev"
    zero = np.float64(0) if double else np.float32(0)

    def expansion(
        x_at, origin_at, step_at, functions_at, grads_at, grad_x_at, rows, inputs, width, has_base,
        size, mode, stride, backward,
    ):  # fmt: skip
        x = array_at(x_at, rows * inputs, zero)
        origin = array_at(origin_at, inputs, zero)
        steps = array_at(step_at, inputs, zero)
        functions = array_at(functions_at, inputs * width * stride, zero)
        grads = array_at(grads_at, inputs * width * stride, zero)
        grad_x = array_at(grad_x_at, rows * inputs, zero)
        room = min(_ROWS, (rows + _LANES - 1) // _LANES * _LANES) + _LANES
        tile = np.zeros(inputs * room, x.dtype)
        grad_tile = np.zeros(inputs * room, x.dtype)
        linear = mode == _LINEAR
        for r0 in range(0, rows, _ROWS):
            n = min(_ROWS, rows - r0)
            transpose(x, r0 * inputs, inputs, tile, 0, room, n, inputs)
            for i in range(inputs):
                step = get(steps, i)
                for r in range(0, n, _LANES):
                    at = i * width * stride + r0 + r
                    value = load(tile, i * room + r, _LANES)
                    slope = zeros(x, _LANES)
                    if has_base:
                        sigmoid, base = sigmoid_and_silu(value)
                        store(functions, at, base)
                        if backward:
                            slope = (sigmoid + base * (1 - sigmoid)) * load(grads, at, _LANES)
                        at += stride
                    u = (value - get(origin, i)) / step
                    inside, beyond = u, zeros(x, _LANES)
                    if mode != _PLAIN:
                        inside = minimum(maximum(u, 0), size) + nan_or_zero(u)
                    if linear:
                        beyond = u - inside
                    if is_rbf:
                        change = _rbf(
                            inside, beyond, size, linear, functions, grads, at, stride, backward
                        )
                    elif is_chebyshev:
                        change = _chebyshev(
                            inside, beyond, size, linear, functions, grads, at, stride, backward
                        )
                    else:
                        change = _fourier(
                            inside, beyond, size, linear, functions, grads, at, stride, backward
                        )
                    if mode == _CLAMP:
                        change = zero_where_apart(change, u, inside)
                    store(grad_tile, i * room + r, slope + change / step)
            if backward:
                transpose(grad_tile, 0, room, grad_x, r0 * inputs, inputs, inputs, n)

    return compiled(expansion)


def _stride(rows: int) -> int:
    """Returns the distance between rows of functions: enough whole vectors, and one more.

    For a batch of 2**n rows it is then not 2**n, whose multiples would collide in the cache.
    """
    return -(-rows // _LANES) * _LANES + _LANES


def _expand(
    x: Tensor,
    origin: Tensor,
    step: Tensor,
    width: int,
    has_base: bool,
    basis: str,
    extrapolation: str,
    grads: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluates the functions (in * width, stride) of a batch; only the first N columns count.

    Also returns the gradient of x, which is not filled if ``grads``, of the same shape, is None.
    """
    rows, inputs = x.shape
    stride = _stride(rows)
    functions, grad_x = x.new_empty(inputs * width, stride), x.new_empty(x.shape)
    kernel = _expansion(basis, x.dtype == torch.float64)
    intervals = (width - has_base) // 2 if basis == "fourier" else width - has_base - 1
    operands = (x, inputs), (origin, 0), (step, 0), (functions, 1), (grads, 1), (grad_x, inputs)
    # Parts begin at a whole vector.
    parts = [
        (start * _LANES, min(count * _LANES, rows - start * _LANES))
        for start, count in chunks(-(-rows // _LANES), _LANES * inputs * width)
    ]
    backward = int(grads is not None)
    settings = inputs, width, int(has_base), intervals, _MODES[extrapolation], stride, backward
    launch(kernel, parts, operands, settings)
    return functions, grad_x


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    origin: Tensor,
    step: Tensor,
    has_base: bool,
    basis: str,
    extrapolation: str,
) -> Tensor:
    """Computes the output (N, out) of a layer.

    The arguments are those of the B-splines' kernel, with a ``basis`` in place of an order:
    ``"rbf"``, ``"chebyshev"`` or ``"fourier"``.
    """
    width = weight.shape[1] // x.shape[1]
    functions, _ = _expand(x, origin, step, width, has_base, basis, extrapolation)
    return torch.addmm(bias, functions[:, : x.shape[0]].t(), weight.t())


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    origin: Tensor,
    step: Tensor,
    has_base: bool,
    basis: str,
    extrapolation: str,
    for_x: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Computes the gradients of x (None unless ``for_x``), weight and bias.

    ``grad`` is the gradient of the output, with shape (N, out).
    """
    rows, inputs = x.shape
    columns = weight.shape[1]
    grads = None
    if for_x:
        grads = x.new_zeros(columns, _stride(rows))
        torch.mm(weight.t(), grad.t(), out=grads[:, :rows])
    functions, grad_x = _expand(
        x, origin, step, columns // inputs, has_base, basis, extrapolation, grads
    )
    return grad_x if for_x else None, grad.t() @ functions[:, :rows].t(), grad.sum(0)
