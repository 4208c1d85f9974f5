r"""Numbers of a column, equally spaced or any, and smooth monotone maps of them to about N(0, 1).

**Lattices.** A value is v = (origin + step k) / per, with whole k from ``low`` to ``high``; or with
any k, if the numbers are as fine as float64. Numbers of 64 bits and their differences are exact; k
is float64. The smallest and the largest number are those of the data if five rows share them;
otherwise they are rounded outwards, so that they reveal no single row, and decimals and fine
numbers may be drawn beyond them: by up to a twentieth of the range, but never to zero or across it.

**Jumps.** Of hours worked a week nearly half are 40. A number that at least five rows and 0.1 % of
them share is a jump of the distribution function F. A jump takes its share of the normal
distribution, so that it comes back exactly, and as often: with u uniform,

.. math:: z = \Phi^{-1}(F(x-) + u\, (F(x) - F(x-))).

All other numbers, whose share is c, have a spline S, and with shares p of the jumps v,

.. math:: F(x) = c\, \Phi(S(x)) + \sum_{v \le x} p_v.

Whole steps k are spread evenly over their step before, x = k' + u, where k' counts the steps that
are no jumps, so that nothing else is where a jump is. Without jumps z is S(x). If jumps hold 99 %
of the rows, every number that five rows share is one and no other is drawn; a rarer number counts
as the jump below it. The density of a jump is its probability: p / phi(z), times the density of z,
so that all densities and probabilities add up to one.

**Splines.** Knots are quantiles x_i = Q(Phi(z_i)) at normal scores z_i; between two of them, with w
= x_{i+1} - x_i, h = z_{i+1} - z_i, xi = (x - x_i) / w and slopes a and b at the two ends in units
of h / w (Gregory and Delbourgo 1982; as in the flows of Durkan et al. 2019, arXiv:1906.04032),

    z = z_i + h (xi^2 + a xi (1 - xi)) / (1 + (a + b - 2) xi (1 - xi)),

which is monotone, has a continuous derivative for any positive slopes and is inverted by a
quadratic. There is a knot for every twenty rows, 33 to 385 in all: what a map leaves of a column's
shape the network has to learn. The slope at a knot is the geometric mean of the two secants, each
to the power of the other interval's share of the height. Two knots are the line z = (x - mean) /
std, which is taken if the shape is mild: as near to a normal one as 19 of 20 normal columns of as
many rows (a distance of Kolmogorov and Smirnov of 1.36 / sqrt(rows)), no cell beyond six standard
deviations, and no bound within three of the mean.

Beyond an outermost knot, x is s (exp(c t) - 1) / c away from the knot, where t is the distance in z
and s = dx/dz at the knot. The tail is linear for curvature c = 0, exponential for c > 0 (heavy
columns), and approaches a bound without reaching it for c = -s / distance. So nothing piles up at
the ends, and a column that is never negative stays so. Beside a jump no row is beyond a score of 4:
the masses of rows farther out are too small for float32 beside that of the jump.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
from annotated_types import Len
from pydantic import FailFast, Field, FiniteFloat, model_validator
from scipy.special import ndtr, ndtri

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.errors import DataError
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dtypes import LARGEST

A_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
"""Units of dates and time spans, and how many a day has."""

SHARING = 5
"""Fewest rows that must share a number so that it is kept exactly."""

_MOST_DECIMALS = 15
_NOISE, _EXACT = 8, 0.9  # units in the last place, and share of values without any
_FEWEST = 20  # distinct numbers, with which a shared step is no coincidence
_BEYOND = 0.05  # of the range, that decimals and fine numbers may be drawn beyond it
_FEWEST_KNOTS, _MOST_KNOTS, _ROWS_A_KNOT = 33, 385, 20
_TAIL_ROWS = 10  # rows beyond the last knot, but at most a tenth of all
_ROWS_BETWEEN = 10  # fewest rows between two knots of a hundred or more; twice that of 2,000
_TAIL_BODY, _BODY_WIDTH = 1.28, 0.3  # normal score of the outer tenth, and what is compared there
_MOST_CURVATURE = 4.0
_NEAR_BOUND = 3.0  # in normal scores
_FARTHEST, _BESIDE = 8.0, 4.0  # largest normal score of a row, and beside a jump
_LEAST_TAIL = 0.5  # normal scores of a tail
_NEAREST = 1e-12  # least width of an interval relative to its neighbour's
_MOST_BEND = 1.5
_SMALLEST_SPREAD = 1e-305
_MILD_DISTANCE, _MILD_RANGE, _MILD_BOUND = 1.36, 6.0, 3.0
_MOST_JUMPS, _MOST_LISTED = 10_000, 3_000  # of a map that is read from a file
_SHARE = 1e-3  # least share of a jump ...
_NEARLY_ALL = 0.99  # ... unless jumps hold this share of the rows; then it is
_LEAST_SHARE = 1e-5
_FEWEST_BESIDE = 10  # rows beside the jumps, if they are not nearly all
_MARGIN = 0.01  # share of a step left free at each end, so that float32 rarely leaves it
_FLAT = 37.0  # normal scores beyond which float64 has no tail, and a jump moves nothing
_HALF_LOG_2PI = math.log(2 * math.pi) / 2

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
"""A share of rows."""

Bounds = tuple[float | None, float | None]
"""What lies below numbers, and what lies above; None if nothing."""

Scaling = Literal["normal", "standard"]
"""Coordinates of numbers: normal scores, or (x - mean) / std, of which a formula can be read."""


class Lattice(Settings):
    """Numbers (origin + step k) / per.

    Attributes:
        fine: Whether k may be any number; origin is 0 and step 1 then, so that it is the value.
        origin: The number with k = 0, times ``per``.
        step: Distance between neighbours, times ``per``.
        low: The smallest k; 0 unless numbers are fine.
        high: The largest k.
        lowest: The smallest k of samples.
        highest: The largest k of samples.
        per: A power of ten for decimals, else 1.
        calendar: "M" or "Y" if origin and step count months or years since 1970; None if they are
            in the column's own unit.
    """

    fine: bool = False
    origin: Annotated[int, Field(ge=-(2**63), lt=2**64)] = 0
    step: Annotated[int, Field(ge=1, lt=2**63)] = 1
    low: int | FiniteFloat = 0
    high: int | FiniteFloat = 0
    lowest: int | FiniteFloat = 0
    highest: int | FiniteFloat = 0
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
        lattice = cls(fine=fine, per=per, calendar=_calendar(values) if kind == "M" else None)
        known, counts = np.unique(lattice._whole(values), return_counts=True)
        first, last = known[0].item(), known[-1].item()
        span = last - first
        digits = math.floor(math.log10(span)) - 1 if fine else max(0, len(str(span)) - 2)
        shared = counts[[0, -1]] >= SHARING
        least, most = (end * per if per > 1 else end for end in limits)
        low = first if shared[0] else max(_outward(first, digits, math.floor), least)
        high = last if shared[1] else min(_outward(last, digits, math.ceil), most)
        step, num, room = 1, 0, (high - low) * _BEYOND
        if not fine:
            unit = np.datetime_data(values.dtype)[0] if kind in "mM" else ""
            if lattice.calendar is None and unit in A_DAY:  # parts of a day, even if few
                step = int(np.gcd.reduce(np.append(known, A_DAY[unit])))
            if len(known) >= _FEWEST:
                gaps = known[1:].astype(np.uint64) - known[:-1].astype(np.uint64)
                step = min(max(step, int(np.gcd.reduce(gaps))), 2**63 - 1)
            low = first - (first - int(low)) // step * step
            num = (int(high) - low) // step
            high = low + num * step
            room = step * math.ceil(num * _BEYOND) if per > 1 else 0  # others stay within
        below = 0 if shared[0] else min(room, low if low >= 0 else low - least)
        above = 0 if shared[1] else min(room, -high if high <= 0 else most - high)
        if fine:
            # Zero itself is none of numbers that are all above it, or all below.
            lowest = max(low - below, _near_zero(first)) if first > 0 else low - below
            highest = min(high + above, -_near_zero(-last)) if last < 0 else high + above
            return cls(fine=True, low=low, high=high, lowest=lowest, highest=highest)
        lowest, highest = -int(below // step), num + int(above // step)
        if first > 0 and kind != "M":
            lowest = max(lowest, -((int(low) - 1) // step))
        if last < 0 and kind != "M":
            highest = min(highest, (-1 - int(low)) // step)
        ends = {"high": num, "lowest": lowest, "highest": highest}
        return lattice.model_copy(update={"origin": low, "step": step, **ends})

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
        k = np.clip(steps, self.lowest, self.highest)
        if self.fine:
            return k
        # Of any size, too; the largest float64 may be above the largest step.
        k = np.clip(np.frompyfunc(int, 1, 1)(np.floor(k)), self.lowest, self.highest)
        whole = self.origin + self.step * k
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


def _near_zero(end: float) -> float:
    """Returns a power of ten below a number that is above zero."""
    return float(10.0 ** (math.floor(math.log10(end)) - 1))


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

    A tenth of the values may differ from their decimals by what sums of floats do, such as
    6.904679999999999. Values are finite, shape (n,), float64 or float32, whose decimals are then
    those of float32.
    """
    kind = values.dtype
    distinct, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    noise = _NOISE * np.spacing(distinct).astype(np.float64)
    distinct = distinct.astype(np.float64)
    if not len(distinct):
        return 0
    bits = 24 if (distinct.astype(np.float32) == distinct).all() else 53
    # With these spare bits, the chance that all are multiples of a step is below one in a million.
    spare = max(2, math.ceil(20 / len(distinct)))
    most = np.median(distinct) / 2.0 ** (bits - spare)
    for places in range(_MOST_DECIMALS + 1):
        if most > 10.0**-places:
            return None
        rounded = np.round(distinct, places)
        exact = rounded.astype(kind) == distinct
        near = exact | (np.abs(rounded - distinct) <= noise)
        if near.all() and counts[exact].sum() >= _EXACT * counts.sum():
            return places
    return None


def spline(
    x: np.ndarray,
    knots: np.ndarray,
    scores: np.ndarray,
    slopes: np.ndarray,
    lower: float,
    upper: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of numbers, by a rational-quadratic spline with tails, and log dz/dx.

    Knots, their scores and the slopes dz/dx there have shape (k,); the last two are the curvatures
    of the tails. It needs NumPy alone: its source is part of programs.
    """
    knots, scores, slopes = np.array(knots), np.array(scores), np.array(slopes)
    k = np.clip(np.searchsorted(knots, x, "right") - 1, 0, len(knots) - 2)
    width, height = knots[k + 1] - knots[k], scores[k + 1] - scores[k]
    secant, xi = height / width, np.clip((x - knots[k]) / width, 0, 1)
    a, b, mixed = slopes[k] / secant, slopes[k + 1] / secant, xi * (1 - xi)
    z = scores[k] + height * ((xi * xi + a * mixed) / (1 + (a + b - 2) * mixed))
    top = b * xi * xi + 2 * mixed + a * (1 - xi) ** 2
    slope = np.log(secant) + np.log(top) - 2 * np.log1p((a + b - 2) * mixed)
    for outside, sign, end, bend in ((x < knots[0], -1, 0, lower), (x > knots[-1], 1, -1, upper)):
        away = np.abs(x[outside] - knots[end]) * slopes[end]
        growth = np.log1p(np.maximum(bend * away, -1 + 1e-12))  # within a bound
        z[outside] = scores[end] + sign * (growth / bend if bend else away)
        slope[outside] = np.log(slopes[end]) - growth
    return z, slope


class _Masses(NamedTuple):
    """Masses of a distribution function with J jumps."""

    jumps: np.ndarray  # (J,)
    masses: np.ndarray  # of the jumps, which add up to 1 with that of the rest; and a 0
    rest: float
    ends: np.ndarray  # of the intervals between jumps among the other numbers, (J,)
    before: np.ndarray  # masses of the jumps before each interval, (J + 1,)
    after: np.ndarray  # those after it, summed from above, so that tails keep their digits
    edges: np.ndarray  # normal scores of the lower and the upper end of each jump, (2 J,)


class JumpMap(Settings):
    """A distribution function with jumps as a map of numbers to N(0, 1).

    Attributes:
        jumps: Numbers that many rows share, increasing.
        shares: Share of each of them among all numbers.
        x: Increasing knots of the spline of the other numbers, in their units; without knots no
            others are drawn.
        z: Normal scores of the knots, increasing.
        lower: Curvature of the tail below the first knot: 0 is linear, positive exponential, and
            negative approaches a bound.
        upper: Curvature of the tail above the last knot.
        fine: Whether numbers may be any; they are whole steps if not.
    """

    jumps: Annotated[tuple[FiniteFloat, ...], FailFast(), Len(0, _MOST_JUMPS)] = ()
    shares: Annotated[tuple[Share, ...], FailFast(), Len(0, _MOST_JUMPS)] = ()
    x: Annotated[tuple[FiniteFloat, ...], FailFast(), Len(0, _MOST_LISTED)] = ()
    z: Annotated[tuple[FiniteFloat, ...], FailFast(), Len(0, _MOST_LISTED)] = ()
    lower: FiniteFloat = 0.0
    upper: FiniteFloat = 0.0
    fine: bool = True

    @model_validator(mode="after")
    def _require_parts(self) -> Self:
        jumps, x, z = np.array(self.jumps), np.array(self.x), np.array(self.z)
        if len(x) != len(z) or len(x) == 1:
            raise DataError(f"{len(x)} knots need as many scores, got {len(z)}, and two or none")
        with np.errstate(over="ignore", divide="ignore"):
            secants = np.diff(z) / np.diff(x)
        if not (np.isfinite(secants) & (secants > 0) & (np.diff(x) > 0)).all():
            raise DataError("knots and scores must increase; fit the codec anew")
        missing = len(self.shares) != len(jumps) or not (self.x or self.jumps)
        if missing or not (np.diff(jumps) > 0).all():
            raise DataError("jumps must increase, and each needs a share; fit the codec anew")
        if sum(self.shares) > 1.001 or min(self.shares, default=1) <= 0:
            raise DataError("shares of jumps must be positive and at most 1 together")
        return self

    @property
    def is_listed(self) -> bool:
        """Whether nothing but jumps is drawn."""
        return not self.x

    def described(self, name: str, origin: float, unit: float) -> CoordinateMap:
        """Describes the coordinate of a number ``origin + unit * x``, with the map as a program.

        There is none where there are jumps, whose coordinate the number alone does not decide.
        """
        if self.jumps:
            return CoordinateMap(f"normal score of {name}")
        x, z, slopes, *bends = self._spline
        knots, slopes = origin + unit * x, slopes / unit
        if len(x) == 2 and not any(bends):  # (x - mean) / scale
            scale = float(1 / slopes[0])
            return CoordinateMap.standardised(name, float(knots[0]) - scale * float(z[0]), scale)
        numbers = ", ".join(repr(part.tolist()) for part in (knots, z, slopes))
        code = f"spline(x, {numbers}, {bends[0]!r}, {bends[1]!r})"
        pair = f"(lambda z, log_slope: (z, np.exp(log_slope)))(*{code})"
        return CoordinateMap(f"normal score of {name}", pair, f"\n{inspect.getsource(spline)}")

    @cached_property
    def _spline(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
        """Knots, scores, the slope dz/dx at each knot, and the curvatures of the tails."""
        x, z = np.array(self.x), np.array(self.z)
        return x, z, _slopes(x, z), self.lower, self.upper

    @cached_property
    def _masses(self) -> _Masses:
        jumps, shares = (np.array(part, dtype=np.float64) for part in (self.jumps, self.shares))
        ends = jumps if self.fine else jumps - np.arange(len(jumps))
        rest, inner = 0.0, np.zeros(len(jumps))
        if self.x:
            # No mass is lost where rounded shares reach 1.
            rest, inner = max(1 - shares.sum(), 1e-9), spline(ends, *self._spline)[0]
        masses = shares * (1 - rest) / max(shares.sum(), 1e-300)
        before = np.append(0, np.cumsum(masses))
        after = np.append(np.cumsum(masses[::-1])[::-1], 0)
        below, above = rest * ndtr(inner) + before[:-1], rest * ndtr(-inner) + after[1:]
        edges = _score(np.stack([below, below + masses]), np.stack([above + masses, above]))
        masses = np.append(masses, 0)
        return _Masses(jumps, masses, rest, ends, before, after, edges.T.ravel())

    def forward(
        self, numbers: np.ndarray, u: np.ndarray | float = 0.5
    ) -> tuple[np.ndarray, np.ndarray]:
        """Maps numbers to about N(0, 1), and returns log dz/dx of each.

        Args:
            numbers: Shape (n,): whole steps, or any numbers if they are fine.
            u: Where each one is within its jump or its step, 0 to 1, shape (n,) or one for all.

        Returns:
            z and log dz/dx, of a jump log p - log phi(z), both with shape (n,), float64.
        """
        parts, (place, is_jump) = self._masses, self._places(numbers)
        inner, steep = np.zeros((2, len(numbers)))
        if self.x:
            x = numbers if self.fine else numbers - place + u
            ends = np.append(parts.ends, 0)[place]
            inner, steep = spline(np.where(is_jump, ends, x), *self._spline)
        if not self.jumps:
            return inner, steep
        p = np.where(is_jump, parts.masses[place], 0)
        below = parts.rest * ndtr(inner) + parts.before[place] + u * p
        above = parts.rest * ndtr(-inner) + parts.after[place + is_jump] + (1 - u) * p
        z = np.where(is_jump | (np.abs(inner) < _FLAT), _score(below, above), inner)
        slope = steep + math.log(parts.rest or 1) + (z**2 - inner**2) / 2
        of_jump = np.log(np.where(is_jump, p, 1)) + _HALF_LOG_2PI + z**2 / 2
        return z, np.where(is_jump, of_jump, slope)

    def is_jump(self, numbers: np.ndarray) -> np.ndarray:
        """Tells which numbers, shape (n,), are jumps."""
        return self._places(numbers)[1]

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Maps z, shape (n,), to numbers: jumps, or steps between them, or any if they are fine.

        Those too large for float64 are infinite.
        """
        parts = self._masses
        place, is_jump = np.divmod(np.searchsorted(parts.edges, z, "right"), 2)
        numbers = np.append(parts.jumps, 0)[place]
        if self.x:
            free = is_jump == 0
            at, inner = place[free], z[free]
            if self.jumps:
                below = np.maximum(ndtr(inner) - parts.before[at], 0) / parts.rest
                above = np.maximum(ndtr(-inner) - parts.after[at], 0) / parts.rest
                inner = np.where(np.abs(inner) < _FLAT, _score(below, above), inner)
            x, width = self._unspline(inner), int(not self.fine)
            if width:
                x = np.floor(x)
            ends = np.concatenate([[-np.inf], parts.ends, [np.inf]])
            numbers[free] = np.clip(x, ends[at], ends[at + 1] - width) + width * at
        return numbers

    def _unspline(self, z: np.ndarray) -> np.ndarray:
        """Maps normal scores to numbers by the spline alone; too large ones are infinite."""
        knots, scores, slopes, lower, upper = self._spline
        k = np.clip(np.searchsorted(scores, z, "right") - 1, 0, len(scores) - 2)
        width, height = knots[k + 1] - knots[k], scores[k + 1] - scores[k]
        secant, y = height / width, np.clip((z - scores[k]) / height, 0, 1)
        a, b = slopes[k] / secant, slopes[k + 1] / secant
        linear = a - y * (a + b - 2)
        root = np.sqrt(linear**2 + 4 * (1 - linear) * y)
        x = knots[k] + width * np.clip(2 * y / (linear + root), 0, 1)
        tails = (z < scores[0], -1, 0, lower), (z > scores[-1], 1, -1, upper)
        with np.errstate(over="ignore"):
            for beyond, sign, end, bend in tails:
                away = np.abs(z[beyond] - scores[end])
                away = np.expm1(bend * away) / bend if bend else away
                x[beyond] = knots[end] + sign * away / slopes[end]
        return x

    def _places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the jump or the interval of each number, (n,), and tells which are jumps, (n,)."""
        jumps = self._masses.jumps
        place = np.searchsorted(jumps, numbers, "right") - 1
        is_jump = (np.append(jumps, np.nan)[place] == numbers) | self.is_listed
        return np.where(is_jump, np.maximum(place, 0), place + 1), is_jump

    def spread(self, numbers: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
        """Maps numbers (n,) to normal scores, spread over their jump or step by the generator.

        Where a jump or a step is hardly wider than float32, in which networks compute, is fine, a
        number takes the middle, so that it comes back; and all do without a generator.
        """
        middle, _ = self.forward(numbers)
        if generator is None:
            return middle
        spread, _ = self.forward(numbers, generator.uniform(_MARGIN, 1 - _MARGIN, len(numbers)))
        kept = self.is_jump(numbers) | (not self.fine)
        back = self.inverse(spread.astype(np.float32).astype(np.float64))
        lost = kept & (back != self.inverse(middle))
        return np.where(lost, middle, spread)


def _slopes(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Returns dz/dx at each knot; an outermost slope mirrors the next one about the secant."""
    height, secant = np.diff(z), np.log(np.diff(z)) - np.log(np.diff(x))
    share = height[1:] / (height[1:] + height[:-1])
    inner = share * secant[:-1] + (1 - share) * secant[1:]
    if not len(inner):
        return np.exp(np.repeat(secant, 2))
    ends = secant[[0, -1]] + np.clip(secant[[0, -1]] - inner[[0, -1]], -_MOST_BEND, _MOST_BEND)
    return np.exp(np.concatenate([ends[:1], inner, ends[1:]]))


def fit_numbers(
    values: np.ndarray,
    bounds: Bounds = (None, None),
    where: str = "",
    *,
    is_line: bool = False,
    farthest: tuple[float, float] = (_FARTHEST, _FARTHEST),
) -> JumpMap:
    """Fits the spline of a column's numbers (n,), finite: a line if its shape is mild.

    Args:
        values: Shape (n,), finite.
        bounds: What lies below all values and all samples, and what lies above; None if nothing.
        where: Name of the column, for errors.
        is_line: Whether to take the line, (x - mean) / std, whatever the shape; its knots are so
            far apart that they differ.
        farthest: Largest normal score of a value on the lower and on the upper side.

    Raises:
        DataError: The values are all equal or have a spread below 1e-305.
    """
    # In units of a power of two no square overflows or vanishes, and no bit changes.
    unit = 2.0 ** (math.frexp(float(np.abs(values).max()))[1] - 1)
    scaled = values / unit
    mean, spread = float(scaled.mean()), float(scaled.std()) if np.ptp(scaled) else 0.0
    if spread * unit < _SMALLEST_SPREAD:
        what = f"a spread below {_SMALLEST_SPREAD:g}" if spread else "one value in all rows"
        raise DataError(f"column '{where}' has {what}; leave it out or rescale it")
    ends = mean - _MILD_RANGE * spread, mean + _MILD_RANGE * spread
    line = JumpMap(x=(ends[0] * unit, ends[1] * unit), z=(-_MILD_RANGE, _MILD_RANGE))
    if is_line:
        return line
    z = (scaled - mean) / spread
    low, high = bounds
    known = [bound for bound in bounds if bound is not None]
    near = np.abs(spline(np.array(known), *line._spline)[0]) < _MILD_BOUND
    rows = len(z)
    distance = np.abs(ndtr(np.sort(z)) - (np.arange(rows) + 0.5) / rows).max() + 0.5 / rows
    mild = distance <= _MILD_DISTANCE / math.sqrt(rows)
    is_within = max(-z.min() - farthest[0], z.max() - farthest[1], np.abs(z).max() - _MILD_RANGE)
    if mild and is_within <= 0 and not near.any():
        return line
    ordered = np.sort(values)
    z = _scores(len(ordered))
    x, z = _distinct(_rounded(np.quantile(ordered, ndtr(z), method="hazen")), z)
    inside = (x > (-np.inf if low is None else low)) & (x < (np.inf if high is None else high))
    x, z = x[inside], z[inside]
    if len(x) < 2:
        return line
    lower = _curvature(-x, -z, -ordered[0], None if low is None else -low, farthest[0])
    upper = _curvature(x[::-1], z[::-1], ordered[-1], high, farthest[1])
    return JumpMap(x=tuple(x.tolist()), z=tuple(z.tolist()), lower=lower, upper=upper)


def _scores(count: int) -> np.ndarray:
    """Places knots for ``count`` rows: even normal scores, with some rows between any two."""
    end = -ndtri(min(0.1, _TAIL_ROWS / count))
    knots = min(max(count // _ROWS_A_KNOT, _FEWEST_KNOTS), _MOST_KNOTS) // 2 * 2 + 1
    z = np.linspace(-end, end, knots)
    rows = count * ndtr(z[: knots // 2])
    apart = max(3, min(count // 10, max(_ROWS_BETWEEN, min(count // 100, 2 * _ROWS_BETWEEN))))
    kept = [0]
    for place in range(1, len(rows)):
        if min(rows[place] - rows[kept[-1]], count / 2 - rows[place]) >= apart:
            kept.append(place)
    return np.concatenate([z[kept], [0.0], -z[kept][::-1]])


def _distinct(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps one knot for each x, at the mean of its scores, and none too near for float64."""
    unique, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    scores = np.bincount(place, z) / counts
    while len(unique) > 2:
        width = np.diff(unique)
        beside = np.maximum(np.append(width[1:], 0), np.insert(width[:-1], 0, 0))
        apart = np.maximum(_NEAREST * beside, _SMALLEST_SPREAD)
        near = (width < apart) | (np.diff(scores) < 1e-9)
        if not near.any():
            break
        gone = max(1, int(np.argmax(near)))  # the right one, so that the first stays
        unique, scores = np.delete(unique, gone), np.delete(scores, gone)
    return unique, scores


def _rounded(x: np.ndarray) -> np.ndarray:
    """Rounds knots inwards to about 1/50 of their distance, so that they are nobody's cells."""
    gaps = np.diff(x)
    near = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    some = (near > 1e-12 * np.abs(x)) & (near > 1e-304)
    unit = 10.0 ** np.floor(np.log10(near[some] / 50))
    lower = np.arange(len(x))[some] < len(x) / 2
    rounded = x.copy()
    rounded[some] = np.where(lower, np.ceil(x[some] / unit), np.floor(x[some] / unit)) * unit
    return rounded


def _curvature(
    x: np.ndarray, z: np.ndarray, end: float, bound: float | None, farthest: float
) -> float:
    """Estimates the curvature of an upper tail: the growth of log dx/dz per unit of z.

    It is that in the body's outer tenth, or larger if the largest value, the ``end``, would be
    beyond the ``farthest`` score. If there is a bound, and no growth or little room, the tail
    approaches the bound, unless the end would be beyond that score. Knots and scores come with the
    outermost first.
    """
    slope = 1 / _slopes(x[::-1], z[::-1])[-1]
    found = 0.0
    if len(z) > 2:
        inner = max(1, min(len(z) - 2, int((z > min(_TAIL_BODY, z[0])).sum())))
        # Between near knots the slope is luck.
        next_one = min(len(z) - 1, max(inner + 1, int((z > z[inner] - _BODY_WIDTH).sum())))
        before = (x[inner] - x[next_one]) / (z[inner] - z[next_one])
        found = math.log(slope / before) / (z[0] - (z[inner] + z[next_one]) / 2)
    found = min(max(found, 0.0), _MOST_CURVATURE)
    with np.errstate(over="ignore"):
        away = min((end - x[0]) / slope, LARGEST)
    scores = max(farthest - z[0], _LEAST_TAIL)
    if bound is not None:
        room = max((bound - x[0]) / slope, 1e-9)
        is_within = -room * math.log1p(-min(away / room, 1 - 1e-15)) <= scores
        if (found == 0 or room < _NEAR_BOUND) and is_within:
            return -1 / room
    if away > scores:
        found = max(found, 0.1)
        while math.log1p(found * away) / found > scores:
            found *= 1.2
    return float(f"{found:.3g}")


def _score(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Returns the normal scores of points with such masses below and above them."""
    lower = below < above
    score = ndtri(np.minimum(np.where(lower, below, above), 0.5))
    return np.where(lower, score, -score)


def fit_jumps(
    numbers: np.ndarray,
    bounds: Bounds = (None, None),
    *,
    fine: bool = False,
    where: str = "",
    scaling: Scaling = "normal",
) -> JumpMap:
    """Fits the map of a column's numbers.

    Args:
        numbers: Shape (n,), finite, float64: whole steps, or any if they are ``fine``.
        bounds: What lies below all numbers and all samples, and what lies above; None if nothing.
        fine: Whether samples may be any numbers.
        where: Name of the column, for errors.
        scaling: Whether the map is to normal scores, or a straight line without jumps.

    Raises:
        DataError: The numbers are all equal, or have a spread below 1e-305.
    """
    if scaling == "standard":
        line = fit_numbers(numbers if fine else _spread(numbers), where=where, is_line=True)
        return line.model_copy(update={"fine": fine})
    known, counts = np.unique(numbers, return_counts=True)
    num, spline = len(numbers), dict[str, object]()
    heaped = counts >= max(SHARING, _SHARE * num)
    if counts[heaped].sum() >= _NEARLY_ALL * num:
        heaped = counts >= max(SHARING, _LEAST_SHARE * num)
        shared = np.add.reduceat(counts, np.append(0, np.flatnonzero(heaped)[1:]))
    else:
        heaped &= num - counts[heaped].sum() >= _FEWEST_BESIDE
        shared, (low, high) = counts[heaped], bounds
        rest = numbers[~np.isin(numbers, known[heaped])]
        farthest = (
            _BESIDE if heaped[known < rest.min()].any() else _FARTHEST,
            _BESIDE if heaped[known > rest.max()].any() else _FARTHEST,
        )
        if not fine:
            rest = _spread(rest - np.searchsorted(known[heaped], rest))
            high = None if high is None else high - len(shared)
        spline |= dict(fit_numbers(rest, (low, high), where, farthest=farthest))
    jumps = {"jumps": known[heaped].tolist(), "shares": rounded_shares(shared / num)}
    return JumpMap.model_validate({**spline, **jumps, "fine": fine})


def _spread(steps: np.ndarray) -> np.ndarray:
    """Spreads equal whole numbers, shape (n,), evenly over their step."""
    series = pd.Series(steps)
    same = series.groupby(series)
    return (series + (same.cumcount() + 0.5) / same.transform("size")).to_numpy(copy=True)


def rounded_shares(parts: np.ndarray) -> tuple[float, ...]:
    """Rounds shares, shape (m,), to four digits, so that they tell no exact count."""
    return tuple(float(f"{part:.4g}") for part in parts)
