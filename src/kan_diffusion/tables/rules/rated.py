"""Rates: a number times the factor that each value of another column has is a third number.

With values g of a column of few values and factors f, the rule is c = f(g) a but for the rounding
of c: a tax by its rate or by the kind of goods, a price by the product. Every row says of the
factor of its value that it is between (c - h) / a and (c + h) / a, h half a step of c; what most of
these ranges have in common holds it, and the shortest decimal there is taken. Values that fewer
than five rows have have no factor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from annotated_types import Len
from pydantic import FailFast, Field, FiniteFloat

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.numbers import SHARING
from kan_diffusion.tables.rules.base import Broken, Places, Rows
from kan_diffusion.tables.rules.coded import (
    MOST_COMBINATIONS,
    Coded,
    Codes,
    are_held,
    coded_columns,
    codes_of,
    values_of,
)
from kan_diffusion.tables.rules.numeric import (
    NumericRule,
    numbers,
    real,
    rounding,
    scale,
    to_steps,
)

_SAMPLE, _FEWEST, _FEW, _LIKELY = 2_000, 8, 48, 0.85  # rows, and the share that make a candidate
_MANY, _MOST_VALUES = 20, 1_000  # numbers of a column, and categories that have a factor
_ROUNDED, _NEAR = 0.5 + 1e-6, 1e-6  # of a step, and of ratios of candidates


class Rated(NumericRule):
    """A number times the factor of another column's value is a third column.

    Attributes:
        codes: The values that have a factor, in order: the place of a category among those of its
            column, or a number in whole steps.
        factors: How many steps of the third column a step of the second makes with each.
    """

    least = 0.9

    places: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Len(3, 3)]
    codes: Codes
    factors: Annotated[tuple[FiniteFloat, ...], FailFast(), Len(1, MOST_COMBINATIONS)]

    @property
    def size(self) -> int:
        """Number of values and factors."""
        return 2 * len(self.codes)

    @property
    def amounts(self) -> Places:
        """Places of the two numbers."""
        return self.places[1:]

    @property
    def is_rounded(self) -> bool:
        """Whether the product is rounded with some factor."""
        return any(not factor.is_integer() for factor in self.factors)

    def names(self, columns: Sequence[Kind]) -> list[str]:
        """Writes it, such as "net*factor(rate)=tax"."""
        rate, amount, result = (columns[place].name for place in self.places)
        return [f"{amount}*factor({rate})={result}"]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are such columns, and a factor of each value."""
        is_paired = len(self.codes) == len(self.factors) and [*self.codes] == sorted({*self.codes})
        return super().fits(columns) and is_paired and are_held(columns[self.places[0]], self.codes)

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns the product, which follows from both others."""
        return {self.places[2]: {*self.places[:2]}}

    def _amounts(self, rows: Rows) -> list[np.ndarray]:
        """Returns the amounts of both numbers and the factors, NaN without one, (n,) each."""
        known, factors = np.array(self.codes), np.array(self.factors)
        codes, _ = codes_of(rows, self.places[0])
        at = np.searchsorted(known, codes).clip(0, len(known) - 1)
        return [*super()._amounts(rows), np.where(known[at] == codes, factors[at], np.nan)]

    def is_kept(self, x: Sequence[np.ndarray], tolerance: float) -> np.ndarray:
        """Tells where the product is right, but for its rounding, or there is no factor."""
        amount, result, factor = x
        expected = amount * factor
        most = tolerance * np.abs(expected) if tolerance else _ROUNDED
        return np.asarray(np.isnan(factor) | (np.abs(result - expected) <= most))

    def solved(self, x: Sequence[np.ndarray], which: int) -> np.ndarray:
        """Returns the product, or the amount, which stays where the factor is zero."""
        amount, result, factor = x
        if which == 1:
            return to_steps(amount * factor, result)
        return to_steps(np.where(factor == 0, amount, result / np.where(factor, factor, 1)), amount)

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Solves for a number; where that is not enough, it takes the nearest factor, too."""
        super().untell(rows, broken._replace(given=None))
        rate, amount, _ = self.places
        left = ~self.holds(rows.take(broken.rows, self.places)) & ~broken.stays[:, rate]
        values = values_of(rows.columns[rate], np.array(self.codes))
        factors, stays = np.array(self.factors), broken.stays[left, amount]
        self.set_nearest(rows, broken.rows[left], (rate, amount), factors, values, stays)
        if broken.given is not None:
            super().untell(rows, broken)

    @classmethod
    def find(cls, rows: Rows) -> Iterator[Self]:
        """Finds products by the factors of each column of few values.

        The amount often is a product, too, by the factors 1 / f, but for some rounding. So those of
        more values come first, then those whose products have finer steps relative to their size,
        and then those of factors with fewer digits.
        """
        random = np.random.default_rng(0)
        columns = {p: column for p, column in numbers(rows).items() if column.storage.unit is None}
        few, places = rows.sample(_SAMPLE, random), np.array([*columns], int)
        has_many = np.array(
            [len(np.unique(few.values(p)[~few.cells[p][1]])) > _MANY for p in columns], bool
        )
        found = []
        for rate, coded in coded_columns(rows).items():
            if coded.num > (_MANY if rate in columns else _MOST_VALUES):
                continue
            candidates = _candidates(rows, columns, coded) & has_many
            candidates &= (places != rate)[:, None] & (places[:, None] != places)
            for amount, result in np.argwhere(candidates):
                rule = cls._fitted(rows, (rate, int(places[amount]), int(places[result])))
                found += [rule.tested(rows, random)] if rule else []
        sizes = {p: np.abs(real(c, *few.cells[p])) for p, c in columns.items()}
        steps = {
            p: 0.0 if c.lattice.fine else float(scale(c)) * c.lattice.step / np.nanmean(sizes[p])
            for p, c in columns.items()
            if sizes[p][~np.isnan(sizes[p])].any()
        }

        def order(rule: Self) -> tuple[float, ...]:
            return -len(rule.codes), steps.get(rule.places[2], 0.0), rule._digits()

        return iter(sorted(filter(None, found), key=order))

    def _digits(self) -> int:
        """Counts the significant digits of all factors."""
        written = (f"{factor:.15g}".partition("e")[0] for factor in self.factors)
        return sum(len(re.sub("[-.]|^0[.0]*", "", each)) for each in written)

    @classmethod
    def _fitted(cls, rows: Rows, places: Places) -> Self | None:
        """Makes the rule of three columns with the factors that all rows say; None if all agree."""
        rate, *both = places
        columns = [numbers(rows)[place] for place in both]
        amount, result = (real(c, *rows.cells[p]) for p, c in zip(both, columns, strict=True))
        is_real = any(column.lattice.fine for column in columns)
        coded = Coded.of(*codes_of(rows, rate))
        if coded is None:
            return None
        known = np.flatnonzero((coded.dense >= 0) & ~np.isnan(amount + result) & (amount != 0))
        order = known[np.argsort(coded.dense[known], kind="stable")]
        amount, result = amount[order], result[order]
        half = _ROUNDED * float(scale(columns[1]))
        if is_real:
            half = np.abs(result) * rounding(columns) / 2
        steps = 1.0 if is_real else float(scale(columns[0]) / scale(columns[1]))
        ends = steps * np.sort([(result - half) / amount, (result + half) / amount], axis=0)
        begins = np.searchsorted(coded.dense[order], np.arange(coded.num + 1))
        shared = {
            int(code): _common(*ends[:, begin:end])
            for code, begin, end in zip(coded.codes, begins, begins[1:], strict=False)
            if end - begin >= SHARING
        }
        if max((low for low, _ in shared.values()), default=0.0) <= min(
            (high for _, high in shared.values()), default=0.0
        ):
            return None
        factors = tuple(_shortest(low, high) for low, high in shared.values())
        return cls(kind="rated", places=places, codes=tuple(shared), factors=factors)


def _candidates(rows: Rows, columns: Mapping[int, Number], coded: Coded) -> np.ndarray:
    """Tells which columns (k,) may be others (k,) times a factor, by the two commonest values.

    Of one of the values at least the factor is not zero, as it is of columns that are mostly zero.
    """
    counts = np.bincount(coded.dense[coded.dense >= 0])
    halves = np.array(
        [[0.0 if c.lattice.fine else _ROUNDED * float(scale(c))] for c in columns.values()]
    )
    are_near = np.ones((len(columns), len(columns)), bool)
    are_zero = are_near.copy()
    for value in np.argsort(-counts, kind="stable")[:2]:
        some = rows.take(np.flatnonzero(coded.dense == value)[:_FEW], [*columns])
        cells = np.array([real(column, *some.cells[p]) for p, column in columns.items()])
        for i, amount in enumerate(cells):
            share, factor = _share_near(amount, cells, halves)
            are_near[i] &= share >= _LIKELY
            are_zero[i] &= factor == 0
    return np.asarray(are_near & ~are_zero)


def _share_near(
    amount: np.ndarray, results: np.ndarray, halves: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns of which share of rows columns are an amount times a factor of each, and those.

    Args:
        amount: The amount, (n,).
        results: The columns, (k, n).
        halves: Half a step of each, (k, 1).

    Returns:
        Shares and factors, (k,) each; 1 and 0 where too few rows tell.
    """
    used = np.flatnonzero(~np.isnan(amount) & (amount != 0))
    with np.errstate(over="ignore"):
        ratios = results[:, used] / amount[used]
        off = halves / np.abs(amount[used]) + _NEAR * np.abs(ratios)
    known = (~np.isnan(ratios)).sum(axis=1)
    has_enough = known >= _FEWEST
    # An amount that the value implies would say nothing.
    if not has_enough.any() or (amount[used] == amount[used[0]]).all():
        return np.ones(len(results)), np.zeros(len(results))
    middle = np.take_along_axis(
        np.argsort(ratios, axis=1), known[:, None] // 2 * has_enough[:, None], 1
    )
    factor = np.take_along_axis(ratios, middle, 1)
    with np.errstate(invalid="ignore"):  # infinite ones are not near
        near = np.abs(ratios - factor) <= off + np.take_along_axis(off, middle, 1)
    share = near.sum(axis=1) / np.maximum(known, 1)
    return np.where(has_enough, share, 1.0), np.where(has_enough, factor[:, 0], 0.0)


def _common(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Returns the ends of what most of ranges, (n,) each, have in common."""
    ends = np.concatenate([low, high])
    order = np.argsort(ends, kind="stable")
    best = int(np.where(order < len(low), 1, -1).cumsum().argmax())
    return float(ends[order[best]]), float(ends[order[best + 1]])


def _shortest(low: float, high: float) -> float:
    """Returns the number with the fewest digits in a range."""
    middle = (low + high) / 2
    rounded = (float(f"{middle:.{digits}g}") for digits in range(1, 17))
    return next((each for each in rounded if low <= each <= high), middle)
