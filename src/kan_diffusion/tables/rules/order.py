"""Order: a <= b of two numbers or dates.

Where a few rows have a > b, the order is claimed if it has an edge: of the rows with b - a from -s
to s, where s is the median by which it is broken, at most one in fifty has a > b. Of numbers that
are merely larger on the average, there are as many on either side. Numbers that are no dates have
to be equal in one row of fifty, too, since few rows may miss what lies on the other side.

A row with a > b has the two swapped; where one of them has to stay, the other is set to it. Each
column keeps to the values that it can have: the lower one is rounded down, the upper one up. What
is given beyond the range of the other one is its value, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

import numpy as np

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.rules.base import Broken, Rows, Rule, can_be
from kan_diffusion.tables.rules.numeric import numbers, real

_FEW = 64  # rows that contradict most pairs
_BEYOND_THE_EDGE, _AT_THE_EDGE = 0.02, 0.02


class Order(Rule):
    """The first of two columns is at most the second."""

    is_loose: ClassVar[bool] = True

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "start<=end"."""
        return ["{}<={}".format(*(columns[place].name for place in self.places))]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are two numbers or dates of one type."""
        if not super().fits(columns) or len(self.places) != 2:
            return False
        types = {_type(columns[place]) for place in self.places}
        return len(types) == 1 and all(isinstance(columns[p], Number) for p in self.places)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds orders among all pairs of one type that few rows contradict."""
        random = np.random.default_rng(0)
        columns = numbers(rows, exact=False)
        few = rows.sample(_FEW, random)
        if not columns:
            return
        cells = np.array([real(column, *few.cells[p]) for p, column in columns.items()])
        for (one, column), first in zip(columns.items(), cells, strict=True):
            likely = (first > cells).sum(axis=1) <= 2
            for other in np.array([*columns])[likely].tolist():
                if one != other and _type(column) == _type(columns[other]):
                    rule = cls(kind="order", places=(one, other)).tested(rows, random)
                    if rule is not None and rule._has_an_edge(rows):
                        yield rule

    def _has_an_edge(self, rows: Rows) -> bool:
        low, high = (
            real(column, *rows.cells[place])
            for place in self.places
            if isinstance(column := rows.columns[place], Number)
        )
        apart = high - low
        apart = apart[~np.isnan(apart)]
        if self.kept == 1:
            return bool((apart != 0).any())
        below = -apart[apart < 0]
        is_date = rows.columns[self.places[0]].storage.holds == "moment"
        if not len(below) or not (is_date or (apart == 0).mean() >= _AT_THE_EDGE):
            return False
        near = np.abs(apart) <= np.median(below)
        return bool((apart[near] < 0).mean() <= _BEYOND_THE_EDGE)

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where the first is at most the second, or a cell is missing."""
        low, high = map(rows.values, self.places)
        return np.asarray(low <= high) | ~rows.known(self.places)

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Swaps the two, or sets one to the other where that has to stay."""
        lower, upper = (rows.columns[place] for place in self.places)
        low, high = (rows.values(place)[broken.rows] for place in self.places)
        left, right = (~broken.stays[:, place] for place in self.places)
        assert isinstance(lower, Number)
        assert isinstance(upper, Number)
        rows.change(self.places[0], broken.rows[left], lower.nearest(high, -1)[left])
        rows.change(self.places[1], broken.rows[right], upper.nearest(low, 1)[right])
        if broken.given is None:
            return
        still = ~self.holds(rows.take(broken.rows, self.places))
        for place, other in (self.places, self.places[::-1]):
            some = still & ~broken.stays[:, place] & broken.given[:, other]
            values = rows.values(other)[broken.rows[some]]
            self.refuse(rows.columns, place, values[~can_be(rows.columns[place], values)])
            rows.change(place, broken.rows[some], values)


def _type(column: Kind) -> tuple[object, ...]:
    """Returns what two numbers or dates must have in common to be compared."""
    storage = column.storage
    return storage.holds, storage.unit, storage.zone
