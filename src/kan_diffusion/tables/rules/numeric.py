"""Rules of numbers and dates, which are computed in whole steps of their lattices.

Numbers with d decimals are whole numbers of 10^-d, dates and time spans of their unit, so that sums
are exact; only where a column holds numbers as fine as float64 are all of a rule real numbers, and
dates and spans days. A cell is *solved* for by all others of its rule.

A drawn row is mended by what the rule tells, within the range of its column. Where that does not
suffice, another cell that may change is solved for, and at last, when cells that other rules tell
may change too, one beyond its range.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice

import numpy as np

from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.numbers import A_DAY
from kan_diffusion.tables.rules.base import MOST_SOUGHT, Broken, Places, Rows, Rule

LARGEST = 2.0**60  # whole number whose sums are exact
_LARGEST_DATE = 2.0**62  # nanoseconds until 2116; of two dates a difference counts
_SINGLE = 1e39  # beyond the largest number of single precision
_ROUNDING = {True: 1e-6, False: 1e-9}  # of sums of single and double precision, relative to terms
_COUNTED = 10_000  # rows whose heaps are counted
_AT_ONCE = 2_000  # rows for which options are tried
_LESS_HEAPED = 2  # times as often as in the least heaped column, two cells of one may be equal


def numbers(rows: Rows, exact: bool = True) -> dict[int, Number]:
    """Returns columns of numbers and dates by place, not too many; those whose sums are exact."""
    found = {
        place: column
        for place, column in enumerate(rows.columns)
        if isinstance(column, Number)
        and (not exact or column.lattice.fine or furthest(column) < largest([column]))
    }
    return dict(islice(found.items(), MOST_SOUGHT))


def largest(columns: Sequence[Number]) -> float:
    """Returns the largest whole number in sums of such columns, which are exact up to it."""
    is_number = all(column.storage.unit is None for column in columns)
    return LARGEST if is_number else _LARGEST_DATE * min(len(columns), 2)


def rounding(columns: Sequence[Number]) -> float:
    """Returns the rounding of sums and products of columns, of which one at least is fine."""
    ends = [column.storage.limits[1] for column in columns if column.storage.holds == "real"]
    return _ROUNDING[min(ends) < _SINGLE]


def scale(column: Number) -> Fraction:
    """Returns what a whole step of a column is, in its unit, or in days."""
    unit = column.storage.unit
    return Fraction(1, column.lattice.per if unit is None else A_DAY[unit])


def whole(column: Number, values: np.ndarray) -> np.ndarray:
    """Returns values (n,) as whole numbers of 64 bits; fine ones as they are."""
    if values.dtype.kind in "mM":
        return values.view(np.int64)
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    scaled = values.astype(np.float64) * column.lattice.per
    return scaled if column.lattice.fine else np.rint(scaled).clip(-LARGEST, LARGEST).astype(int)


def as_values(column: Number, steps: np.ndarray) -> np.ndarray:
    """Returns the values (n,) that :func:`whole` makes such numbers of."""
    storage = column.storage
    if storage.holds == "real":
        return steps / column.lattice.per
    if steps.dtype.kind == "f":
        steps = np.rint(steps)
    if storage.unit is not None:
        return steps.astype(np.int64).view(storage.value_dtype)
    return steps.astype(storage.value_dtype)


def ends(column: Number) -> tuple[float, float]:
    """Returns the smallest and the largest number that a dtype has, in steps."""
    low, high = column.storage.limits
    return low * column.lattice.per, high * column.lattice.per


def _nearest_held(column: Number, steps: np.ndarray) -> np.ndarray:
    """Makes values of whole steps (m,), the nearest that the dtype of a column holds."""
    low, high = ends(column)
    for off, end in ((steps < low, low), (steps > high, high)):
        if off.any():
            steps = np.where(off, end, steps)
    return as_values(column, steps)


def reach(column: Number) -> np.ndarray:
    """Returns the smallest and the largest number of a lattice, as :func:`whole` gives them."""
    ends = column.lattice.values(np.array([-np.inf, np.inf]), column.storage.value_dtype)
    return whole(column, np.minimum(ends, 2**62) if ends.dtype.kind == "u" else ends)


def furthest(column: Number) -> float:
    """Returns the largest absolute number of a lattice, as :func:`whole` gives it."""
    return float(np.abs(reach(column).astype(np.float64)).max())


def beyond(rows: Rows) -> np.ndarray:
    """Tells which numbers and dates are beyond the range of their column, (n, columns)."""
    result = np.zeros((len(rows.values(0)), len(rows.columns)), dtype=bool)
    for place, column in numbers(rows, exact=False).items():
        (values, missing), reached = rows.cells[place], column.reach
        if column.storage.holds == "real":  # as the dtype rounds the ends
            values, _ = column.parse(column.restore(values, missing))
        result[:, place] = ~missing & ((values < reached[0]) | (values > reached[-1]))
    return result


def to_steps(amounts: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Rounds real amounts (n,) to whole numbers where others are whole."""
    if like.dtype.kind == "f":
        return amounts
    return np.rint(amounts).clip(-LARGEST, LARGEST).astype(np.int64)


def real(column: Number, values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Returns cells (n,) as real numbers in the unit of the column or days, NaN if missing."""
    # Whole numbers of 64 bits have no room for all without a sign.
    amounts = values if values.dtype.kind == "u" else whole(column, values)
    return np.where(missing, np.nan, amounts * float(scale(column)))


class NumericRule(Rule):
    """An equation between the numbers or dates of some columns."""

    @property
    def amounts(self) -> Places:
        """Places of the columns that are solved for."""
        return self.places

    def following(self, columns: Sequence[Kind]) -> dict[int, set[int]]:
        """Returns for each of its columns all others."""
        return {place: {*self.places} - {place} for place in self.amounts}

    def is_kept(self, x: Sequence[np.ndarray], tolerance: float) -> np.ndarray:
        """Tells where amounts, one array (n,) for each column, keep it, but for rounding."""
        raise NotImplementedError

    def solved(self, x: Sequence[np.ndarray], which: int) -> np.ndarray:
        """Returns the amounts (n,) of one column that follow from those of the others."""
        raise NotImplementedError

    def parts(self, columns: Sequence[Kind]) -> list[Number]:
        """Returns the columns that are solved for."""
        return [column for p in self.amounts if isinstance(column := columns[p], Number)]

    def fits(self, columns: Sequence[Kind]) -> bool:
        """Whether there are so many numbers or dates."""
        return super().fits(columns) and len(self.parts(columns)) == len(self.amounts)

    def _units(self, columns: Sequence[Kind]) -> tuple[list[float], float]:
        """Returns what a whole step of each amount is, 1 where all are whole, and the tolerance."""
        parts = self.parts(columns)
        if not any(column.lattice.fine for column in parts):
            return [1] * len(parts), 0.0
        return [float(scale(column)) for column in parts], rounding(parts)

    def _amounts(self, rows: Rows) -> list[np.ndarray]:
        units, _ = self._units(rows.columns)
        return [
            whole(column, rows.values(place)) * unit
            for place, column, unit in zip(
                self.amounts, self.parts(rows.columns), units, strict=True
            )
        ]

    def holds(self, rows: Rows) -> np.ndarray:
        """Tells where it holds, or a cell is missing."""
        _, tolerance = self._units(rows.columns)
        return self.is_kept(self._amounts(rows), tolerance) | ~rows.known(self.places)

    def choices(self, rows: Rows) -> Sequence[Places]:
        """Returns columns that follow, best the one that is least heaped: heaps are better learned.

        Another one would lose the digits that it has beyond those of the others.
        """
        heaps, follow = [], sorted(self.following(rows.columns))
        for place in follow:
            values, missing = rows.cells[place]
            some = values[~missing][:: 1 + len(values) // _COUNTED]
            _, counts = np.unique(some, return_counts=True)
            heaps.append(((counts / max(counts.sum(), 1)) ** 2).sum())
        near = _LESS_HEAPED * min(heaps)
        best = sorted(range(len(heaps)), key=lambda i: (heaps[i] > near and heaps[i], -i))
        return [(follow[i],) for i in best]

    def untell(self, rows: Rows, broken: Broken) -> None:
        """Solves for what it tells, then for other cells that may change.

        Cells stay within their ranges if that suffices, or if it is not known which are given.
        """
        columns = self.parts(rows.columns)
        units, tolerance = self._units(rows.columns)
        x = self._amounts(rows.take(broken.rows, self.places))
        dependent = [self.amounts.index(place) for place in self.dependent]
        order = [*dependent, *(i for i in reversed(range(len(columns))) if i not in dependent)]
        changed = np.zeros((len(columns), len(broken.rows)), bool)
        for is_within in (True,) if broken.given is None else (True, False):
            for i in order:
                wrong = ~self.is_kept(x, tolerance) & ~broken.stays[:, self.amounts[i]]
                amounts = self.solved([each[wrong] for each in x], i)
                if is_within:
                    amounts = amounts.clip(*reach(columns[i]) * units[i])
                x[i][wrong] = amounts
                changed[i] |= wrong
        for column, place, amounts, unit, some in zip(
            columns, self.amounts, x[: len(columns)], units, changed, strict=True
        ):
            steps = amounts[some] / unit if tolerance else amounts[some]
            if broken.given is not None and self.kept == 1:  # what has exceptions gives way
                low, high = ends(column)
                off = broken.given[some][:, self.places].any(axis=1)
                off &= (steps < low) | (steps > high)
                self.refuse(rows.columns, place, steps[off] / column.lattice.per)
            rows.change(place, broken.rows[some], _nearest_held(column, steps))

    def set_nearest(
        self,
        rows: Rows,
        some: np.ndarray,
        places: tuple[int, int],
        options: np.ndarray,
        values: np.ndarray,
        stays: np.ndarray,
    ) -> None:
        """Sets one amount to the nearest option with which another one is of whole steps.

        Args:
            rows: All rows.
            some: Those that break it, (m,); where no option fits, they stay as they are.
            places: Places of the two columns.
            options: What the first amount may be, (K,).
            values: The same as values of its column, (K,).
            stays: In which of the rows the second stays, too, (m,).
        """
        amounts = [*self.amounts, *(place for place in self.places if place not in self.amounts)]
        which, solved = map(amounts.index, places)
        column, (units, tolerance) = self.parts(rows.columns)[solved], self._units(rows.columns)
        least, most = reach(column) * units[solved]
        x = [each[:, None] for each in self._amounts(rows.take(some, self.places))]
        drawn, x[which] = x[which], options[None]
        for part in np.array_split(np.arange(len(some)), 1 + len(some) // _AT_ONCE):
            tried = [each if i == which else each[part] for i, each in enumerate(x)]
            follows = np.where(stays[part, None], tried[solved], self.solved(tried, solved))
            tried[solved] = follows
            fits = self.is_kept(tried, tolerance) & (least <= follows) & (follows <= most)
            best = np.where(fits, np.abs(options - drawn[part]), np.inf).argmin(axis=1)
            has_one = fits[np.arange(len(part)), best]
            part, best = part[has_one], best[has_one]
            rows.change(places[0], some[part], values[best])
            steps = follows[has_one, best] / units[solved]
            rows.change(places[1], some[part], _nearest_held(column, steps))
