"""A B-spline layer on the CPU, compiled by numba.

The loops are those of :mod:`kan_diffusion.kan.kernels.loops`; this module compiles them and splits
a batch over threads, where there is more than one (``torch.get_num_threads``) and enough to do. The
result depends on the number of threads only through the order of the sums over the batch.

Compiled code is cached on disk: the seconds of compilation are paid once an installation for each
order, dtype and with or without SiLU.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

from kan_diffusion.kan.kernels import loops, simd
from kan_diffusion.kan.kernels.loops import (
    BASE_SLOPES,
    CAPACITY,
    MAX_ROWS,
    OPTIONS,
    SCRATCH,
    TILE,
    block_lanes,
    copy_rows,
    expand,
    gradients,
    outputs,
    place,
    repack,
    tile_columns,
)
from kan_diffusion.kan.kernels.simd import array_at

__all__ = ["linear", "linear_backward"]

logger = logging.getLogger(__name__)

_PARALLEL_WORK = 2**21
"""Multiplications below which a second thread costs more than it saves."""


def _source_digest() -> str:
    """What the compiled code depends on beside its own function, which numba's cache knows."""
    digest = hashlib.sha256()
    for module in (simd.__file__, loops.__file__, __file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    try:
        compiled: Callable[..., None] = numba.njit(function, cache=True, **OPTIONS)
    except RuntimeError:  # no folder that numba may cache in
        logger.warning("compiled KAN kernels cannot be cached; set NUMBA_CACHE_DIR to a folder")
        compiled = numba.njit(function, **OPTIONS)
    return compiled


@cache
def _kernels(order: int, first: int, double: bool) -> tuple[Callable[..., None], ...]:
    """The compiled forward and backward pass.

    They take addresses: taking arrays apart costs more than a small layer. Their free variables are
    numbers and a string, by which numba's cache tells them apart; the digest is used nowhere else.
    """
    zero = np.float64(0) if double else np.float32(0)
    digest = _source_digest()

    def forward(
        x_at, weight_at, bias_at, origin_at, step_at, y_at, rows, inputs, outputs_, intervals,
        linear, reach,
    ):  # fmt: skip
        len(digest)
        width = first + intervals + order
        stride = width + 2 * reach
        padded = (outputs_ + 7) // 8 * 8
        x = array_at(x_at, rows * inputs, zero)
        weight = array_at(weight_at, outputs_ * inputs * width, zero)
        bias = array_at(bias_at, outputs_, zero)
        origin = array_at(origin_at, inputs, zero)
        step = array_at(step_at, inputs, zero)
        y = array_at(y_at, rows * outputs_, zero)
        table = np.zeros(inputs * stride * padded, x.dtype)
        repack(False, weight, table, inputs, outputs_, width, stride, first, reach, 1)
        inverse_step = np.empty(inputs, x.dtype)
        for i in range(inputs):
            inverse_step[i] = 1 / step[i]
        columns = tile_columns(inputs, stride, min(padded, 32) * x.itemsize)
        height = min(MAX_ROWS, TILE // columns)
        scratch = np.empty(SCRATCH, x.dtype)
        cells = np.empty(CAPACITY, np.int32)
        block = np.zeros(height * padded, x.dtype)
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            column = 0
            while column < padded:
                lanes = block_lanes(padded - column)
                count = min(lanes, outputs_ - column)
                copy_rows(bias, column, 0, block, column * height, lanes, n, count)
                column += lanes
            for i0 in range(0, inputs, columns):
                m = min(columns, inputs - i0)
                place(x, r0 * inputs + i0, inputs, origin, inverse_step, i0, m, n, scratch)
                expand(order, first, scratch, cells, n * m, intervals, linear, reach, False)
                column = 0
                while column < padded:
                    lanes = block_lanes(padded - column)
                    t = (column * inputs + i0 * lanes) * stride
                    at = column * height
                    if lanes == 32:
                        outputs(order, first, 32, cells, scratch, table, t, block, at, n, m, stride)
                    elif lanes == 16:
                        outputs(order, first, 16, cells, scratch, table, t, block, at, n, m, stride)
                    else:
                        outputs(order, first, 8, cells, scratch, table, t, block, at, n, m, stride)
                    column += lanes
            column = 0
            while column < padded:
                lanes = block_lanes(padded - column)
                count = min(lanes, outputs_ - column)
                to = r0 * outputs_ + column
                copy_rows(block, column * height, lanes, y, to, outputs_, n, count)
                column += lanes

    def backward(
        grad_at, x_at, weight_at, origin_at, step_at, grad_x_at, grad_weight_at, grad_bias_at, rows,
        inputs, outputs_, intervals, linear, reach,
    ):  # fmt: skip
        len(digest)
        width = first + intervals + order
        stride = width + 2 * reach
        padded = (outputs_ + 7) // 8 * 8
        grad = array_at(grad_at, rows * outputs_, zero)
        x = array_at(x_at, rows * inputs, zero)
        weight = array_at(weight_at, outputs_ * inputs * width, zero)
        origin = array_at(origin_at, inputs, zero)
        step = array_at(step_at, inputs, zero)
        grad_x = array_at(grad_x_at, rows * inputs, zero)
        grad_weight = array_at(grad_weight_at, outputs_ * inputs * width, zero)
        grad_bias = array_at(grad_bias_at, outputs_, zero)
        for o in range(outputs_):
            grad_bias[o] = 0
        table = np.zeros(inputs * stride * padded * 2, x.dtype)
        repack(False, weight, table, inputs, outputs_, width, stride, first, reach, 2)
        inverse_step = np.empty(inputs, x.dtype)
        for i in range(inputs):
            inverse_step[i] = 1 / step[i]
        columns = tile_columns(inputs, stride, min(padded, 32) * x.itemsize * 2)
        height = min(MAX_ROWS, TILE // columns)
        scratch = np.empty(SCRATCH, x.dtype)
        cells = np.empty(CAPACITY, np.int32)
        block = np.zeros(height * padded, x.dtype)
        grad_u = np.empty(CAPACITY, x.dtype)
        for r0 in range(0, rows, height):
            n = min(height, rows - r0)
            column = 0
            while column < padded:
                lanes = block_lanes(padded - column)
                count = min(lanes, outputs_ - column)
                at = r0 * outputs_ + column
                copy_rows(grad, at, outputs_, block, column * height, lanes, n, count)
                column += lanes
            for r in range(r0, r0 + n):
                for o in range(outputs_):
                    grad_bias[o] += grad[r * outputs_ + o]
            for i0 in range(0, inputs, columns):
                m = min(columns, inputs - i0)
                place(x, r0 * inputs + i0, inputs, origin, inverse_step, i0, m, n, scratch)
                expand(order, first, scratch, cells, n * m, intervals, linear, reach, True)
                if first:
                    # The gradient is gathered in units of the grid's step.
                    for r in range(n):
                        for i in range(m):
                            scratch[BASE_SLOPES + r * m + i] *= step[i0 + i]
                for at in range(n * m):
                    grad_u[at] = 0
                column = 0
                while column < padded:
                    lanes = block_lanes(padded - column)
                    t = (column * inputs + i0 * lanes) * stride * 2
                    at = column * height
                    if lanes == 32:
                        gradients(
                            order, first, 32, cells, scratch, table, t, block, at, grad_u, n, m,
                            stride,
                        )  # fmt: skip
                    elif lanes == 16:
                        gradients(
                            order, first, 16, cells, scratch, table, t, block, at, grad_u, n, m,
                            stride,
                        )  # fmt: skip
                    else:
                        gradients(
                            order, first, 8, cells, scratch, table, t, block, at, grad_u, n, m,
                            stride,
                        )  # fmt: skip
                    column += lanes
                for r in range(n):
                    for i in range(m):
                        u = grad_u[r * m + i]
                        grad_x[(r0 + r) * inputs + i0 + i] = u * inverse_step[i0 + i]
        repack(True, grad_weight, table, inputs, outputs_, width, stride, first, reach, 2)

    return _compiled(forward), _compiled(backward)


_pool: Callable[[int], ThreadPoolExecutor] = cache(
    lambda workers: ThreadPoolExecutor(workers, thread_name_prefix="kan-kernel")
)
if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)  # type: ignore[attr-defined]


def _chunks(rows: int, multiplications: int) -> list[tuple[int, int]]:
    """Parts of the batch, one a thread: (first row, number of rows)."""
    threads = min(torch.get_num_threads(), 1 + rows * multiplications // _PARALLEL_WORK, rows)
    if threads <= 1:
        return [(0, rows)]
    ends = [rows * part // threads for part in range(threads + 1)]
    return [(start, end - start) for start, end in itertools.pairwise(ends)]


def _run(task: Callable[[int, int, int], None], chunks: list[tuple[int, int]]) -> None:
    """Calls ``task(part, first row, number of rows)`` side by side, the last on this thread."""
    *others, own = ((part, *chunk) for part, chunk in enumerate(chunks))
    if not others:
        task(*own)
        return
    futures = [_pool(len(others)).submit(task, *other) for other in others]
    task(*own)
    for future in futures:
        future.result()


def _shape(x: Tensor, weight: Tensor, order: int, has_base: bool) -> tuple[int, int, int, int]:
    """Rows, inputs, outputs and intervals."""
    rows, inputs = x.shape
    outputs, width = weight.shape
    return rows, inputs, outputs, width // inputs - order - has_base


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    origin: Tensor,
    step: Tensor,
    order: int,
    extrapolation: str,
    has_base: bool,
) -> Tensor:
    """The output of a B-spline layer.

    Args:
        x: Inputs with shape (N, in); as all tensors float32 or float64 and on the CPU.
        weight: Packed weight with shape (out, in * (has_base + G + k)).
        bias: Constants with shape (out,), or None.
        origin: Left end of each input's grid, with shape (in,).
        step: Width of an interval of each input's grid, with shape (in,), positive.
        order: Degree k of the splines, 1 to 5.
        extrapolation: ``"linear"``, ``"clamp"`` or ``"zero"``.
        has_base: Whether SiLU comes before the splines.

    Returns:
        Outputs with shape (N, out).
    """
    rows, inputs, outputs, intervals = _shape(x, weight, order, has_base)
    forward, _ = _kernels(order, int(has_base), x.dtype == torch.float64)
    x, weight = x.contiguous(), weight.contiguous()
    origin, step = origin.contiguous(), step.contiguous()
    bias = weight.new_zeros(outputs) if bias is None else bias.contiguous()
    y = x.new_empty(rows, outputs)
    size = x.element_size()
    x_at, y_at = x.data_ptr(), y.data_ptr()
    weight_at, bias_at = weight.data_ptr(), bias.data_ptr()
    origin_at, step_at = origin.data_ptr(), step.data_ptr()
    is_linear, reach = int(extrapolation == "linear"), order if extrapolation == "zero" else 0

    def task(part: int, start: int, count: int) -> None:
        forward(
            x_at + start * inputs * size, weight_at, bias_at, origin_at, step_at,
            y_at + start * outputs * size, count, inputs, outputs, intervals, is_linear, reach,
        )  # fmt: skip

    _run(task, _chunks(rows, inputs * outputs * (order + 1)))
    return y


def linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    origin: Tensor,
    step: Tensor,
    order: int,
    extrapolation: str,
    has_base: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`linear` in x, weight and bias, given one with shape (N, out)."""
    rows, inputs, outputs, intervals = _shape(x, weight, order, has_base)
    _, backward = _kernels(order, int(has_base), x.dtype == torch.float64)
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    origin, step = origin.contiguous(), step.contiguous()
    chunks = _chunks(rows, 2 * inputs * outputs * (order + 1))
    grad_x = x.new_empty(rows, inputs)
    # One gradient a thread, added up in the order of the rows.
    parts = len(chunks)
    grad_weight = weight.new_empty(parts, *weight.shape)
    grad_bias = weight.new_empty(parts, outputs)
    size = x.element_size()
    grad_at, x_at, grad_x_at = grad.data_ptr(), x.data_ptr(), grad_x.data_ptr()
    weight_at, origin_at, step_at = weight.data_ptr(), origin.data_ptr(), step.data_ptr()
    grad_weight_at, grad_bias_at = grad_weight.data_ptr(), grad_bias.data_ptr()
    weight_size = weight.numel() * size
    is_linear, reach = int(extrapolation == "linear"), order if extrapolation == "zero" else 0

    def task(part: int, start: int, count: int) -> None:
        backward(
            grad_at + start * outputs * size, x_at + start * inputs * size, weight_at, origin_at,
            step_at, grad_x_at + start * inputs * size, grad_weight_at + part * weight_size,
            grad_bias_at + part * outputs * size, count, inputs, outputs, intervals, is_linear,
            reach,
        )  # fmt: skip

    _run(task, chunks)
    if parts == 1:
        return grad_x, grad_weight[0], grad_bias[0]
    return grad_x, grad_weight.sum(0), grad_bias.sum(0)
