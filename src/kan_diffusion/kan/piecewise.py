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

from math import factorial

import torch
from torch import Tensor

from kan_diffusion.kan.bases import BSpline, Grid, horner
from kan_diffusion.kan.kernels.fused import in_full_precision, is_transformed

_Triple = tuple[Tensor, Tensor, Tensor]

_ADDRESSES = 2**16
"""Rows of all copies of a table to which a GPU adds at once, about."""


def _table(coefficients: Tensor, basis: BSpline) -> Tensor:
    """Computes the polynomials ((G + 2) * groups, R, k + 1) of coefficients (R, groups, G + k).

    Those of a cell are side by side for all groups.
    """
    numbers = coefficients.permute(2, 1, 0).index_select(0, basis.functions.flatten())
    numbers = numbers.view(*basis.functions.shape, *numbers.shape[1:], 1)
    pieces = basis.numerators.to(coefficients.dtype) / factorial(basis.order)
    return (numbers * pieces[:, :, None, None]).sum(1).flatten(0, 1)


def _place(x: Tensor, grids: _Triple, intervals: int, groups: int) -> _Triple:
    """Finds where inputs (N, in) lie: rows of their polynomials, f and f clamped, (N, in) each.

    ``grids`` are left ends and widths of an interval, (in,) each, and groups, (in,).
    """
    origin, step, group = grids
    u = (x - origin) / step
    # A NaN is in some cell, and stays one.
    cell = u.detach().floor().nan_to_num(0).clamp(-1, intervals)
    f = u - cell.clamp(min=0)  # left of the grid, f is measured from its first knot
    return torch.add(group, (cell + 1).long(), alpha=groups), f, f.clamp(0, 1)


def _gathered(table: Tensor, row: Tensor) -> Tensor:
    """Looks up the polynomials (N, in, R, k + 1) of numbers (N, in)."""
    return table.index_select(0, row.flatten()).unflatten(0, row.shape)


def _values(table: Tensor, places: _Triple) -> Tensor:
    """Evaluates polynomials: (N, in, R)."""
    row, f, kept = places
    first, *others = _gathered(table, row).unbind(-1)
    return torch.addcmul(first, horner(others, kept.unsqueeze(-1)), f.unsqueeze(-1))


def _slopes(table: Tensor, places: _Triple) -> Tensor:
    """Evaluates the derivatives of polynomials with respect to f: (N, in, R)."""
    row, _, kept = places
    _, *others = _gathered(table, row).unbind(-1)
    rising = [degree * other if degree > 1 else other for degree, other in enumerate(others, 1)]
    return horner(rising, kept.unsqueeze(-1))


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
    def forward(ctx, x: Tensor, table: Tensor, sizes: tuple[int, int], *grids: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.save_for_backward(x, table, *grids)
        ctx.sizes = sizes
        origin, step, group = grids
        return _values(table, _place(x, (origin, step, group), *sizes))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, table, origin, step, group = ctx.saved_tensors
        places = _place(x, (origin, step, group), *ctx.sizes)
        grad_x = grad_table = None
        if ctx.needs_input_grad[1]:  # first, since it needs most memory
            copies = 1 if grad.is_cpu else max(1, _ADDRESSES // len(table))
            grad_table = _summed(grad, places, table, copies)
        if ctx.needs_input_grad[0]:
            grad_x = (grad * _slopes(table, places)).sum(-1) / step
        return grad_x, grad_table, None, None, None, None


def evaluate(x: Tensor, coefficients: Tensor, basis: BSpline, grid: Grid, group: Tensor) -> Tensor:
    """Evaluates splines that go on by their tangents outside the grid.

    Args:
        x: Inputs with shape (N, in).
        coefficients: Coefficients with shape (R, groups, G + k).
        basis: The splines.
        grid: Left ends and widths of an interval of each group's grid, (groups,) each.
        group: The group of each input, (in,).

    Returns:
        Values with shape (N, in * R), those of an input side by side, in the precision of the
        coefficients or more, also under autocast.
    """
    dtype = torch.promote_types(x.dtype, coefficients.dtype)
    x, coefficients = (one if one.dtype == dtype else one.to(dtype) for one in (x, coefficients))
    with in_full_precision(x):
        origin, step = grid
        sizes = basis.num_intervals, len(origin)
        if len(origin) < x.shape[1]:
            origin, step = origin.index_select(0, group), step.index_select(0, group)
        table = _table(coefficients, basis)
        if is_transformed() or any(tensor.requires_grad for tensor in grid):
            values = _values(table, _place(x, (origin, step, group), *sizes))
        else:
            values = _Piecewise.apply(x, table, sizes, origin, step, group)
        return values.flatten(1)
