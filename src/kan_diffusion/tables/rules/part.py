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
from annotated_types import Len
from pydantic import Field

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.rules.base import Broken, Places, Rows, Rule, can_be

_FEW, _LIKELY = 200, 0.95  # rows, and the share of them in which a number is a part


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


class Part(Rule):
    """The second of two columns is a part of the date in the first.

    Attributes:
        part: A name of ``PARTS``.
        offset: What is added to it.
    """

    least = 0.95
    is_partial = True
    is_loose = True

    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(2, 2)]
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

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns that the number follows from the date, whichever rule tells it."""
        return {self.places[1]: {self.places[0]}}

    def choices(self, rows: Rows) -> Sequence[Places]:
        """Returns the number; nothing where it is told by another date: this one moves to it."""
        return [self.places[1:], ()]

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
            off = cls._counted(part, few.values(other)[known]) - counted
            offset = round(float(np.nan_to_num(np.median(off)))) if len(off) else 0
            if len(off) and (off == offset).mean() >= _LIKELY and np.ptp(counted):
                rule = cls(kind="part", places=(date, other), part=part, offset=offset)
                tested = rule.tested(rows, random)
                if tested is not None:
                    yield tested
                    is_full = rows.columns[date].missing <= rows.columns[other].missing
                    days |= {other} if part == "date" and tested.kept == 1 and is_full else set()

    @staticmethod
    def _counted(part: str, values: np.ndarray) -> np.ndarray:
        """Returns numbers as they are, and dates counted, NaN where they are no beginning."""
        if values.dtype.kind != "M":
            return values.astype(np.float64)
        starts = values.astype(f"M8[{np.datetime_data(PARTS[part][0])[0]}]")
        return np.where(starts == values, starts.astype(np.int64), np.nan)

    def _off(self, rows: Rows) -> np.ndarray:
        """Returns by how much the number is larger than the part, (n,)."""
        date, number = map(rows.values, self.places)
        counted = self._counted(self.part, number)
        return np.asarray(counted - PARTS[self.part][1](date) - self.offset)

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where it holds, or a cell is missing."""
        return (self._off(rows) == 0) | ~rows.known(self.places)

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Sets the number, or moves the date where that has to stay or cannot be such a number."""
        date_place, number_place = self.places
        stay = broken.stays[:, self.places]
        off = self._off(rows.take(broken.rows, self.places))
        date = rows.values(date_place)[broken.rows]
        number = PARTS[self.part][1](date) + self.offset
        if self.part in _DATES:
            number = number.astype(f"M8[{np.datetime_data(PARTS[self.part][0])[0]}]")
        is_possible = can_be(rows.columns[number_place], number)
        is_set = ~stay[:, 1] & is_possible
        rows.change(number_place, broken.rows[is_set], number[is_set])
        if broken.given is not None:
            wrong = broken.given[:, date_place] & ~stay[:, 1] & ~is_possible
            self.refuse(rows.columns, number_place, number[wrong])
        moved, step = ~is_set & ~stay[:, 0], PARTS[self.part][0]
        date, off = date[moved], np.nan_to_num(off[moved]).astype(np.int64)
        if length := _ROUND.get(self.part):  # the nearest way, which may be into another day
            off = (off + length // 2) % length - length // 2
        rows.change(date_place, broken.rows[moved], shifted(date, off, step))


def shifted(moments: np.ndarray, counts: np.ndarray, step: np.timedelta64) -> np.ndarray:
    """Moves moments (n,) by ``counts`` steps; into another month as far as that has days."""
    if np.datetime_data(step)[0] not in "YM":
        return np.asarray(moments + counts * step)
    months = moments.astype("M8[M]") + (counts * step).astype("m8[M]")
    days = (months + np.timedelta64(1, "M")).astype("M8[D]") - np.timedelta64(1, "D")
    within = moments - moments.astype("M8[M]")
    return np.minimum(months + within, days + (moments - moments.astype("M8[D]")))
