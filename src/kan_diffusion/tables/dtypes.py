"""Dtypes there and back: the cells of a pandas column as NumPy values, and values as such a column.

Values have one of six types: whole numbers (int64, uint64), real numbers (float64, float32), truth
values, text, moments (datetime64, in UTC) and spans (timedelta64). Arrow tells what cells are, as
it does when pandas writes a Parquet file. A dtype that would not come back is refused by name: that
of intervals and decimals, and objects that are whole numbers beside gaps, or of several types.

Text is a category, whatever it looks like; but where all of it is dates in one format, it is read
as dates and written in the same format.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionDtype
from pydantic import model_validator

from kan_diffusion.data.scaling import LARGEST
from kan_diffusion.errors import DataError
from kan_diffusion.settings import Settings

__all__ = ["WORDS", "Holds", "Scalar", "Storage", "Values", "place_among"]

logger = logging.getLogger(__name__)

Holds = Literal["whole", "real", "truth", "text", "moment", "span"]
"""Type of a column's values."""

Scalar = str | bool | int | float
"""A value in JSON: moments and spans are whole numbers of their unit."""

Values = tuple[np.ndarray, np.ndarray]
"""Values of shape (n,), and which of them are missing."""

WORDS: dict[Holds, str] = {
    "whole": "numbers", "real": "numbers", "truth": "truth values", "text": "text",
    "moment": "dates", "span": "time spans",
}  # fmt: skip
_IN_ARROW: tuple[tuple[Callable[[pa.DataType], bool], Holds], ...] = (
    (pa.types.is_integer, "whole"),
    (pa.types.is_floating, "real"),
    (pa.types.is_boolean, "truth"),
    (pa.types.is_string, "text"),
    (pa.types.is_large_string, "text"),
    (pa.types.is_timestamp, "moment"),
    (pa.types.is_date, "moment"),
    (pa.types.is_duration, "span"),
)
_IN_NUMPY: dict[str, Holds] = {
    "i": "whole", "u": "whole", "f": "real", "b": "truth", "O": "text", "M": "moment", "m": "span",
}  # fmt: skip
_DTYPES: dict[Holds, str] = {
    "whole": "int64", "real": "float64", "truth": "bool", "text": "object",
    "moment": "datetime64[ns]", "span": "timedelta64[ns]",
}  # fmt: skip

_FORMATS = (
    *("%Y-%m", "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y"),
    *(f"%Y-%m-%d{at}%H:%M{seconds}" for at in " T" for seconds in ("", ":%S", ":%SZ")),
)
_LOOK = 100


class Storage(Settings):
    """The dtype of a column, and the type of its values.

    Attributes:
        dtype: As pandas writes it: "int64", "Float32", "datetime64[us, UTC]", "int8[pyarrow]"; of
            a categorical dtype that of its categories.
        holds: Type of the values.
        gap: Value that marks a missing cell among objects.
        dates: Whether objects are dates without a time.
        zone: Time zone in which all moments are midnights, so that they are days there.
        written: Format of dates in a column of text, such as "%Y-%m-%d".
        unit: Unit of moments and spans.
        values: The categories of a categorical dtype, in their order, used or not.
        ordered: Whether the categories are ordered.
    """

    dtype: str
    holds: Holds
    gap: Literal["nan", "NA", "None"] = "nan"
    dates: bool = False
    written: str | None = None
    zone: str | None = None
    unit: Literal["s", "ms", "us", "ns"] | None = None
    values: tuple[Scalar, ...] | None = None
    ordered: bool = False

    @model_validator(mode="after")
    def _require_dtype(self) -> Self:
        """Refuses a dtype that pandas does not know, or an unknown format of text."""
        try:
            self.pandas_dtype()
        except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise DataError(f"unknown dtype '{self.dtype}'; fit the codec anew") from error
        if self.written is not None and self.written not in _FORMATS:
            raise DataError(f"unknown way to write '{self.written}'; fit the codec anew")
        return self

    @classmethod
    def of(cls, column: pd.Series, name: object, kind: str | None = None) -> Self:
        """Describes a column.

        Args:
            column: The column.
            name: Its name in errors.
            kind: Its kind, if that is told; text is read as dates if it is "date" or None.

        Raises:
            DataError: Its dtype is not supported, or it mixes types, or dates and text.
        """
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            categories = pd.Series(dtype.categories)
            own = cls.of(categories, name, "category")  # names, even if they look like dates
            known = tuple(own.scalars(own.read(categories, name)[0]))
            return own.model_copy(update={"values": known, "ordered": bool(dtype.ordered)})
        values, missing = read(column, name)
        about: dict[str, object] = {"dtype": str(dtype)}
        if isinstance(dtype, pd.StringDtype) and dtype.storage == "python":
            about["dtype"] = f"{dtype}[python]"
        if values.dtype.kind == "O" and kind in (None, "date"):
            about["written"] = written = _format(values, missing, name)
            values = values if written is None else _moments(values[~missing][:1], written)
        about["holds"] = holds = _IN_NUMPY[values.dtype.kind]
        if holds in ("moment", "span"):
            unit = np.datetime_data(values.dtype)[0]
            about["unit"] = unit if unit in ("s", "ms", "us", "ns") else "s"
            about["zone"] = _zone_of_days(dtype, values, missing)
        if dtype == np.dtype(object):
            gap = column[missing].iloc[0] if missing.any() else np.nan
            about["gap"] = "None" if gap is None else "NA" if gap is pd.NA else "nan"
            about["dates"] = pd.api.types.infer_dtype(column, skipna=True) == "date"
        storage = cls.model_validate(about)
        if storage.restore(*storage.read(column.iloc[:1], name)).dtype != dtype:
            raise _refusal(column, name)
        return storage

    def pandas_dtype(self) -> np.dtype[np.generic] | ExtensionDtype:
        """Returns the pandas dtype of the cells, or of their categories."""
        backend: Literal["python", "pyarrow"]
        backend = "python" if self.dtype.endswith("[python]") else "pyarrow"
        match self.dtype.removesuffix("[python]"):
            case "str":
                return pd.StringDtype(backend, na_value=np.nan)
            case "string":
                return pd.StringDtype(backend)
            case "string[pyarrow]":  # pandas would take a dtype of its own
                return pd.ArrowDtype(pa.string())
            case name:
                return pd.api.types.pandas_dtype(name)

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
        held = _IN_NUMPY[values.dtype.kind]
        if (self.holds, held) == ("text", "whole"):  # in these rows all texts are digits
            values, held = values.astype(str).astype(object), "text"
        if self.written is not None and held == "text":
            moments = _moments(values, self.written)
            if (wrong := np.isnat(moments) & ~missing).any():
                row = int(np.argmax(wrong))
                raise DataError(
                    f"column '{name}' holds '{values[row]}' in row {row + 1}, and was written as "
                    f"{self.written} in the rows trained on; correct that cell"
                )
            values = np.where(missing, np.zeros(1, moments.dtype), moments)
        elif self.holds != held and not {self.holds, held} <= {"whole", "real", "truth"}:
            row = int(np.argmin(missing)) + 1
            raise DataError(
                f"column '{name}' should hold {WORDS[self.holds]}, as in the rows trained on, and "
                f"row {row} holds {WORDS[held]}; give what it held"
            )
        if self.unit is not None:
            values = values.astype(self.value_dtype)
        return (values if self.zone is None else _wall_time(values, self.zone)), missing

    @property
    def value_dtype(self) -> np.dtype[np.generic]:
        """NumPy dtype of the values."""
        if self.unit is not None:
            return np.dtype(f"{'M8' if self.holds == 'moment' else 'm8'}[{self.unit}]")
        return np.dtype("uint64" if "uint64" in self.dtype.lower() else _DTYPES[self.holds])

    def empty(self, count: int) -> np.ndarray:
        """Makes placeholders of shape (count,) for the values of missing cells: 0 or ""."""
        text = self.value_dtype.kind == "O"
        return np.full(count, "", object) if text else np.zeros(count, self.value_dtype)

    @property
    def _numpy(self) -> np.dtype[Any]:
        """NumPy dtype of the column's numbers, or of its categories'."""
        dtype = self.pandas_dtype()
        found = getattr(dtype, "numpy_dtype", dtype)
        return found if isinstance(found, np.dtype) else np.dtype(object)

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest number that the dtype has."""
        if self.holds == "real":
            largest = float(np.finfo(self._numpy).max) if self._numpy.kind == "f" else LARGEST
            return -min(largest, LARGEST), min(largest, LARGEST)
        info = np.iinfo(self._numpy if self._numpy.kind in "iu" else np.int64)
        return int(info.min), int(info.max)

    def reaching(self, largest: int) -> Self:
        """Returns this storage, with a dtype of 64 bits if its own ends below a whole number."""
        if largest <= self.limits[1]:
            return self
        wide = self.dtype.replace("8", "64").replace("16", "64").replace("32", "64")
        return self.model_copy(update={"dtype": wide})

    def rounded(self, numbers: np.ndarray | float) -> np.ndarray:
        """Rounds numbers to what the dtype, or that of its categories, can hold, in float64."""
        given = np.asarray(numbers, dtype=np.float64)
        with np.errstate(over="ignore"):
            held = given.astype(self._numpy) if self._numpy.kind == "f" else given
        return held.astype(np.float64)

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
        large = self.holds == "whole" and any(isinstance(s, int) and s >= 2**63 for s in scalars)
        return np.array(scalars, dtype="uint64" if large else _DTYPES[self.holds])

    def restore(self, values: np.ndarray, missing: np.ndarray) -> pd.Series:
        """Makes a column of this dtype from values.

        Args:
            values: Shape (n,), as :meth:`read` gives them.
            missing: Shape (n,), which cells have no value.
        """
        if self.values is not None:
            known, own = self.from_scalars(self.values), self.model_copy(update={"values": None})
            codes = place_among(known, values)
            codes[missing] = -1
            kept = own.restore(known, np.zeros(len(known), dtype=bool))
            categories = pd.CategoricalDtype(pd.Index(kept), ordered=self.ordered)
            return pd.Series(pd.Categorical.from_codes(codes, dtype=categories))
        if self.written is not None:
            values = _written(values, self.written)
        if self.zone is not None:
            values = _universal_time(values, self.zone)
        dtype = self.pandas_dtype()
        if isinstance(dtype, np.dtype) and dtype.kind in "iufb":
            with np.errstate(over="ignore"):
                values = values.astype(dtype)
            if dtype.kind == "f":
                values[missing] = np.nan
            return pd.Series(values)
        if dtype == np.dtype(object):
            cells = pd.Series(values)
            objects = (cells.dt.date if self.dates else cells).astype(object).to_numpy(copy=True)
            objects[missing] = {"nan": np.nan, "NA": pd.NA, "None": None}[self.gap]
            return pd.Series(objects, dtype=object)
        if isinstance(dtype, pd.ArrowDtype):
            return _arrow_series(values, missing, dtype)
        if values.dtype.kind in "mM":
            moments = pd.Series(values).mask(missing)
            tz = isinstance(dtype, pd.DatetimeTZDtype)
            return (moments.dt.tz_localize("UTC") if tz else moments).astype(dtype)
        return pd.Series(values).astype(dtype).mask(missing)


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
    if isinstance(dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy()
        known, _ = read(pd.Series(dtype.categories), name)
        return (known if len(known) else np.full(1, "", object))[np.maximum(codes, 0)], codes < 0
    missing = column.isna().to_numpy(dtype=bool, copy=True)
    if isinstance(dtype, np.dtype) and dtype.kind in "iufb":
        values = column.to_numpy(copy=True)
    else:
        values = _through_arrow(column, missing, name)
    if values.dtype.kind == "O":
        return values, missing
    if values.dtype.kind in "iu" and values.dtype != np.uint64:
        values = values.astype(np.int64)
    if values.dtype.kind == "f":
        values = values.astype(np.float32 if values.dtype.itemsize < 8 else np.float64)
        missing |= np.isnan(values)
        largest = LARGEST if values.dtype == np.float64 else np.finfo(values.dtype).max
        beyond = np.abs(values) > largest
        if beyond.any():
            row = int(np.argmax(beyond))
            raise DataError(
                f"column '{name}' has {values[row]:g} in row {row + 1}, beyond {LARGEST:g}; remove "
                "the row or fill the cell"
            )
    values[missing] = np.zeros(1, dtype=values.dtype)[0]
    return values, missing


def _through_arrow(column: pd.Series, missing: np.ndarray, name: object) -> np.ndarray:
    """Converts a column by Arrow, which knows what its cells are."""
    cells, objects = column, column.dtype == np.dtype(object)
    if objects:
        cells = column.infer_objects()
        if missing.any() and pd.api.types.infer_dtype(column, skipna=True) == "integer":
            raise DataError(
                f"column '{name}' holds whole numbers and gaps as objects; give it the dtype Int64"
            )
    elif isinstance(column.dtype, pd.PeriodDtype):
        cells = column.dt.to_timestamp()
    values = None
    try:
        if not objects or isinstance(cells.dtype, np.dtype | pd.StringDtype):
            values = _converted(cells)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _refusal(column, name) from error
    if values is None:
        raise _refusal(column, name)
    return values


def _converted(cells: pd.Series) -> np.ndarray | None:
    """Converts cells by Arrow; None if they hold what tables do not carry."""
    found = pa.array(cells, from_pandas=True)
    array = pa.chunked_array([found]) if isinstance(found, pa.Array) else found
    kind = array.type
    holds = next((holds for test, holds in _IN_ARROW if test(kind)), None)
    if pa.types.is_null(kind) and isinstance(cells.dtype, np.dtype):
        holds = "text"  # objects that are all missing
    if holds == "text":
        codes, texts = pd.factorize(cells)  # much faster than cell by cell
        return np.append(texts.to_numpy(dtype=object), "")[codes]
    if holds in ("moment", "span"):
        array = array.cast(pa.timestamp("s")) if pa.types.is_date(kind) else array
        whole = np.array(array.cast(pa.int64()).fill_null(0).to_numpy())
        return whole.view(f"{'M8' if holds == 'moment' else 'm8'}[{array.type.unit}]")
    if holds is None:
        return None
    wide = pa.float64() if holds == "real" else pa.int64()
    wide = kind if kind in (pa.float32(), pa.uint64(), pa.bool_()) else wide
    return np.array(array.cast(wide).fill_null(pa.scalar(False).cast(wide)).to_numpy())


def _arrow_series(values: np.ndarray, missing: np.ndarray, dtype: pd.ArrowDtype) -> pd.Series:
    arrow = dtype.pyarrow_dtype
    if pa.types.is_date(arrow):
        array = pa.array(values.astype("datetime64[D]"), mask=missing).cast(arrow)
    elif values.dtype.kind in "mM":
        whole = values.astype(f"{values.dtype.kind}8[{arrow.unit}]").view(np.int64)
        array = pa.array(whole, mask=missing).cast(arrow)
    else:
        array = pa.array(values, mask=missing).cast(arrow, safe=False)
    return pd.Series(pd.arrays.ArrowExtensionArray(array), dtype=dtype)


def _refusal(column: pd.Series, name: object) -> DataError:
    """Makes the error for a column that tables do not carry."""
    what = f"has dtype {column.dtype}"
    if column.dtype == np.dtype(object):
        rows = np.flatnonzero(column.notna())
        kinds = [type(cell) for cell in column.iloc[rows]]
        for row, kind in zip(rows, kinds, strict=True):
            if kind is not kinds[0]:
                return DataError(
                    f"column '{name}' mixes types: row {row + 1} holds {kind.__name__} after "
                    f"{kinds[0].__name__}; make all cells of one type"
                )
        what = f"holds objects of type {kinds[0].__name__}"
    return DataError(
        f"column '{name}' {what}, which tables do not carry; turn it into numbers, text or dates, "
        "or leave it out"
    )


def _zone_of_days(dtype: object, moments: np.ndarray, missing: np.ndarray) -> str | None:
    """Returns the dtype's time zone if all moments are midnights there but not in UTC."""
    zone = getattr(getattr(dtype, "pyarrow_dtype", dtype), "tz", None)
    if zone is None or not (moments.astype("datetime64[D]") != moments)[~missing].any():
        return None
    wall = _wall_time(moments[~missing], str(zone))
    return None if (wall.astype("datetime64[D]") != wall).any() else str(zone)


def _wall_time(moments: np.ndarray, zone: str) -> np.ndarray:
    there = pd.Series(moments).dt.tz_localize("UTC").dt.tz_convert(zone)
    return there.dt.tz_localize(None).to_numpy()


def _universal_time(moments: np.ndarray, zone: str) -> np.ndarray:
    there = pd.Series(moments).dt.tz_localize(
        zone, ambiguous=np.ones(len(moments), dtype=bool), nonexistent="shift_forward"
    )
    return there.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(copy=True)


def _format(values: np.ndarray, missing: np.ndarray, name: object) -> str | None:
    """Finds the format in which text, shape (n,), writes dates; None if it does not.

    Raises:
        DataError: At least half of the cells are dates, and some are none.
    """
    texts = pd.unique(values[~missing])
    if not len(texts):
        return None
    likely = [form for form in _FORMATS if _are_written(texts[:_LOOK], form).mean() >= 0.5]
    fitting = [form for form in likely if _are_written(texts, form).all()]
    if len(fitting) > 1:
        logger.warning(
            "column '%s' is read as day/month/year, and month/day/year would fit as well; if that "
            "is wrong, write its dates as year-month-day",
            name,
        )
    if likely and not fitting:
        odd = texts[~_are_written(texts, likely[0])][0]
        raise DataError(
            f"column '{name}' mixes dates and text: row {int(np.argmax(values == odd)) + 1} holds "
            f"'{odd}'; correct the cell, or call the column a category"
        )
    return fitting[0] if fitting else None


def _are_written(texts: np.ndarray, written: str) -> np.ndarray:
    return np.asarray(_written(_moments(texts, written), written) == texts)


def _moments(texts: np.ndarray, written: str) -> np.ndarray:
    """Reads dates in a format, shape (n,); those in another one are not a time."""
    distinct, place = np.unique(texts, return_inverse=True)
    read = pd.to_datetime(pd.Series(distinct, dtype=object), format=written, errors="coerce")
    if read.dt.tz is not None:
        read = read.dt.tz_localize(None)
    return read.to_numpy()[place]


def _written(moments: np.ndarray, written: str) -> np.ndarray:
    """Writes moments in a format, as objects, shape (n,)."""
    distinct, place = np.unique(moments, return_inverse=True)
    return pd.Series(distinct).dt.strftime(written).to_numpy(dtype=object, copy=True)[place]
