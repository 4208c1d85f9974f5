r"""Features of the points.

A coordinate x is seen as it is and, where frequencies are asked for, as

.. math:: \cos(2^m \pi x / 4), \; \sin(2^m \pi x / 4), \qquad m = 0, \dots, M - 1,

(Fourier features: Tancik et al. 2020, arXiv:2006.10739). The lowest pair goes once round while x
goes from -4 to 4, where nearly all standardised and noised points lie, so that no two of those look
alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError

__all__ = ["PointFeatures"]


class PointFeatures(nn.Module):
    """Points (B, d) -> features (B, d + 2 M d): the points, all cosines, all sines.

    Cosines and sines go coordinate by coordinate, the lowest frequency first.

    Args:
        data_dim: Number d of coordinates of a point.
        num_frequencies: M, at least 1.

    Attributes:
        num_features: Number of features of a point.
        flops: Floating-point operations for one point: one an angle and four each for its cosine
            and sine.

    Raises:
        KanDiffusionError: There is not at least one frequency.
    """

    octaves: Tensor

    def __init__(self, data_dim: int, num_frequencies: int) -> None:
        super().__init__()
        if num_frequencies < 1:
            raise KanDiffusionError(
                f"num_input_frequencies must be at least 0, not {num_frequencies}"
            )
        self.num_features = data_dim * (1 + 2 * num_frequencies)
        self.flops = 9 * data_dim * num_frequencies
        # Powers of two, which every floating dtype a denoiser is converted to holds exactly.
        octaves = 2.0 ** (torch.arange(num_frequencies, dtype=torch.float32) - 2)
        self.register_buffer("octaves", octaves, persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        """Features (B, d + 2 M d) of points (B, d), in their dtype."""
        # Angles in half precision would be off by more than the finest features are wide.
        wide = points.to(torch.promote_types(points.dtype, torch.float32)).unsqueeze(-1)
        angles = (wide * (math.pi * self.octaves.to(wide.dtype))).flatten(1)
        return torch.cat([points, angles.cos().to(points), angles.sin().to(points)], dim=-1)
