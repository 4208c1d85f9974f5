r"""Numbers that people heap: distribution functions with jumps, as maps to N(0, 1).

Of hours worked a week nearly half are 40, of credit limits a tenth are 50,000. A number that at
least five rows and 0.1 % of them share is a jump of the distribution function F. A jump takes its
share of the normal distribution, so that it comes back exactly, and as often: with u uniform,

.. math:: z = \Phi^{-1}(F(x-) + u\, (F(x) - F(x-))).

All other numbers, whose share is c, have a spline S (:mod:`kan_diffusion.tables.numbers`), and with
shares p of the jumps v,

.. math:: F(x) = c\, \Phi(S(x)) + \sum_{v \le x} p_v.

Whole steps k are spread evenly over their step before, x = k' + u, where k' counts the steps that
are no jumps, so that nothing else is where a jump is. Without jumps z is S(x).

If jumps hold 99 % of the rows, every number that five rows share is one and no other is drawn; a
rarer number counts as the jump below it.

The density of a jump is its probability: p / phi(z), times the density of z, so that all densities
and probabilities add up to one.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Len
from pydantic import FailFast, Field, FiniteFloat, model_validator
from scipy.special import ndtr, ndtri

from kan_diffusion.errors import DataError
from kan_diffusion.settings import Settings
from kan_diffusion.tables.numbers import SHARING, Spline, fit_line, fit_numbers

__all__ = ["JumpMap", "Scaling", "Share", "fit_jumps", "rounded_share", "spread_over"]

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
"""A share of rows."""

Scaling = Literal["normal", "standard"]
"""Coordinates of numbers: normal scores, or (x - mean) / std, of which a formula can be read."""

_MOST_JUMPS = 10_000
_SHARE = 1e-3  # least share of a jump ...
_NEARLY_ALL = 0.99  # ... unless jumps hold this share of the rows; then it is
_LEAST_SHARE = 1e-5
_FEWEST = 10  # rows beside the jumps, if they are not nearly all
_MARGIN = 0.01  # share of a step left free at each end, so that float32 rarely leaves it
_FLAT = 37.0  # normal scores beyond which float64 has no tail, and a jump moves nothing
_HALF_LOG_2PI = math.log(2 * math.pi) / 2


class JumpMap(Settings):
    """A distribution function with jumps as a map of numbers to N(0, 1).

    Attributes:
        jumps: Numbers that many rows share, increasing.
        shares: Share of each of them among all numbers.
        rest: Map of the other numbers; None if no others are drawn.
        fine: Whether numbers may be any; they are whole steps if not.
    """

    jumps: Annotated[tuple[int | FiniteFloat, ...], FailFast(), Len(0, _MOST_JUMPS)] = ()
    shares: Annotated[tuple[Share, ...], FailFast(), Len(0, _MOST_JUMPS)] = ()
    rest: Spline | None = None
    fine: bool = False

    @model_validator(mode="after")
    def _require_parts(self) -> Self:
        increase = (np.diff(np.array(self.jumps, dtype=np.float64)) > 0).all()
        if not (increase and len(self.shares) == len(self.jumps) and (self.rest or self.jumps)):
            raise DataError("jumps must increase, and each needs a share; fit the codec anew")
        if sum(self.shares) > 1.001 or min(self.shares, default=1) <= 0:
            raise DataError("shares of jumps must be positive and at most 1 together")
        return self

    @cached_property
    def _numbers(self) -> np.ndarray:
        """The jumps, (J,)."""
        return np.array(self.jumps, dtype=np.float64)

    @cached_property
    def _masses(self) -> tuple[np.ndarray, float]:
        """Shares of the jumps, (J,), and of all other numbers, which add up to 1."""
        shares = np.array(self.shares, dtype=np.float64)
        # No mass is lost where rounded shares reach 1.
        rest = 0.0 if self.rest is None else max(1 - shares.sum(), 1e-9)
        return shares * (1 - rest) / max(shares.sum(), 1e-300), rest

    @cached_property
    def _beside(self) -> tuple[np.ndarray, np.ndarray]:
        """Masses of the jumps before and after each interval between jumps, (J + 1,) each.

        Those after are summed from above, so that tails keep their digits.
        """
        jumps, _ = self._masses
        return np.append(0, np.cumsum(jumps)), np.append(np.cumsum(jumps[::-1])[::-1], 0)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where the intervals end among the other numbers, (J,)."""
        return self._numbers if self.fine else self._numbers - np.arange(len(self.jumps))

    @cached_property
    def _around(self) -> tuple[np.ndarray, np.ndarray]:
        """Masses below and above each jump, (J,) each."""
        (_, rest), (before, after) = self._masses, self._beside
        inner = np.zeros(len(before) - 1) if self.rest is None else self.rest.forward(self._ends)
        return rest * ndtr(inner) + before[:-1], rest * ndtr(-inner) + after[1:]

    @cached_property
    def _edges(self) -> np.ndarray:
        """Normal scores of the lower and the upper end of each jump, (2 J,)."""
        (jumps, _), (below, above) = self._masses, self._around
        edges = _score(np.stack([below, below + jumps]), np.stack([above + jumps, above]))
        return edges.T.ravel()

    def forward(self, numbers: np.ndarray, u: np.ndarray | float = 0.5) -> np.ndarray:
        """Maps numbers, shape (n,), to about N(0, 1), in float64.

        Args:
            numbers: Whole steps; any numbers if they are fine.
            u: Where each one is within its jump or its step, 0 to 1, shape (n,) or one for all.
        """
        return self.with_log_slope(numbers, u)[0]

    def with_log_slope(
        self, numbers: np.ndarray, u: np.ndarray | float = 0.5
    ) -> tuple[np.ndarray, np.ndarray]:
        """Maps numbers, shape (n,), and returns log dz/dx of each, of a jump log p - log phi(z).

        Arguments are those of :meth:`forward`.
        """
        u = np.broadcast_to(u, numbers.shape)
        (jumps, rest), (below, above) = self._masses, self._around
        place, is_jump = self._places(numbers)
        z, slope = np.empty(len(numbers)), np.empty(len(numbers))
        at = place[is_jump]
        share, p = u[is_jump], jumps[at]
        z[is_jump] = _score(below[at] + share * p, above[at] + (1 - share) * p)
        slope[is_jump] = np.log(p) + _HALF_LOG_2PI + z[is_jump] ** 2 / 2
        if self.rest is not None:
            at, x = place[~is_jump], numbers[~is_jump]
            x = x if self.fine else x - at + u[~is_jump]
            inner, steep = self.rest.with_log_slope(x)
            z[~is_jump] = self._outwards(inner, at)
            bend = (z[~is_jump] ** 2 - inner**2) / 2
            slope[~is_jump] = steep + math.log(rest) + bend
        return z, slope

    def is_jump(self, numbers: np.ndarray) -> np.ndarray:
        """Tells which numbers, shape (n,), are jumps."""
        return self._places(numbers)[1]

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Maps z, shape (n,), to numbers: jumps, or steps between them, or any if they are fine."""
        segment = np.searchsorted(self._edges, z, "right")
        place, is_jump = segment // 2, segment % 2 == 1
        numbers = np.empty(len(z))
        numbers[is_jump] = self._numbers[place[is_jump]]
        if self.rest is not None:
            at = place[~is_jump]
            x = self.rest.inverse(self._inwards(z[~is_jump], at))
            ends = np.concatenate([[-np.inf], self._ends, [np.inf]])
            low, high = ends[at], ends[at + 1]
            if self.fine:
                numbers[~is_jump] = np.clip(x, low, high)
            else:
                numbers[~is_jump] = np.clip(np.floor(x), low, high - 1) + at
        return numbers

    def _places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the jump or the interval of each number, (n,), and tells which are jumps, (n,)."""
        if self.rest is None:
            place = np.clip(np.searchsorted(self._numbers, numbers, "right") - 1, 0, None)
            return place, np.ones(len(numbers), bool)
        place = np.searchsorted(self._numbers, numbers)
        return place, np.append(self._numbers, np.nan)[place] == numbers

    def _outwards(self, inner: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Maps scores among the other numbers, (n,), in intervals (n,), to scores among all."""
        if not self.jumps:
            return inner
        (_, rest), (before, after) = self._masses, self._beside
        z = _score(rest * ndtr(inner) + before[place], rest * ndtr(-inner) + after[place])
        return np.where(np.abs(inner) < _FLAT, z, inner)

    def _inwards(self, z: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Maps scores among all numbers, (n,), in intervals (n,), to scores among the others."""
        if not self.jumps:
            return z
        (_, rest), (before, after) = self._masses, self._beside
        below, above = ndtr(z) - before[place], ndtr(-z) - after[place]
        inner = _score(np.maximum(below, 0) / rest, np.maximum(above, 0) / rest)
        return np.where(np.abs(z) < _FLAT, inner, z)


def _score(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Returns the normal scores of points with such masses below and above them."""
    lower = below < above
    score = ndtri(np.minimum(np.where(lower, below, above), 0.5))
    return np.where(lower, score, -score)


def fit_jumps(
    numbers: np.ndarray,
    bounds: tuple[float | None, float | None] = (None, None),
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
        line, _ = fit_line(numbers if fine else _spread(numbers), where)
        return JumpMap(rest=line, fine=fine)
    known, counts = np.unique(numbers, return_counts=True)
    num = len(numbers)
    heaped = counts >= max(SHARING, _SHARE * num)
    if counts[heaped].sum() >= _NEARLY_ALL * num:
        kept = counts >= max(SHARING, _LEAST_SHARE * num)
        counts = np.add.reduceat(counts, np.append(0, np.flatnonzero(kept)[1:]))
        return JumpMap(jumps=_plain(known[kept], fine), shares=_shares(counts, num), fine=fine)
    if num - counts[heaped].sum() < _FEWEST:
        heaped[:] = False
    jumps, shares = known[heaped], _shares(counts[heaped], num)
    rest = numbers[~np.isin(numbers, jumps)]
    low, high = bounds
    if not fine:
        rest = _spread(rest - np.searchsorted(jumps, rest))
        high = None if high is None else high - len(jumps)
    spline = fit_numbers(rest, low, high, where)
    return JumpMap(jumps=_plain(jumps, fine), shares=shares, rest=spline, fine=fine)


def spread_over(
    distribution: JumpMap, numbers: np.ndarray, generator: np.random.Generator | None
) -> np.ndarray:
    """Maps numbers (n,) to normal scores, spread over their jump or step by the generator.

    Where a jump or a step is hardly wider than float32, in which networks compute, is fine, a
    number takes the middle, so that it comes back.
    """
    middle = distribution.forward(numbers)
    if generator is None:
        return middle
    spread = distribution.forward(numbers, generator.uniform(_MARGIN, 1 - _MARGIN, len(numbers)))
    kept = distribution.is_jump(numbers) | (not distribution.fine)
    back = distribution.inverse(spread.astype(np.float32).astype(np.float64))
    lost = kept & (back != distribution.inverse(middle))
    return np.where(lost, middle, spread)


def _spread(steps: np.ndarray) -> np.ndarray:
    """Spreads equal whole numbers, shape (n,), evenly over their step."""
    series = pd.Series(steps)
    same = series.groupby(series)
    return (series + (same.cumcount() + 0.5) / same.transform("size")).to_numpy(copy=True)


def _plain(jumps: np.ndarray, fine: bool) -> tuple[int | float, ...]:
    return tuple(jumps.tolist()) if fine else tuple(int(jump) for jump in jumps)


def _shares(counts: np.ndarray, num: int) -> tuple[float, ...]:
    return tuple(rounded_share(count / num) for count in counts)


def rounded_share(part: float) -> float:
    """Rounds a share to four digits, so that it tells no exact count."""
    return float(f"{part:.4g}")
