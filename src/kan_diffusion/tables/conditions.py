"""Conditions on rows of a table: for some columns a value, a set of values or a range.

A program gives a mapping, ``{"species": "setosa", "petal length": (1.0, 1.5)}``. What a person
writes, ``species=setosa``, ``species in setosa, virginica``, ``1.0<=petal length<=1.5`` or
``age>=30``, becomes such a mapping. Rows must meet all conditions.

A number may be written as its column is, with decimal commas, marks of thousands and a unit:
``price>=3,50``, ``net<=1,500 kg``; with a comma it stands in double quotes in a list. A time
without a zone is wall time in the zone of its column. One that a change of clocks leaves out is the
next there is; one that there is twice is both.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from kan_diffusion.data.amounts import Amount
from kan_diffusion.errors import DataError, listed
from kan_diffusion.tables.codec import TableCodec
from kan_diffusion.tables.dates import is_clock, read_dates
from kan_diffusion.tables.dtypes import WORDS, Storage
from kan_diffusion.tables.kinds import Kind

_YEAR = re.compile(r"(?!0000)[0-9]{4}(-(0[1-9]|1[0-2])|-?Q[1-4])?")
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_WHOLE = re.compile(r"[+-]?\d{1,20}")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def conditions_from_texts(
    texts: Sequence[str], names: Collection[str] = ()
) -> dict[object, object]:
    """Parses conditions that a person writes on columns of some ``names``, if they are known.

    These are such as ``species=setosa``, ``species in setosa, virginica``, ``1<=length<=1.5``,
    ``age>=30``, ``30<=age``, or ``income=`` for a gap, and become what :func:`read_conditions`
    reads. Only a known name may hold one of the signs ``<>=``.

    Raises:
        DataError: A text is no condition, or two are on one column.
    """
    labels = {name.strip(): name for name in names}  # a header may have spaces at its ends
    known = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
    conditions: dict[object, object] = {}
    for text in texts:
        parsed = (known and _parsed(text, known)) or _parsed(text, "[^<>=]+?")
        if not parsed:
            raise DataError(
                f"'{text}' is no condition; write one such as 'species=setosa', 'age>=30', "
                "'1.0<=length<=1.5' or 'species in setosa, virginica'"
            )
        label, given = parsed
        name = labels.get(label, label)
        if name in conditions:
            raise DataError(
                f"there are two conditions on column '{name}'; write one, such as '30<=age<=40' "
                "or 'species in setosa, virginica'"
            )
        conditions[name] = given
    return conditions


def _parsed(text: str, names: str) -> tuple[str, object] | None:
    """Reads a condition on a column, whose name has a pattern; None if it is no condition."""
    if match := re.fullmatch(rf"\s*({names})\s+in\s(.+)", text, re.DOTALL):
        try:
            entries = next(csv.reader([match[2].strip()], skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise DataError(
                f"'{text}' is no list ({error}); put a value with a comma in double quotes, and "
                "write a double quote within them twice"
            ) from error
        return match[1].strip(), [entry.strip() for entry in entries]
    pattern = rf"(?:([^<>=]+)<=)?\s*({names})\s*(<=|>=|=)(.*)"
    if match := re.fullmatch(pattern, text, re.DOTALL):
        low, name, sign, value = (part and part.strip() for part in match.groups())
        if low is None and sign == "=":
            return name, value or None
        if value and sign == "<=":
            return name, (low, value)
        if value and low is None:
            return name, (value, None)
    if match := re.fullmatch(rf"([^<>=]+)(<=|>=)\s*({names})\s*", text):
        end = match[1].strip()
        return match[3], (end, None) if match[2] == "<=" else (None, end)
    return None


@dataclass(frozen=True)
class Condition:
    """Requires the cells of a column to be among given values, or within a range.

    Attributes:
        column: The column.
        values: The values, shape (m,); of a range the smallest and the largest that are drawn.
        gap: Whether a missing cell meets the condition.
        ends: Ends of the range, inclusive, None for an open one; None for a set of values.
    """

    column: Kind
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
        ends = self.ends
        met = np.isin(found, self.values) if ends is None else self.column.between(found, *ends)
        return np.where(missing, self.gap, met)

    def cells(self, count: int) -> pd.Series:
        """Returns the single value that meets the condition as ``count`` cells of its column."""
        value = self.column.storage.empty(1) if self.gap else self.values
        return self.column.restore(np.repeat(value, count), np.full(count, self.gap))


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
    amounts = codec.form.amounts if codec.form else {}
    for name, value in conditions.items():
        column = codec.column(name)
        amount = column.storage.amount or amounts.get(str(column.name))
        given = value if amount is None else _bare(value, amount)
        try:
            if isinstance(given, tuple) and len(given) == 2:
                condition = _between(column, *given)
            elif isinstance(given, Collection) and not isinstance(given, str):
                condition = _among(column, list(given))
            elif _period(column, given) is not None:
                condition = _between(column, given, given)
            else:
                condition = _among(column, [given])
        except DataError as error:  # a value is not in a row
            raise DataError(re.sub(r" in row \d+", " in a condition", str(error))) from error
        found[column.name] = condition
    return found


def _bare(given: object, amount: Amount) -> object:
    """Returns numbers in text, or in a list, a set or a pair of them, without their marks."""
    if isinstance(given, str):
        return amount.bare(given)
    if isinstance(given, list | set | tuple):
        return type(given)(_bare(each, amount) for each in given)
    return given


def _is_gap(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def _among(column: Kind, given: Sequence[object]) -> Condition:
    """Makes the condition that a cell has one of the given values; None is a gap."""
    cells = [_value(column, value) for value in given if not _is_gap(value)]
    gap = len(cells) < len(given)
    if not given or (gap and not column.missing):
        what = "has no gaps" if gap else "is to have one of no values"
        raise DataError(f"column '{column.name}' {what}; give a value")
    values, _ = column.read(_as_held(column, cells))
    column.require_possible(values)
    return Condition(column, np.unique(values), gap)


def _between(column: Kind, *given: object) -> Condition:
    """Makes the condition that a cell is between two ends; None is an open end."""
    low, high = _end(column, given[0], -math.inf), _end(column, given[1], math.inf)
    if (low, high) == (None, None):
        raise DataError(f"the range of column '{column.name}' has no ends; give one")
    reach, storage = column.reach, column.storage
    met = column.between(reach, low, high)
    if not column.is_listed:  # a range between two ends may have neither of them
        meets = column.between(reach[1:], low, None), column.between(reach[:1], None, high)
        met |= np.all(meets) and (low is None or column.between(np.array([low]), None, high).all())
    if not met.any():
        what = "known" if column.is_listed else "smallest and largest"
        cells = storage.restore(reach, np.zeros(len(reach), dtype=bool))
        why = ""
        if low is not None and high is not None and not is_clock(storage.written):
            why = ", which ends before it begins" if np.greater(low, high) else ""
        raise DataError(
            f"no value of column '{column.name}' is within ({given[0]}, {given[1]}){why}; {what}: "
            f"{listed(cells)}"
        )
    return Condition(column, reach[met], ends=None if column.is_listed else (low, high))


def _period(column: Kind, given: object) -> pd.Period | None:
    """Reads a year, a quarter or a month, unless the column writes its dates so."""
    text, storage = str(given).strip(), column.storage
    is_one = storage.holds == "moment" and _YEAR.fullmatch(text) is not None
    return pd.Period(text) if is_one and np.isnat(_as_written(storage, text)) else None


def _end(column: Kind, given: object, open: float) -> np.generic | None:
    """Returns an end of a range as the column's values are; None for an open one."""
    if _is_gap(given) or given == open:
        return None
    if (period := _period(column, given)) is not None:
        # It stands for its first moment, or at the end of a range for its last.
        given = period.start_time if open < 0 else period.end_time.floor("s")
    value = _value(column, given)
    if value == open:
        return None
    end: np.generic = column.parse(_as_held(column, [value]))[0][0]
    return end


def _as_held(column: Kind, cells: Sequence[object]) -> pd.Series:
    """Makes cells of values; real numbers are rounded as the column's dtype does."""
    is_rounded = column.storage.holds == "real" and not column.storage.is_text
    return pd.Series(cells, dtype=column.storage.pandas_dtype() if is_rounded else None)


def _value(column: Kind, given: object) -> object:
    """Converts a value, whoever wrote it, to the type of the column's values, else a DataError."""
    if isinstance(given, pd.Period):
        given = given.start_time
    storage, text = column.storage, str(given).strip()
    is_number = isinstance(given, int | float) or _PLAIN_NUMBER.fullmatch(text) is not None
    if storage.holds == "span" and is_number:
        raise DataError(
            f"column '{column.name}' holds time spans; give {given} a unit, such as '{given} days'"
        )
    try:
        match storage.holds:
            case "text":  # few people write spaces at the ends of cells, or TRUE as its column does
                for same in (str.strip, lambda cell: cell.strip().lower()):
                    alike = [known for known in column.known if same(known) == same(text)]
                    if len(alike) == 1:
                        return alike[0]
                return str(given)
            case "truth":
                return _TRUTH[text.lower().removesuffix(".0")]
            case "whole" | "real":
                if _WHOLE.fullmatch(text) and -(2**63) <= int(text) < 2**64:
                    return int(text)
                if not math.isnan(number := float(given)):  # type: ignore[arg-type]
                    return number
            case "span":
                return pd.to_timedelta(pd.Series([given], dtype=object))[0]
            case "moment" if not is_number or not np.isnat(_as_written(storage, text)):
                return _moment(storage, text if is_number or isinstance(given, str) else given)
        raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        written = f" written as {storage.written}" if storage.written else ""
        what = WORDS[storage.holds]
        if is_clock(storage.written):
            what = "times of day"
        raise DataError(
            f"column '{column.name}' holds {what}{written}, not '{given}'; give one such as those "
            "of its rows, or nothing for a gap"
        ) from error


def _moment(storage: Storage, given: object) -> pd.Timestamp:
    """Reads a date, a text as its column writes dates or in ISO 8601; ValueError if it is none."""
    if isinstance(given, str):
        read = _as_written(storage, given)
        given = datetime.fromisoformat(given) if np.isnat(read) else read
    moment = pd.to_datetime(pd.Series([given], dtype=object))[0]
    if not isinstance(moment, pd.Timestamp):
        raise ValueError(f"{given} is no date")
    if moment.tzinfo is not None:
        return moment
    return moment.tz_localize(storage.zone or "UTC", ambiguous=True, nonexistent="shift_forward")


def _as_written(storage: Storage, text: str) -> np.datetime64:
    """Reads a date as its column writes dates; not a time if it is written otherwise."""
    dtype = storage.pandas_dtype()
    if isinstance(dtype, pd.PeriodDtype):
        with suppress(ValueError):
            if str(period := pd.Period(text, dtype.freq)) == text:  # type: ignore[arg-type]
                return period.start_time.to_datetime64()
    if storage.written is None:
        return np.datetime64("NaT", "s")
    return read_dates(np.array([text], object), storage.written, storage.hundred)[0]
