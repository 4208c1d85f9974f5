r"""Gaussian radial basis functions (the basis of FastKAN, Li 2024, arXiv:2405.06721).

.. math:: B_g(u) = e^{-(u - g)^2}, \qquad g = 0, \dots, G,

one centre at each end of an interval and a width of one interval. Parameters an edge: G + 1.
Operations an input: 7 (G + 1), with 4 for an exponential; an edge costs 2 (G + 1). Outside the
grid: ``"linear"``, ``"clamp"``, or ``"zero"``, where the Gaussians fade by themselves.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from kan_diffusion.kan.bases.base import Extrapolation, GridBasis

__all__ = ["RBF"]


class RBF(GridBasis):
    """Gaussians at the knots of a uniform grid; arguments as :class:`GridBasis`."""

    name: ClassVar[str] = "rbf"

    def __init__(
        self,
        in_features: int,
        num_intervals: int = 5,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        extrapolation: Extrapolation = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_intervals, grid_range, extrapolation, device, dtype)
        self.num_functions = self.num_active = num_intervals + 1
        self.flops_per_input = 7 * self.num_functions

    def _distances(self, u: Tensor) -> Tensor:
        centres = torch.arange(self.num_functions, device=u.device, dtype=u.dtype)
        return u.unsqueeze(-1) - centres

    def values(self, u: Tensor) -> Tensor:
        """Gaussians (*, G + 1) at u (*)."""
        return torch.exp(-self._distances(u).square())

    def slopes(self, u: Tensor) -> Tensor:
        """Derivatives of the Gaussians with respect to u."""
        distances = self._distances(u)
        return -2 * distances * torch.exp(-distances.square())

    def with_intervals(self, num_intervals: int) -> Self:
        """Gaussians on another number of intervals over the same range."""
        other = type(self)(**self._settings(num_intervals))  # type: ignore[arg-type]
        other._take_range(self)
        return other
