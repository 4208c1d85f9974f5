"""Lattices: equally spaced numbers, such as whole numbers, decimals and dates.

A value is v = (origin + step k) / per, with whole k from 0 to last. Numbers of 64 bits and their
differences are exact; k is float64. The origin and the last value are those of the data if five
rows share them; otherwise they are rounded outwards, so that they reveal no single row.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field

from kan_diffusion.data.scaling import decimals
from kan_diffusion.settings import Settings

__all__ = ["SHARING", "Lattice"]

SHARING = 5
"""Fewest rows that must share a bound so that it is kept exactly."""

_FEWEST = 20  # distinct numbers, with which a shared step is no coincidence


class Lattice(Settings):
    """Numbers (origin + step k) / per with whole k from 0 to last.

    Attributes:
        origin: The smallest number, times ``per``.
        step: Distance between neighbours, times ``per``.
        last: The largest k.
        below: Steps that samples may go below the origin: 0 except for decimals, and never across
            zero.
        above: Steps that samples may go beyond the last number, likewise.
        per: A power of ten for decimals, else 1.
        calendar: "M" or "Y" if origin and step count months or years since 1970; None if they are
            in the column's own unit.
    """

    origin: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    step: Annotated[int, Field(ge=1, lt=2**63)]
    last: Annotated[int, Field(ge=0, lt=2**64)]
    below: Annotated[int, Field(ge=0, lt=2**60)] = 0
    above: Annotated[int, Field(ge=0, lt=2**60)] = 0
    per: Annotated[int, Field(ge=1, le=10**15)] = 1
    calendar: Literal["M", "Y"] | None = None

    @classmethod
    def of(cls, values: np.ndarray, limits: tuple[int, int]) -> Self | None:
        """Finds the lattice of values; None if they lie on none.

        Args:
            values: Shape (n,), n > 0: whole numbers, real ones, moments or spans.
            limits: Smallest and largest number of the dtype.
        """
        per, calendar = 1, None
        if values.dtype.kind == "f":
            places = decimals(values)
            if places is None or np.abs(values).max() * 10.0**places >= 2.0**52:
                return None
            per = 10**places
        if values.dtype.kind == "M":
            calendar = _calendar(values)
        lattice = cls(origin=0, step=1, last=0, per=per, calendar=calendar)
        whole, counts = np.unique(lattice._whole(values), return_counts=True)
        low, high = int(whole[0]), int(whole[-1])
        origin, last = low, high
        unit = max(1, 10 ** (len(str(high - low)) - 2))
        if counts[0] < SHARING:
            origin = max(low // unit * unit, limits[0])
        if counts[-1] < SHARING:
            last = min(-(-high // unit) * unit, limits[1])
        ticks = values.dtype.kind in "mM" and calendar is None
        step = _step(whole, np.datetime_data(values.dtype)[0] if ticks else None)
        origin = low - (low - origin) // step * step
        num = (last - origin) // step
        last = origin + num * step
        below = above = 0
        if per > 1 and counts[0] < SHARING:
            below = min(num, origin // step) if origin >= 0 else num
        if per > 1 and counts[-1] < SHARING:
            above = min(num, -last // step) if last <= 0 else num
        return cls(
            origin=origin,
            step=step,
            last=num,
            below=below,
            above=above,
            per=per,
            calendar=calendar,
        )

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Bounds of samples in steps from the origin; None where samples have room."""
        has_room = (self.below == self.last and self.origin < 0, self.above == self.last)
        low, high = -float(self.below), self.last + 1.0 + self.above
        return None if has_room[0] else low, None if has_room[1] else high

    def steps(self, values: np.ndarray) -> np.ndarray:
        """Returns k of values, shape (n,), float64; outside [0, last] beyond the ends."""
        whole = self._whole(values)
        kind = np.uint64 if self.origin > np.iinfo(np.int64).max else whole.dtype.type
        origin = kind(self.origin)
        above = whole >= origin
        # The distance of two numbers of 64 bits fits into an unsigned one.
        ahead = whole.astype(np.uint64) - np.asarray(origin).astype(np.uint64)
        behind = np.asarray(origin).astype(np.uint64) - whole.astype(np.uint64)
        return np.where(above, ahead, behind).astype(np.float64) / np.where(
            above, self.step, -self.step
        )

    def values(self, steps: np.ndarray, like: np.dtype[np.generic]) -> np.ndarray:
        """Returns the values of k, shape (n,), clipped to where samples may be.

        Args:
            steps: The k, real numbers that are rounded down.
            like: Dtype of the values: whole or real numbers, moments or spans.
        """
        k = np.floor(np.clip(steps, -self.below, self.last + self.above))
        away = np.minimum(
            np.abs(k).astype(np.uint64), np.uint64(self.last + self.above + self.below)
        )
        away *= np.uint64(self.step)
        start = np.array(self.origin % 2**64, dtype=np.uint64)
        whole = np.where(k < 0, start - away, start + away)
        if like.kind == "f":
            return whole.view(np.int64) / self.per
        if like.kind in "mM":
            kind = f"M8[{self.calendar}]" if self.calendar else like
            return whole.view(kind).astype(like)
        return whole if like == np.uint64 else whole.view(np.int64)

    def beside(self, values: np.ndarray) -> np.ndarray:
        """Returns the numbers of a lattice without ends that are nearest to values (n,), sorted."""
        steps = np.unique(np.round(self.steps(values))[:, None] + np.array([-1, 0, 1]))
        reach = int(np.abs(steps).max())
        if reach >= 2**62:  # beyond what the sum of its ends can be
            return np.unique(values)
        endless = self.model_copy(update={"below": reach, "last": reach, "above": 0})
        return endless.values(steps, values.dtype)

    def _whole(self, values: np.ndarray) -> np.ndarray:
        """Returns values times ``per`` as whole numbers of 64 bits."""
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):
                scaled = np.rint(values.astype(np.float64) * self.per)
            return np.clip(scaled, -(2.0**62), 2.0**62).astype(np.int64)
        if values.dtype.kind in "mM":
            if self.calendar is not None:
                values = values.astype(f"datetime64[{self.calendar}]")
            return values.view(np.int64)
        return values.astype(np.int64) if values.dtype.kind == "b" else values


def _calendar(moments: np.ndarray) -> Literal["M", "Y"] | None:
    """Returns "Y" or "M" if three or more moments are all starts of years or months."""
    if len(np.unique(moments)) >= 3:
        for unit in ("Y", "M"):
            if (moments.astype(f"datetime64[{unit}]").astype(moments.dtype) == moments).all():
                return unit
    return None


def _step(whole: np.ndarray, unit: str | None) -> int:
    """Finds the step of sorted, distinct whole numbers.

    Args:
        whole: Shape (m,).
        unit: Unit of moments or spans, whose steps may be days, ... even if there are few.
    """
    step = 1
    if unit in _TICKS:
        whole_day = 86_400 * _TICKS[unit]
        for parts in (1, 24, 1_440, 86_400, 86_400_000, 86_400_000_000):
            if whole_day % parts == 0 and not (whole % (whole_day // parts)).any():
                step = whole_day // parts
                break
    if len(whole) >= _FEWEST:
        gaps = whole[1:].astype(np.uint64) - whole[:-1].astype(np.uint64)
        step = max(step, int(np.gcd.reduce(gaps)))
    return min(step, 2**63 - 1)


_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # per second
