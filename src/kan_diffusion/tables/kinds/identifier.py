"""Columns that tell rows apart, which are not learned: drawn rows get new identifiers.

A new identifier is the beginning that all known ones share, a number above the largest seen there,
rounded up, so that it tells no row, and the end that all share. Where known numbers of one width
are far apart, as those of telephones are, new ones have that width, too: they are from the widest
gap between known ones.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from kan_diffusion.errors import DataError
from kan_diffusion.limits import LONGEST_CELL
from kan_diffusion.tables.dtypes import Holds
from kan_diffusion.tables.kinds.base import Cells, Kind

_FEWEST = 20  # rows of an identifier
_NEARLY_UNIQUE = 0.95  # share of different values
_EXPECTED = 10.0  # fewest pairs of equal numbers by chance, if numbers were no identifiers
_YEARS = (1500, 2200)  # consecutive whole numbers within these are years, not identifiers
_DIGITS, _WIDEST = 18, 20  # of a number in text, and of one of 64 bits
_FAR_APART = 0.02  # share of the numbers between the ends that are known


class Identifier(Kind):
    """A column whose values are unique.

    Attributes:
        prefix: Text before the number.
        suffix: Text after the number.
        digits: Fewest digits of the number, which zeros fill up.
        first: The first new number.
        gap: First number, and number after the last, of a gap that new ones are taken from before
            that; empty where there is none.
    """

    holds: ClassVar[frozenset[Holds]] = frozenset({"whole", "real", "text"})
    is_learned: ClassVar[bool] = False

    prefix: Annotated[str, Field(max_length=LONGEST_CELL)] = ""
    suffix: Annotated[str, Field(max_length=LONGEST_CELL)] = ""
    digits: Annotated[int, Field(ge=0, le=_DIGITS)] = 0
    first: Annotated[int, Field(ge=1, le=10**20)] = 1
    gap: tuple[
        Annotated[int, Field(ge=0, le=10**_DIGITS)], Annotated[int, Field(le=10**_DIGITS)]
    ] = (
        0,
        0,
    )

    @classmethod
    def suits(cls, cells: Cells) -> bool:
        """Tells whether a column is nearly unique: text, or whole numbers that would repeat.

        Of n whole numbers over a range r, about n^2 / 2r pairs would be equal by chance.
        """
        storage, num, distinct = cells.storage, len(cells.present), cells.distinct
        if storage.values is not None or storage.holds not in cls.holds or num < _FEWEST:
            return False
        if len(distinct) < _NEARLY_UNIQUE * num:
            return False
        if storage.holds == "text":
            return True
        if cls.problem(cells) is not None:
            return False
        low, high = int(distinct.min()), int(distinct.max())
        are_years = _YEARS[0] <= low <= high < _YEARS[1]
        by_chance = num**2 / (2 * (high - low + 1))
        repeated = num - len(distinct)
        return by_chance >= _EXPECTED and repeated < by_chance / 10 and not are_years

    @classmethod
    def problem(cls, cells: Cells) -> str | None:
        """Says what is no identifier: other types, negative numbers, or no room for new ones."""
        if reason := super().problem(cells):
            return reason
        if cells.storage.holds == "text":
            return None
        if cells.storage.holds == "real" and (cells.present != np.rint(cells.present)).any():
            return "holds numbers that are not whole"
        if cells.present.min() < 0:
            return "holds numbers below 0"
        if 2 * int(cells.present.max()) > cells.storage.limits[1]:
            return f"holds numbers that leave no room for new ones in {cells.storage.dtype}"
        return None

    @classmethod
    def fitted(cls, cells: Cells) -> dict[str, object]:
        """Describes identifiers like those of the column."""
        values = cells.present
        if values.dtype.kind != "O":
            return {
                "first": _beyond(values, "", "", 1),
                "gap": _gap([str(int(one)) for one in values]),
            }
        shared = _beginning(values)
        ends, suffix = _parted([value.removeprefix(shared) for value in values])
        prefix, gap = shared, _gap(ends)
        if not any(gap):
            prefix = shared.rstrip(string.digits)
        digits = min(min(map(len, values)) - len(prefix) - len(suffix), _DIGITS)
        first = _beyond(values, prefix, suffix, 1)
        about = {"prefix": prefix, "suffix": suffix, "digits": digits}
        return {**about, "first": first, "gap": gap}

    def warning(self, cells: Cells, given: bool) -> str:
        """Says that new identifiers are made, unless that was asked for."""
        if given:
            return ""
        return (
            f"column '{self.name}' identifies rows: it is not learned, and drawn rows get new "
            "ones; give it another kind to learn it"
        )

    def values(self, scores: np.ndarray) -> np.ndarray:
        """Returns placeholders, 0 or "", for :meth:`numbered`."""
        return self.storage.empty(len(scores))

    def numbered(self, drawn: pd.Series, given: pd.Series | None = None) -> pd.Series:
        """Gives new identifiers to drawn cells (n,) that are neither missing nor given.

        New ones differ from the given ones (n,), too.

        Raises:
            DataError: The column's dtype has no room for so many.
        """
        values, missing = self.read(drawn)
        known, free = (values, ~missing) if given is None else self.read(given)
        new = np.flatnonzero(free & ~missing)
        first = _beyond(known[~free], self.prefix, self.suffix, self.first)
        numbers = range(first, first + len(new))
        taken = {*known[~free].tolist()}
        unseen = (n for n in range(*self.gap) if self._written(n) not in taken)
        if len(between := [*islice(unseen, len(new))]) == len(new):
            values[new] = [self._written(number) for number in between]
        elif self.storage.holds == "text":
            values[new] = [self._written(number) for number in numbers]
        elif numbers.stop <= self.storage.limits[1]:
            values[new] = np.array(numbers, values.dtype)
        else:
            raise DataError(
                f"column '{self.name}' has no room for {len(new):,} new identifiers, since its "
                f"dtype is {self.storage.dtype}; draw fewer rows, or fit a wider dtype"
            )
        return self.restore(values, missing)

    def _written(self, number: int) -> int | str:
        text = self.storage.holds == "text"
        return f"{self.prefix}{number:0{self.digits}}{self.suffix}" if text else number

    def require_possible(self, values: np.ndarray) -> None:
        """Refuses conditions."""
        raise DataError(
            f"column '{self.name}' holds identifiers, which are made anew; leave it out"
        )

    def scale(self, present: np.ndarray) -> None:
        """Leaves identifiers out."""

    def words(self) -> str:
        """Says that values are unique."""
        return "unique"


def _beginning(texts: Sequence[str] | np.ndarray) -> str:
    """Returns what all texts begin with, at most a cell of a table."""
    pairs = zip(min(texts), max(texts), strict=False)
    equal = (low for low, high in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return "".join(islice(equal, LONGEST_CELL))


def _parted(ends: Sequence[str]) -> tuple[Sequence[str], str]:
    """Parts numbers and the text that stands after all of them; "" if there is other text."""
    suffix = _beginning([end[::-1] for end in ends])[::-1].lstrip(string.digits)
    numbers = [end.removesuffix(suffix) for end in ends]
    return (numbers, suffix) if all(map(str.isdecimal, numbers)) else (ends, "")


def _beyond(known: np.ndarray, prefix: str, suffix: str, first: int) -> int:
    """Returns a number beyond those of known identifiers, (m,), and at least the ``first``."""
    known = known.astype(np.int64) if known.dtype.kind == "f" else known
    ends = (str(one).removeprefix(prefix).removesuffix(suffix) for one in known)
    longest = _DIGITS if known.dtype.kind == "O" else _WIDEST
    largest = max((int(end) for end in ends if end.isdecimal() and len(end) <= longest), default=0)
    unit = 10 ** max(0, len(str(largest)) - 2)
    return max(first, (largest // unit + 1) * unit)


def _gap(ends: Sequence[str]) -> tuple[int, int]:
    """Returns the widest gap between numbers of one width that are far apart, rounded inwards."""
    width = len(ends[0])
    if not 2 < width <= _DIGITS or not all(len(e) == width and e.isdecimal() for e in ends):
        return 0, 0
    known = np.unique(np.array(ends, dtype=np.int64))
    apart = np.diff(known)
    if not len(apart) or len(known) > _FAR_APART * (known[-1] - known[0]):
        return 0, 0
    low, high = int(known[apart.argmax()]), int(known[apart.argmax() + 1])
    unit = 10 ** max(0, len(str(high - low)) - 2)
    return (low // unit + 1) * unit, max(high // unit, low // unit + 1) * unit
