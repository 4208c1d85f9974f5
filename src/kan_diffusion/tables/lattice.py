"""Numbers of a column: equally spaced, such as whole numbers, decimals and dates, or any.

A value is v = (origin + step k) / per, with whole k from ``low`` to ``high``; or with any k, if the
numbers are as fine as float64. Numbers of 64 bits and their differences are exact; k is float64.
The smallest and the largest number are those of the data if five rows share them; otherwise they
are rounded outwards, so that they reveal no single row, and decimals and fine numbers may be drawn
beyond them: up to one more range, but never across zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat

from kan_diffusion.settings import Settings

__all__ = ["SHARING", "Lattice", "decimals"]

SHARING = 5
"""Fewest rows that must share a bound so that it is kept exactly."""

_MOST_DECIMALS = 15
_FEWEST = 20  # distinct numbers, with which a shared step is no coincidence
_A_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


class Lattice(Settings):
    """Numbers (origin + step k) / per.

    Attributes:
        fine: Whether k may be any number; origin is 0 and step 1 then, so that it is the value.
        origin: The number with k = 0, times ``per``.
        step: Distance between neighbours, times ``per``.
        low: The smallest k; 0 unless numbers are fine.
        high: The largest k.
        below: How far below ``low`` samples may go.
        above: How far above ``high`` samples may go.
        per: A power of ten for decimals, else 1.
        calendar: "M" or "Y" if origin and step count months or years since 1970; None if they are
            in the column's own unit.
    """

    fine: bool = False
    origin: Annotated[int, Field(ge=-(2**63), lt=2**64)] = 0
    step: Annotated[int, Field(ge=1, lt=2**63)] = 1
    low: int | FiniteFloat = 0
    high: int | FiniteFloat = 0
    below: Annotated[int | FiniteFloat, Field(ge=0)] = 0
    above: Annotated[int | FiniteFloat, Field(ge=0)] = 0
    per: Annotated[int, Field(ge=1, le=10**15)] = 1
    calendar: Literal["M", "Y"] | None = None

    @classmethod
    def of(cls, values: np.ndarray, limits: tuple[float, float]) -> Self:
        """Finds the lattice of values (n,), not all equal: numbers, moments or spans.

        The dtype's smallest and largest number are the ``limits``.
        """
        kind, places = values.dtype.kind, decimals(values) if values.dtype.kind == "f" else 0
        fine = places is None or (kind == "f" and np.abs(values).max() * 10.0**places >= 2.0**52)
        per = 1 if fine or places is None else 10**places
        calendar = _calendar(values) if kind == "M" else None
        lattice = cls(fine=fine, per=per, calendar=calendar)
        known, counts = np.unique(lattice._whole(values), return_counts=True)
        first, last = known[0].item(), known[-1].item()
        span = last - first
        digits = math.floor(math.log10(span)) - 1 if fine else max(0, len(str(span)) - 2)
        shared = counts[[0, -1]] >= SHARING
        low = first if shared[0] else max(_outward(first, digits, math.floor), limits[0])
        high = last if shared[1] else min(_outward(last, digits, math.ceil), limits[1])
        if fine:
            span = high - low
            below = 0.0 if shared[0] else min(span, low if low >= 0 else low - limits[0])
            above = 0.0 if shared[1] else min(span, -high if high <= 0 else limits[1] - high)
            return cls(fine=True, low=low, high=high, below=below, above=above)
        step, unit = 1, np.datetime_data(values.dtype)[0] if kind in "mM" else ""
        if calendar is None and unit in _A_DAY:  # parts of a day, even if there are few
            step = int(np.gcd.reduce(np.append(known, _A_DAY[unit])))
        if len(known) >= _FEWEST:
            gaps = known[1:].astype(np.uint64) - known[:-1].astype(np.uint64)
            step = min(max(step, int(np.gcd.reduce(gaps))), 2**63 - 1)
        origin = first - (first - int(low)) // step * step
        num = (int(high) - origin) // step
        end, below, above = origin + num * step, 0, 0
        if per > 1 and not shared[0]:
            below = min(num, origin // step) if origin >= 0 else num
        if per > 1 and not shared[1]:
            above = min(num, -end // step) if end <= 0 else num
        found = {"origin": origin, "step": step, "high": num, "below": below, "above": above}
        return lattice.model_copy(update=found)

    def bounds(self, values: np.ndarray) -> tuple[float | None, float | None]:
        """Bounds of the k of samples; None where samples have room or stop at an end.

        The lattice was found of these values, shape (n,).
        """
        if self.fine:
            low, high = float(values.min()), float(values.max())
            opens = self.below > 0 or self.low < low, self.above > 0 or self.high > high
            return 0.0 if low > 0 and opens[0] else None, 0.0 if high < 0 and opens[1] else None
        has_room = (self.below == self.high and self.origin < 0, self.above == self.high)
        low, high = -float(self.below), self.high + 1.0 + self.above
        return None if has_room[0] else low, None if has_room[1] else high

    def steps(self, values: np.ndarray) -> np.ndarray:
        """Returns k of values, shape (n,), float64; outside [low, high] beyond the ends."""
        whole = self._whole(values)
        if self.fine:
            return whole
        # Python's whole numbers have any size, and their quotients are rounded once.
        return ((whole.astype(object) - self.origin) / self.step).astype(np.float64)

    def values(self, steps: np.ndarray, like: np.dtype[np.generic]) -> np.ndarray:
        """Returns the values of k, real numbers (n,), as numbers, moments or spans of a dtype.

        k is rounded down, unless numbers are fine, and clipped to where samples may be.
        """
        low, high = self.low - self.below, self.high + self.above
        k = np.clip(steps, low, high)
        if self.fine:
            return k
        # Of any size, too; the largest float64 may be above the largest step.
        whole = self.origin + self.step * np.clip(np.frompyfunc(int, 1, 1)(np.floor(k)), low, high)
        if like.kind == "f":
            return (whole / self.per).astype(np.float64)
        if like.kind in "mM":
            kind = f"M8[{self.calendar}]" if self.calendar else like
            return whole.astype(np.int64).view(kind).astype(like)
        return whole.astype(like)

    def _whole(self, values: np.ndarray) -> np.ndarray:
        """Returns values times ``per`` as whole numbers of 64 bits; fine ones as float64."""
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):
                scaled = values.astype(np.float64) * self.per
            return (
                scaled if self.fine else np.clip(np.rint(scaled), -(2.0**62), 2.0**62).astype(int)
            )
        if values.dtype.kind in "mM":
            if self.calendar is not None:
                values = values.astype(f"datetime64[{self.calendar}]")
            return values.view(np.int64)
        return values.astype(np.int64) if values.dtype.kind == "b" else values


def _outward(end: float, digits: int, rounding: Callable[[Decimal], int]) -> float:
    """Rounds an end, whole or not, to a multiple of a power of ten."""
    rounded = Decimal(rounding(Decimal(end).scaleb(-digits))).scaleb(digits)
    return int(rounded) if isinstance(end, int) else float(rounded)


def _calendar(moments: np.ndarray) -> Literal["M", "Y"] | None:
    """Returns "Y" or "M" if three or more moments are all starts of years or months."""
    if len(np.unique(moments)) >= 3:
        for unit in ("Y", "M"):
            if (moments.astype(f"datetime64[{unit}]").astype(moments.dtype) == moments).all():
                return unit
    return None


@np.errstate(over="ignore")  # large numbers are not multiples of small steps
def decimals(values: np.ndarray) -> int | None:
    """Counts the decimals that all values share; None if they could share them by chance.

    Values are finite, shape (n,), float64 or float32, whose decimals are then those of float32.
    """
    kind = values.dtype
    distinct = np.unique(np.abs(values[values != 0])).astype(np.float64)
    if not len(distinct):
        return 0
    bits = 24 if (distinct.astype(np.float32) == distinct).all() else 53
    # With these spare bits, the chance that all are multiples of a step is below one in a million.
    spare = max(2, math.ceil(20 / len(distinct)))
    most = np.median(distinct) / 2.0 ** (bits - spare)
    for places in range(_MOST_DECIMALS + 1):
        if most > 10.0**-places:
            return None
        if (np.round(distinct, places).astype(kind) == distinct).all():
            return places
    return None
