"""Standardisation with its inverse: z = (x - mean) / scale, coordinate by coordinate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from kan_diffusion.errors import DataError

if TYPE_CHECKING:
    from kan_diffusion.data.densities import Density

__all__ = ["FARTHEST", "LARGEST", "Standardizer", "decimals"]

LARGEST = 1e300
"""Largest value of a column, so that samples far out of its range still fit into float64."""

FARTHEST = 1e12
"""Largest distance of a value from the mean that float32 is trusted with, in spreads."""

_SMALLEST_SPREAD = 1e-305
_MOST_DECIMALS = 15
_LOOK = 1000


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
    def from_points(cls, points: Tensor, columns: Sequence[object] | None = None) -> Self:
        """Takes the mean and standard deviation (of the sample, divided by n) of points.

        Args:
            points: Shape (n, d), n at least 1.
            columns: Names of the coordinates in errors; their numbers from 0 when None.

        Raises:
            DataError: The shape is wrong, or a column is constant, not finite, beyond 1e300 or has
                a spread below 1e-305.
        """
        if points.ndim != 2 or len(points) == 0:
            raise DataError(f"points must have shape (n, d), n > 0, got {tuple(points.shape)}")
        values = points.detach().to("cpu").double()
        low, high = values.amin(dim=0), values.amax(dim=0)
        largest = torch.maximum(low.abs(), high.abs())
        # In units of a power of two no square overflows or vanishes, and no bit changes.
        unit = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)
        mean = (values / unit).mean(dim=0) * unit
        # Rounding can leave a constant coordinate a tiny positive spread; its range is exact.
        spread = torch.where(low == high, 0.0, (values / unit).std(dim=0, correction=0) * unit)
        for place, name in enumerate(range(values.shape[1]) if columns is None else columns):
            problem = None
            if not largest[place].isfinite():
                problem = "has values that are NaN or infinite; remove or fill them"
            elif low[place] == high[place]:
                problem = f"is constant at {low[place]:g}; leave it out"
            elif largest[place] > LARGEST:
                problem = f"has values beyond {LARGEST:g}; rescale it"
            elif spread[place] < _SMALLEST_SPREAD:
                problem = f"has a spread below {_SMALLEST_SPREAD:g}; rescale it"
            if problem is not None:
                raise DataError(f"column '{name}' {problem}")
        return cls(tuple(mean.tolist()), tuple(spread.tolist()))

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
        # Divide all by four, so that the difference of two large numbers is finite.
        return ((x.to(mean.dtype) / 4 - mean / 4) / (scale / 4)).to(x.dtype)

    def apply_near(self, x: Tensor, columns: Sequence[str], where: str) -> Tensor:
        """Applies the map, and refuses points that are too far from the mean for float32.

        Args:
            x: Shape (n, dim), any floating dtype.
            columns: Names of the coordinates in errors.
            where: Start of error messages.

        Raises:
            DataError: A value is more than 10^12 scales from the mean.
        """
        z = self.apply(x)
        far = (z.abs() > FARTHEST).any(dim=0).tolist()
        if any(far):
            raise DataError(
                f"{where}column '{columns[far.index(True)]}' has values more than {FARTHEST:g} "
                "times the spread of the rows trained on away from them; remove those"
            )
        return z

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


@np.errstate(over="ignore")  # large numbers are not multiples of small steps
def decimals(values: np.ndarray) -> int | None:
    """Counts the decimals that all values share; None if they could share them by chance.

    Args:
        values: Shape (n,), finite, float64 or float32 (decimals are then those of float32).
    """
    kind = values.dtype
    distinct = np.unique(np.abs(values[values != 0])).astype(np.float64)
    if not len(distinct):
        return 0
    bits = 24 if (distinct.astype(np.float32) == distinct).all() else 53
    # With these spare bits, the chance that all are multiples of a step is below one in a million.
    spare = max(2, math.ceil(20 / len(distinct)))
    most = 2.0 ** (bits - spare)
    for places in range(_MOST_DECIMALS + 1):
        step = 10.0**-places
        if np.median(distinct) > most * step:
            return None
        if all(
            (np.round(part, places).astype(kind) == part).all()
            for part in (distinct[:_LOOK], distinct)
        ):
            return places
    return None
