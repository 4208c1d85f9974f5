r"""The time of day and the weekday of a date, where these matter: parts that come round.

Beside its place in time a date has a coordinate for its place in the day or in the week, a normal
score with jumps like that of a number. A drawn date keeps its day and takes the time of day, or
moves to the nearest day that has the weekday. It matters if 200 rows are no jumps of the date
itself, and if of their hours 5 % and of their weekdays 2 % would have to move to make all equally
frequent, which chance does not do (:math:`\chi^2` five standard deviations above its mean). Dates
of a few days or weeks do without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from annotated_types import Len
from pydantic import Field

from kan_diffusion.data.coordinates import CoordinateMap
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Date, Time
from kan_diffusion.tables.numbers import A_DAY, JumpMap, fit_jumps
from kan_diffusion.tables.rules.base import FEWEST_ROWS, Rows, Rule
from kan_diffusion.tables.rules.numeric import reach, whole

_UNEVEN = {"day": 0.05, "week": 0.02}
_CLASSES = {"day": 24, "week": 7}
_SURE = 5.0  # standard deviations
_FEWEST = 3  # days or weeks


class Cycle(Rule):
    """The place of a date in its day or in its week.

    Attributes:
        cycle: Which of them.
        tick: Units of the date that are a step of the place.
        distribution: Map of the steps to about N(0, 1).
    """

    is_relation: ClassVar[bool] = False

    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(1, 1)]
    cycle: Literal["day", "week"]
    tick: Annotated[int, Field(ge=1, le=A_DAY["ns"])]
    distribution: JumpMap

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "weekday of departure"."""
        what = "time of day" if self.cycle == "day" else "weekday"
        return [f"{what} of {columns[self.places[0]].name}"]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there is a date, and a step is no longer than a day."""
        if not super().fits(columns):
            return False
        column = columns[self.places[0]]
        return isinstance(column, Date) and self.tick <= A_DAY[column.storage.unit or "s"]

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds dates whose times of day or weekdays matter."""
        for place, column in enumerate(rows.columns):
            if not isinstance(column, Date) or isinstance(column, Time):
                continue
            if column.is_listed or column.lattice.calendar:
                continue
            day = A_DAY[column.storage.unit or "s"]
            values, missing = rows.cells[place]
            dates, (low, high) = whole(column, values[~missing]), reach(column)
            is_jump = column.distribution.is_jump(np.floor(column.lattice.steps(values[~missing])))
            for cycle, length in (("week", 7 * day), ("day", day)):
                tick = math.gcd(column.lattice.step, day) if cycle == "day" else day
                steps = _steps(dates, cycle, tick, day)
                if tick < length <= (high - low) / _FEWEST and cls._matters(
                    steps[~is_jump] * tick / length, cycle
                ):
                    bounds = (0.0, float(length // tick))
                    found = fit_jumps(steps.astype(float), bounds, where=str(column.name))
                    about = {"cycle": cycle, "tick": tick, "distribution": found}
                    yield cls(kind="cycle", places=(place,), **about)

    @staticmethod
    def _matters(parts: np.ndarray, cycle: str) -> bool:
        """Whether parts (n,) of days or weeks, 0 to 1, are not equally frequent."""
        num, free = len(parts), _CLASSES[cycle] - 1
        if num < FEWEST_ROWS:
            return False
        even = num / _CLASSES[cycle]
        off = np.histogram(parts, _CLASSES[cycle], (0, 1))[0] - even
        is_sure = (off**2).sum() / even > free + _SURE * math.sqrt(2 * free)
        return bool(is_sure and np.abs(off).sum() / 2 >= _UNEVEN[cycle] * num)

    @property
    def is_told(self) -> bool:
        """It has a coordinate."""
        return True

    def coordinate(self, columns: Sequence[Kind]) -> str:
        """Names its coordinate."""
        return self.names(columns)[0]

    def map(self, columns: Sequence[Kind]) -> CoordinateMap:
        """Says that it is a normal score."""
        return CoordinateMap(f"normal score of {self.coordinate(columns)}")

    def _of(self, rows: Rows) -> tuple[np.ndarray, int, Date]:
        """Returns the dates as whole numbers, (n,), the units of a day, and the column."""
        column = rows.columns[self.places[0]]
        assert isinstance(column, Date)
        return whole(column, rows.values(self.places[0])), A_DAY[column.storage.unit or "s"], column

    def tell(self, rows: Rows, generator: np.random.Generator | None) -> np.ndarray:
        """Returns the normal scores of places."""
        dates, day, _ = self._of(rows)
        steps = _steps(dates, self.cycle, self.tick, day).astype(np.float64)
        return self.distribution.spread(steps, generator)

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells that any date has a place."""
        return np.ones(len(rows.values(self.places[0])), dtype=bool)

    def begin(self, rows: Rows, told: np.ndarray, stays: np.ndarray) -> None:
        """Moves dates to the nearest with such a place."""
        dates, day, column = self._of(rows)
        steps = np.rint(self.distribution.inverse(told.astype(np.float64)))
        last = (day if self.cycle == "day" else 7 * day) // self.tick - 1
        off = steps.clip(0, last).astype(np.int64) - _steps(dates, self.cycle, self.tick, day)
        if self.cycle == "week":
            off = (off + 3) % 7 - 3
        low, high = reach(column)
        new = dates + off * self.tick
        if self.cycle == "week":
            new += 7 * day * ((new < low).astype(np.int64) - (new > high))
        free = np.flatnonzero(~stays[:, self.places[0]])
        moments = new.clip(low, high).view(column.storage.value_dtype)
        rows.change(self.places[0], free, moments[free])


def _steps(dates: np.ndarray, cycle: str, tick: int, day: int) -> np.ndarray:
    """Counts ticks since midnight, or days since Monday, of dates (n,) in units."""
    return dates % day // tick if cycle == "day" else (dates // day + 3) % 7
