"""Storage of a pandas column: its values as NumPy arrays, and back in the same dtype.

Values have one of six types: whole numbers (int64, uint64), real numbers (float64, float32), truth
values, text, moments (datetime64, in UTC) and spans (timedelta64). Columns of objects hold one type
of Python object. Text in which all cells are numbers with equally many decimals, or dates in one
format, is read as numbers or dates and written in the same format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionDtype
from pydantic import model_validator

from kan_diffusion.data.scaling import LARGEST
from kan_diffusion.errors import DataError
from kan_diffusion.settings import Settings

__all__ = ["WORDS", "Holds", "Scalar", "Storage", "Values", "place_among"]

Holds = Literal["whole", "real", "truth", "text", "moment", "span"]
"""Type of a column's values."""

Scalar = str | bool | int | float
"""A value in JSON: moments and spans are whole numbers of their unit."""

Item = Literal["str", "bool", "int", "float", "date", "datetime", "instant", "timedelta", "Decimal"]
_ITEMS: dict[str, tuple[Item, Holds]] = {  # by the name that pandas gives to what it infers
    "string": ("str", "text"),
    "empty": ("str", "text"),
    "boolean": ("bool", "truth"),
    "integer": ("int", "whole"),
    "floating": ("float", "real"),
    "mixed-integer-float": ("float", "real"),
    "decimal": ("Decimal", "real"),
    "date": ("date", "moment"),
    "datetime": ("datetime", "moment"),
    "datetime64": ("datetime", "moment"),
    "timedelta": ("timedelta", "span"),
    "timedelta64": ("timedelta", "span"),
}
_DATE_FORMATS = {
    r"\d{4}-\d\d-\d\d": "%Y-%m-%d",
    r"\d{4}-\d\d": "%Y-%m",
    r"\d{4}-\d\d-\d\d \d\d:\d\d": "%Y-%m-%d %H:%M",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d": "%Y-%m-%dT%H:%M",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "%Y-%m-%d %H:%M:%S",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d": "%Y-%m-%dT%H:%M:%S",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "%Y-%m-%dT%H:%M:%SZ",
    r"\d\d\.\d\d\.\d{4}": "%d.%m.%Y",
    r"\d\d/\d\d/\d{4}": "%d/%m/%Y",
    r"\d{4}/\d\d/\d\d": "%Y/%m/%d",
}
_AMERICAN = "%m/%d/%Y"
_FEWEST_WRITTEN = 20  # fewest distinct texts of a column that is read as numbers
_LOOK = 100


class Storage(Settings):
    """The dtype of a column, and the type of its values.

    Attributes:
        dtype: As pandas writes it: "int64", "Float32", "datetime64[us, UTC]", "int8[pyarrow]".
        holds: Type of the values.
        backend: Backend of a string dtype.
        gap: Value that marks a missing cell in a column of text or objects.
        item: Type of the Python objects in a column of objects.
        zone: Time zone in which all moments are midnights, so that they are days there.
        written: Format of the numbers ("%d", "%.2f") or dates ("%Y-%m-%d") in a column of text.
        unit: Unit of moments and spans.
        values: The categories of a categorical dtype, in their order, used or not.
        inner: Storage of the categories.
        ordered: Whether the categories are ordered.
    """

    dtype: str
    holds: Holds
    backend: Literal["python", "pyarrow"] | None = None
    gap: Literal["nan", "NA", "None"] | None = None
    item: Item | None = None
    written: str | None = None
    zone: str | None = None
    unit: Literal["s", "ms", "us", "ns"] | None = None
    values: tuple[Scalar, ...] | None = None
    inner: Storage | None = None
    ordered: bool = False

    @model_validator(mode="after")
    def _require_dtype(self) -> Self:
        """Refuses a dtype that pandas does not know, or an unknown format of text."""
        try:
            self.pandas_dtype()
        except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise DataError(f"unknown dtype '{self.dtype}'; fit the codec anew") from error
        if self.written is not None and not (
            re.fullmatch(r"%d|%\.\d\d?f", self.written)
            or self.written in {*_DATE_FORMATS.values(), _AMERICAN}
        ):
            raise DataError(f"unknown way to write '{self.written}'; fit the codec anew")
        return self

    @classmethod
    def of(cls, column: pd.Series, name: object, numbers: bool = False) -> Self:
        """Describes a column.

        Args:
            column: The column.
            name: Its name in errors.
            numbers: Whether text that writes numbers is read as numbers even if few are distinct.

        Raises:
            DataError: Its dtype is not supported, or it mixes types.
        """
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            categories = pd.Series(dtype.categories)
            if isinstance(categories.dtype, pd.IntervalDtype):
                inner = cls(dtype=str(categories.dtype), holds="text")
            else:
                inner = cls.of(categories, name)
                if inner.written is not None:  # categories are names, even numbers and dates
                    as_names = {"written": None, "holds": "text", "unit": None}
                    inner = inner.model_copy(update=as_names)
            known = tuple(inner.scalars(read(categories, name)[0]))
            return cls(
                dtype="category",
                holds=inner.holds,
                unit=inner.unit,
                values=known,
                inner=inner,
                ordered=bool(dtype.ordered),
            )
        if isinstance(dtype, pd.StringDtype):
            storage = cls(
                dtype="string",
                holds="text",
                backend="python" if dtype.storage == "python" else "pyarrow",
                gap="NA" if dtype.na_value is pd.NA else "nan",
            )
        elif isinstance(dtype, np.dtype) and dtype.kind == "O":
            item, holds = _objects_in(column, name)
            gaps = column[column.isna()]
            gap: Literal["nan", "NA", "None"] | None = None
            if len(gaps):
                first = gaps.iloc[0]
                gap = "None" if first is None else "NA" if first is pd.NA else "nan"
            if item == "datetime" and getattr(column.dropna().iloc[0], "tzinfo", None):
                item = "instant"
            storage = cls(dtype="object", holds=holds, item=item, gap=gap)
        else:
            storage = cls(dtype=str(dtype), holds=_holds(dtype, name))
        if storage.holds == "text":
            storage = storage.model_copy(update=_how_written(column, numbers))
        if storage.holds in ("moment", "span"):
            values, missing = storage.read(column, name)
            unit = np.datetime_data(values.dtype)[0]
            update = {
                "unit": unit if unit in _UNITS else "s",
                "zone": _zone_of_days(dtype, values[~missing]),
            }
            storage = storage.model_copy(update=update)
        return storage

    def pandas_dtype(self) -> np.dtype[np.generic] | ExtensionDtype:
        """Returns the pandas dtype without its categories, which are in ``values``."""
        if self.dtype == "category":
            return pd.CategoricalDtype(ordered=self.ordered)
        if self.dtype == "string":
            if self.gap == "NA":
                return pd.StringDtype(self.backend)
            try:
                return pd.StringDtype(self.backend, na_value=np.nan)
            except TypeError:  # pandas 2.2
                return pd.StringDtype("pyarrow_numpy")  # type: ignore[call-overload]
        if self.dtype.endswith("[pyarrow]"):
            return _arrow_dtype(self.dtype.removesuffix("[pyarrow]"))
        dtype = pd.api.types.pandas_dtype(self.dtype)
        if dtype != np.dtype(object) and not isinstance(dtype, pd.IntervalDtype):
            _holds(dtype, self.dtype)
        return dtype

    def read(self, column: pd.Series, name: object) -> Values:
        """Reads the values of a column that should match this storage.

        Args:
            column: The column.
            name: Its name in errors.

        Returns:
            The values, and a mask that is True for missing cells, both of shape (n,).

        Raises:
            DataError: It holds values of another type, or one is infinite.
        """
        values, missing = read(column, name)
        if missing.all():
            return self.empty(len(values)), missing
        held = _KINDS[values.dtype.kind]
        if (self.holds, held) == ("text", "whole"):  # in these rows all texts are digits
            values, held = values.astype(str).astype(object), "text"
        if self.written is not None and held == "text":
            values = _parsed(values, missing, self.written, name)
        elif self.holds != held and not {self.holds, held} <= {"whole", "real", "truth"}:
            row = int(np.flatnonzero(~missing)[0]) + 1
            raise DataError(
                f"column '{name}' held {WORDS[self.holds]} in the rows trained on, and row {row} "
                f"holds {WORDS[held]}; give what it held"
            )
        if self.unit is not None:
            values = values.astype(self.value_dtype)
        return (values if self.zone is None else _wall_time(values, self.zone)), missing

    @property
    def value_dtype(self) -> np.dtype[np.generic]:
        """NumPy dtype of the values."""
        if self.unit is not None:
            return np.dtype(f"{'M8' if self.holds == 'moment' else 'm8'}[{self.unit}]")
        return np.dtype(np.uint64 if "uint64" in self.dtype.lower() else _DTYPES[self.holds])

    def empty(self, count: int) -> np.ndarray:
        """Makes placeholders of shape (count,) for the values of missing cells."""
        return _empty(count, self.value_dtype)

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest number that the dtype has."""
        name = self.dtype.lower().removesuffix("[pyarrow]")
        if self.holds == "real":
            largest = {"float16": 65504.0, "halffloat": 65504.0, "float32": 3.4e38, "float": 3.4e38}
            return -largest.get(name, LARGEST), largest.get(name, LARGEST)
        dtype = np.dtype(name if re.fullmatch(r"u?int\d+", name) else np.int64)
        return np.iinfo(dtype).min, np.iinfo(dtype).max

    def reaching(self, largest: int) -> Self:
        """Returns this storage, with a dtype of 64 bits if its own ends below a whole number."""
        if largest <= self.limits[1]:
            return self
        return self.model_copy(update={"dtype": re.sub("8|16|32", "64", self.dtype)})

    def rounded(self, number: float) -> float:
        """Rounds a number to what the dtype, or that of its categories, can hold."""
        dtype = (self.inner or self).pandas_dtype()
        numpys = getattr(dtype, "numpy_dtype", dtype)
        if not isinstance(numpys, np.dtype) or numpys.kind != "f":
            return float(number)
        with np.errstate(over="ignore"):
            return float(np.array(number, dtype=np.float64).astype(numpys))

    def scalars(self, values: np.ndarray) -> list[Scalar]:
        """Converts values to JSON scalars; moments and spans to whole numbers of their unit."""
        if self.unit is not None:
            values = values.astype(self.value_dtype).view(np.int64)
        scalars: list[Scalar] = values.tolist()
        return scalars

    def from_scalars(self, scalars: Sequence[Scalar]) -> np.ndarray:
        """Converts JSON scalars to values as :meth:`read` gives them."""
        if self.unit is not None:
            return np.array(scalars, dtype=np.int64).view(self.value_dtype)
        dtype = _DTYPES[self.holds]
        if self.holds == "whole" and any(isinstance(s, int) and s >= 2**63 for s in scalars):
            dtype = np.dtype(np.uint64)
        return np.array(scalars, dtype=dtype)

    def restore(self, values: np.ndarray, missing: np.ndarray) -> pd.Series:
        """Makes a column of this dtype from values.

        Args:
            values: Shape (n,), as :meth:`read` gives them.
            missing: Shape (n,), which cells have no value.
        """
        if self.written is not None:
            values = _texts(values, self.written)
        if self.zone is not None:
            values = _universal_time(values, self.zone)
        if self.dtype == "category":
            assert self.values is not None
            assert self.inner is not None
            known = self.inner.from_scalars(self.values)
            codes = place_among(known, values)
            codes[missing] = -1
            kept = self.inner.restore(known, np.zeros(len(known), dtype=bool))
            categories = pd.CategoricalDtype(pd.Index(kept), ordered=self.ordered)
            return pd.Series(pd.Categorical.from_codes(codes, dtype=categories))
        if self.dtype == "object":
            return self._objects(values, missing)
        dtype = self.pandas_dtype()
        if isinstance(dtype, pd.ArrowDtype):
            return _arrow_series(values, missing, dtype)
        if isinstance(dtype, pd.StringDtype):
            text = values.astype(object)
            text[missing] = dtype.na_value
            return pd.Series(text, dtype=dtype)
        if values.dtype.kind in "mM":
            moments = pd.Series(values).mask(missing)
            if isinstance(dtype, pd.DatetimeTZDtype):
                moments = moments.dt.tz_localize("UTC")
            return moments.astype(dtype)
        if isinstance(dtype, pd.IntervalDtype):
            ends = np.array([text[1:-1].split(", ") for text in values], dtype=float).T
            closed = dtype.closed or "right"
            intervals = pd.arrays.IntervalArray.from_arrays(ends[0], ends[1], closed=closed)
            return pd.Series(intervals.astype(dtype))
        if isinstance(dtype, np.dtype):
            with np.errstate(over="ignore"):
                values = values.astype(dtype)
            if dtype.kind == "f":
                values[missing] = np.nan
            return pd.Series(values)
        return pd.Series(values).astype(dtype).mask(missing)

    def _objects(self, values: np.ndarray, missing: np.ndarray) -> pd.Series:
        cells: np.ndarray
        if self.item in ("date", "datetime", "instant"):
            moments = pd.Series(values).dt.tz_localize("UTC" if self.item == "instant" else None)
            cells = np.asarray(moments.dt.date if self.item == "date" else moments.astype(object))
        elif self.item == "timedelta":
            cells = np.asarray(pd.Series(values).astype(object))
        elif self.item == "Decimal":
            cells = np.array([Decimal(repr(value)) for value in values.tolist()], dtype=object)
        else:
            kind = _DTYPES["text" if self.written else self.holds]
            cells = values.astype(kind).astype(object)
        cells = np.array(cells, dtype=object)
        cells[missing] = {"NA": pd.NA, "None": None}.get(self.gap or "nan", np.nan)
        return pd.Series(cells, dtype=object)


Values = tuple[np.ndarray, np.ndarray]
"""Values of shape (n,), and which of them are missing."""

_KINDS: dict[str, Holds] = {
    "i": "whole",
    "u": "whole",
    "f": "real",
    "b": "truth",
    "O": "text",
    "M": "moment",
    "m": "span",
}
WORDS = {
    "whole": "numbers",
    "real": "numbers",
    "truth": "truth values",
    "text": "text",
    "moment": "dates",
    "span": "time spans",
}
_DTYPES: dict[Holds, np.dtype[np.generic]] = {
    "whole": np.dtype("int64"),
    "real": np.dtype("float64"),
    "truth": np.dtype("bool"),
    "text": np.dtype("object"),
    "moment": np.dtype("datetime64[ns]"),
    "span": np.dtype("timedelta64[ns]"),
}


def _empty(count: int, dtype: np.dtype[np.generic]) -> np.ndarray:
    """Makes the placeholders of missing cells, shape (count,): 0 or ""."""
    return np.full(count, "", object) if dtype.kind == "O" else np.zeros(count, dtype)


def _zone_of_days(dtype: object, moments: np.ndarray) -> str | None:
    """Returns the dtype's time zone if all moments are midnights there but not in UTC."""
    arrow = dtype.pyarrow_dtype if isinstance(dtype, pd.ArrowDtype) else None
    zone = getattr(arrow, "tz", None) or getattr(dtype, "tz", None)
    if zone is None or not len(moments) or not (moments.astype("datetime64[D]") != moments).any():
        return None
    wall = _wall_time(moments, str(zone))
    return None if (wall.astype("datetime64[D]") != wall).any() else str(zone)


def _wall_time(moments: np.ndarray, zone: str) -> np.ndarray:
    there = pd.Series(moments).dt.tz_localize("UTC").dt.tz_convert(zone)
    return there.dt.tz_localize(None).to_numpy()


def _universal_time(moments: np.ndarray, zone: str) -> np.ndarray:
    there = pd.Series(moments).dt.tz_localize(
        zone, ambiguous=np.ones(len(moments), dtype=bool), nonexistent="shift_forward"
    )
    return there.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(copy=True)


_UNITS = ("s", "ms", "us", "ns")


def place_among(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the index of each value, shape (n,), among distinct known ones; -1 if unknown."""
    # Keep the dtypes: without them text would first be turned into a string dtype.
    index = pd.Index(known, dtype=known.dtype)
    return index.get_indexer(pd.Index(values, dtype=values.dtype))


def read(column: pd.Series, name: object) -> Values:
    """Reads the values of a column of any supported dtype; missing cells become 0 or "".

    Raises:
        DataError: The dtype is not supported, types are mixed, or a number is infinite.
    """
    dtype = column.dtype
    missing = column.isna().to_numpy(dtype=bool, copy=True)
    if isinstance(dtype, pd.CategoricalDtype):
        values, _ = read(pd.Series(dtype.categories), name)
        codes = column.cat.codes.to_numpy()
        if not len(values):
            return _empty(len(codes), _DTYPES["text"]), missing
        return values[np.maximum(codes, 0)], missing
    if isinstance(dtype, pd.StringDtype):
        codes, texts = pd.factorize(column)  # much faster than cell by cell
        values = np.append(texts.to_numpy(dtype=object), "")[codes]
    elif isinstance(dtype, pd.ArrowDtype):
        values = _from_arrow(column, _holds(dtype, name))
    elif isinstance(dtype, np.dtype) and dtype.kind == "O":
        values = _from_objects(column, missing, name)
    elif isinstance(dtype, pd.IntervalDtype):
        values = np.array(column.astype(str), dtype=object)
    elif isinstance(dtype, pd.PeriodDtype):
        values = column.dt.to_timestamp().to_numpy(copy=True)
    elif isinstance(dtype, pd.DatetimeTZDtype):
        values = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(copy=True)
    else:
        _holds(dtype, name)
        if isinstance(dtype, np.dtype):
            values = column.to_numpy(copy=True)
        else:  # masked
            values = column.to_numpy(dtype=dtype.numpy_dtype, na_value=0)  # type: ignore[attr-defined]
        if values.dtype.kind == "f" and values.dtype != np.float32:
            values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
        elif values.dtype.kind in "iu":
            values = values.astype(np.uint64 if values.dtype == np.uint64 else np.int64)
    if values.dtype.kind == "f":
        missing |= np.isnan(values)
        largest = LARGEST if values.dtype == np.float64 else np.finfo(values.dtype).max
        beyond = np.abs(values) > largest
        if beyond.any():
            row = int(np.argmax(beyond))
            raise DataError(
                f"column '{name}' has {values[row]:g} in row {row + 1}, beyond {LARGEST:g}; remove "
                "the row or fill the cell"
            )
    if values.dtype.kind != "O":
        values = np.array(values)
        values[missing] = np.zeros(1, dtype=values.dtype)[0]
    return values, missing


def _from_objects(column: pd.Series, missing: np.ndarray, name: object) -> np.ndarray:
    _, holds = _objects_in(column, name)
    cells = np.array(column.to_numpy(dtype=object), dtype=object)
    if holds == "moment":
        moments = pd.to_datetime(column, utc=True)
        return moments.dt.tz_localize(None).to_numpy(copy=True)
    if holds == "span":
        return pd.to_timedelta(column).to_numpy(copy=True)
    cells[missing] = "" if holds == "text" else 0
    try:
        return cells.astype(_DTYPES[holds])
    except OverflowError as error:
        raise DataError(
            f"column '{name}' has whole numbers beyond 64 bits; store them as text"
        ) from error


def _objects_in(column: pd.Series, name: object) -> tuple[Item, Holds]:
    """Finds the type of a column's objects.

    Raises:
        DataError: They are of several types, or of one that is not supported.
    """
    found = _ITEMS.get(pd.api.types.infer_dtype(column, skipna=True))
    if found is not None:
        return found
    cells = zip(column, column.isna(), strict=True)
    kinds = [(row, type(cell)) for row, (cell, gap) in enumerate(cells, start=1) if not gap]
    first = kinds[0][1]
    for row, kind in kinds:
        if kind is not first:
            raise DataError(
                f"column '{name}' mixes types: row {row} holds {kind.__name__} after "
                f"{first.__name__}; make all cells of one type"
            )
    raise DataError(
        f"column '{name}' holds objects of type {first.__name__}, which tables do not carry; turn "
        "it into numbers, text or dates, or leave it out"
    )


def _holds(dtype: object, name: object) -> Holds:
    """Finds the type of a dtype's values.

    Raises:
        DataError: The dtype is not supported.
    """
    kind = getattr(dtype, "kind", "")
    known: Holds | None = None
    if isinstance(dtype, pd.ArrowDtype):
        arrow = dtype.pyarrow_dtype
        for test, holds in (
            (pa.types.is_integer, "whole"),
            (pa.types.is_floating, "real"),
            (pa.types.is_decimal128, "real"),
            (pa.types.is_boolean, "truth"),
            (pa.types.is_string, "text"),
            (pa.types.is_large_string, "text"),
            (lambda kind: str(kind) == _ARROW_CATEGORIES, "text"),
            (pa.types.is_timestamp, "moment"),
            (pa.types.is_date, "moment"),
            (pa.types.is_duration, "span"),
        ):
            if test(arrow):
                known = holds  # type: ignore[assignment]
    elif isinstance(dtype, pd.DatetimeTZDtype | pd.PeriodDtype):
        known = "moment"
    elif isinstance(dtype, np.dtype) or hasattr(dtype, "numpy_dtype"):  # masked dtypes have it
        known = _KINDS.get(kind) if kind != "O" else None
    if known is None:
        raise DataError(
            f"column '{name}' has dtype {dtype}, which tables do not carry; turn it into numbers, "
            "text or dates, or leave it out"
        )
    return known


def _arrow_dtype(text: str) -> pd.ArrowDtype:
    if decimal := re.fullmatch(r"decimal128\((\d+), (\d+)\)", text):
        return pd.ArrowDtype(pa.decimal128(int(decimal[1]), int(decimal[2])))
    if moment := re.fullmatch(r"timestamp\[(\w+)(?:, tz=(.+))?\]", text):
        return pd.ArrowDtype(pa.timestamp(moment[1], moment[2]))
    if text == _ARROW_CATEGORIES:
        return pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))
    dtype = pd.ArrowDtype(pa.type_for_alias(text))
    _holds(dtype, text)
    return dtype


def _from_arrow(column: pd.Series, holds: Holds) -> np.ndarray:
    array = pa.chunked_array(pa.array(column.array, from_pandas=True))
    if holds == "text":
        if pa.types.is_dictionary(array.type):
            column = pd.Series(pd.arrays.ArrowExtensionArray(array.cast(pa.string())))
        codes, texts = pd.factorize(column)
        return np.append(texts.to_numpy(dtype=object), "")[codes]
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    wide = pa.float64() if holds == "real" else pa.int64()
    if array.type in (pa.float32(), pa.uint64(), pa.bool_()):
        wide = array.type
    filled = array.cast(wide).fill_null(pa.scalar(False).cast(wide))
    values = np.array(filled.to_numpy())
    if holds in ("moment", "span"):
        return values.view(f"{'M8' if holds == 'moment' else 'm8'}[{array.type.unit}]")
    return values


_ARROW_CATEGORIES = "dictionary<values=string, indices=int32, ordered=0>"


def _arrow_series(values: np.ndarray, missing: np.ndarray, dtype: pd.ArrowDtype) -> pd.Series:
    arrow = dtype.pyarrow_dtype
    if pa.types.is_decimal(arrow):
        array = pa.array(np.round(values, arrow.scale), mask=missing).cast(arrow, safe=False)
    elif pa.types.is_date(arrow):
        array = pa.array(values.astype("datetime64[D]"), mask=missing).cast(arrow)
    elif pa.types.is_timestamp(arrow) or pa.types.is_duration(arrow):
        unit = f"{values.dtype.kind}8[{arrow.unit}]"
        whole = values.astype(unit).view(np.int64)
        array = pa.array(whole, mask=missing).cast(arrow)
    else:
        array = pa.array(values, mask=missing).cast(arrow, safe=False)
    return pd.Series(pd.arrays.ArrowExtensionArray(array), dtype=dtype)


def _how_written(column: pd.Series, numbers: bool) -> dict[str, object]:
    """Finds the format in which a column of text writes numbers or dates, if it does."""
    texts = pd.unique(column.dropna().to_numpy(dtype=object))
    if not len(texts):
        return {}
    candidates: list[str] = []
    first = str(texts[0])
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", first):
        decimals = len(first.partition(".")[2])
        if numbers or len(texts) >= _FEWEST_WRITTEN:
            candidates.append(f"%.{decimals}f" if decimals else "%d")
    for pattern, form in _DATE_FORMATS.items():
        if re.fullmatch(pattern, first):
            candidates += [form, _AMERICAN] if form == "%d/%m/%Y" else [form]
    for written in candidates:
        for part in (texts[:_LOOK], texts):
            values, wrong = _parse(part, written)
            if wrong.any():
                break
            zero = (values == 0) & (values.dtype.kind == "f")  # "-0.0" is written "0.0"
            if ((_texts(values, written) != part) & ~zero).any():
                break
        else:
            holds = _KINDS[values.dtype.kind]
            return {"written": written, "holds": holds}
    return {}


def _parse(texts: np.ndarray, written: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads texts in a format; returns their values, and which texts do not have the format."""
    if "%Y" in written:
        moments = pd.to_datetime(pd.Series(texts, dtype=object), format=written, errors="coerce")
        if moments.dt.tz is not None:
            moments = moments.dt.tz_localize(None)
        return moments.to_numpy(), moments.isna().to_numpy()
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy()
    wrong = ~np.isfinite(numbers)
    if written == "%d" and not wrong.any():
        numbers = numbers.astype(np.int64, copy=False)
    return numbers, wrong


def _parsed(values: np.ndarray, missing: np.ndarray, written: str, name: object) -> np.ndarray:
    texts, place = np.unique(values[~missing], return_inverse=True)
    parsed, wrong = _parse(texts, written)
    if wrong.any():
        row = int(np.flatnonzero(~missing)[np.flatnonzero(wrong[place])[0]]) + 1
        raise DataError(
            f"column '{name}' holds '{values[row - 1]}' in row {row}, and was written as "
            f"{written} in the rows trained on; correct that cell"
        )
    result = np.zeros(len(values), dtype=parsed.dtype)
    result[~missing] = parsed[place]
    return result


def _texts(values: np.ndarray, written: str) -> np.ndarray:
    distinct, place = np.unique(values, return_inverse=True)
    if "%Y" in written:
        texts = pd.Series(distinct).dt.strftime(written).to_numpy(dtype=object)
    else:
        texts = np.char.mod(written, distinct).astype(object)
    return texts[place]
