r"""Gaussian radial basis functions (the basis of FastKAN, Li 2024, arXiv:2405.06721).

.. math:: B_g(u) = e^{-(u - g)^2}, \qquad g = 0, \dots, G,

with a centre at each end of an interval and a width of one interval. Parameters per edge: G + 1.
Operations per input: 7 (G + 1), with 4 for an exponential; an edge costs 2 (G + 1). Outside the
grid: ``"linear"``, ``"clamp"``, or ``"zero"``, where the Gaussians decay by themselves.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kan_diffusion.kan.bases.base import Basis

__all__ = ["RBF"]


class RBF(Basis):
    """Gaussians at the knots of a uniform grid; arguments as in :class:`Basis`."""

    name: ClassVar[str] = "rbf"
    local: ClassVar[bool] = True

    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""
        functions = self.num_intervals + 1
        return functions, functions, 7 * functions

    def _distances(self, u: Tensor) -> Tensor:
        centres = torch.arange(self.num_functions, device=u.device, dtype=u.dtype)
        return u.unsqueeze(-1) - centres

    def values(self, u: Tensor) -> Tensor:
        """Evaluates the Gaussians (*, G + 1) at u (*)."""
        return torch.exp(-self._distances(u).square())

    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives of the Gaussians with respect to u."""
        distances = self._distances(u)
        return -2 * distances * torch.exp(-distances.square())
