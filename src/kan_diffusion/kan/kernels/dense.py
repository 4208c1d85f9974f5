"""A layer of a basis whose functions are all different from zero, on the CPU.

The functions of :mod:`kan_diffusion.kan.kernels.features`, one a row, are multiplied with the
weight by torch's GEMM. They are written transposed, (in * functions, N): that is how vectors along
the batch are stored, and the faster side for a GEMM with few outputs. The backward pass computes
them once more, while it turns their gradients into that of x, so that nothing but x is kept.

Compiled code is cached on disk: the seconds of compilation are paid once an installation for each
basis and dtype.
"""

# ruff: noqa: ANN001, ANN202 - numba infers the types of what it compiles
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.kan.bases import rational
from kan_diffusion.kan.bases.rational import DENOMINATOR_DEGREE, NUMERATOR_DEGREE
from kan_diffusion.kan.kernels import features, loops, simd
from kan_diffusion.kan.kernels.cpu import _chunks, _compiled, _run
from kan_diffusion.kan.kernels.features import (
    CLAMP,
    COEFFICIENTS,
    KINDS,
    LANES,
    LINEAR,
    PLAIN,
    expand,
    silu,
)
from kan_diffusion.kan.kernels.loops import transpose
from kan_diffusion.kan.kernels.simd import array_at, get, load, splat, store

__all__ = ["linear", "linear_backward"]

_ROWS = 256
"""Rows of a tile."""
_DIRECT_OUTPUTS = 32
"""Outputs from which on a GEMM is as fast when it writes one row of the batch after another."""
_MODES = {"linear": LINEAR, "clamp": CLAMP, "zero": PLAIN, "periodic": PLAIN, "none": PLAIN}


@cache
def _source_digest() -> str:
    digest = hashlib.sha256()
    for module in (rational.__file__, simd.__file__, loops.__file__, features.__file__, __file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


@cache
def _expansion(basis: str, double: bool) -> Callable[..., None]:
    """The compiled pass over the inputs, forwards or backwards.

    It takes addresses, and its free variables are numbers and a string, as those in ``cpu``.
    """
    kind, grouped = tuple(KINDS).index(basis), basis == "rational"
    zero = np.float64(0) if double else np.float32(0)
    digest = _source_digest()

    def expansion(
        x_at, first_at, second_at, functions_at, grads_at, grad_x_at, totals_at, rows, inputs,
        width, has_base, size, mode, stride, backward,
    ):  # fmt: skip
        len(digest)
        x = array_at(x_at, rows * inputs, zero)
        first = array_at(first_at, inputs, zero)
        second = array_at(second_at, inputs, zero)
        functions = array_at(functions_at, inputs * width * stride, zero)
        grads = array_at(grads_at, inputs * width * stride, zero)
        grad_x = array_at(grad_x_at, rows * inputs, zero)
        totals = array_at(totals_at, 1, np.float64(0))
        room = min(_ROWS, (rows + LANES - 1) // LANES * LANES) + LANES
        tile = np.zeros(inputs * room, x.dtype)
        grad_tile = np.zeros(inputs * room, x.dtype)
        for r0 in range(0, rows, _ROWS):
            n = min(_ROWS, rows - r0)
            transpose(x, r0 * inputs, inputs, tile, 0, room, n, inputs)
            rest = -n % LANES
            for i in range(inputs):
                at, to = i * room, i * width * stride + r0
                if rest:  # what fills up the last vector adds nothing
                    for r in range(n, n + rest):
                        tile[at + r] = 0
                        if backward:
                            for g in range(width):
                                grads[to + g * stride + r] = 0
                if has_base:
                    silu(tile, at, n, functions, grads, to, backward, grad_tile)
                    to += stride
                elif backward:
                    for r in range(at, at + n):
                        grad_tile[r] = 0
                which = i * size // inputs if grouped else i
                expand(
                    kind, tile, at, n, which, first, second, size, mode, functions, grads, to,
                    stride, backward, grad_tile, totals,
                )  # fmt: skip
            if backward:
                transpose(grad_tile, 0, room, grad_x, r0 * inputs, inputs, inputs, n)

    return _compiled(expansion)


@cache
def _finish(double: bool) -> Callable[..., None]:
    """The compiled transposition of a layer's output, which adds the bias first."""
    zero = np.float64(0) if double else np.float32(0)
    digest = _source_digest()

    def finish(columns_at, bias_at, y_at, rows, outputs, stride):
        len(digest)
        columns = array_at(columns_at, outputs * stride, zero)
        bias = array_at(bias_at, outputs, zero)
        y = array_at(y_at, rows * outputs, zero)
        for r0 in range(0, rows, _ROWS):
            n = min(_ROWS, rows - r0)
            for o in range(outputs):
                constant = splat(get(bias, o), LANES)
                for r in range(r0, r0 + n, LANES):
                    at = o * stride + r
                    store(columns, at, load(columns, at, LANES) + constant)
            transpose(columns, r0, stride, y, r0 * outputs, outputs, outputs, n)

    return _compiled(finish)


def _blocks(rows: int, multiplications: int) -> list[tuple[int, int]]:
    """Parts of the batch, one a thread, that begin at a whole vector: (first row, rows)."""
    parts = _chunks(-(-rows // LANES), LANES * multiplications)
    return [(start * LANES, min(count * LANES, rows - start * LANES)) for start, count in parts]


def _stride(rows: int) -> int:
    """How far apart rows of functions are: room for whole vectors, and no power of two.

    The multiples of a power of two would collide in the cache.
    """
    return -(-rows // LANES) * LANES + LANES


def _expand(
    x: Tensor,
    first: Tensor,
    second: Tensor,
    width: int,
    basis: str,
    extrapolation: str,
    has_base: bool,
    grads: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Functions (in * width, stride) of a batch, whose first N columns count.

    Given gradients with that shape, those in x follow, and those in the coefficients (groups *
    COEFFICIENTS) where there are any.
    """
    rows, inputs = x.shape
    stride, size = _stride(rows), x.element_size()
    x, first, second = x.contiguous(), first.contiguous(), second.contiguous()
    functions = x.new_empty(inputs * width, stride)
    grad_x = None if grads is None else torch.empty_like(x)
    chunks = _blocks(rows, inputs * width)
    totals, total_size = None, first.shape[0] * COEFFICIENTS
    if basis == "rational" and grads is not None:
        # One a thread, added up in the order of the rows.
        totals = torch.zeros(len(chunks), total_size, dtype=torch.float64)
    run = _expansion(basis, x.dtype == torch.float64)
    x_at, first_at, second_at = x.data_ptr(), first.data_ptr(), second.data_ptr()
    functions_at = functions.data_ptr()
    grads_at, grad_x_at, totals_at = (
        0 if tensor is None else tensor.data_ptr() for tensor in (grads, grad_x, totals)
    )
    settings = (
        inputs,
        width,
        int(has_base),
        _size(basis, width - has_base, first),
        _MODES[extrapolation],
        stride,
        int(grads is not None),
    )

    def task(part: int, start: int, count: int) -> None:
        row, column = start * inputs * size, start * size
        run(
            x_at + row, first_at, second_at, functions_at + column, grads_at + column,
            grad_x_at + row, totals_at + part * total_size * 8, count, *settings,
        )  # fmt: skip

    _run(task, chunks)
    return functions, grad_x, None if totals is None else totals.sum(0).to(x.dtype)


def _size(basis: str, functions: int, first: Tensor) -> int:
    """Groups of a rational function, intervals of a grid."""
    if basis == "rational":
        return first.shape[0]
    return functions // 2 if basis == "fourier" else functions - 1


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: Tensor,
    second: Tensor,
    basis: str,
    extrapolation: str,
    has_base: bool,
) -> Tensor:
    """The output of a layer.

    Args:
        x: Inputs with shape (N, in); as all tensors float32 or float64 and on the CPU.
        weight: Packed weight with shape (out, in * (has_base + functions)).
        bias: Constants with shape (out,), or None.
        first: Left end of each input's grid, with shape (in,); the numerators of ``"rational"``.
        second: Width of an interval of each input's grid, with shape (in,), positive; the
            denominators of ``"rational"``.
        basis: ``"rbf"``, ``"chebyshev"``, ``"fourier"`` or ``"rational"``.
        extrapolation: What happens outside the grid, by name; any for ``"rational"``.
        has_base: Whether SiLU comes before the functions.

    Returns:
        Outputs with shape (N, out).
    """
    rows, outputs = x.shape[0], weight.shape[0]
    width = weight.shape[1] // x.shape[1]
    expanded, _, _ = _expand(x, first, second, width, basis, extrapolation, has_base)
    functions = expanded[:, :rows]
    if outputs >= _DIRECT_OUTPUTS:
        product = functions.t(), weight.t()
        return torch.mm(*product) if bias is None else torch.addmm(bias, *product)
    finish = _finish(x.dtype == torch.float64)
    columns = x.new_empty(outputs, expanded.shape[1])
    torch.mm(weight, functions, out=columns[:, :rows])
    bias = weight.new_zeros(outputs) if bias is None else bias.contiguous()
    y = x.new_empty(rows, outputs)
    size, stride = x.element_size(), expanded.shape[1]
    columns_at, bias_at, y_at = columns.data_ptr(), bias.data_ptr(), y.data_ptr()

    def task(part: int, start: int, count: int) -> None:
        at = columns_at + start * size
        finish(at, bias_at, y_at + start * outputs * size, count, outputs, stride)

    _run(task, _blocks(rows, outputs))
    return y


def linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    first: Tensor,
    second: Tensor,
    basis: str,
    extrapolation: str,
    has_base: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`linear` in x, weight, bias, first and second, given one with (N, out).

    There are none in the grids: the last two are zero but for ``"rational"``.
    """
    rows, inputs = x.shape
    columns = weight.shape[1]
    grads = x.new_empty(columns, _stride(rows))
    torch.mm(weight.t(), grad.t(), out=grads[:, :rows])
    functions, grad_x, coefficients = _expand(
        x, first, second, columns // inputs, basis, extrapolation, has_base, grads
    )
    assert grad_x is not None
    grad_weight = grad.t() @ functions[:, :rows].t()
    if coefficients is None:
        grad_first, grad_second = torch.zeros_like(first), torch.zeros_like(second)
    else:
        parts = coefficients.view(-1, COEFFICIENTS)
        above, below = parts.split((NUMERATOR_DEGREE + 1, DENOMINATOR_DEGREE), dim=1)
        grad_first, grad_second = above.contiguous(), below.contiguous()
    return grad_x, grad_weight, grad.sum(0), grad_first, grad_second
