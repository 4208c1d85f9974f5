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

__all__ = ["Condition", "conditions_from_texts", "read_conditions"]

_SOME = 33
_COMPARED = re.compile(r"(?:([^<>=]+)<=)?([^<>=]+)(<=|>=|=)(.*)", re.DOTALL)
_AMONG = re.compile(r"(.+?)\sin\s(.+)", re.DOTALL)
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def conditions_from_texts(texts: Sequence[str]) -> dict[object, object]:
    """Parses conditions that a person writes.

    Args:
        texts: Such as ``species=setosa``, ``species in setosa, virginica``, ``1<=length<=1.5``,
            ``age>=30``, or ``income=`` for a gap.

    Returns:
        What :func:`read_conditions` reads: a value, a list or a pair of ends for each column.

    Raises:
        DataError: A text is no condition, or two are on one column.
    """
    found: dict[object, object] = {}
    for text in texts:
        name, given = _parsed(text)
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
        values: The values, shape (m,); of a range some, evenly spaced in the column's steps.
        gap: Whether a missing cell meets the condition.
        ends: Ends of the range, inclusive, None for an open one; None for a set of values.
    """

    column: Column
    values: np.ndarray
    gap: bool = False
    ends: tuple[np.ndarray | None, np.ndarray | None] | None = None

    @property
    def is_value(self) -> bool:
        """Whether only a single value, or only a gap, meets the condition."""
        return self.ends is None and len(self.values) + self.gap == 1

    def holds(self, series: pd.Series) -> np.ndarray:
        """Tells which cells of the column meet the condition, shape (n,), bool."""
        found, missing = self.column.read(series)
        met = np.isin(found, self.values) if self.ends is None else _within(found, *self.ends)
        return np.where(missing, self.gap, met)

    def some(self) -> pd.Series:
        """Returns one or more cells that meet the condition, with the column's dtype."""
        missing = np.arange(len(self.values) + self.gap) == len(self.values)
        empty = self.column.storage.empty(int(self.gap))
        return self.column.storage.restore(np.concatenate([self.values, empty]), missing)

    def __str__(self) -> str:
        name = self.column.name
        if self.ends is None:
            shown = [*map(str, self.values.tolist()), *(["a gap"] if self.gap else [])]
            return f"{name} = {' or '.join(shown)}"
        low, high = self.ends
        before = "" if low is None else f"{low} <= "
        return f"{before}{name}{'' if high is None else f' <= {high}'}"


def read_conditions(
    conditions: Mapping[object, object], codec: TableCodec
) -> dict[object, Condition]:
    """Reads conditions on the rows of a table.

    Args:
        conditions: For each column a value (None for a gap), a list or set of values, or a pair
            (low, high) with None for an open end. A column of levels has no values between them.
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
        match given:
            case (low, high) if isinstance(given, tuple):
                found[column.name] = _between(column, low, high)
            case Collection() if not isinstance(given, str | bytes):
                if not len(given):
                    raise DataError(f"the set of values of column '{name}' is empty; give one")
                found[column.name] = _among(column, list(given))
            case _:
                found[column.name] = _among(column, [given])
    return found


def _is_gap(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def _known(column: Column) -> np.ndarray:
    """Returns the categories or levels of a column, and zero if it is a state of its own."""
    known = column.storage.from_scalars(column.categories)
    return np.append(known, np.zeros(1, known.dtype)) if column.zero else known


def _among(column: Column, given: Sequence[object]) -> Condition:
    """Makes the condition that a cell has one of the given values; None is a gap."""
    found = [_value(column, value) for value in given if not _is_gap(value)]
    gap = len(found) < len(given)
    if gap and not column.missing:
        raise DataError(f"column '{column.name}' has no gaps; give a value")
    values = np.array(found, dtype=column.storage.value_dtype)
    if column.categories or column.kind == "constant":
        known = _known(column)
        unknown = values[~np.isin(values, known)]
        if len(unknown):
            raise DataError(
                f"column '{column.name}' has no value '{unknown[0]}'; known: "
                f"{listed(np.sort(known))}"
            )
    return Condition(column, np.unique(values), gap)


def _between(column: Column, low: object, high: object) -> Condition:
    """Makes the condition that a cell is between two ends; None is an open end."""
    known = _known(column)
    ends: tuple[np.ndarray | None, np.ndarray | None] | None = None
    if column.storage.holds != "text":
        ends = _end(column, low, 1), _end(column, high, -1)
    elif not column.storage.ordered:
        raise DataError(
            f"column '{column.name}' has categories and no ranges; give a value or a list"
        )
    if (_is_gap(low) and _is_gap(high)) or (ends and ends[0] is None and ends[1] is None):
        raise DataError(f"the range of column '{column.name}' has no ends; give one")
    if ends is None:  # in the order of the categories
        first, last = (
            None if _is_gap(end) else int((known == _among(column, [end]).values).argmax())
            for end in (low, high)
        )
        values = known[first : None if last is None else last + 1]
    elif column.categories or column.kind == "constant":
        values, ends = known[_within(known, *ends)], None
    else:
        values = _spread(column, *ends)
    if not len(values):
        what = f"; known: {listed(np.sort(known))}" if len(known) else ", in the steps that it has"
        raise DataError(f"no value of column '{column.name}' is within ({low}, {high}){what}")
    return Condition(column, values, ends=ends)


def _within(found: np.ndarray, low: np.ndarray | None, high: np.ndarray | None) -> np.ndarray:
    met = np.ones(len(found), dtype=bool)
    if low is not None:
        met &= found >= low
    if high is not None:
        met &= found <= high
    return met


def _spread(column: Column, low: np.ndarray | None, high: np.ndarray | None) -> np.ndarray:
    """Returns values of a column within a range, evenly spaced; none if no step of it is there."""
    start, stop = (high if low is None else low), (low if high is None else high)
    assert start is not None
    assert stop is not None
    with np.errstate(over="ignore", invalid="ignore"):  # at the ends of 64 bits
        values = (start + (stop - start) * np.linspace(0, 1, _SOME)).astype(start.dtype)
    values = values[_within(values, low, high)]
    if column.lattice is not None and len(values):
        values = column.lattice.beside(values)
    if values.dtype.kind == "f":
        values = column.storage.rounded(values)
    if values.dtype.kind in "iu":
        smallest, largest = column.storage.limits
        values = values[(values >= smallest) & (values <= largest)]
    return np.unique(values[_within(values, low, high)])


def _number(given: object) -> int | float:
    """Converts a number, whoever wrote it; whole ones of any size exactly.

    Raises:
        TypeError: It is no number and no text.
        ValueError: It is a text that is no number.
    """
    try:
        return int(str(given))
    except ValueError:
        return float(given)  # type: ignore[arg-type]


def _value(column: Column, given: object) -> object:
    """Converts a value, whoever wrote it, to the type of the column's values.

    Raises:
        DataError: The column cannot hold it.
    """
    holds, (low, high) = column.storage.holds, column.storage.limits
    try:
        match holds:
            case "truth":
                return _TRUTH[str(given).strip().lower().removesuffix(".0")]
            case "whole" | "real":
                number = _number(given)
                if holds == "real":
                    number = float(column.storage.rounded(number))
                if not low <= number <= high or (holds == "whole" and number != int(number)):
                    raise ValueError
                return number if holds == "real" else int(number)
            case "moment":
                stamp = pd.Timestamp(given)  # type: ignore[arg-type]
                if stamp is pd.NaT:
                    raise ValueError
                if stamp.tzinfo:
                    stamp = stamp.tz_convert(column.storage.zone or "UTC").tz_localize(None)
                return stamp.to_datetime64().astype(f"datetime64[{column.storage.unit}]")
            case "span":
                span = pd.Timedelta(given).to_timedelta64()  # type: ignore[arg-type]
                return span.astype(f"timedelta64[{column.storage.unit}]")
            case _:
                return str(given)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        words = {
            "truth": "true or false", "whole": "whole numbers", "real": "finite numbers",
            "moment": "dates", "span": "time spans",
        }  # fmt: skip
        raise DataError(f"column '{column.name}' holds {words[holds]}, not '{given}'") from error


def _end(column: Column, given: object, side: int) -> np.ndarray | None:
    """Returns an end of a range, None for an open one; one between whole numbers moves inwards.

    ``side`` is 1 for the lower end and -1 for the upper one.
    """
    dtype = column.storage.value_dtype
    if _is_gap(given):
        return None
    if dtype.kind not in "iuf":
        return np.array(_value(column, given), dtype=dtype)
    try:
        number = _number(given)
        if number == -side * math.inf:
            return None
        if not math.isfinite(number):
            raise ValueError
        if dtype.kind == "f":
            return column.storage.rounded(number)
        inside = side * math.ceil(side * number)
        smallest, largest = column.storage.limits
        room = max(inside, smallest) if side == 1 else min(inside, largest)
        if not smallest <= room <= largest:
            raise ValueError
        return np.array(room, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"column '{column.name}' holds numbers, not '{given}'") from error
