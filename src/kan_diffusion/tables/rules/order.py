"""One number or date is never above another: a <= b.

It is claimed of two numbers or dates of one type in at least 200 rows in which neither is missing.
No row may break it, and if one column's cells were shuffled, at least 5 % would.

A row that breaks it has the two swapped; where one of them is given, the other is set to it. Each
column keeps to the values that it can have: the lower one is rounded down, the upper one up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Self

import numpy as np

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.rules.base import GLANCE, Rows, Rule

__all__ = ["FEWEST_ROWS", "Order", "breaks_by_chance", "first_numbers", "numbers_of"]

FEWEST_ROWS = 200
"""Fewest rows without a gap in which a rule of numbers is claimed."""

_FEW = 64  # rows that most pairs contradict
_BROKEN = 0.05  # least share of shuffled rows that break a rule


def numbers_of(rows: Rows, kinds: Sequence[str]) -> dict[int, Number]:
    """Returns the columns of numbers or dates whose values have one of some types, by place."""
    return {
        place: column
        for place, column in enumerate(rows.columns)
        if isinstance(column, Number) and column.storage.holds in kinds
    }


def first_numbers(rows: Rows, places: Collection[int], num: int) -> np.ndarray:
    """Returns the numbers of columns in the first rows, (columns, num), NaN where one is missing.

    They are rounded to float64, so that those in order stay in order.
    """
    first = rows.head(num)
    cells = (
        np.where(first.known([place]), first.values(place).astype(np.float64), np.nan)
        for place in places
    )
    return np.array([*cells]).reshape(len(places), len(first))


def breaks_by_chance(broken: np.ndarray) -> bool:
    """Whether enough rows of shuffled cells break a rule, so that it says something."""
    return len(broken) >= FEWEST_ROWS and bool(broken.mean() >= _BROKEN)


class Order(Rule):
    """The first of two columns is never above the second."""

    def names(self, columns: Sequence[str]) -> dict[str, Self]:
        """Writes "start<=end"."""
        return {"<=".join(columns[place] for place in self.places): self}

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are two numbers or dates of one type."""
        if not super().fits(columns) or len(self.places) != 2:
            return False
        low, high = (columns[place] for place in self.places)
        return isinstance(low, Number) and isinstance(high, Number) and _type(low) == _type(high)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds them among all pairs."""
        random, some = np.random.default_rng(0), rows.head(GLANCE)
        numbers = numbers_of(rows, ("whole", "real", "moment"))
        few = first_numbers(rows, numbers, _FEW)
        for one, cells in zip(numbers, few, strict=True):
            # Pairs are many, and these few rows leave few of them.
            for other in np.array([*numbers])[~(cells > few).any(axis=1)].tolist():
                if one == other or _type(numbers[one]) != _type(numbers[other]):
                    continue
                rule = cls(kind="order", places=(one, other))
                if not (rule.holds(some).all() and rule.holds(rows).all()):
                    continue
                known = rows.known(rule.places)
                low, high = (rows.values(place)[known] for place in rule.places)
                if (low < high).any() and breaks_by_chance(low > random.permutation(high)):
                    yield rule

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where the first is at most the second, or one is missing."""
        low, high = map(rows.values, self.places)
        return np.asarray((low <= high) | ~rows.known(self.places))

    def repair(self, rows: Rows, given: np.ndarray) -> None:
        """Swaps the two, or sets one to the other where that is given."""
        fixed = given[:, self.places]
        wrong = np.flatnonzero(~self.holds(rows) & ~fixed.all(axis=1))
        low, high = (rows.values(place)[wrong] for place in self.places)
        lower, upper = (rows.columns[place] for place in self.places)
        assert isinstance(lower, Number)
        assert isinstance(upper, Number)
        left, right = fixed[wrong].T
        made = lower.nearest(high, -1), upper.nearest(low, 1)
        rows.change(self.places[0], wrong[~left], made[0][~left])
        rows.change(self.places[1], wrong[~right], made[1][~right])


def _type(column: Number) -> tuple[object, ...]:
    """Returns what two numbers or dates must have in common to be compared."""
    storage = column.storage
    return storage.holds, storage.unit, storage.zone
