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

On a CPU the second is a sum row by row. On a GPU millions of numbers would be added to a few dozen
one at a time (what made group-wise functions slow in arXiv:2505.13813), so it is a product with the
indicators of the cells there, for each input, and then a sum over the inputs of a group. All of it
can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kan_diffusion.kan.bases import BSpline, Grid
from kan_diffusion.kan.kernels.fused import in_full_precision, is_transformed

__all__ = ["evaluate"]


_Triple = tuple[Tensor, Tensor, Tensor]


def _members(inputs: int, groups: int, like: Tensor) -> Tensor:
    """Tells which inputs are in which groups, by turns, by ones and zeros: (in, groups)."""
    group = torch.arange(inputs, device=like.device) % groups
    return (group.unsqueeze(1) == torch.arange(groups, device=like.device)).to(like.dtype)


def _table(coefficients: Tensor, basis: BSpline) -> Tensor:
    """Computes the polynomials (groups * (G + 2), R, k + 1) of coefficients (R, groups, G + k)."""
    polynomials = basis.polynomials(coefficients.dtype)
    # One product, which torch.compile computes by itself and does not repeat for every number.
    table = coefficients.flatten(0, 1) @ polynomials.flatten(1)
    table = table.view(*coefficients.shape[:2], -1, polynomials.shape[2])
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


def _summed(grad: Tensor, places: _Triple, first: Tensor, table: Tensor, cells: int) -> Tensor:
    """Sums the gradients of all numbers' polynomials, in the shape of the table.

    ``grad`` are those of the values, (N, in, R); a group has ``cells`` polynomials of a function.
    """
    row, f, kept = places
    powers = [grad, grad * f.unsqueeze(-1)]
    for _ in range(table.shape[2] - 2):
        powers.append(powers[-1] * kept.unsqueeze(-1))
    # Numbers side by side already: torch.compile would find them by divisions.
    terms = torch.stack([power.reshape(-1, grad.shape[2]) for power in powers], dim=-1)
    if grad.is_cpu:
        return torch.zeros_like(table).index_add(0, row.reshape(-1), terms)
    with in_full_precision(terms):
        return _multiplied(terms.view(*grad.shape, -1), row - first, table, cells)


def _multiplied(terms: Tensor, cell: Tensor, table: Tensor, cells: int) -> Tensor:
    """Sums terms (N, in, R, k + 1) of numbers in cells (N, in) by products with indicators."""
    here = (cell.unsqueeze(-1) == torch.arange(cells, device=cell.device)).to(terms.dtype)
    of_input = torch.einsum("nic,nird->icrd", here, terms)
    members = _members(cell.shape[1], len(table) // cells, terms)
    return torch.einsum("ig,icrd->gcrd", members, of_input).flatten(0, 1)


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
            grad_table = _summed(grad, places, first, table, ctx.intervals + 2)
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
        Values with shape (N, in * R), those of an input side by side; under autocast they keep the
        precision of the inputs.
    """
    with in_full_precision(x):
        table, intervals = _table(coefficients.to(x.dtype), basis), basis.num_intervals
        # A product again: a look-up would be repeated for every number.
        inputs, groups = x.shape[1], coefficients.shape[1]
        members = _members(inputs, groups, grid[0])
        origin, step = (members @ torch.stack(list(grid), dim=1)).unbind(1)
        first = torch.arange(inputs, device=x.device) % groups * (intervals + 2)
        if is_transformed() or any(tensor.requires_grad for tensor in grid):
            values = _values(table, _place(x, (origin, step, first), intervals))
        else:
            values = _Piecewise.apply(x, table, intervals, origin, step, first)
        return values.flatten(1)
