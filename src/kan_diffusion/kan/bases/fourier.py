r"""Sines and cosines (as in FourierKAN, Noesis 2024, and Xu et al. 2024, arXiv:2406.01034).

.. math:: B_{2g}(u) = \cos\big((g + 1)\,\theta\big), \quad
    B_{2g+1}(u) = \sin\big((g + 1)\,\theta\big), \quad
    \theta = 2 \pi u / G, \qquad g = 0, \dots, G - 1,

G harmonics with one period over the grid; the layer's bias is the constant. Outside the grid the
functions are continued by ``"linear"`` or ``"clamp"``, or evaluated as they are (``"periodic"``).
Parameters per edge: 2 G. Operations per input: 9 G + 2, with 4 for a sine; an edge costs 4 G.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from kan_diffusion.kan.bases.base import Extrapolation, GridBasis

__all__ = ["Fourier"]


class Fourier(GridBasis):
    """``num_intervals`` harmonics over the grid's range; arguments as in :class:`GridBasis`."""

    name: ClassVar[str] = "fourier"
    extrapolations: ClassVar[tuple[Extrapolation, ...]] = ("linear", "clamp", "periodic")

    def sizes(self) -> tuple[int, int, int]:
        """Returns ``num_functions``, ``num_active`` and ``flops_per_input``."""
        functions = 2 * self.num_intervals
        return functions, functions, 9 * self.num_intervals + 2

    def _angles(self, u: Tensor) -> tuple[Tensor, Tensor]:
        period = self.num_intervals
        harmonics = torch.arange(1, period + 1, device=u.device, dtype=u.dtype)
        frequencies = harmonics * (2 * math.pi / period)
        # Subtracting whole periods first is exact; a large angle would cause an error.
        rest = u - period * (u / period + 0.5).floor()
        return rest.unsqueeze(-1) * frequencies, frequencies

    def values(self, u: Tensor) -> Tensor:
        """Evaluates cosines and sines (*, 2 G) at u (*)."""
        angles, _ = self._angles(u)
        return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2)

    def slopes(self, u: Tensor) -> Tensor:
        """Computes the derivatives with respect to u."""
        angles, frequencies = self._angles(u)
        slopes = [-frequencies * angles.sin(), frequencies * angles.cos()]
        return torch.stack(slopes, dim=-1).flatten(-2)

    def exact_refinement(self, num_intervals: int) -> Tensor | None:
        """Pads with zeros: more harmonics change none of the present ones."""
        if num_intervals < self.num_intervals:
            return None
        return torch.eye(2 * num_intervals, self.num_functions, dtype=torch.float64)
