r"""Shared splines in torch's own operations, as piecewise polynomials: all that a GPU has.

On a uniform grid of G cells, spline r of group g is in cell m a polynomial of the place f in it,

.. math:: a_{g,m,r,d} = \sum_j c_{r,g,m+j}\, p_{j,d}, \qquad
    h_r = a_0 + f\,(a_1 + \bar f\,(a_2 + \bar f\,(a_3 + \dots))),

with the pieces p of :mod:`kan_diffusion.kan.bases`, computed once a batch. The tangents are
two more cells, left and right of the grid, in which only :math:`a_0` and :math:`a_1` differ from
zero, so that nothing branches. f is unbounded there, and :math:`\bar f` is f clamped to 0 to 1, so
that an infinite f meets no zero. A number is one gather of its polynomial and Horner's scheme.

The forward pass keeps its input and the table of polynomials alone. The backward pass is

.. math:: \partial x = \tfrac1\Delta \sum_r \partial h_r
    \big(a_1 + \bar f\,(2 a_2 + \bar f\,(3 a_3 + \dots))\big), \qquad
    \partial a_{g,m,r,d} = \sum_{x \text{ in } m} f^d\,\partial h_r.

The second is a sum row by row. A GPU would add millions of numbers to a few dozen one at a time
(what made group-wise functions slow in arXiv:2505.13813), so rows take turns there at copies of the
table, which are added up. All of it can be differentiated again. Nothing is looked up by a product,
which TF32 would round to ten bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from kan_diffusion.kan.bases import BSpline, Grid
from kan_diffusion.kan.kernels.fused import in_full_precision, is_transformed

__all__ = ["evaluate"]


_Triple = tuple[Tensor, Tensor, Tensor]

_ADDRESSES = 2**16
"""Rows of all copies of a table to which a GPU adds at once, about."""


def _table(coefficients: Tensor, basis: BSpline) -> Tensor:
    """Computes the polynomials (groups * (G + 2), R, k + 1) of coefficients (R, groups, G + k)."""
    functions, pieces = basis.cells(coefficients.dtype)
    # A sum of fewer than eight torch.compile would unroll, and repeat for every number.
    spare = 8 - functions.shape[1]
    functions, pieces = pad(functions, (0, spare)), pad(pieces, (0, 0, 0, spare))
    table = (coefficients[..., functions].unsqueeze(-1) * pieces).sum(-2)
    return table.permute(1, 2, 0, 3).flatten(0, 1).contiguous()


def _place(x: Tensor, grids: _Triple, intervals: int) -> _Triple:
    """Finds where inputs (N, in) lie: rows of their polynomials, f and f clamped, (N, in) each.

    ``grids`` are left ends, widths of an interval and first rows of the table, (in,) each.
    """
    origin, step, first = grids
    u = (x - origin) / step
    cell = u.detach().floor().clamp(-1, intervals)
    cell = torch.where(cell == cell, cell, 0)  # a NaN is in the first cell, and stays one
    f = u - cell.clamp(min=0)  # left of the grid, f is measured from its first knot
    return cell.long() + 1 + first, f, f.clamp(0, 1)


def _gathered(table: Tensor, row: Tensor) -> Sequence[Tensor]:
    """Looks the polynomials of numbers (N, in) up: k + 1 coefficients with shape (N, in, R)."""
    return table.index_select(0, row.flatten()).unflatten(0, row.shape).unbind(-1)


def _values(table: Tensor, places: _Triple) -> Tensor:
    """Evaluates polynomials by Horner's scheme: (N, in, R)."""
    polynomials = _gathered(table, places[0])
    f, kept = (each.unsqueeze(-1) for each in places[1:])
    value = polynomials[-1]
    for coefficient in polynomials[-2:0:-1]:
        value = torch.addcmul(coefficient, value, kept)
    return torch.addcmul(polynomials[0], value, f)


def _slopes(table: Tensor, places: _Triple) -> Tensor:
    """Evaluates the derivatives of polynomials with respect to f: (N, in, R)."""
    polynomials, kept = _gathered(table, places[0]), places[2].unsqueeze(-1)
    degree = len(polynomials) - 1
    slope = degree * polynomials[-1]
    for d in range(degree - 1, 0, -1):
        slope = torch.addcmul(d * polynomials[d], slope, kept)
    return slope


def _summed(grad: Tensor, places: _Triple, table: Tensor, copies: int) -> Tensor:
    """Sums the gradients of all numbers' polynomials, in the shape of the table.

    ``grad`` are those of the values, (N, in, R); rows add by turns to ``copies`` of the table.
    """
    row, f, kept = places
    powers = [grad, grad * f.unsqueeze(-1)]
    for _ in range(table.shape[2] - 2):
        powers.append(powers[-1] * kept.unsqueeze(-1))
    # Numbers side by side already: torch.compile would find them by divisions.
    terms = torch.stack([power.reshape(-1, grad.shape[2]) for power in powers], dim=-1)
    if copies > 1:
        turn = torch.arange(len(row), device=row.device) % copies
        row = row + len(table) * turn.unsqueeze(1)
    sums = table.new_zeros(copies * len(table), *table.shape[1:])
    sums = sums.index_add(0, row.reshape(-1), terms)
    return sums if copies == 1 else sums.unflatten(0, (copies, -1)).sum(0)


class _Piecewise(torch.autograd.Function):
    """Values (N, in, R) of splines, of which only the input and the table are kept."""

    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, intervals: int, *grids: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.save_for_backward(x, table, *grids)
        ctx.intervals = intervals
        origin, step, first = grids
        return _values(table, _place(x, (origin, step, first), intervals))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, table, origin, step, first = ctx.saved_tensors
        places = _place(x, (origin, step, first), ctx.intervals)
        grad_x = grad_table = None
        if ctx.needs_input_grad[1]:  # first, since it needs most memory
            copies = 1 if grad.is_cpu else max(1, _ADDRESSES // len(table))
            grad_table = _summed(grad, places, table, copies)
        if ctx.needs_input_grad[0]:
            grad_x = (grad * _slopes(table, places)).sum(-1) / step
        return grad_x, grad_table, None, None, None, None


def evaluate(x: Tensor, coefficients: Tensor, basis: BSpline, grid: Grid) -> Tensor:
    """Evaluates splines that go on by their tangents outside the grid.

    Args:
        x: Inputs with shape (N, in).
        coefficients: Coefficients with shape (R, groups, G + k); inputs are in groups by turns.
        basis: The splines.
        grid: Left ends and widths of an interval of each group's grid, (groups,) each.

    Returns:
        Values with shape (N, in * R), those of an input side by side, in the precision of the
        coefficients or more, also under autocast.
    """
    x = x.to(torch.promote_types(x.dtype, coefficients.dtype))
    with in_full_precision(x):
        table, intervals = _table(coefficients.to(x.dtype), basis), basis.num_intervals
        group = torch.arange(x.shape[1], device=x.device) % coefficients.shape[1]
        origin, step = (each[group] for each in grid)
        first = group * (intervals + 2)
        if is_transformed() or any(tensor.requires_grad for tensor in grid):
            values = _values(table, _place(x, (origin, step, first), intervals))
        else:
            values = _Piecewise.apply(x, table, intervals, origin, step, first)
        return values.flatten(1)
