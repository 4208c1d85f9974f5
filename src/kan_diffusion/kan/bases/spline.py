r"""B-splines on uniform knots (the KAN of Liu et al. 2024, arXiv:2404.19756).

All B-splines of order k are one function, shifted. With u the grid coordinate, in the cell
:math:`c = \lfloor u \rfloor` at the place :math:`f = u - c \in [0, 1)`, only
:math:`B_c, \dots, B_{c+k}` differ from zero, and

.. math:: B_{c+j} = p_{k,j}(f), \qquad
    p_{k,j}(f) = \frac{1}{k!} \sum_{i=0}^{k-j} (-1)^i \binom{k+1}{i} (f + k - j - i)^k,

polynomials of degree :math:`k` (the truncated powers of Schoenberg 1946; the Cox-de Boor recursion
on uniform knots, solved once here instead of at every evaluation). Their coefficients times k! are
whole numbers, which every floating dtype holds exactly.

Parameters per edge: G + k. Operations per input: 2k for each of k + 1 pieces and 3 to find the
cell; an edge costs 2 (k + 1) whatever G is, as only k + 1 functions differ from zero. Outside the
grid: ``"linear"``, ``"clamp"``, or ``"zero"``, where the functions run out to zero over k intervals
as on the classical extended knot vector.

A spline on G intervals is also one on mG: its coefficients are spaced m apart and convolved with
the mask :math:`m^{-k} (1 + z + \dots + z^{m-1})^{k+1}` (knot insertion on uniform knots; for m = 2
the two-scale relation of Lane and Riesenfeld 1980).
"""

from __future__ import annotations

from functools import cache, reduce
from math import comb, factorial, perm
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.kan.bases.base import Basis, Grid

__all__ = ["MAX_ORDER", "BSpline", "piece_coefficients"]

MAX_ORDER = 5
"""The highest spline order supported; degree 5 is four times continuously differentiable."""


@cache
def _numerators(order: int, derivative: int = 0) -> tuple[tuple[int, ...], ...]:
    """Coefficients of the pieces times k!, k + 1 rows with those of 1, f, ..., f^k."""

    def numerator(piece: int, degree: int) -> int:
        power = degree + derivative  # before differentiation
        if power > order:
            return 0
        jumps = (
            (-1) ** i * comb(order + 1, i) * (order - piece - i) ** (order - power)
            for i in range(order - piece + 1)
        )
        return perm(power, derivative) * comb(order, power) * sum(jumps)

    degrees = range(order + 1)
    return tuple(tuple(numerator(piece, degree) for degree in degrees) for piece in degrees)


def piece_coefficients(order: int, derivative: int = 0) -> tuple[tuple[float, ...], ...]:
    """Coefficients of the polynomial pieces of a uniform B-spline, or of their derivatives.

    Args:
        order: Degree k of the spline, 0 to ``MAX_ORDER``.
        derivative: How often to differentiate with respect to f (in units of the grid step).

    Returns:
        k + 1 rows, one per piece j, each with k + 1 coefficients of 1, f, ..., f^k.
    """
    rows = _numerators(order, derivative)
    return tuple(tuple(number / factorial(order) for number in row) for row in rows)


class BSpline(Basis):
    """B-splines of one order k, 1 to ``MAX_ORDER``; arguments as in :class:`Basis`."""

    name: ClassVar[str] = "bspline"
    local: ClassVar[bool] = True
    numerators: Tensor

    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""
        order = self.order
        if not 1 <= order <= MAX_ORDER:
            raise KanDiffusionError(f"order must be 1 to {MAX_ORDER}, not {order}")
        return self.num_intervals + order, order + 1, (order + 1) * 2 * order + 3

    @property
    def reach(self) -> int:
        """Number of intervals beyond the grid in which the functions are evaluated."""
        return self.order if self.extrapolation == "zero" else 0

    def constants(self) -> dict[str, list[list[list[int]]]]:
        """Returns the pieces times k!: as tangents left of the grid, inside, as tangents right."""
        inside = np.array(_numerators(self.order))
        left, right = np.zeros_like(inside), np.zeros_like(inside)
        left[:, :2] = inside[:, :2]
        right[:, 0], right[:, 1] = inside.sum(1), inside @ np.arange(self.order + 1)
        return {"numerators": np.stack([left, inside, right]).tolist()}

    def pieces(self, dtype: torch.dtype, derivative: int = 0) -> Tensor:
        """Coefficients of the pieces, or of their derivatives, (piece, degree), on the device."""
        pieces = self.numerators[1].to(dtype) / factorial(self.order)
        if derivative:
            degrees = torch.arange(1, self.order + 1, dtype=dtype, device=pieces.device)
            pieces = pad(degrees * pieces[:, 1:], (0, 1))
        return pieces

    def polynomials(self, dtype: torch.dtype) -> Tensor:
        """What each function is in each cell: (G + k, G + 2, k + 1), coefficients of 1, f, ...

        The first cell is that of the tangents left of the grid, the last that of those right of it.
        """
        functions = torch.arange(self.num_functions, device=self.numerators.device)
        cell = torch.arange(-1, self.num_intervals + 1, device=self.numerators.device)
        piece = functions.unsqueeze(1) - cell.clamp(0, self.num_intervals - 1)
        kind = (cell >= 0).long() + (cell >= self.num_intervals)
        numbers = self.numerators.to(dtype)[kind, piece.clamp(0, self.order)]
        is_there = (piece >= 0) & (piece <= self.order)
        return torch.where(is_there.unsqueeze(-1), numbers, 0) / factorial(self.order)

    def _spread(self, u: Tensor, derivative: int) -> Tensor:
        """Evaluates the pieces at u and puts each in the column of its function."""
        last = self.num_intervals + self.reach - 1
        cell = u.detach().floor().nan_to_num(0).clamp(-self.reach, last)
        powers = [torch.ones_like(u), u - cell]
        for _ in range(self.order - 1):
            powers.append(powers[-1] * powers[1])
        pieces = torch.stack(powers, dim=-1) @ self.pieces(u.dtype, derivative).T
        index = cell.long().unsqueeze(-1) + torch.arange(self.order + 1, device=u.device)
        # Functions that lie beyond the grid get columns too, which are cut off at the end.
        room = u.new_zeros(*u.shape, self.num_functions + 2 * self.reach)
        spread = room.scatter(-1, index + self.reach, pieces)
        return spread[..., self.reach : self.reach + self.num_functions]

    def values(self, u: Tensor) -> Tensor:
        """Evaluates the B-splines (*, G + k) at u (*)."""
        return self._spread(u, 0)

    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the B-splines with respect to u."""
        return self._spread(u, 1)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Evaluates the B-splines (N, in, G + k) at inputs (N, in), on other grids if given."""
        if self.extrapolation != "zero":
            return super().forward(x, grid)
        origin, step = grid or self.grid
        u = (x - origin) / step
        return self.values(u.clamp(-self.reach, self.num_intervals + self.reach))

    def exact_refinement(self, num_intervals: int) -> Tensor | None:
        """Inserts knots, if each interval is split into the same number of parts."""
        parts, rest = divmod(num_intervals, self.num_intervals)
        if rest:
            return None
        powers = reduce(np.convolve, [np.ones(parts)] * (self.order + 1))
        mask = torch.from_numpy(powers / parts**self.order)
        # Old function g begins at new knot parts * (g - k), new function n at new knot n - k.
        new = torch.arange(num_intervals + self.order).unsqueeze(1) - self.order
        old = parts * (torch.arange(self.num_functions) - self.order)
        place = new - old
        inside = (place >= 0) & (place < len(mask))
        return torch.where(inside, mask[place.clamp(0, len(mask) - 1)], 0.0)

    def extra_repr(self) -> str:
        """The settings that differ between layers, for ``print``."""
        return f"order={self.order}, {super().extra_repr()}"
