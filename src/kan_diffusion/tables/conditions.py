"""Conditions on rows of a table: for some columns a value, a set of values or a range.

A program gives a mapping, ``{"species": "setosa", "petal length": (1.0, 1.5)}``; a person writes
texts, ``species=setosa``, ``species in setosa, virginica``, ``1.0<=petal length<=1.5`` or
``age>=30``. Either becomes one :class:`Condition` per column; rows must meet all of them.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kan_diffusion.errors import DataError, listed
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.columns import Column

__all__ = ["Condition", "cells", "conditions_from_texts", "read_conditions"]

_SOME = 33
_WITHIN = re.compile(r"([^<>=]+?)(<=|<)(.+?)(<=|<)([^<>=]+)", re.DOTALL)
_AMONG = re.compile(r"(.+?)\sin\s(.+)", re.DOTALL)
_BESIDE = re.compile(r"(.+?)(<=|>=|=|<|>)(.*)", re.DOTALL)
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Condition:
    """Requires the cells of a column to be among given values, or within a range.

    Attributes:
        column: The column.
        values: The values, with shape (m,); None for a range.
        gap: Whether a missing cell meets the condition.
        low: Lower end of the range, inclusive; None if it is open.
        high: Upper end, likewise.
    """

    column: Column
    values: np.ndarray | None = None
    gap: bool = False
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def is_value(self) -> bool:
        """Whether only a single value, or only a gap, meets the condition."""
        return self.values is not None and len(self.values) + self.gap == 1

    def holds(self, series: pd.Series) -> np.ndarray:
        """Tells which cells of the column meet the condition, shape (n,), bool."""
        found, missing = self.column.read(series)
        return np.where(missing, self.gap, self._met(found))

    def _met(self, found: np.ndarray) -> np.ndarray:
        if self.values is not None:
            return np.isin(found, self.values)
        met = np.ones(len(found), dtype=bool)
        if self.low is not None:
            met &= found >= self.low
        if self.high is not None:
            met &= found <= self.high
        return met

    def both(self, other: Condition) -> Condition:
        """Combines this condition with another one on the same column.

        Raises:
            DataError: No cell meets both.
        """
        if self.values is None and other.values is None:
            lows = [end for end in (self.low, other.low) if end is not None]
            highs = [end for end in (self.high, other.high) if end is not None]
            return _range(self.column, max(lows, default=None), min(highs, default=None))
        first, second = (self, other) if self.values is not None else (other, self)
        assert first.values is not None
        kept, gap = first.values[second._met(first.values)], first.gap and second.gap
        if not len(kept) and not gap:
            raise DataError(
                f"conditions on column '{self.column.name}' contradict each other; leave one out"
            )
        return Condition(self.column, kept, gap)

    def some(self) -> pd.Series:
        """Returns one or more cells that meet the condition; for a range, evenly spaced ones."""
        values = self.values
        if values is None:
            low = self.high if self.low is None else self.low
            high = self.low if self.high is None else self.high
            assert low is not None
            assert high is not None
            share = np.linspace(0, 1, _SOME)
            with np.errstate(over="ignore", invalid="ignore"):  # at the ends of 64 bits
                values = (low + (high - low) * share).astype(low.dtype)
            values = values[self._met(values)]
            if self.column.lattice is not None:
                near = self.column.lattice.nearest(values)
                values = near[self._met(near)] if self._met(near).any() else values
        missing = np.arange(len(values) + self.gap) == len(values)
        padded = np.concatenate([values, self.column.storage.empty(1)]) if self.gap else values
        return self.column.storage.restore(padded, missing)

    def __str__(self) -> str:
        name = self.column.name
        if self.values is not None:
            shown = [*map(str, self.values.tolist()), *(["a gap"] if self.gap else [])]
            return f"{name} = {' or '.join(shown)}"
        low = "" if self.low is None else f"{self.low} <= "
        high = "" if self.high is None else f" <= {self.high}"
        return f"{low}{name}{high}"


def _range(column: Column, low: np.ndarray | None, high: np.ndarray | None) -> Condition:
    if low is None and high is None:
        raise DataError(f"the range of column '{column.name}' has no ends; give one")
    if low is not None and high is not None and low > high:
        raise DataError(
            f"no value of column '{column.name}' is from {low} to {high}; give another range"
        )
    return Condition(column, low=low, high=high)


def _column(codec: TableCodec, name: object) -> Column:
    column = codec.column(name)
    if column.kind == "identifier":
        raise DataError(f"column '{name}' holds identifiers, which are made anew; leave it out")
    return column


def _is_gap(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


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
                    number = column.storage.rounded(number)
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


def _known(column: Column) -> np.ndarray:
    """Returns the categories of a column, and zero if it is a state of its own."""
    known = column.storage.from_scalars(column.categories)
    return np.append(known, np.zeros(1, known.dtype)) if column.zero else known


def _values(column: Column, given: Sequence[object]) -> Condition:
    """Makes the condition that a cell has one of the given values; None is a gap."""
    found = [_value(column, value) for value in given if not _is_gap(value)]
    gap = len(found) < len(given)
    if gap and not column.missing:
        raise DataError(f"column '{column.name}' has no gaps; give a value")
    known = _known(column)
    values = np.array(found, dtype=column.storage.value_dtype)
    if column.categories or column.kind == "constant":
        unknown = values[~np.isin(values, known)]
        if len(unknown):
            raise DataError(
                f"column '{column.name}' has no value '{unknown[0]}'; known: "
                f"{listed(np.sort(known))}"
            )
    return Condition(column, np.unique(values), gap)


def _between(
    column: Column, low: object, high: object, above: bool = False, below: bool = False
) -> Condition:
    """Makes the condition that a cell is between two ends; None is an open end.

    ``above`` excludes the lower end from the range, ``below`` the upper one.
    """
    known = _known(column)
    if column.storage.holds == "text" and column.kind != "ordinal":
        raise DataError(
            f"column '{column.name}' has categories and no ranges; give a value or a list"
        )
    if column.storage.holds == "text":  # in the order of the categories
        ends = [None if _is_gap(end) else _values(column, [end]).values for end in (low, high)]
        first, last = (None if end is None else int((known == end).argmax()) for end in ends)
        start = 0 if first is None else first + above
        stop = len(known) if last is None else last + 1 - below
        if start >= stop:
            raise DataError(f"no value of column '{column.name}' is from {low} to {high}")
        return Condition(column, known[start:stop])
    dtype = column.storage.value_dtype

    def end(given: object, beyond: bool, side: int) -> np.ndarray | None:
        """Returns an inclusive end; an end between two whole numbers is rounded inwards."""
        if _is_gap(given):
            return None
        if dtype.kind not in "iuf":
            return np.array(_value(column, given), dtype=dtype) + side * beyond
        try:
            number = _number(given)
            if number == -side * math.inf:
                return None
            if not math.isfinite(number):
                raise ValueError
            if dtype.kind == "f":
                real = column.storage.rounded(number)
                return np.array(np.nextafter(real, side * np.inf) if beyond else real)
            inside = side * math.ceil(side * number)
            inside += side * (beyond and inside == number)
            smallest, largest = column.storage.limits
            room = max(inside, smallest) if side == 1 else min(inside, largest)
            if not smallest <= room <= largest:
                raise ValueError
            return np.array(room, dtype=dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"column '{column.name}' holds numbers, not '{given}'") from error

    condition = _range(column, end(low, above, 1), end(high, below, -1))
    if (column.is_discrete or column.kind == "constant") and not condition._met(known).any():
        raise DataError(f"no value of column '{column.name}' is from {low} to {high}")
    return condition


def read_conditions(
    conditions: Mapping[object, object], codec: TableCodec
) -> dict[object, Condition]:
    """Reads conditions that a program gives.

    Args:
        conditions: For each column a value (None for a gap), a list or set of values, a pair
            (low, high) with None for an open end, or a :class:`Condition`.
        codec: The codec of the table.

    Returns:
        A condition for each column, by name.

    Raises:
        DataError: A column or category is not known, or no cell meets the condition.
    """
    found: dict[object, Condition] = {}
    for name, given in conditions.items():
        column = _column(codec, name)
        match given:
            case Condition():
                condition = replace(given, column=column)
            case (low, high) if isinstance(given, tuple):
                condition = _between(column, low, high)
            case Collection() if not isinstance(given, str | bytes):
                if not len(given):
                    raise DataError(f"the set of values of column '{name}' is empty; give one")
                condition = _values(column, list(given))
            case _:
                condition = _values(column, [given])
        found[column.name] = condition
    return found


def conditions_from_texts(texts: Sequence[str], codec: TableCodec) -> dict[object, Condition]:
    """Reads conditions that a person writes, and combines those on the same column.

    Args:
        texts: Such as ``species=setosa``, ``species in setosa, virginica``, ``1<=length<=1.5``,
            ``age>=30``, or ``income=`` for a gap.
        codec: The codec of the table.

    Returns:
        A condition for each column, by name.

    Raises:
        DataError: A text is no condition, a column or category is not known, or no cell meets all
            conditions on its column.
    """
    found: dict[object, Condition] = {}
    for text in texts:
        condition = _from_text(text, codec)
        name = condition.column.name
        found[name] = found[name].both(condition) if name in found else condition
    return found


def _from_text(text: str, codec: TableCodec) -> Condition:
    if match := _WITHIN.fullmatch(text):
        low, above, name, below, high = (part.strip() for part in match.groups())
        return _between(_column(codec, name), low, high, above == "<", below == "<")
    names = {str(column.name) for column in codec.columns}
    if match := _BESIDE.fullmatch(text):
        name, sign, value = (part.strip() for part in match.groups())
        if name not in names and value in names:
            name, sign, value = value, _MIRRORED[sign], name
        if value.startswith(("<", ">", "=")) or (sign != "=" and not value):
            raise _no_condition(text)
        column = _column(codec, name)
        match sign:
            case "=":
                return _values(column, [value or None])
            case "<" | "<=":
                return _between(column, None, value, below=sign == "<")
            case _:
                return _between(column, value, None, above=sign == ">")
    if match := _AMONG.fullmatch(text):
        entries = next(csv.reader([match[2].strip()], skipinitialspace=True))
        return _values(_column(codec, match[1].strip()), [entry.strip() for entry in entries])
    raise _no_condition(text)


def _no_condition(text: str) -> DataError:
    return DataError(
        f"'{text}' is no condition; write one such as 'species=setosa', 'age>=30', "
        "'1.0<=length<=1.5' or 'species in setosa, virginica'"
    )


def cells(column: Column, given: Sequence[object]) -> pd.Series:
    """Makes cells of a column's dtype from given values; None is a gap.

    Where the dtype has no gaps, the cells are objects.

    Raises:
        DataError: The column cannot hold a value, or a category is not known.
    """
    _values(column, [value for value in given if not _is_gap(value)])
    missing = np.array([_is_gap(value) for value in given], dtype=bool)
    empty = column.storage.empty(1)
    values = np.array(
        [empty[0] if _is_gap(value) else _value(column, value) for value in given],
        dtype=empty.dtype,
    )
    made = column.storage.restore(values, missing).rename(column.name)
    return made if made.isna().sum() == missing.sum() else made.astype(object).mask(missing)
