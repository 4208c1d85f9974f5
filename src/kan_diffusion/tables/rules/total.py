"""A number is the sum of two others: a + b = c.

It is claimed of three numbers in at least 200 rows in which none is missing. No row may break it,
but for the rounding of its dtype, and if one column's cells were shuffled, at least 5 % would.

The sum c follows from a and b; where c is given and one of them as well, the other is what is left,
and else both are scaled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Self

import numpy as np

from kan_diffusion.errors import DataError
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.rules.base import GLANCE, Rows, Rule
from kan_diffusion.tables.rules.order import breaks_by_chance, first_numbers, numbers_of

__all__ = ["Total"]

logger = logging.getLogger(__name__)

_FEW = 5  # rows that most triples contradict
_MOST = 200  # numbers among which sums are sought
_ROUNDING = {4: 1e-6, 8: 1e-9}  # of sums of floats of so many bytes, relative to their terms


class Total(Rule):
    """The sum of the first two columns is the third."""

    def names(self, columns: Sequence[str]) -> dict[str, Self]:
        """Writes "net+tax=gross"."""
        left, right, total = (columns[place] for place in self.places)
        return {f"{left}+{right}={total}": self}

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are three columns of numbers."""
        return (
            super().fits(columns)
            and len(self.places) == 3
            and all(
                isinstance(column := columns[place], Number)
                and column.storage.holds in ("whole", "real")
                for place in self.places
            )
        )

    @property
    def decided(self) -> tuple[int, ...]:
        """The sum."""
        return self.places[2:]

    def covers(self, other: Rule) -> bool:
        """Whether the other is an order of its columns."""
        return len(other.places) == 2 and {*other.places} < {*self.places}

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds them among all triples."""
        places = [*numbers_of(rows, ("whole", "real"))]
        if len(places) > _MOST:
            logger.warning(
                f"sums are sought among the first {_MOST} columns of numbers alone, of "
                f"{len(places):,}"
            )
        random, some = np.random.default_rng(0), rows.head(GLANCE)
        few = first_numbers(rows, places[:_MOST], _FEW)
        for a, b in combinations(range(len(few)), 2):
            for c in np.flatnonzero(_add_up(few[a], few[b], few, 4).all(axis=1)):
                rule = cls(kind="total", places=(places[a], places[b], places[c]))
                if c in (a, b) or not (rule.holds(some).all() and rule.holds(rows).all()):
                    continue
                known = rows.known(rule.places)
                left, right, total = (rows.values(place)[known] for place in rule.places)
                if breaks_by_chance(~_add_up(left, right, random.permutation(total), 8)):
                    yield rule

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where the sum is right, but for rounding, or a cell is missing."""
        left, right, total = (rows.values(place) for place in self.places)
        floats = [each.itemsize for each in (left, right, total) if each.dtype.kind == "f"]
        adds_up = _add_up(left, right, total, min(floats, default=8))
        return adds_up | ~rows.known(self.places)

    def repair(self, rows: Rows, given: np.ndarray) -> None:
        """Sets the sum, or what is left of a given sum, or scales both terms of one."""
        fixed = given[:, self.places]
        wrong = np.flatnonzero(~self.holds(rows) & ~fixed.all(axis=1))
        a, b, c = (rows.values(place)[wrong].astype(np.float64) for place in self.places)
        columns = [rows.columns[place] for place in self.places]
        left, right, total = fixed[wrong].T
        share = np.divide(c, a + b, out=np.ones(len(a)), where=(a + b != 0))
        stays = left | ~total
        a = np.where(stays, a, _rounded(np.where(right, c - b, a * share), columns[0]))
        b = np.where(right | ~total, b, c - a)
        c = np.where(total, c, a + b)
        kept = stays, right | ~total, total
        for place, column, values, stay in zip(self.places, columns, (a, b, c), kept, strict=True):
            made = _rounded(values[~stay], column)
            self._require_room(column, made)
            rows.change(place, wrong[~stay], made)

    def _require_room(self, column: Kind, values: np.ndarray) -> None:
        low, high = column.storage.limits
        if (beyond := values[(values < low) | (values > high)]).size:
            raise DataError(
                f"column '{column.name}' would have to be {beyond[0]:g}, since it is part of a "
                f"sum, and its dtype {column.storage.dtype} holds {low:g} to {high:g}; give other "
                "cells, or fit a wider dtype"
            )


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
