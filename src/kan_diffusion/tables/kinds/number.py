"""Columns of numbers and time spans, of dates, and of times of day in text, such as 08:30.

A number is a step of a lattice, or any number; its coordinate is the normal score of a distribution
function that may jump (:mod:`kan_diffusion.tables.numbers`). Dates are numbers of days, months,
minutes or the like since 1970, and times of day of minutes or seconds since midnight.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pandas as pd

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.tables.dates import is_clock
from kan_diffusion.tables.dtypes import Holds
from kan_diffusion.tables.kinds.base import Cells, Kind
from kan_diffusion.tables.numbers import JumpMap, Lattice, fit_jumps
from kan_diffusion.tables.scales import Dates, Scale

_FARTHEST = 1e12  # from the data, in their ranges, that a cell may be
_SHORTEST_CODE, _CODES = 3, 0.5  # digits, and most different numbers for those of amounts
_MANY = 2**23  # steps, of which float32 loses some even where rows are dense


class Number(Kind):
    """A column of numbers.

    Attributes:
        lattice: The numbers that a cell can have.
        distribution: Map of their steps to about N(0, 1).
    """

    holds: ClassVar[frozenset[Holds]] = frozenset({"whole", "real", "span"})

    lattice: Lattice
    distribution: JumpMap

    @property
    def maps(self) -> tuple[CoordinateMap, ...]:
        """How its coordinates follow from a cell; no code for a time or where there are jumps."""
        lattice = self.lattice
        unit, middle = lattice.step / lattice.per, 0.0 if lattice.fine else 0.5
        origin = lattice.origin / lattice.per - middle * unit
        value = self.distribution.described(str(self.name), origin, unit)
        if self.storage.unit is not None:
            value = CoordinateMap(value.name)
        return (*super().maps[:-1], value)

    @classmethod
    def suits(cls, cells: Cells) -> bool:
        """Tells whether a column holds numbers."""
        return cells.storage.holds in cls.holds and cells.storage.values is None

    @classmethod
    def fitted(cls, cells: Cells) -> dict[str, object]:
        """Finds the lattice and the distribution."""
        lattice = Lattice.of(cells.present, cells.storage.limits)
        steps, fine = lattice.steps(cells.present), lattice.fine
        low, high = float(lattice.lowest), float(lattice.highest) + (not fine)
        bounds = (  # fine samples that stop at a number of the data have none there
            None if fine and low >= steps.min() else low,
            None if fine and high <= steps.max() else high,
        )
        where, scaling = str(cells.name), cells.scaling
        distribution = fit_jumps(steps, bounds, fine=fine, where=where, scaling=scaling)
        return {"lattice": lattice, "distribution": distribution}

    def warning(self, cells: Cells, given: bool) -> str:
        """Says that numbers look like codes, or that float32 cannot tell all steps apart."""
        if not given and (width := self._code_width(cells)):
            return (
                f"column '{self.name}' holds whole numbers of {width} digits that repeat as codes "
                "do, and is drawn as an amount; if they are codes, give the column the kind "
                "'category'"
            )
        if self.lattice.fine or self.lattice.high < _MANY:
            return ""
        step, unit = self.lattice.step / self.lattice.per, self.storage.unit
        if unit is not None:
            step *= np.timedelta64(1, unit) / np.timedelta64(1, "s")
        return (
            f"column '{self.name}' has {self.lattice.high:,} steps of {step:g}"
            f"{' s' if unit else ''}, more than float32, in which networks compute, tells apart; "
            "if that matters, split it into a coarse and a fine column"
        )

    def _code_width(self, cells: Cells) -> int:
        """Returns the digits of whole numbers, all of one width, that look like codes; else 0.

        Of n amounts over a range of r steps, about r (1 - exp(-n / r)) would be different.
        """
        if self.storage.holds != "whole" or self.is_listed:
            return 0
        known, num = np.sort(cells.distinct), int(self.lattice.high) + 1
        expected = -num * math.expm1(-len(cells.present) / num)
        width = len(str(known[0]))
        alike = known[0] > 0 and width == len(str(known[-1])) >= _SHORTEST_CODE
        return width if alike and len(known) <= _CODES * expected else 0

    @property
    def known(self) -> np.ndarray:
        """The jumps, if nothing else is drawn."""
        if not self.distribution.is_listed:
            return self.storage.empty(0)
        return self._as_read(np.array(self.distribution.jumps))

    @property
    def reach(self) -> np.ndarray:
        """The smallest and the largest number that are drawn, or all of a few."""
        return self.known if self.is_listed else self._as_read(np.array([-np.inf, np.inf]))

    def _as_read(self, steps: np.ndarray) -> np.ndarray:
        """Returns the numbers of steps as :meth:`read` gives them: rounded as the dtype does."""
        numbers = self._numbers(steps)
        return self.read(self.restore(numbers, np.zeros(len(numbers), bool)))[0]

    def _numbers(self, steps: np.ndarray) -> np.ndarray:
        return self.lattice.values(steps, self.storage.value_dtype)

    def _steps(self, values: np.ndarray) -> np.ndarray:
        steps = self.lattice.steps(values)
        return steps if self.lattice.fine else np.floor(steps)

    def codes(self, values: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Returns the places of cells among the known values; between two it is the lower one's."""
        places = np.clip(np.searchsorted(self.known, values, "right") - 1, 0, None)
        return np.where(missing, -1, places)

    def scores(
        self, values: np.ndarray, rows: np.ndarray, generator: np.random.Generator | None
    ) -> np.ndarray:
        """Maps numbers to normal scores; those that lie absurdly far away are refused."""
        steps, lattice = self._steps(values), self.lattice
        span = _FARTHEST * max(lattice.high - lattice.low, 1e-300)
        far = (steps < lattice.low - span) | (steps > lattice.high + span)
        problem = (
            f"more than {_FARTHEST:g} times the spread of the rows trained on away from them; "
            "correct it or remove the row"
        )
        self.refuse(far, values, problem, rows)
        return self.distribution.spread(steps, generator)

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Maps coordinates to numbers."""
        return self._numbers(self.distribution.inverse(scores))

    def log_scale(self, series: pd.Series) -> np.ndarray:
        """Returns log dz/dx of each number, shape (n,), in the middle of its step.

        x is in the units of the column; of moments and time spans, it counts steps. Of a jump,
        which has a probability and no density, it is log p - log phi(z).
        """
        values, missing = self.read(series)
        steps = self._steps(values[~missing])
        _, slope = self.distribution.forward(steps)
        if self.storage.unit is None:
            unit = math.log(self.lattice.per) - math.log(self.lattice.step)
            slope = slope + np.where(self.distribution.is_jump(steps), 0.0, unit)
        result = np.zeros(len(series))
        result[~missing] = slope
        return result

    def nearest(self, values: np.ndarray, side: int) -> np.ndarray:
        """Returns the nearest numbers that cells can have: not above ``values``, or not below.

        Args:
            values: Shape (n,), as :meth:`read` gives them.
            side: -1 for numbers that are at most the values, 1 for those that are at least.

        Returns:
            Shape (n,); beyond the last number that cells can have, that one.
        """
        if self.is_listed:
            place = np.searchsorted(self.known, values, "right" if side < 0 else "left")
            return self.known[np.clip(place - (side < 0), 0, len(self.known) - 1)]
        steps = self.lattice.steps(values)
        if not self.lattice.fine:
            whole = np.rint(steps)  # a step, but for the rounding of its quotient
            near = np.abs(steps - whole) < 1e-6
            steps = np.where(near, whole, np.floor(steps) if side < 0 else np.ceil(steps))
        return self._numbers(steps)

    def scale(self, present: np.ndarray) -> Scale:
        """Compares and draws numbers."""
        return Scale()

    def words(self) -> str:
        """Names the few numbers there are, or the smallest and the largest."""
        if self.is_listed:
            return super().words()
        ends = np.array([self.lattice.low, self.lattice.high], dtype=np.float64)
        return " to ".join(self.texts(self._numbers(ends)))


class Date(Number):
    """A column of dates, at the resolution that all of them have."""

    holds: ClassVar[frozenset[Holds]] = frozenset({"moment"})

    @property
    def spelled(self) -> str:
        """The kind, and the format of dates in text."""
        return self.kind + (f":{self.storage.written}" if self.storage.written else "")

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Maps coordinates to moments that there are in the zone of the column."""
        return self.existing(super().values(scores))

    def existing(self, values: np.ndarray) -> np.ndarray:
        """Moves wall times that a change of clocks leaves out to the next there is."""
        zone = self.storage.zone
        if zone is None or zone == "UTC" or not len(values):
            return values
        return self.parse(self.restore(values, np.zeros(len(values), dtype=bool)))[0]

    def scale(self, present: np.ndarray) -> Dates:
        """Compares and draws dates."""
        return Dates()

    def words(self) -> str:
        """Names the first and the last date, and their time zone."""
        return super().words() + (f" ({self.storage.zone})" if self.storage.zone else "")


class Time(Date):
    """A column of times of day, which come back as they were written."""

    @classmethod
    def suits(cls, cells: Cells) -> bool:
        """Tells whether a column holds times of day."""
        return super().suits(cells) and is_clock(cells.storage.written)

    @classmethod
    def problem(cls, cells: Cells) -> str | None:
        """Says what is no time of day: other types, and dates."""
        if reason := super().problem(cells):
            return reason
        return None if is_clock(cells.storage.written) else "holds dates"

    def between(self, values: np.ndarray, low: object | None, high: object | None) -> np.ndarray:
        """Tells which times, shape (n,), are in a range, which may go over midnight."""
        if low is None or high is None or super().between(np.array([low]), None, high).all():
            return super().between(values, low, high)
        return super().between(values, low, None) | super().between(values, None, high)
