"""What holds between numbers or dates of a row: a <= b, and a + b = c.

A rule is claimed in at least 200 rows in which no cell of it is missing. No row may break it, a sum
but for the rounding of its dtype, and if the last column's cells were shuffled, at least 5 % would.

A row with a > b has the two swapped; where one of them is given, the other is set to it. Each
column keeps to the values that it can have: the lower one is rounded down, the upper one up.

A sum c follows from a and b; where c is given and one of them as well, the other is what is left,
and else both are scaled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import ClassVar, Self

import numpy as np

from kan_diffusion.errors import DataError
from kan_diffusion.tables.dtypes import Holds
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.rules.base import GLANCE, Rows, Rule

logger = logging.getLogger("kan_diffusion.tables")

_FEWEST_ROWS = 200  # without a gap
_BROKEN = 0.05  # least share of shuffled rows that break a rule
_MOST = 200  # numbers among which sums are sought
_ROUNDING = {4: 1e-6, 8: 1e-9}  # of sums of floats of so many bytes, relative to their terms


class NumericRule(Rule):
    """What holds between the numbers or dates of some columns.

    Attributes:
        key: Its name in ``RULES``.
        form: How it is written, with a pair of braces for each column.
        types: Types of values that its columns have.
        few: First rows that contradict most candidates.
    """

    key: ClassVar[str]
    form: ClassVar[str]
    types: ClassVar[tuple[Holds, ...]]
    few: ClassVar[int]

    @classmethod
    def candidates(
        cls, numbers: Mapping[int, Number], first: np.ndarray
    ) -> Iterator[tuple[int, ...]]:
        """Gives the places of columns between which it may hold.

        Args:
            numbers: The columns of numbers, by place.
            first: Their first rows, (columns, few), float64, NaN where a cell is missing; rounding
                keeps an order.
        """
        raise NotImplementedError

    @staticmethod
    def is_kept(*values: np.ndarray) -> np.ndarray:
        """Tells where it holds between values, each (n,)."""
        raise NotImplementedError

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds rules among all candidates, those that few rows contradict first."""
        random, some, few = np.random.default_rng(0), rows.head(GLANCE), rows.head(cls.few)
        numbers = {
            place: column
            for place, column in enumerate(rows.columns)
            if isinstance(column, Number) and column.storage.holds in cls.types
        }
        first = [
            np.where(few.known([place]), few.values(place).astype(np.float64), np.nan)
            for place in numbers
        ]
        for places in cls.candidates(numbers, np.array(first)) if first else ():
            rule = cls(kind=cls.key, places=places)
            if not (rule.holds(some).all() and rule.holds(rows).all()):
                continue
            known = rows.known(places)
            *others, last = (rows.values(place)[known] for place in places)
            if len(last) >= _FEWEST_ROWS and (others[0] != last).any():
                kept = cls.is_kept(*others, random.permutation(last))
                if (~kept).mean() >= _BROKEN:
                    yield rule

    def names(self, columns: Sequence[str]) -> list[str]:
        """Writes it, such as "start<=end" or "net+tax=gross"."""
        return [self.form.format(*(columns[place] for place in self.places))]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are so many numbers or dates."""
        return (
            super().fits(columns)
            and len(self.places) == self.form.count("{}")
            and all(
                isinstance(column := columns[place], Number) and column.storage.holds in self.types
                for place in self.places
            )
        )

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where it holds, or a cell is missing."""
        return self.is_kept(*map(rows.values, self.places)) | ~rows.known(self.places)

    def broken(
        self, rows: Rows, given: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Returns rows (m,) that break it and may change, their values, and which are given."""
        fixed = given[:, self.places]
        wrong = np.flatnonzero(~self.holds(rows) & ~fixed.all(axis=1))
        return wrong, [rows.values(place)[wrong] for place in self.places], [*fixed[wrong].T]


class Order(NumericRule):
    """The first of two columns is never above the second."""

    key = "order"
    form = "{}<={}"
    types = ("whole", "real", "moment")
    few = 64

    @classmethod
    def candidates(
        cls, numbers: Mapping[int, Number], first: np.ndarray
    ) -> Iterator[tuple[int, ...]]:
        """Gives all pairs of one type that are in order in the first rows."""
        for (one, column), cells in zip(numbers.items(), first, strict=True):
            for other in np.array([*numbers])[~(cells > first).any(axis=1)].tolist():
                if one != other and _type(column) == _type(numbers[other]):
                    yield one, other

    @staticmethod
    def is_kept(*values: np.ndarray) -> np.ndarray:
        """Tells where the first is at most the second."""
        return np.asarray(values[0] <= values[1])

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are two numbers or dates of one type."""
        return super().fits(columns) and len({_type(columns[place]) for place in self.places}) == 1

    def repair(self, rows: Rows, given: np.ndarray) -> None:
        """Swaps the two, or sets one to the other where that is given."""
        wrong, (low, high), (left, right) = self.broken(rows, given)
        lower, upper = (rows.columns[place] for place in self.places)
        assert isinstance(lower, Number)
        assert isinstance(upper, Number)
        rows.change(self.places[0], wrong[~left], lower.nearest(high, -1)[~left])
        rows.change(self.places[1], wrong[~right], upper.nearest(low, 1)[~right])


class Total(NumericRule):
    """The sum of the first two columns is the third."""

    key = "total"
    form = "{}+{}={}"
    types = ("whole", "real")
    few = 5

    @property
    def decided(self) -> tuple[int, ...]:
        """The sum."""
        return self.places[2:]

    @classmethod
    def candidates(
        cls, numbers: Mapping[int, Number], first: np.ndarray
    ) -> Iterator[tuple[int, ...]]:
        """Gives the triples, of not too many columns, that add up in the first rows."""
        if len(numbers) > _MOST:
            logger.warning(
                f"sums are sought among the first {_MOST} columns of numbers alone, of "
                f"{len(numbers):,}"
            )
        places, first = [*numbers][:_MOST], first[:_MOST]
        for a, b in combinations(range(len(places)), 2):
            for c in np.flatnonzero(_add_up(first[a], first[b], first, 4).all(axis=1)):
                if c not in (a, b):
                    yield places[a], places[b], places[c]

    @staticmethod
    def is_kept(*values: np.ndarray) -> np.ndarray:
        """Tells where the sum is right, but for rounding."""
        left, right, total = values
        floats = [each.itemsize for each in values if each.dtype.kind == "f"]
        return _add_up(left, right, total, min(floats, default=8))

    def repair(self, rows: Rows, given: np.ndarray) -> None:
        """Sets the sum, or what is left of a given sum, or scales both terms of one."""
        wrong, values, (left, right, total) = self.broken(rows, given)
        a, b, c = (each.astype(np.float64) for each in values)
        columns = [rows.columns[place] for place in self.places]
        share = np.divide(c, a + b, out=np.ones(len(a)), where=(a + b != 0))
        kept = left | ~total, right | ~total, total
        a = np.where(kept[0], a, _rounded(np.where(right, c - b, a * share), columns[0]))
        b = np.where(kept[1], b, c - a)
        c = np.where(total, c, a + b)
        for place, column, numbers, stay in zip(self.places, columns, (a, b, c), kept, strict=True):
            changed, (low, high) = _rounded(numbers[~stay], column), column.storage.limits
            if (beyond := changed[(changed < low) | (changed > high)]).size:
                raise DataError(
                    f"column '{column.name}' would have to be {beyond[0]:g}, since it is part of a "
                    f"sum, and its dtype {column.storage.dtype} holds {low:g} to {high:g}; give "
                    "other cells, or fit a wider dtype"
                )
            rows.change(place, wrong[~stay], changed)


def _type(column: Kind) -> tuple[object, ...]:
    """Returns what two numbers or dates must have in common to be compared."""
    storage = column.storage
    return storage.holds, storage.unit, storage.zone


def _rounded(numbers: np.ndarray, column: Kind) -> np.ndarray:
    """Rounds numbers to the decimals of a column."""
    assert isinstance(column, Number)
    places = column.lattice.decimals
    return numbers if places is None else np.round(numbers, places)


def _add_up(a: np.ndarray, b: np.ndarray, c: np.ndarray, size: int) -> np.ndarray:
    """Tells where a + b is c, but for the rounding of floats of ``size`` bytes; also where NaN."""
    a, b, c = (each.astype(np.float64) for each in (a, b, c))
    off = np.abs(a + b - c)
    return np.asarray(~(off > _ROUNDING[size] * (np.abs(a) + np.abs(b) + np.abs(c))))
