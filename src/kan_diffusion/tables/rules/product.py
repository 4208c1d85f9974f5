"""Products: a b = c of three columns of numbers, or a b / 100 = c, but for rounding.

One of the three is rounded: c, or a factor, which is a quotient then, a = c / b. It is the one that
leaves least room, unless clearly more rows keep another. Candidates are those of which 85 % of 48
rows are a product, and in which c is seldom zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Len
from pydantic import Field

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.rules.base import Broken, Rows
from kan_diffusion.tables.rules.numeric import (
    NumericRule,
    as_values,
    numbers,
    reach,
    real,
    scale,
    to_steps,
    whole,
)

_FEW, _LIKELY, _NOT_ZERO = 48, 0.85, 0.3  # rows, and shares of them that make a candidate
_ROUNDED = 0.5 + 1e-6  # of a step
_DOUBLED = 5e-3  # share of rows by which more have to keep what leaves twice the room
_MOST_FACTORS = 1_000  # values that are tried


class Product(NumericRule):
    """The product of two columns is the third, of which one is rounded.

    Attributes:
        over: What it is divided by.
        steps: Steps of the third that a step of each of the others makes, or 1 where one is fine.
        rounded: Which of the three is rounded; if it is a factor, that is a quotient.
    """

    least = 0.9

    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(3, 3)]
    over: Literal[1, 100] = 1
    steps: Annotated[float, Field(gt=0, le=1e15)] = 1.0
    rounded: Literal[0, 1, 2] = 2

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "price*nights=total" or "clicks/visits=rate"."""
        parts = [str(column.name) for column in self.parts(columns)]
        if self.rounded == 2:
            return [f"{parts[0]}*{parts[1]}{'' if self.over == 1 else '/100'}={parts[2]}"]
        quotient, by = parts[self.rounded], parts[1 - self.rounded]
        return [f"{'' if self.over == 1 else '100*'}{parts[2]}/{by}={quotient}"]

    def _exact(self, x: Sequence[np.ndarray], which: int) -> np.ndarray:
        """Returns what follows for one column, not rounded; it stays where a divisor is zero."""
        if which == 2:
            return np.asarray(x[0].astype(np.float64) * x[1] * self.steps)
        by = x[1 - which] * self.steps
        return np.asarray(np.where(by == 0, x[which], x[2] / np.where(by == 0, 1, by)))

    def is_kept(self, x: Sequence[np.ndarray], tolerance: float) -> np.ndarray:
        """Tells where the rounded column is right, but for its rounding."""
        exact = self._exact(x, self.rounded)
        most = tolerance * np.abs(exact) if tolerance else _ROUNDED
        return np.asarray(np.abs(x[self.rounded] - exact) <= most)

    def solved(self, x: Sequence[np.ndarray], which: int) -> np.ndarray:
        """Returns the product, or the other factor, which stays where the first one is zero."""
        return to_steps(self._exact(x, which), x[which])

    @property
    def is_rounded(self) -> bool:
        """Whether a step of one column may leave the rounded one as it is."""
        return self.rounded < 2 or self.steps < 1

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns for each of its columns all others, for the rounded one alone if one is."""
        follows = super().following(columns)
        place = self.places[self.rounded]
        is_real = any(part.lattice.fine for part in self.parts(columns))
        return follows if is_real or not self.is_rounded else {place: follows[place]}

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Solves for a cell; where rounding leaves none, it takes the nearest pair of others."""
        super().untell(rows, broken._replace(given=None))
        one, other = (which for which in (1, 0, 2) if which != self.rounded)
        self._pair(rows, broken, one, other)
        self._pair(rows, broken, other, one)
        if broken.given is not None:
            super().untell(rows, broken)

    def _pair(self, rows: Rows, broken: Broken, which: int, solved: int) -> None:
        """Sets both exact columns of rows that still break it, if one of them has few values."""
        column = self.parts(rows.columns)[which]
        units, _ = self._units(rows.columns)
        low, high = reach(column)
        places = self.places[which], self.places[solved]
        left = ~self.holds(rows.take(broken.rows, self.places))
        left &= ~broken.stays[:, [*places]].any(axis=1)
        if column.lattice.fine or (high - low) // column.lattice.step >= _MOST_FACTORS:
            return
        factors = np.arange(low, high + 1, column.lattice.step)
        if len(column.known):
            factors = np.sort(whole(column, column.known))
        some, values = broken.rows[left], as_values(column, factors)
        stays = np.zeros(len(some), bool)
        self.set_nearest(rows, some, places, factors * units[which], values, stays)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds products among all columns of numbers."""
        random = np.random.default_rng(0)
        columns = {p: column for p, column in numbers(rows).items() if column.storage.unit is None}
        if len(columns) < 3:
            return
        few, places = rows.sample(_FEW, random), [*columns]
        cells = np.array([real(column, *few.cells[p]) for p, column in columns.items()])
        halves = np.array(
            [0.0 if c.lattice.fine else _ROUNDED * scale(c) for c in columns.values()]
        )
        known = np.maximum((~np.isnan(cells)).sum(axis=1), 1)
        filled = (np.nan_to_num(cells) != 0).sum(axis=1) >= _NOT_ZERO * known
        for (i, j), over in product(combinations(range(len(places)), 2), (1, 100)):
            with np.errstate(over="ignore"):
                found = cells[i] * cells[j] / over
                # What a rounding of the first, of the second and of the third makes of it.
                first, second = (halves[[i, j]] / over)[:, None] * np.abs(cells[[j, i]])
            found[np.isinf(found)] = np.nan
            off = np.maximum(np.maximum(first, second), halves[:, None])
            near = np.abs(cells - found) <= off + 1e-6 * np.abs(found)
            enough = near.sum(axis=1) >= _LIKELY * max((~np.isnan(found)).sum(), 5)
            for k in np.flatnonzero(enough & filled):
                if k not in (i, j):
                    three = [columns[places[each]] for each in (i, j, k)]
                    is_real = any(column.lattice.fine for column in three)
                    steps = float(scale(three[0]) * scale(three[1]) / scale(three[2]) / over)
                    rule = cls(
                        kind="product",
                        places=(places[i], places[j], places[k]),
                        over=over,
                        steps=1 / over if is_real else steps,
                    )
                    room = np.nanmean(first), np.nanmean(second), halves[k]
                    tested = (
                        rule.tested(rows, random) if is_real else rule._best(rows, room, random)
                    )
                    if tested is not None:
                        yield tested

    def _best(self, rows: Rows, room: Sequence[float], random: np.random.Generator) -> Self | None:
        """Finds which column is rounded, by the rows that keep it and the room that it leaves."""
        ways = (self.model_copy(update={"rounded": which}) for which in (2, 1, 0))
        return max(
            filter(None, [rule.tested(rows, random) for rule in ways]),
            key=lambda rule: rule.kept - _DOUBLED * math.log2(room[rule.rounded]),
            default=None,
        )
