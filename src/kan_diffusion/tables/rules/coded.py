"""Cells as whole numbers: a category is its place among those of its column, a number its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Len
from pydantic import FailFast, Field

from kan_diffusion.limits import MOST_CATEGORIES
from kan_diffusion.tables.kinds import Kind
from kan_diffusion.tables.kinds.category import Category
from kan_diffusion.tables.kinds.number import Number
from kan_diffusion.tables.numbers import SHARING
from kan_diffusion.tables.rules.base import MOST_SOUGHT, Rows
from kan_diffusion.tables.rules.numeric import as_values, ends, whole

COVERED = 0.9
"""Least share of rows whose value at least five rows have, where a rule lists values."""

MOST_COMBINATIONS = 50_000

Code = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Codes = Annotated[tuple[Code, ...], FailFast(), Len(1, MOST_COMBINATIONS)]


class Coded(NamedTuple):
    """Cells of a column by their rank.

    Attributes:
        codes: What there is, (K,), in order.
        dense: Which of them each row has, (n,); -1 if missing.
    """

    codes: np.ndarray
    dense: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, missing: np.ndarray) -> Coded | None:
        """Ranks codes (n,), some of which are missing; None if they are nearly unique, or one."""
        codes, dense, counts = np.unique(values[~missing], return_inverse=True, return_counts=True)
        often = counts[counts >= SHARING].sum()
        if not 2 <= len(codes) <= MOST_CATEGORIES or often < COVERED * counts.sum():
            return None
        ranks = np.full(len(values), -1)
        ranks[~missing] = dense
        return cls(codes, ranks)

    @property
    def num(self) -> int:
        """K."""
        return len(self.codes)


def coded_columns(rows: Rows) -> dict[int, Coded]:
    """Ranks cells of columns that have categories or numbers, by place, most values first."""
    found: dict[int, Coded] = {}
    for place, column in enumerate(rows.columns):
        is_exact = isinstance(column, Number) and not column.lattice.fine
        if is_exact or isinstance(column, Category):
            coded = Coded.of(*codes_of(rows, place))
            if coded is not None and len(found) < MOST_SOUGHT:
                found[place] = coded
    return dict(sorted(found.items(), key=lambda each: -each[1].num))


def codes_of(rows: Rows, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cells of a column as whole numbers, (n,), and which are missing."""
    column, (values, missing) = rows.columns[place], rows.cells[place]
    if isinstance(column, Number):
        codes = whole(column, values)
        return (codes if codes.dtype.kind == "i" else codes.astype(np.int64)), missing
    return column.codes(values, missing), missing


def nearest(known: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns the places of codes (n,) among known ones in order; between two the nearer counts."""
    above = np.searchsorted(known, codes).clip(0, len(known) - 1)
    below = (above - 1).clip(0)
    is_below = np.abs(codes - known[below]) < np.abs(known[above] - codes)
    return np.where(is_below, below, above)


def are_held(column: Kind, codes: Sequence[int]) -> bool:
    """Whether a column can hold whole numbers, at least one; those of uint64 go round."""
    if isinstance(column, Category):
        return 0 <= min(codes) <= max(codes) < len(column.known)
    if not isinstance(column, Number) or column.lattice.fine:
        return False
    low, high = ends(column)
    return bool(high >= 2**63 or low <= min(codes) <= max(codes) <= high)


def values_of(column: Kind, codes: np.ndarray) -> np.ndarray:
    """Makes values of whole numbers (m,)."""
    return as_values(column, codes) if isinstance(column, Number) else column.known[codes]
