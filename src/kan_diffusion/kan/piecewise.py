r"""Shared splines in torch's own operations, as piecewise polynomials: all that a GPU has.

On a uniform grid of G cells, spline r of group g is in cell m a polynomial of the place f in it,

.. math:: a_{g,m,r,d} = \sum_j c_{r,g,m+j}\, p_{j,d}, \qquad
    h_r = a_0 + f\,(a_1 + \bar f\,(a_2 + \bar f\,(a_3 + \dots))),

with the pieces p of :mod:`kan_diffusion.kan.bases.spline`, computed once a batch. The tangents are
two more cells, left and right of the grid, in which only :math:`a_0` and :math:`a_1` differ from
zero, so that nothing branches. f is unbounded there, and :math:`\bar f` is f clamped to 0 to 1, so
that an infinite f meets no zero. A number is one gather of its polynomial and Horner's scheme.

The forward pass keeps its input and the table of polynomials alone. The backward pass is

.. math:: \partial x = \tfrac1\Delta \sum_r \partial h_r
    \big(a_1 + \bar f\,(2 a_2 + \bar f\,(3 a_3 + \dots))\big), \qquad
    \partial a_{g,m,r,d} = \sum_{x \text{ in } m} f^d\,\partial h_r.

On a CPU the second is a sum row by row. On a GPU millions of numbers would be added to a few dozen
one at a time (what made group-wise functions slow in arXiv:2505.13813), so it is a product with the
indicators of the cells there, whose rows are summed in blocks. torch.compile gets that sum with the
indicators compared inside of its loops. All of it can be differentiated again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kan_diffusion.kan.bases import BSpline
from kan_diffusion.kan.kernels.fused import in_full_precision, is_transformed

__all__ = ["evaluate"]


class _Places(NamedTuple):
    """Where numbers lie: rows of their polynomials, f and f clamped, each with shape (N, in)."""

    row: Tensor
    f: Tensor
    kept: Tensor


def _table(coefficients: Tensor, basis: BSpline) -> Tensor:
    """Computes the polynomials (groups * (G + 2), R, k + 1) of coefficients (R, groups, G + k)."""
    order = basis.order
    cells = coefficients.shape[2] - order
    windows = [coefficients[..., j : j + cells] for j in range(order + 1)]
    inner = torch.stack(windows, -1) @ basis.pieces(coefficients.dtype)
    degrees = torch.arange(order + 1, device=coefficients.device, dtype=coefficients.dtype)
    last = inner[..., -1:, :]
    value, slope = last.sum(-1, keepdim=True), (last * degrees).sum(-1, keepdim=True)
    bent = torch.zeros_like(last[..., : order - 1])
    left = torch.cat([inner[..., :1, :2], bent], -1)
    right = torch.cat([value, slope, bent], -1)
    return torch.cat([left, inner, right], 2).permute(1, 2, 0, 3).flatten(0, 1).contiguous()


def _place(x: Tensor, origin: Tensor, step: Tensor, group: Tensor, intervals: int) -> _Places:
    """Finds cells and places of inputs (N, in)."""
    u = (x - origin[group]) / step[group]
    cell = u.detach().floor().nan_to_num(0).clamp(-1, intervals)
    f = u - cell.clamp(min=0)  # left of the grid, f is measured from its first knot
    # A NaN is in the first cell and stays one.
    return _Places(cell.long() + (1 + group * (intervals + 2)), f, f.clamp(0, 1))


def _gathered(table: Tensor, row: Tensor) -> Tensor:
    """Looks the polynomials of numbers (N, in) up: (N, in, R, k + 1)."""
    return table.index_select(0, row.flatten()).unflatten(0, row.shape)


def _values(table: Tensor, places: _Places) -> Tensor:
    """Evaluates polynomials by Horner's scheme: (N, in, R)."""
    polynomials = _gathered(table, places.row).unbind(-1)
    f, kept = places.f.unsqueeze(-1), places.kept.unsqueeze(-1)
    value = polynomials[-1]
    for coefficient in polynomials[-2:0:-1]:
        value = torch.addcmul(coefficient, value, kept)
    return torch.addcmul(polynomials[0], value, f)


def _slopes(table: Tensor, places: _Places) -> Tensor:
    """Evaluates the derivatives of polynomials with respect to f: (N, in, R)."""
    polynomials = _gathered(table, places.row).unbind(-1)
    kept = places.kept.unsqueeze(-1)
    degree = len(polynomials) - 1
    slope = degree * polynomials[-1]
    for d in range(degree - 1, 0, -1):
        slope = torch.addcmul(d * polynomials[d], slope, kept)
    return slope


def _summed(grad: Tensor, places: _Places, rows: int, order: int) -> Tensor:
    """Sums the gradients of all numbers' polynomials: (rows, R, k + 1).

    Args:
        grad: Gradients of the values, (N, in, R).
        places: Where the numbers lie.
        rows: Number of polynomials of each function.
        order: Degree of the polynomials.
    """
    powers = [grad, grad * places.f.unsqueeze(-1)]
    for _ in range(order - 1):
        powers.append(powers[-1] * places.kept.unsqueeze(-1))
    terms = torch.stack(powers, dim=-1).reshape(-1, grad.shape[2], order + 1)
    row = places.row.reshape(-1)
    if grad.is_cpu and not torch.compiler.is_compiling():
        return terms.new_zeros(rows, *terms.shape[1:]).index_add(0, row, terms)
    here = row == torch.arange(rows, device=row.device).unsqueeze(1)
    with in_full_precision(terms):
        return (here.to(terms.dtype) @ terms.reshape(len(row), -1)).reshape(rows, *terms.shape[1:])


class _Piecewise(torch.autograd.Function):
    """Values (N, in, R) of splines, of which only the input and the table are kept."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        x: Tensor,
        table: Tensor,
        origin: Tensor,
        step: Tensor,
        group: Tensor,
        intervals: int,
    ) -> Tensor:
        ctx.save_for_backward(x, table, origin, step, group)
        ctx.intervals = intervals
        return _values(table, _place(x, origin, step, group, intervals))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, table, origin, step, group = ctx.saved_tensors
        places = _place(x, origin, step, group, ctx.intervals)
        grad_x = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad * _slopes(table, places)).sum(-1) / step[group]
        if ctx.needs_input_grad[1]:
            grad_table = _summed(grad, places, len(table), table.shape[2] - 1)
        return grad_x, grad_table, None, None, None, None


def evaluate(x: Tensor, coefficients: Tensor, basis: BSpline, group: Tensor) -> Tensor:
    """Evaluates splines that go on by their tangents outside the grid.

    Args:
        x: Inputs with shape (N, in).
        coefficients: Coefficients with shape (R, groups, G + k).
        basis: The splines, with one grid for each group.
        group: Group of each input, with shape (in,).

    Returns:
        Values with shape (N, in, R).
    """
    table = _table(coefficients.to(x.dtype), basis)
    grid = basis.grid_origin, basis.grid_step
    if is_transformed() or any(tensor.requires_grad for tensor in grid):
        return _values(table, _place(x, *grid, group, basis.num_intervals))
    values: Tensor = _Piecewise.apply(x, table, *grid, group, basis.num_intervals)
    return values
