r"""Edge features in plain torch: runs on any device, and every kernel is tested against it.

For each input :math:`x` the features are :math:`(b(x), B_0(x), \dots, B_{G+k-1}(x))`. The spline is
evaluated in closed form on its k + 1 non-zero pieces (see :mod:`kan_diffusion.kan.bases`) and
scattered into the row; the derivative is

.. math:: \frac{\partial B_{c+j}}{\partial x} = \frac{1}{h}\, p'_{k,j}(f).

Outside the grid, with :math:`x_e` the nearer end: ``"linear"`` continues every basis function by
its tangent, :math:`B(x_e) + B'(x_e)(x - x_e)`, continuous with a continuous first derivative;
``"clamp"`` holds :math:`B(x_e)`; ``"zero"`` lets the functions run out to zero over the next k
intervals, as the classical extended knot vector does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kan_diffusion.kan.bases import piece_coefficients

__all__ = ["EdgeBasis", "features", "features_backward"]


class EdgeBasis(NamedTuple):
    """What the features of an input are.

    Attributes:
        num_intervals: Number G of intervals.
        order: Degree k of the splines.
        extrapolation: ``"linear"``, ``"clamp"`` or ``"zero"``.
        has_base: Whether SiLU comes before the splines.
    """

    num_intervals: int
    order: int
    extrapolation: str
    has_base: bool

    @property
    def reach(self) -> int:
        """How many intervals beyond the grid the functions are still followed."""
        return self.order if self.extrapolation == "zero" else 0

    @property
    def width(self) -> int:
        """Number of features of an input."""
        return int(self.has_base) + self.num_intervals + self.order


def _locate(
    x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis
) -> tuple[Tensor, Tensor, Tensor]:
    """Splits x into cell index, position f in the cell and distance beyond the grid.

    Returns:
        ``cell`` (N, in) whole numbers, ``position`` (N, in) in [0, 1] and ``beyond`` (N, in), in
        grid steps, zero inside the grid.
    """
    u = (x - origin) / step
    inside = u.clamp(-basis.reach, basis.num_intervals + basis.reach)
    cell = inside.detach().floor().nan_to_num(0)
    cell = cell.clamp(max=basis.num_intervals + basis.reach - 1)
    return cell.long(), inside - cell, u - inside


def _pieces(position: Tensor, order: int, derivative: int) -> Tensor:
    """The polynomial pieces p_{k,j}(f), or derivatives: (N, in) -> (N, in, k + 1)."""
    coefficients = position.new_tensor(piece_coefficients(order, derivative))
    powers = [torch.ones_like(position)]
    for _ in range(order):
        powers.append(powers[-1] * position)
    return torch.stack(powers, dim=-1) @ coefficients.T


def features(x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis) -> Tensor:
    """Features (N, in, width) of inputs (N, in); origin and step have shape (in,)."""
    cell, position, beyond = _locate(x, origin, step, basis)
    pieces = _pieces(position, basis.order, 0)
    if basis.extrapolation == "linear":
        pieces = pieces + beyond.unsqueeze(-1) * _pieces(position, basis.order, 1)
    # Functions that only live beyond the grid get a place too, and are cut off again.
    index = cell.unsqueeze(-1) + torch.arange(basis.order + 1, device=x.device) + basis.reach
    num_splines = basis.num_intervals + basis.order
    splines = x.new_zeros(*x.shape, num_splines + 2 * basis.reach).scatter(-1, index, pieces)
    splines = splines[..., basis.reach : basis.reach + num_splines]
    if not basis.has_base:
        return splines.contiguous()
    return torch.cat([torch.nn.functional.silu(x).unsqueeze(-1), splines], dim=-1)


def features_backward(
    grad: Tensor, x: Tensor, origin: Tensor, step: Tensor, basis: EdgeBasis
) -> Tensor:
    """Gradient (N, in) with respect to x, given one (N, in, width) with respect to the features.

    Made of differentiable operations, so that it can be differentiated once more.
    """
    cell, position, beyond = _locate(x, origin, step, basis)
    first = int(basis.has_base)
    splines = torch.nn.functional.pad(grad[..., first:], (basis.reach, basis.reach))
    index = cell.unsqueeze(-1) + torch.arange(basis.order + 1, device=x.device) + basis.reach
    slopes = _pieces(position, basis.order, 1)
    grad_x = (splines.gather(-1, index) * slopes).sum(-1) / step
    if basis.extrapolation != "linear":
        # Not "beyond == 0": a NaN must stay one.
        grad_x = torch.where(beyond.abs() > 0, torch.zeros_like(grad_x), grad_x)
    if basis.has_base:
        sigmoid = torch.sigmoid(x)
        grad_x = grad_x + grad[..., 0] * sigmoid * (1 + x * (1 - sigmoid))
    return grad_x
