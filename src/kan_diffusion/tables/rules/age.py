"""Ages: whole years from one date to another one, or to a day that is the same in all rows.

They grow at each anniversary; that of 29 February is 1 March where there is no such day. So an age
of a years says that the day is not before anniversary a, and before anniversary a + 1; the day of
all rows is the first of which most rows say so. Where a number has to stay, or no cell of its
column can be it, a date moves by years.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated, Self

import numpy as np
from annotated_types import Len
from pydantic import Field

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.rules.base import Place, Places, Rows
from kan_diffusion.tables.rules.part import Counted

_FEW, _LIKELY = 200, 0.95  # rows, and the share of them with as many years
_MOST_YEARS = 1_000


class Age(Counted):
    """The last of its columns counts the years from the date in the first.

    Attributes:
        day: Days from 1970 to the day until which they count; None where that is a column between.
    """

    places: Annotated[tuple[Place, ...], Len(2, 3)]
    day: Annotated[int, Field(ge=-10_000_000, le=10_000_000)] | None = None

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "years from born to admitted=age"."""
        first, *until, age = (columns[place].name for place in self.places)
        end = until[0] if until else np.datetime64(self.day, "D")
        return [f"years from {first} to {end}={age}"]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are dates and a number, and it is known until when it counts."""
        if not super().fits(columns) or (self.day is None) != (len(self.places) == 3):
            return False
        *dates, age = (columns[place].storage.holds for place in self.places)
        return {*dates} == {"moment"} and age in ("whole", "real")

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds numbers of years between all dates, and until one day; for each the surest way."""
        random = np.random.default_rng(0)
        few = rows.sample(_FEW, random)
        dates, numbers = [], []
        for place, column in enumerate(rows.columns):
            if column.storage.holds == "moment":
                dates.append(place)
            elif column.storage.holds in ("whole", "real"):
                numbers += [place] if np.max(few.values(place)) <= _MOST_YEARS else []
        for first, age in product(dates, numbers):
            ways = [(first, age), *((first, end, age) for end in dates if end != first)]
            tested = (cls._fitted(rows, few, places, random) for places in ways)
            found = max(filter(None, tested), key=lambda rule: rule.kept, default=None)
            if found is not None:
                yield found

    @classmethod
    def _fitted(
        cls, rows: Rows, few: Rows, places: Places, random: np.random.Generator
    ) -> Self | None:
        """Makes the rule of some columns and tests it, if few rows do not contradict it."""
        known = few.known(places)
        for some in (few, rows):
            rule = cls(kind="age", places=places, day=cls._day(some, places))
            if not known.any() or rule.holds(few)[known].mean() < _LIKELY:
                return None
        return rule.tested(rows, random)

    @staticmethod
    def _day(rows: Rows, places: Places) -> int | None:
        """Returns the first day of which most rows say that it may be the one of all."""
        if len(places) == 3:
            return None
        known = rows.known(places)
        born, age = (rows.values(place)[known] for place in places)
        years = _whole(age)
        begins, ends = (
            np.sort(_anniversary(born, number).astype(np.int64)) for number in (years, years + 1)
        )
        count = np.arange(1, len(begins) + 1) - np.searchsorted(ends, begins, "right")
        return int(begins[count.argmax()]) if len(begins) else 0

    def counted(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.timedelta64]:
        """Counts years, which are fewer if the first date is later."""
        first, *until, age = map(rows.values, self.places)
        end = until[0] if until else np.full(len(first), np.datetime64(self.day, "D"))
        months = end.astype("M8[M]") - first.astype("M8[M]")
        begun = _day_of_month(end) >= _day_of_month(first)
        years = (months.astype(np.int64) - 1 + begun) // 12
        return years, years - _whole(age), np.timedelta64(1, "Y")


def _whole(years: np.ndarray) -> np.ndarray:
    """Returns numbers of years (n,) that moments have room for."""
    numbers = np.nan_to_num(years.astype(np.float64))
    return np.asarray(numbers.clip(-_MOST_YEARS, _MOST_YEARS).astype(np.int64))


def _day_of_month(moments: np.ndarray) -> np.ndarray:
    return np.asarray(moments.astype("M8[D]") - moments.astype("M8[M]").astype("M8[D]"))


def _anniversary(moments: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Returns the days of anniversaries, (n,) each."""
    months = moments.astype("M8[M]") + (12 * number).astype("m8[M]")
    return np.asarray(months.astype("M8[D]") + _day_of_month(moments))
