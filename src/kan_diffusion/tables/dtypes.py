"""Dtypes there and back: the cells of a pandas column as NumPy values, and values as such a column.

Values have one of six types: whole numbers (int64, uint64), real numbers (float64, float32), truth
values, text, moments (datetime64, the wall time of their zone) and spans (timedelta64). pandas
tells what cells are, whatever their dtype, and makes the dtype anew from its name. One that does
not come back is refused by name: that of intervals, decimals and lists, and objects of several
types. Of the two moments of one wall time, when clocks are set back, the first comes back.

Text is a category, whatever it looks like; but where all of it is dates in one format
(:mod:`kan_diffusion.tables.dates`), or amounts with one unit (:mod:`kan_diffusion.data.amounts`),
it is read as dates or numbers and written as it was.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionDtype
from pydantic import Field

from kan_diffusion.data.amounts import Amount, unit_of
from kan_diffusion.errors import DataError
from kan_diffusion.settings import Settings
from kan_diffusion.tables.dates import (
    DATE_FORMAT,
    DIGITS,
    form_of_digits,
    format_of,
    hundred_of,
    is_clock,
    read_dates,
    written_dates,
)

logger = logging.getLogger("kan_diffusion.tables")

LARGEST = 1e300
"""Largest number, so that samples far out of its range still fit into float64."""

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
_INFERRED: dict[str, Holds] = {  # what pandas infers
    "integer": "whole", "floating": "real", "mixed-integer-float": "real", "boolean": "truth",
    "string": "text", "empty": "text", "datetime64": "moment", "datetime": "moment",
    "date": "moment", "period": "moment", "timedelta64": "span", "timedelta": "span",
}  # fmt: skip
_IN_NUMPY: dict[str, Holds] = {
    "i": "whole", "u": "whole", "f": "real", "b": "truth", "O": "text", "M": "moment", "m": "span",
}  # fmt: skip
_A_DAY = 86_400_000_000  # microseconds
_DTYPES = {"whole": "int64", "real": "float64", "truth": "bool", "text": "object"}


class Storage(Settings):
    """The dtype of a column, and the type of its values.

    Attributes:
        dtype: As pandas writes it: "int64", "Float32", "datetime64[us, UTC]", "int8[pyarrow]"; of
            a categorical dtype that of its categories.
        holds: Type of the values.
        gap: Value that marks a missing cell among objects.
        dates: Whether objects are dates without a time.
        written: Format of dates in a column of text, such as "%Y-%m-%d".
        amount: How numbers in a column of text are written.
        hundred: The first of the hundred years that two digits of a year stand for.
        unit: Unit of moments and spans.
        values: The categories of a categorical dtype, in their order, used or not.
        ordered: Whether the categories are ordered.
    """

    dtype: str
    holds: Holds
    gap: Literal["nan", "NA", "None"] = "nan"
    dates: bool = False
    written: Annotated[str, Field(pattern=DATE_FORMAT)] | None = None
    amount: Amount | None = None
    hundred: Annotated[int, Field(ge=1869, le=2069)] = 1969
    unit: Literal["s", "ms", "us", "ns"] | None = None
    values: Annotated[tuple[Scalar, ...], Field(fail_fast=True)] | None = None
    ordered: bool = False

    @classmethod
    def of(
        cls, column: pd.Series, name: object, kind: str | None = None, written: str = ""
    ) -> Self:
        """Describes a column.

        Args:
            column: Its cells, shape (n,).
            name: Its name, for errors.
            kind: Its kind, if that is known: text is read as dates, times or numbers if it is one
                of these or None.
            written: Format of its dates, if that is known.

        Raises:
            DataError: Its dtype is not supported, or it mixes types, or dates and text.
        """
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            categories = pd.Series(dtype.categories)
            own = cls.of(categories, name, "category")  # names, even if they look like dates
            known = tuple(own.scalars(own.read(categories, name)[0]))
            return own.model_copy(update={"values": known, "ordered": bool(dtype.ordered)})
        values, missing = _read(column, name)
        about: dict[str, object] = {"dtype": str(dtype)}
        if isinstance(dtype, pd.StringDtype) and dtype.storage == "python":
            about["dtype"] = f"{dtype}[python]"
        if kind in (None, "date", "time"):
            form: str | None = None
            if values.dtype.kind == "O":
                form = written or format_of(values, missing, name)
            elif values.dtype.kind == "i":
                form = form_of_digits(values[~missing])
            about["written"] = form
            if form is not None and "%y" in form:
                about["hundred"] = hundred_of(pd.unique(values[~missing]), form, name)
            values = values if form is None else read_dates(_texts(values[~missing][:1]), form)
        if kind in (None, "number") and values.dtype.kind == "O" and not missing.all():
            texts = pd.unique(values[~missing])
            about["amount"] = amount = Amount.of(texts)
            if amount is None and any(unit := unit_of(texts) or ()) and len(texts) > 1:
                logger.warning(
                    f"column '{name}' is read as text, since not all amounts with "
                    f"'{''.join(unit).strip()}' are written alike, as '{texts[0]}'; write them so "
                    "to have them learned, with as many decimals"
                )
            if amount is not None:
                values = amount.read(values[~missing])
                values = values if amount.decimals or (values % 1).any() else values.astype(int)
        about["holds"] = holds = _IN_NUMPY[values.dtype.kind]
        if holds in ("moment", "span"):
            about["unit"] = np.datetime_data(values.dtype)[0]
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
        """Reads the values of a column (n,) that should match this storage; errors have its name.

        Raises:
            DataError: It holds values of another type, or one is infinite.
        """
        values, missing = _read(column, name, self.zone or "UTC")
        if missing.all():
            return self.empty(len(values)), missing
        held = _IN_NUMPY[values.dtype.kind]
        if held == "whole" and (self.holds == "text" or self.written in DIGITS.values()):
            values, held = _texts(values), "text"  # in these rows all texts are digits
        if self.written is not None and held == "text":
            moments = read_dates(values, self.written, self.hundred)
            self._require_written(np.isnat(moments) & ~missing, values, name, self.written)
            values = np.where(missing, np.zeros(1, moments.dtype), moments)
        elif self.amount is not None and held == "text":
            amounts = np.zeros(len(values))
            amounts[~missing] = self.amount.read(values[~missing])
            self._require_written(np.isnan(amounts), values, name, self.amount.example)
            values = amounts if (amounts % 1).any() else amounts.astype(self.value_dtype)
        elif self.holds != held and not {self.holds, held} <= {"whole", "real", "truth"}:
            row = int(np.argmin(missing)) + 1
            raise DataError(
                f"column '{name}' should hold {WORDS[self.holds]}, as in the rows trained on, and "
                f"row {row} holds {WORDS[held]}; give what it held"
            )
        return (values if self.unit is None else values.astype(self.value_dtype)), missing

    @staticmethod
    def _require_written(wrong: np.ndarray, texts: np.ndarray, name: object, form: str) -> None:
        """Refuses texts (n,) of which some are wrong."""
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"column '{name}' holds '{texts[row]}' in row {row + 1}, which is not written as "
                f"{form}; correct that cell"
            )

    @property
    def is_text(self) -> bool:
        """Whether its cells are text, whatever that says."""
        return bool(self.holds == "text" or self.written or self.amount)

    @property
    def zone(self) -> str | None:
        """Time zone of the moments, if they have one; of text, the offset that all of it has."""
        if self.written is not None:
            offset = re.search(r"%z$|Z$|[+-][0-9]{2}:?[0-9]{2}$", self.written)
            return offset and offset[0].removeprefix("%").upper().replace("Z", "UTC")
        dtype = self.pandas_dtype()
        zone = getattr(getattr(dtype, "pyarrow_dtype", dtype), "tz", None)
        return None if zone is None else str(zone)

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
    def limits(self) -> tuple[float, float]:
        """Smallest and largest number that the dtype has."""
        numpys = _numpy_dtype(self.pandas_dtype())
        if self.holds == "real":
            largest = min(float(np.finfo(numpys).max) if numpys.kind == "f" else LARGEST, LARGEST)
            return -largest, largest
        if is_clock(self.written):
            return 0, _A_DAY - 1
        info = np.iinfo(numpys if numpys.kind in "iu" and self.unit is None else np.int64)
        return int(info.min), int(info.max)

    def scalars(self, values: np.ndarray) -> list[Scalar]:
        """Converts values to JSON scalars; moments and spans to whole numbers of their unit."""
        if self.unit is not None:
            values = values.astype(self.value_dtype).view(np.int64)
        scalars: list[Scalar] = values.tolist()
        return scalars

    def from_scalars(self, scalars: Sequence[Scalar]) -> np.ndarray:
        """Converts JSON scalars to values as :meth:`read` gives them."""
        return np.array(scalars, dtype=self.value_dtype)

    def restore(self, values: np.ndarray, missing: np.ndarray) -> pd.Series:
        """Makes a column (n,) of this dtype from what :meth:`read` gives."""
        if self.values is not None:
            known, own = self.from_scalars(self.values), self.model_copy(update={"values": None})
            codes = np.where(missing, -1, place_among(known, values))
            kept = own.restore(known, np.zeros(len(known), dtype=bool))
            categories = pd.CategoricalDtype(pd.Index(kept), ordered=self.ordered)
            return pd.Series(pd.Categorical.from_codes(codes, dtype=categories))
        dtype = self.pandas_dtype()
        if self.amount is not None:
            values = self.amount.write(values)
        cells = pd.Series(values if self.written is None else written_dates(values, self.written))
        if self.written is not None and pd.api.types.is_integer_dtype(dtype):
            cells = pd.to_numeric(cells)
        if cells.dtype.kind in "mM":
            cells = cells.mask(missing)
            if (zone := self.zone) is not None:
                summer = np.ones(len(cells), dtype=bool)  # of two moments of one wall time
                cells = cells.dt.tz_localize(zone, ambiguous=summer, nonexistent="shift_forward")
            cells = cells.dt.date if self.dates else cells
        with np.errstate(over="ignore"):
            cells = cells.astype(dtype)
        if dtype == np.dtype(object):
            return cells.where(~missing, {"nan": np.nan, "NA": pd.NA, "None": None}[self.gap])
        knows_no_gap = isinstance(dtype, np.dtype) and dtype.kind in "iub"
        return cells if knows_no_gap or not missing.any() else cells.mask(missing)


def place_among(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the index of each value, shape (n,), among distinct known ones; -1 if unknown."""
    # Keep the dtypes: without them text would first be turned into a string dtype.
    index = pd.Index(known, dtype=known.dtype)
    return index.get_indexer(pd.Index(values, dtype=values.dtype))


def _texts(values: np.ndarray) -> np.ndarray:
    """Returns text as it is, and whole numbers as text."""
    return values if values.dtype.kind == "O" else values.astype(str).astype(object)


def _numpy_dtype(dtype: object) -> np.dtype[Any]:
    """Returns the NumPy dtype behind a pandas dtype; object if there is none."""
    found = getattr(dtype, "numpy_dtype", dtype)
    return found if isinstance(found, np.dtype) else np.dtype(object)


def _read(column: pd.Series, name: object, zone: str = "UTC") -> Values:
    """Reads a column of any supported dtype, moments in a zone's wall time; gaps are 0 or ""."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy()
        known, _ = _read(pd.Series(dtype.categories), name, zone)
        return (known if len(known) else np.full(1, "", object))[np.maximum(codes, 0)], codes < 0
    missing = column.isna().to_numpy(dtype=bool, copy=True)
    try:
        match _INFERRED.get(pd.api.types.infer_dtype(column, skipna=True)):
            case "whole":
                wide = np.uint64 if "uint64" in str(dtype).lower() else np.int64
                values = column.to_numpy(wide, copy=True, na_value=0)
            case "real":
                fine = _numpy_dtype(dtype).kind != "f" or _numpy_dtype(dtype).itemsize == 8
                values = column.to_numpy(np.float64 if fine else np.float32, True, np.nan)
            case "truth":
                values = column.to_numpy(np.bool_, copy=True, na_value=False)
            case "text":
                return column.to_numpy(object, copy=True, na_value=""), missing
            case "moment":
                period = isinstance(dtype, pd.PeriodDtype)
                cells = pd.to_datetime(column.dt.to_timestamp() if period else column, utc=True)
                first = column.dropna().iloc[:1]
                if len(first) and getattr(first.iloc[0], "tzinfo", None) is not None:
                    cells = cells.dt.tz_convert(zone)  # a naive cell is wall time already
                values = cells.dt.tz_localize(None).to_numpy(copy=True)
            case "span":
                values = pd.to_timedelta(column).to_numpy().copy()
            case None:
                raise TypeError
    except (TypeError, ValueError, OverflowError) as error:
        raise _refusal(column, name) from error
    if values.dtype.kind == "f":
        missing |= np.isnan(values)
        beyond = np.abs(values.astype(np.float64)) > LARGEST
        if beyond.any():
            row = int(np.argmax(beyond))
            raise DataError(
                f"column '{name}' has {values[row]:g} in row {row + 1}, beyond {LARGEST:g}; remove "
                "the row or fill the cell"
            )
    if not values.flags.writeable:  # as pyarrow gives them
        values = values.copy()
    values[missing] = np.zeros(1, dtype=values.dtype)[0]
    return values, missing


def _refusal(column: pd.Series, name: object) -> DataError:
    """Makes the error for a column that tables do not carry."""
    what = f"has dtype {column.dtype}"
    if column.dtype == np.dtype(object):
        kinds = column.reset_index(drop=True).dropna().map(lambda cell: type(cell).__name__)
        first, others = kinds.iloc[0], kinds[kinds != kinds.iloc[0]]
        what = f"holds objects of type {first}"
        if len(others):
            what = f"mixes types: row {others.index[0] + 1} holds {others.iloc[0]} after {first}"
    return DataError(
        f"column '{name}' {what}, which tables do not carry; turn it into numbers, text or dates, "
        "or leave it out"
    )
