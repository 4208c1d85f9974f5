"""Conditions on rows of a table: for some columns a value, a set of values or a range.

A program gives a mapping, ``{"species": "setosa", "petal length": (1.0, 1.5)}``. What a person
writes, ``species=setosa``, ``species in setosa, virginica``, ``1.0<=petal length<=1.5`` or
``age>=30``, becomes such a mapping. Rows must meet all conditions.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kan_diffusion.errors import DataError, listed
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.columns import Column
from kan_diffusion.tables.dtypes import WORDS

__all__ = ["Condition", "conditions_from_texts", "read_conditions"]

_COMPARED = re.compile(r"(?:([^<>=]+)<=)?([^<>=]+)(<=|>=|=)(.*)", re.DOTALL)
_AMONG = re.compile(r"(.+?)\sin\s(.+)", re.DOTALL)
_WHOLE = re.compile(r"[+-]?\d{1,19}")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def conditions_from_texts(texts: Sequence[str]) -> dict[object, object]:
    """Parses conditions that a person writes.

    These are such as ``species=setosa``, ``species in setosa, virginica``, ``1<=length<=1.5``,
    ``age>=30``, or ``income=`` for a gap, and become what :func:`read_conditions` reads.

    Raises:
        DataError: A text is no condition, or two are on one column.
    """
    found: dict[object, object] = {}
    for name, given in map(_parsed, texts):
        if name in found:
            raise DataError(
                f"there are two conditions on column '{name}'; write one, such as '30<=age<=40' "
                "or 'species in setosa, virginica'"
            )
        found[name] = given
    return found


def _parsed(text: str) -> tuple[str, object]:
    if match := _COMPARED.fullmatch(text):
        low, name, sign, value = (part and part.strip() for part in match.groups())
        if low is None and sign == "=":
            return name, value or None
        if value and sign == "<=":
            return name, (low, value)
        if value and low is None:
            return name, (value, None)
    elif match := _AMONG.fullmatch(text):
        entries = next(csv.reader([match[2].strip()], skipinitialspace=True))
        return match[1].strip(), [entry.strip() for entry in entries]
    raise DataError(
        f"'{text}' is no condition; write one such as 'species=setosa', 'age>=30', "
        "'1.0<=length<=1.5' or 'species in setosa, virginica'"
    )


@dataclass(frozen=True)
class Condition:
    """Requires the cells of a column to be among given values, or within a range.

    Attributes:
        column: The column.
        values: The values, shape (m,); of a range the smallest and the largest that are drawn.
        gap: Whether a missing cell meets the condition.
        ends: Ends of the range, inclusive, None for an open one; None for a set of values.
    """

    column: Column
    values: np.ndarray
    gap: bool = False
    ends: tuple[np.generic | None, np.generic | None] | None = None

    @property
    def is_value(self) -> bool:
        """Whether only a single value, or only a gap, meets the condition."""
        return self.ends is None and len(self.values) + self.gap == 1

    def holds(self, series: pd.Series) -> np.ndarray:
        """Tells which cells of the column meet the condition, shape (n,), bool."""
        found, missing = self.column.read(series)
        met = np.isin(found, self.values) if self.ends is None else _within(found, *self.ends)
        return np.where(missing, self.gap, met)

    def cells(self, count: int) -> pd.Series:
        """Returns the single value that meets the condition as ``count`` cells of its column."""
        storage = self.column.storage
        value = storage.empty(1) if self.gap else self.values
        return storage.restore(np.repeat(value, count), np.full(count, self.gap))


def read_conditions(
    conditions: Mapping[object, object], codec: TableCodec
) -> dict[object, Condition]:
    """Reads conditions on the rows of a table.

    Args:
        conditions: For each column a value (None for a gap), a list or set of values, or a pair
            (low, high) with None for an open end.
        codec: The codec of the table.

    Returns:
        A condition for each column, by name.

    Raises:
        DataError: A column or category is not known, or no value of a column meets its condition.
    """
    found: dict[object, Condition] = {}
    for name, given in conditions.items():
        column = codec.column(name)
        if column.kind == "identifier":
            raise DataError(f"column '{name}' holds identifiers, which are made anew; leave it out")
        if isinstance(given, tuple) and len(given) == 2:
            condition = _between(column, *given)
        elif isinstance(given, Collection) and not isinstance(given, str):
            condition = _among(column, list(given))
        else:
            condition = _among(column, [given])
        found[column.name] = condition
    return found


def _is_gap(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def _known(column: Column) -> np.ndarray:
    """Returns all values that a column can have, or the smallest and the largest of many."""
    known = column.known
    if column.lattice is not None:
        known = column.lattice.values(np.array([-np.inf, np.inf]), known.dtype)
    return np.append(known, np.zeros(1, known.dtype)) if column.zero else known


def _among(column: Column, given: Sequence[object]) -> Condition:
    """Makes the condition that a cell has one of the given values; None is a gap."""
    cells = [_value(column, value) for value in given if not _is_gap(value)]
    gap = len(cells) < len(given)
    if not given or (gap and not column.missing):
        what = "has no gaps" if gap else "is to have one of no values"
        raise DataError(f"column '{column.name}' {what}; give a value")
    values, _ = column.read(_as_held(column, cells))
    known = _known(column)
    unknown = values[~np.isin(values, known)]
    if len(unknown) and column.lattice is None:
        raise DataError(
            f"column '{column.name}' has no value '{unknown[0]}'; known: {listed(np.sort(known))}"
        )
    return Condition(column, np.unique(values), gap)


def _between(column: Column, *given: object) -> Condition:
    """Makes the condition that a cell is between two ends; None is an open end."""
    named = column.storage.holds == "text"
    if named and not column.storage.ordered:
        raise DataError(
            f"column '{column.name}' has categories and no ranges; give a value or a list"
        )
    known = _known(column)
    low, high = _end(column, given[0], -math.inf), _end(column, given[1], math.inf)
    if (low, high) == (None, None):
        raise DataError(f"the range of column '{column.name}' has no ends; give one")
    if named:  # in the order of the categories
        names = known.tolist()
        first = 0 if low is None else names.index(low)
        values = known[first : None if high is None else names.index(high) + 1]
    elif column.lattice is None:
        values = known[_within(known, low, high)]
    else:  # any number between the ends of both
        reached = _within(known, low, None).any() and _within(known, None, high).any()
        ordered = low is None or _within(np.array([low]), None, high).all()
        values = known if reached and ordered else known[:0]
    if not len(values):
        what = "known" if column.lattice is None else "smallest and largest"
        raise DataError(
            f"no value of column '{column.name}' is within ({given[0]}, {given[1]}); {what}: "
            f"{listed(np.sort(known))}"
        )
    return Condition(column, values, ends=None if column.lattice is None else (low, high))


def _end(column: Column, given: object, open: float) -> np.generic | None:
    """Returns an end of a range as the column's values are; None for an open one."""
    value = None if _is_gap(given) else _value(column, given)
    if value is None or value == open:
        return None
    if column.storage.holds == "text":
        return _among(column, [value]).values[0]
    end: np.generic = column.storage.read(_as_held(column, [value]), column.name)[0][0]
    return end


def _as_held(column: Column, cells: Sequence[object]) -> pd.Series:
    """Makes cells of values; real numbers are rounded as the column's dtype does."""
    is_real = column.storage.holds == "real"
    return pd.Series(cells, dtype=column.storage.pandas_dtype() if is_real else None)


def _within(found: np.ndarray, low: np.generic | None, high: np.generic | None) -> np.ndarray:
    above = np.ones(len(found), bool) if low is None else found >= low
    return above if high is None else above & (found <= high)


def _value(column: Column, given: object) -> object:
    """Converts a value, whoever wrote it, to the type of the column's values.

    Raises:
        DataError: It is of another type.
    """
    holds, zone, text = column.storage.holds, column.storage.zone, str(given).strip()
    try:
        match holds:
            case "text":
                return str(given)
            case "truth":
                return _TRUTH[text.lower().removesuffix(".0")]
            case "whole" | "real":
                number = int(text) if _WHOLE.fullmatch(text) else float(given)  # type: ignore[arg-type]
                if math.isnan(number):
                    raise ValueError
                return number
        if column.storage.written is not None and isinstance(given, str):
            return text  # dates as their column writes them
        cell = pd.Series([given], dtype=object)
        time = (pd.to_datetime if holds == "moment" else pd.to_timedelta)(cell)[0]
        if time is pd.NaT:
            raise ValueError
        if isinstance(time, pd.Timestamp) and time.tzinfo is None:
            return time.tz_localize(zone or "UTC")
        return time
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"column '{column.name}' holds {WORDS[holds]}, not '{given}'") from error
