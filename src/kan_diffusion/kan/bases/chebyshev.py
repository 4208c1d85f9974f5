r"""Chebyshev polynomials of the first kind (as in ChebyKAN, SS et al. 2024, arXiv:2405.07200).

.. math:: B_g(u) = T_g(z), \quad z = 2u/G - 1, \quad
    T_0 = 1,\; T_1 = z,\; T_{g+1} = 2 z\, T_g - T_{g-1}, \qquad g = 0, \dots, G,

with the ends of the grid at z = -1 and 1; G is the degree, and inner knots have no meaning. Where
ChebyKAN squashes inputs with tanh, the functions are continued outside the grid: ``"linear"`` or
``"clamp"``; polynomials do not run out to zero. Parameters per edge: G + 1. Operations per input:
3 G + 2; an edge costs 2 (G + 1). The slopes are :math:`T_g' = g\, U_{g-1}`, with U the
polynomials of the second kind.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kan_diffusion.kan.bases.base import Basis, Extrapolation

__all__ = ["Chebyshev"]


class Chebyshev(Basis):
    """Chebyshev polynomials up to degree ``num_intervals``; arguments as in :class:`Basis`."""

    name: ClassVar[str] = "chebyshev"
    extrapolations: ClassVar[tuple[Extrapolation, ...]] = ("linear", "clamp")

    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""
        functions = self.num_intervals + 1
        return functions, functions, 3 * self.num_intervals + 2

    def _recursion(self, first: Tensor, second: Tensor, z: Tensor, count: int) -> list[Tensor]:
        terms = [first, second]
        for _ in range(count - 2):
            terms.append(2 * z * terms[-1] - terms[-2])
        return terms[:count]

    def values(self, u: Tensor) -> Tensor:
        """Evaluates the polynomials (*, G + 1) at u (*)."""
        z = 2 * u / self.num_intervals - 1
        return torch.stack(self._recursion(torch.ones_like(z), z, z, self.num_functions), dim=-1)

    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the polynomials with respect to u."""
        z = 2 * u / self.num_intervals - 1
        second_kind = self._recursion(torch.ones_like(z), 2 * z, z, self.num_functions - 1)
        chain = 2 / self.num_intervals
        slopes = [chain * g * term for g, term in enumerate(second_kind, start=1)]
        return torch.stack([torch.zeros_like(z), *slopes], dim=-1)

    def exact_refinement(self, num_intervals: int) -> Tensor | None:
        """Pads with zeros: a higher degree adds polynomials and changes none."""
        if num_intervals < self.num_intervals:
            return None
        return torch.eye(num_intervals + 1, self.num_functions, dtype=torch.float64)
