"""Standardisation with its inverse: z = (x - mean) / scale, coordinate by coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kan_diffusion.data.densities import Density
from kan_diffusion.errors import DataError


@dataclass(frozen=True)
class Standardizer:
    """The affine map between data units and the units of the model.

    Attributes:
        mean: Number subtracted from each coordinate, finite.
        scale: Number that each coordinate is then divided by, finite and positive.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.scale):
            raise DataError(
                "mean and scale need one number for each coordinate, "
                f"got {len(self.mean)} and {len(self.scale)}"
            )
        for place, (mean, scale) in enumerate(zip(self.mean, self.scale, strict=True), start=1):
            if not (math.isfinite(mean) and 0 < scale < math.inf):
                raise DataError(
                    f"coordinate {place} has mean {mean:g} and scale {scale:g}; both must be "
                    "finite, and the scale positive: leave out what is constant, NaN or infinite"
                )

    @classmethod
    def identity(cls, dim: int) -> Self:
        """Makes the identity map of ``dim`` coordinates."""
        return cls((0.0,) * dim, (1.0,) * dim)

    @classmethod
    def from_density(cls, density: Density) -> Self:
        """Takes the exact mean and standard deviation of a density."""
        return cls(tuple(density.mean.tolist()), tuple(density.std.tolist()))

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.mean)

    def apply(self, x: Tensor) -> Tensor:
        """Maps points from data units to model units.

        Args:
            x: Shape (n, dim), any floating dtype.

        Returns:
            Shape, dtype and device of x.
        """
        mean, scale = self._like(x)
        return ((x.to(mean.dtype) - mean) / scale).to(x.dtype)

    def invert(self, z: Tensor) -> Tensor:
        """Maps points from model units to data units, in float64 where the device has it.

        Args:
            z: Shape (n, dim), any floating dtype.
        """
        mean, scale = self._like(z)
        return z.to(mean.dtype) * scale + mean

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale on the device of x, in float64 where the device has it."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise DataError(f"points must have shape (n, {self.dim}), got {tuple(x.shape)}")
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        return (
            torch.tensor(self.mean, dtype=dtype, device=x.device),
            torch.tensor(self.scale, dtype=dtype, device=x.device),
        )

    def rescale(self, density: Density) -> Density:
        """The density of the standardised points."""
        return density.rescaled(self.mean, self.scale)
