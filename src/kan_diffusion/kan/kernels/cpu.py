r"""Edge features of cubic splines on the CPU: one fused pass, compiled by numba.

With f the position in the cell and g = 1 - f, the four non-zero cubic B-splines are

.. math:: \tfrac16 g^3, \quad \tfrac23 - f^2 + \tfrac12 f^3, \quad
    1 - (\text{the others}), \quad \tfrac16 f^3,

the third by partition of unity. One loop over the inputs locates the cell, evaluates these and
SiLU, and writes the whole row of features, which is the very operand of the layer's matrix product.
The backward loop recomputes the slopes from x, so that nothing but x is kept. Compiled code is
cached on disk: the few seconds of compilation are paid once an installation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numba
import torch
from torch import Tensor

if TYPE_CHECKING:
    from kan_diffusion.kan.kernels.reference import EdgeBasis

__all__ = ["ORDER", "features", "features_backward"]

ORDER = 3
"""The one spline order these kernels are for."""

# No assumption that values are finite: a NaN must not decide where a row is written.
_FAST = {"contract", "nsz", "arcp"}


@numba.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _features(x, origin, inverse_step, intervals, linear, reach, has_base, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    # Constants in x's own dtype: a bare 0.5 would turn float32 arithmetic into float64.
    real = x.dtype.type
    zero, one, half, two, three_halves = real(0), real(1), real(0.5), real(2), real(1.5)
    sixth, two_thirds = real(1 / 6), real(2 / 3)
    bottom, top = real(-reach), real(intervals + reach)
    last = intervals + reach - 1
    num_splines = intervals + 3
    first = 1 if has_base else 0
    rows, inputs = x.shape
    for n in range(rows):
        for i in range(inputs):
            value = x[n, i]
            u = (value - origin[i]) * inverse_step[i]
            inside = u
            if not inside > bottom:  # so that NaN ends up in a cell, too
                inside = bottom
            if inside > top:
                inside = top
            cell = min(math.floor(inside), last)
            f = inside - real(cell)
            g = one - f
            f2, g2 = f * f, g * g
            piece0 = g2 * g * sixth
            piece1 = two_thirds - f2 + half * f2 * f
            piece3 = f2 * f * sixth
            beyond = u - inside if linear else (zero if u == u else u)  # zero, or NaN
            piece2 = one - piece0 - piece1 - piece3
            slope0 = -half * g2
            slope1 = three_halves * f2 - two * f
            slope3 = half * f2
            piece0 += beyond * slope0
            piece1 += beyond * slope1
            piece2 -= beyond * (slope0 + slope1 + slope3)
            piece3 += beyond * slope3
            for feature in range(first + num_splines):
                out[n, i, feature] = 0
            if has_base:
                out[n, i, 0] = value / (one + math.exp(-value))
            at = first + cell
            if reach == 0:
                out[n, i, at] = piece0
                out[n, i, at + 1] = piece1
                out[n, i, at + 2] = piece2
                out[n, i, at + 3] = piece3
            else:
                if 0 <= cell < num_splines:
                    out[n, i, at] = piece0
                if 0 <= cell + 1 < num_splines:
                    out[n, i, at + 1] = piece1
                if 0 <= cell + 2 < num_splines:
                    out[n, i, at + 2] = piece2
                if 0 <= cell + 3 < num_splines:
                    out[n, i, at + 3] = piece3


@numba.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _features_backward(grad, x, origin, inverse_step, intervals, linear, reach, has_base, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    real = x.dtype.type
    zero, one, half, two, three_halves = real(0), real(1), real(0.5), real(2), real(1.5)
    bottom, top = real(-reach), real(intervals + reach)
    last = intervals + reach - 1
    num_splines = intervals + 3
    first = 1 if has_base else 0
    rows, inputs = x.shape
    for n in range(rows):
        for i in range(inputs):
            value = x[n, i]
            u = (value - origin[i]) * inverse_step[i]
            inside = u
            if not inside > bottom:
                inside = bottom
            if inside > top:
                inside = top
            cell = min(math.floor(inside), last)
            f = inside - real(cell)
            g = one - f
            slope0 = -half * g * g
            slope1 = three_halves * f * f - two * f
            slope3 = half * f * f
            slope2 = -slope0 - slope1 - slope3
            at = first + cell
            total = zero if u == u else u  # zero, or NaN
            if linear or u == inside:
                if reach == 0:
                    total += (
                        slope0 * grad[n, i, at]
                        + slope1 * grad[n, i, at + 1]
                        + slope2 * grad[n, i, at + 2]
                        + slope3 * grad[n, i, at + 3]
                    )
                else:
                    if 0 <= cell < num_splines:
                        total += slope0 * grad[n, i, at]
                    if 0 <= cell + 1 < num_splines:
                        total += slope1 * grad[n, i, at + 1]
                    if 0 <= cell + 2 < num_splines:
                        total += slope2 * grad[n, i, at + 2]
                    if 0 <= cell + 3 < num_splines:
                        total += slope3 * grad[n, i, at + 3]
            total *= inverse_step[i]
            if has_base:
                sigmoid = one / (one + math.exp(-value))
                total += grad[n, i, 0] * sigmoid * (one + value * (one - sigmoid))
            out[n, i] = total


def features(x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis) -> Tensor:
    """As :func:`kan_diffusion.kan.kernels.reference.features`, for cubic splines on the CPU."""
    out = torch.empty(*x.shape, basis.width, dtype=x.dtype)
    _features(
        x.detach().contiguous().numpy(),
        origin.detach().contiguous().numpy(),
        step.detach().reciprocal().numpy(),
        basis.num_intervals,
        basis.extrapolation == "linear",
        basis.reach,
        basis.has_base,
        out.numpy(),
    )
    return out


def features_backward(
    grad: Tensor, x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis
) -> Tensor:
    """As :func:`~kan_diffusion.kan.kernels.reference.features_backward`, for the same."""
    out = torch.empty(x.shape, dtype=x.dtype)
    _features_backward(
        grad.detach().contiguous().numpy(),
        x.detach().contiguous().numpy(),
        origin.detach().contiguous().numpy(),
        step.detach().reciprocal().numpy(),
        basis.num_intervals,
        basis.extrapolation == "linear",
        basis.reach,
        basis.has_base,
        out.numpy(),
    )
    return out
