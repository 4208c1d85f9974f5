r"""A table as numbers and codes without gaps, for methods that know nothing else, and back.

A number is itself and a date its days since 1970. A category, a word or a truth value is the code
of one of K values, a gap among them being one more. Where numbers have gaps, these are filled with
the mean m, and a code beside them says which: (x, 0) for a value x, and (m, 1) where there is none.

The way back does for every method what SDV does for its own: numbers are rounded to the decimals
seen and clipped to the range seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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


class Plain(NamedTuple):
    """A table as numbers and codes.

    Attributes:
        rows: Its numbers (float64) and codes (int64), without gaps.
        counts: The columns of codes, with the number of codes of each.
        read: Gives the table of such rows, which are rounded and clipped.
    """

    rows: pd.DataFrame
    counts: Mapping[str, int]
    read: Callable[[pd.DataFrame], pd.DataFrame]


def plain(frame: pd.DataFrame) -> Plain:
    """Writes a table with at least one value in each column as numbers and codes."""
    rows: dict[str, NDArray[np.generic]] = {}
    counts: dict[str, int] = {}
    readers: dict[str, Callable[[pd.DataFrame], pd.Series]] = {}
    for name, column in frame.items():
        gaps = column.isna().to_numpy()
        flag = f"{name} is missing" if gaps.any() else ""
        if is_number(column):
            cells = _numbers(column)
            rows[name] = np.where(gaps, np.nanmean(cells), cells)
            if flag:
                rows[flag], counts[flag] = gaps.astype(np.int64), 2
            readers[name] = partial(_number_column, column, flag)
        else:
            values = [*sorted(column.dropna().unique().tolist()), *[None] * bool(flag)]
            code = {value: place for place, value in enumerate(values)}
            words = column.astype(object).where(~gaps, None)
            rows[name] = np.array([code[word] for word in words], np.int64)
            counts[name] = len(values)
            readers[name] = partial(_word_column, column, values)

    def read(made: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({name: reader(made) for name, reader in readers.items()})

    return Plain(pd.DataFrame(rows), counts, read)


def _number_column(column: pd.Series, flag: str, rows: pd.DataFrame) -> pd.Series:
    """A column of numbers or dates like another one, with gaps where its flag is set, if any."""
    known, cells = _numbers(column.dropna()), rows[column.name].to_numpy(np.float64)
    exact = (d for d in range(_MOST_DECIMALS) if np.array_equal(known.round(d), known))
    if (decimals := next(exact, None)) is not None:
        cells = cells.round(decimals)
    made = pd.Series(cells.clip(known.min(), known.max()))
    if isinstance(column.dtype, np.dtype) and column.dtype.kind == "M":
        made = _EPOCH + pd.to_timedelta(made, unit="D")
    made = made.astype(column.dtype)
    return made.mask(rows[flag].to_numpy(np.float64) > 0.5) if flag else made


def _word_column(column: pd.Series, values: Sequence[object], rows: pd.DataFrame) -> pd.Series:
    """A column of categories, words or truth values like another one."""
    codes = rows[column.name].to_numpy(np.float64).round().clip(0, len(values) - 1).astype(int)
    return pd.Series([values[code] for code in codes], dtype=column.dtype)
