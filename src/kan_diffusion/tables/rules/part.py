"""A number is the year, quarter, month, week, day, hour, minute or weekday of a date.

Or a date is the day, or the beginning of the month, of another date, and counts these since 1970.
Weeks are those of ISO 8601: that of a Thursday is its place among the Thursdays of its year. A
weekday counts from Monday or Sunday, and any part may have an offset, as the first weekday may be 0
or 1. Where the number has to stay, or no cell of its column can be it, the date moves by
as many years, days or the like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.rules.base import Broken, Place, Places, Rows, Rule, can_be

_FEW, _LIKELY = 200, 0.95  # rows, and the share of them in which a number is a part


class Counted(Rule):
    """The last of its columns is counted from the dates in the others."""

    least = 0.95
    is_partial = True
    is_loose = True

    def counted(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.timedelta64]:
        """Returns what the last column should be, (n,), and how many steps dates are off, (n,).

        The first date should be so many later, or the second one earlier; a step comes last.
        """
        raise NotImplementedError

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns that the number follows from dates, whichever rule tells it."""
        return {self.places[-1]: {*self.places[:-1]}}

    def choices(self, rows: Rows) -> Sequence[Places]:
        """Returns the number; nothing where another rule tells it: a date moves to it."""
        return [self.places[-1:], ()]

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where it holds, or a cell is missing."""
        return (rows.values(self.places[-1]) == self.counted(rows)[0]) | ~rows.known(self.places)

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Sets the number, or moves a date where that has to stay or cannot be such a number."""
        *dates, number = self.places
        stays = broken.stays
        counted, late, step = self.counted(rows.take(broken.rows, self.places))
        is_possible = can_be(rows.columns[number], counted)
        is_set = ~stays[:, number] & is_possible
        rows.change(number, broken.rows[is_set], counted[is_set])
        if broken.given is not None:
            wrong = broken.given[:, dates].all(axis=1) & ~stays[:, number] & ~is_possible
            self.refuse(rows.columns, number, counted[wrong])
        left = ~is_set
        for place, sign in zip(dates, (1, -1), strict=False):
            moved = left & ~stays[:, place]
            date = rows.values(place)[broken.rows[moved]]
            rows.change(place, broken.rows[moved], _shifted(date, sign * late[moved], step))
            left &= ~moved


def _shifted(moments: np.ndarray, counts: np.ndarray, step: np.timedelta64) -> np.ndarray:
    """Moves moments (n,) by ``counts`` steps; into another month as far as that has days."""
    if np.datetime_data(step)[0] not in "YM":
        return np.asarray(moments + counts * step)
    months = moments.astype("M8[M]") + (counts * step).astype("m8[M]")
    days = (months + np.timedelta64(1, "M")).astype("M8[D]") - np.timedelta64(1, "D")
    within = moments - moments.astype("M8[M]")
    return np.minimum(months + within, days + (moments - moments.astype("M8[D]")))


def _held_by(part: str) -> tuple[str, ...]:
    return ("moment",) if part in _DATES else ("whole", "real")


def _since(moments: np.ndarray, unit: str, whole_unit: str) -> np.ndarray:
    """Counts units since the beginning of a larger one, (n,)."""
    start = moments.astype(f"M8[{whole_unit}]")
    return (moments.astype(f"M8[{unit}]") - start.astype(f"M8[{unit}]")).astype(np.int64)


def _weekday(moments: np.ndarray, first: int) -> np.ndarray:
    """Counts days since a weekday, 0 for Monday and 6 for Sunday, (n,)."""
    return (moments.astype("M8[D]").astype(np.int64) + 3 - first) % 7


def _week(moments: np.ndarray) -> np.ndarray:
    """Counts the weeks of ISO 8601, (n,)."""
    thursdays = moments.astype("M8[D]") + (3 - _weekday(moments, 0)).astype("m8[D]")
    return _since(thursdays, "D", "Y") // 7 + 1


PARTS: dict[str, tuple[np.timedelta64, Callable[[np.ndarray], np.ndarray]]] = {
    "year": (
        np.timedelta64(1, "Y"),
        lambda moments: moments.astype("M8[Y]").astype(np.int64) + 1970,
    ),
    "quarter": (np.timedelta64(3, "M"), lambda moments: _since(moments, "M", "Y") // 3 + 1),
    "month": (np.timedelta64(1, "M"), lambda moments: _since(moments, "M", "Y") + 1),
    "week": (np.timedelta64(7, "D"), _week),
    "day": (np.timedelta64(1, "D"), lambda moments: _since(moments, "D", "M") + 1),
    "hour": (np.timedelta64(1, "h"), lambda moments: _since(moments, "h", "D")),
    "minute": (np.timedelta64(1, "m"), lambda moments: _since(moments, "m", "h")),
    "weekday": (np.timedelta64(1, "D"), lambda moments: _weekday(moments, 0)),
    "weekday from Sunday": (np.timedelta64(1, "D"), lambda moments: _weekday(moments, 6)),
    "day of year": (np.timedelta64(1, "D"), lambda moments: _since(moments, "D", "Y") + 1),
    "date": (np.timedelta64(1, "D"), lambda moments: moments.astype("M8[D]").astype(np.int64)),
    "month and year": (
        np.timedelta64(1, "M"),
        lambda moments: moments.astype("M8[M]").astype(np.int64),
    ),
}
"""Parts of moments (n,) by name: a step of theirs, and how they are counted."""

_DATES = {"date", "month and year"}  # parts that are dates
_ROUND = {"hour": 24, "minute": 60, "weekday": 7, "weekday from Sunday": 7}  # what comes round


class Part(Counted):
    """The second of two columns is a part of the date in the first.

    Attributes:
        part: A name of ``PARTS``.
        offset: What is added to it.
    """

    places: tuple[Place, Place]
    part: Literal[tuple(PARTS)]  # type: ignore[valid-type]
    offset: Annotated[int, Field(ge=-10_000, le=10_000)] = 0

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "hour of departure=hour"."""
        date, number = (columns[place].name for place in self.places)
        return [f"{self.part} of {date}{f'{self.offset:+}' if self.offset else ''}={number}"]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are a date and a number, or two dates."""
        if not super().fits(columns):
            return False
        date, part = (columns[place].storage.holds for place in self.places)
        return date == "moment" and part in _held_by(self.part)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds numbers that are a part of a date."""
        random = np.random.default_rng(0)
        few = rows.sample(_FEW, random)
        holds = [column.storage.holds for column in rows.columns]
        zones = [column.storage.zone for column in rows.columns]
        dates = [place for place, each in enumerate(holds) if each == "moment"]
        parts = {d: {name: of(few.values(d)) for name, (_, of) in PARTS.items()} for d in dates}
        days: set[int] = set()  # of other dates, whose parts are theirs
        names = ["date", *(name for name in PARTS if name != "date")]
        for part, date, other in product(names, dates, range(len(holds))):
            if other == date or date in days or holds[other] not in _held_by(part):
                continue
            if holds[other] == "moment" and zones[date] != zones[other]:
                continue
            known = few.known([date, other])
            counted = parts[date][part][known]
            off = cls._number(part, few.values(other)[known]) - counted
            offset = round(float(np.nan_to_num(np.median(off)))) if len(off) else 0
            if len(off) and (off == offset).mean() >= _LIKELY and np.ptp(counted):
                rule = cls(kind="part", places=(date, other), part=part, offset=offset)
                tested = rule.tested(rows, random)
                if tested is not None:
                    yield tested
                    is_full = rows.columns[date].missing <= rows.columns[other].missing
                    days |= {other} if part == "date" and tested.kept == 1 and is_full else set()

    @staticmethod
    def _number(part: str, values: np.ndarray) -> np.ndarray:
        """Returns numbers as they are, and dates counted, NaN where they are no beginning."""
        if values.dtype.kind != "M":
            return values.astype(np.float64)
        starts = values.astype(f"M8[{np.datetime_data(PARTS[part][0])[0]}]")
        return np.where(starts == values, starts.astype(np.int64), np.nan)

    def counted(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.timedelta64]:
        """Counts the nearest way, which may be into another day."""
        date, number = map(rows.values, self.places)
        step, part = PARTS[self.part]
        counted = part(date) + self.offset
        late = np.nan_to_num(self._number(self.part, number) - counted).astype(np.int64)
        if length := _ROUND.get(self.part):
            late = (late + length // 2) % length - length // 2
        if self.part in _DATES:
            counted = counted.astype(f"M8[{np.datetime_data(step)[0]}]")
        return counted, late, step
