"""Standardisation with its inverse: z = (x - mean) / scale, coordinate by coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from kan_diffusion.errors import DataError

if TYPE_CHECKING:
    from kan_diffusion.data.densities import Density

__all__ = ["Standardizer"]


@dataclass(frozen=True)
class Standardizer:
    """The affine map between data units and the units of the model.

    Attributes:
        mean: What is subtracted, a number a coordinate, finite.
        scale: What is then divided by, a number a coordinate, finite and positive.
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
            if not (math.isfinite(mean) and math.isfinite(scale)):
                raise DataError(
                    f"coordinate {place} has mean {mean} and scale {scale}; "
                    "remove the points that are NaN or infinite"
                )
            if scale <= 0:
                raise DataError(
                    f"coordinate {place} has scale {scale:g} (is it constant?); leave it out"
                )

    @classmethod
    def from_points(cls, points: Tensor) -> Self:
        """Mean and standard deviation (of the sample, divided by n) of points (n, d)."""
        if points.ndim != 2 or len(points) == 0:
            raise DataError(f"points must have shape (n, d), n > 0, got {tuple(points.shape)}")
        values = points.detach().to("cpu").double()
        # Rounding can leave a constant coordinate a tiny positive spread; its range is exact.
        spread = torch.where(
            values.amax(dim=0) == values.amin(dim=0), 0.0, values.std(dim=0, correction=0)
        )
        return cls(tuple(values.mean(dim=0).tolist()), tuple(spread.tolist()))

    @classmethod
    def from_density(cls, density: Density) -> Self:
        """The exact mean and standard deviation of a density."""
        return cls(tuple(density.mean.tolist()), tuple(density.std.tolist()))

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.mean)

    def apply(self, x: Tensor) -> Tensor:
        """From data units to model units.

        Args:
            x: Shape (n, dim), any floating dtype.

        Returns:
            Shape, dtype and device of x.
        """
        mean, scale = self._like(x)
        return ((x.to(mean.dtype) - mean) / scale).to(x.dtype)

    def invert(self, z: Tensor) -> Tensor:
        """From model units to data units, in float64 where the device has it.

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
        return density.rescaled(
            torch.tensor(self.mean, dtype=torch.float64),
            torch.tensor(self.scale, dtype=torch.float64),
        )
