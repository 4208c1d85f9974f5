"""Lattices: numbers of equal steps, such as whole ones, decimals and dates.

A value is v = (origin + step k) / per, with whole k from 0 to last. Numbers of 64 bits and their
differences are kept exactly; k is a number of float64. The origin and the last value are those of
the data where five rows share them, and otherwise rounded outwards, so that they are nobody's.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field

from kan_diffusion.data.scaling import decimals
from kan_diffusion.settings import Settings

__all__ = ["SHARING", "Lattice"]

SHARING = 5
"""Rows that share a bound which is kept exactly."""

_FEWEST = 20  # different numbers of which a step that all share is no chance


class Lattice(Settings):
    """Numbers (origin + step k) / per with whole k from 0 to last.

    Attributes:
        origin: The smallest, times ``per``.
        step: Distance of two, times ``per``.
        last: The largest k.
        below: How many steps samples may go below the origin: none but for decimals, and never
            across zero.
        above: How many they may go beyond the last.
        per: A power of ten: decimals.
        calendar: Whether origin and step are months or years since 1970; else they are in the
            column's own unit.
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
        """The lattice of values, None where they are none.

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
        """Smallest and largest steps of a sample, None where samples have room."""
        has_room = (self.below == self.last and self.origin < 0, self.above == self.last)
        low, high = -float(self.below), self.last + 1.0 + self.above
        return None if has_room[0] else low, None if has_room[1] else high

    def steps(self, values: np.ndarray) -> np.ndarray:
        """The k of values, of shape (n,), in float64; those beyond the ends are outside 0, last."""
        whole = self._whole(values)
        kind = np.uint64 if self.origin > np.iinfo(np.int64).max else whole.dtype.type
        origin = kind(self.origin)
        above = whole >= origin
        # The difference of two numbers of 64 bits is one without a sign.
        ahead = whole.astype(np.uint64) - np.asarray(origin).astype(np.uint64)
        behind = np.asarray(origin).astype(np.uint64) - whole.astype(np.uint64)
        return np.where(above, ahead, behind).astype(np.float64) / np.where(
            above, self.step, -self.step
        )

    def values(self, steps: np.ndarray, like: np.dtype[np.generic]) -> np.ndarray:
        """The values of k, of shape (n,), cut to where samples may be.

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

    def _whole(self, values: np.ndarray) -> np.ndarray:
        """Values times ``per`` in 64 bits."""
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
    """Whether moments are beginnings of years or months, of which there are at least three."""
    if len(np.unique(moments)) >= 3:
        for unit in ("Y", "M"):
            if (moments.astype(f"datetime64[{unit}]").astype(moments.dtype) == moments).all():
                return unit
    return None


def _step(whole: np.ndarray, unit: str | None) -> int:
    """The step of whole numbers, sorted and different.

    Args:
        whole: Shape (m,).
        unit: What they count, if they are moments or spans: days, ... are then steps of few, too.
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


_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # a second
