r"""A table as numbers and codes without gaps, for methods that know nothing else, and back.

A number is itself and a date its days since 1970. A category, a word or a truth value is the code
of one of K values, a gap among them being one more. Where numbers have gaps, these are filled with
the mean m, and a code beside them says which: (x, 0) for a value x, and (m, 1) where there is none.

The way back does for every method what SDV does for its own: numbers are rounded to the decimals
seen and clipped to the range seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["Plain", "PlainColumn", "is_number", "loose"]

_MOST_DECIMALS = 6
_DAY = pd.Timedelta(days=1)
_EPOCH = pd.Timestamp(0)


def is_number(column: pd.Series) -> bool:
    """Reports whether a column holds numbers or dates, rather than categories or truth values."""
    kinds = pd.api.types
    if kinds.is_bool_dtype(column.dtype):
        return False
    return kinds.is_numeric_dtype(column.dtype) or kinds.is_datetime64_any_dtype(column.dtype)


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    """Values of a column of numbers or dates (in days), NaN for a gap, with shape (n,)."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = (column - _EPOCH) / _DAY
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def loose(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of two dtypes: float64, dates being days and NaN a gap, and words, None being one.

    It is the same whatever dtypes a method has left.
    """
    return pd.DataFrame(
        {name: _numbers(c) if is_number(c) else _words(c) for name, c in frame.items()}
    )


def _words(cells: pd.Series) -> NDArray[np.object_]:
    known = cells.notna().to_numpy()
    return np.where(known, cells.astype(object).astype(str).to_numpy(object), None)


@dataclass(frozen=True)
class PlainColumn:
    """How one column is written.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        values: The values that codes stand for, None for a gap; None for numbers.
        gaps: Whether a column of numbers has gaps.
        mean: Their mean.
        bounds: Their smallest and largest value.
        decimals: Their decimals; None where there are too many.
    """

    name: str
    dtype: object
    values: tuple[object, ...] | None = None
    gaps: bool = False
    mean: float = 0.0
    bounds: tuple[float, float] = (0.0, 0.0)
    decimals: int | None = None

    @classmethod
    def of(cls, column: pd.Series) -> PlainColumn:
        """Reads off how a column is to be written."""
        name = str(column.name)
        if not is_number(column):
            known = column.dropna().unique().tolist()
            gap = [None] if column.isna().any() else []
            return cls(name, column.dtype, (*sorted(known), *gap))
        cells = _numbers(column)
        known = cells[~np.isnan(cells)]
        exact = (d for d in range(_MOST_DECIMALS) if np.array_equal(known.round(d), known))
        return cls(
            name,
            column.dtype,
            gaps=len(known) < len(cells),
            mean=float(known.mean()),
            bounds=(float(known.min()), float(known.max())),
            decimals=next(exact, None),
        )

    def restored(self, cells: NDArray[np.float64]) -> pd.Series:
        """The column of its numbers (days for dates), rounded and clipped, in the dtype it had."""
        if self.decimals is not None:
            cells = cells.round(self.decimals)
        cells = cells.clip(*self.bounds)
        if isinstance(self.dtype, np.dtype) and self.dtype.kind == "M":
            days = pd.to_timedelta(pd.Series(cells), unit="D")
            return (_EPOCH + days).astype(self.dtype)
        return pd.Series(cells).astype(self.dtype)


@dataclass(frozen=True)
class Plain:
    """How a table is written as numbers and codes.

    Attributes:
        columns: Its columns, in order.
    """

    columns: tuple[PlainColumn, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Plain:
        """Reads off how a table with at least one value in each column is to be written."""
        return cls(tuple(PlainColumn.of(frame[name]) for name in frame))

    @property
    def counts(self) -> dict[str, int]:
        """The plain columns of codes, with the number of codes of each."""
        found = {}
        for column in self.columns:
            if column.values is not None:
                found[column.name] = len(column.values)
            elif column.gaps:
                found[_flag(column)] = 2
        return found

    def write(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table's numbers (float64) and codes (int64), without gaps.

        Args:
            frame: A table with these columns and no value of a category that is not known.
        """
        plain: dict[str, NDArray[np.generic]] = {}
        for column in self.columns:
            cells = frame[column.name]
            if column.values is None:
                known = _numbers(cells)
                missing = np.isnan(known)
                plain[column.name] = np.where(missing, column.mean, known)
                if column.gaps:
                    plain[_flag(column)] = missing.astype(np.int64)
            else:
                code = {value: place for place, value in enumerate(column.values)}
                values = cells.astype(object).where(cells.notna(), None)
                plain[column.name] = np.array([code[value] for value in values], np.int64)
        return pd.DataFrame(plain)

    def read(self, plain: pd.DataFrame) -> pd.DataFrame:
        """The table of numbers and codes, which are rounded and clipped."""
        frame = {}
        for column in self.columns:
            cells = plain[column.name].to_numpy(np.float64)
            if column.values is None:
                restored = column.restored(cells)
                if column.gaps:
                    restored = restored.mask(plain[_flag(column)].to_numpy(np.float64) > 0.5)
            else:
                codes = cells.round().clip(0, len(column.values) - 1).astype(int)
                restored = pd.Series([column.values[code] for code in codes], dtype=column.dtype)
            frame[column.name] = restored
        return pd.DataFrame(frame)


def _flag(column: PlainColumn) -> str:
    return f"{column.name} is missing"
