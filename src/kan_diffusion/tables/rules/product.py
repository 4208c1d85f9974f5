"""Products: a b = c of three columns of numbers, or a b / 100 = c, but for the rounding of c.

Candidates are those of which 85 % of 48 rows are a product, and in which c is seldom zero.
"""

from __future__ import annotations

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
    numbers,
    reach,
    real,
    scale,
    to_steps,
    whole,
)

_FEW, _LIKELY, _NOT_ZERO = 48, 0.85, 0.3  # rows, and shares of them that make a candidate
_ROUNDED = 0.5 + 1e-6  # of a step
_MOST_FACTORS = 1_000  # values that are tried


class Product(NumericRule):
    """The product of two columns is the third.

    Attributes:
        over: What it is divided by.
        steps: Steps of the third that a step of each of the others makes, or 1 where one is fine.
    """

    least = 0.9

    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(3, 3)]
    over: Literal[1, 100] = 1
    steps: Annotated[float, Field(gt=0, le=1e15)] = 1.0

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "price*nights=total"."""
        one, other, result = (column.name for column in self.parts(columns))
        return [f"{one}*{other}{'' if self.over == 1 else '/100'}={result}"]

    def is_kept(self, x: Sequence[np.ndarray], tolerance: float) -> np.ndarray:
        """Tells where the product is right, but for its rounding."""
        found = x[0].astype(np.float64) * x[1] * self.steps
        most = tolerance * np.abs(found) if tolerance else _ROUNDED
        return np.asarray(np.abs(x[2] - found) <= most)

    def solved(self, x: Sequence[np.ndarray], which: int) -> np.ndarray:
        """Returns the product, or the other factor, which stays where the first one is zero."""
        if which == 2:
            result = x[0].astype(np.float64) * x[1] * self.steps
        else:
            by = x[1 - which] * self.steps
            result = np.where(by == 0, x[which], x[2] / np.where(by == 0, 1, by))
        return to_steps(result, x[which])

    @property
    def is_rounded(self) -> bool:
        """Whether a step of a factor may leave the rounded product as it is."""
        return self.steps < 1

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns for each of its columns all others, for the product alone if that is rounded."""
        follows = super().following(columns)
        is_real = any(part.lattice.fine for part in self.parts(columns))
        return follows if is_real or not self.is_rounded else {self.places[2]: {*self.places[:2]}}

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Solves for a cell; where rounding leaves none, it takes the nearest pair of factors."""
        super().untell(rows, broken._replace(given=None))
        for which in (1, 0):
            self._factorise(rows, broken, which)
        if broken.given is not None:
            super().untell(rows, broken)

    def _factorise(self, rows: Rows, broken: Broken, which: int) -> None:
        """Sets both factors of rows that still break it, if one of them has few values."""
        column = self.parts(rows.columns)[which]
        units, _ = self._units(rows.columns)
        low, high = reach(column)
        left = ~self.holds(rows.take(broken.rows, self.places))
        left &= ~broken.stays[:, self.places[:2]].any(axis=1)
        if column.lattice.fine or (high - low) // column.lattice.step >= _MOST_FACTORS:
            return
        factors = np.arange(low, high + 1, column.lattice.step)
        if len(column.known):
            factors = np.sort(whole(column, column.known))
        left, options = broken.rows[left], factors * units[which]
        found, best, steps = self.nearest_pairs(
            rows.take(left, self.places), which, options, 1 - which, np.zeros(len(left), bool)
        )
        for i, each in ((which, factors[best]), (1 - which, steps)):
            values = self._values(rows, self.places[i], each, np.zeros(len(each), bool))
            rows.change(self.places[i], left[found], values)

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
            found[np.isinf(found)] = np.nan
            near = np.abs(cells - found) <= halves[:, None].astype(float) + 1e-6 * np.abs(found)
            enough = near.sum(axis=1) >= _LIKELY * max((~np.isnan(found)).sum(), 5)
            for k in np.flatnonzero(enough & filled):
                if k not in (i, j):
                    three = [columns[places[each]] for each in (i, j, k)]
                    steps = float(scale(three[0]) * scale(three[1]) / scale(three[2]) / over)
                    if any(column.lattice.fine for column in three):
                        steps = 1 / over
                    rule = cls(
                        kind="product",
                        places=(places[i], places[j], places[k]),
                        over=over,
                        steps=steps,
                    )
                    tested = rule.tested(rows, random)
                    if tested is not None:
                        yield tested
