r"""Columns of tables as numbers, coded alike in all tables, whichever model made them.

A number stays as it is, a date becomes seconds since 1970, a time span seconds, a category its
place in a list, and a gap NaN. For distances, rows become points. A number becomes its normal score
among the real rows,

    z(x) = Φ⁻¹((#{r < x} + #{r = x} / 2) / n), interpolated linearly between real values,

and a category becomes one-hot, so that two categories are √2 apart, as two independent normal
numbers are in root mean square. A gap among numbers is the middle of its column, and √2 away in an
extra coordinate; a gap among categories is one more category.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from kan_diffusion.errors import DataError
from kan_diffusion.tables.columns import Kind, kind_of
from kan_diffusion.tables.dtypes import Storage

__all__ = ["Embedding", "Field", "fields_of", "rows_of"]

_Array = NDArray[np.float64]

_LISTED = frozenset({"categorical", "ordinal", "boolean", "constant"})
"""Kinds whose values are categories."""
_MOST_COORDINATES = 64
"""Most coordinates for the categories of a column; rarer categories share the last one."""


@dataclass(frozen=True)
class Field:
    """A column that is judged.

    Attributes:
        name: Its name.
        kind: Its kind.
        labels: Its categories, in their own order or the most frequent one first; None for numbers
            and dates.
        written: Format of dates that are text; None for others.
    """

    name: str
    kind: Kind
    labels: tuple[Hashable, ...] | None
    written: str | None = None


def fields_of(
    frames: Mapping[str, pd.DataFrame], known_by: str, kinds: Mapping[str, Kind]
) -> tuple[list[Field], tuple[str, ...]]:
    """Decides how each column is judged.

    Args:
        frames: Tables by name, with the same columns.
        known_by: Name of the table that kinds are inferred from.
        kinds: Kinds that differ from what is inferred.

    Returns:
        The columns that are judged, and the names of the others: identifiers, and columns with the
        same value in all rows of all tables.

    Raises:
        DataError: A table lacks a column or has one twice, or no column can be judged.
    """
    reference = frames[known_by]
    for name in frames:
        for lacking, having in ((name, known_by), (known_by, name)):
            fewer = frames[lacking].columns
            missing = [str(column) for column in frames[having].columns if column not in fewer]
            if missing:
                raise DataError(
                    f"the {lacking} rows have no column '{missing[0]}', which the {having} rows "
                    "have; give tables with the same columns"
                )
    for name, frame in frames.items():
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise DataError(f"the {name} rows have two columns '{twice[0]}'; rename one of them")
    known = {str(name): kind for name, kind in kinds.items()}
    fields, left_out = [], []
    for column in reference.columns:
        name = str(column)
        kind = known.get(name) or kind_of(reference[column], name)
        cells = [frame[column] for frame in frames.values()]
        labels = _labels(cells, kind) if kind in _LISTED else None
        same = labels is not None and len(labels) < 2 and not any(c.isna().any() for c in cells)
        if kind == "identifier" or same:
            left_out.append(name)
        else:
            written = Storage.of(reference[column], name).written if kind == "datetime" else None
            fields.append(Field(name, kind, labels, written))
    if not fields:
        raise DataError(
            "no column can be judged: all are constant or identifiers; give their kinds"
        )
    return fields, tuple(left_out)


def _labels(columns: Sequence[pd.Series], kind: Kind) -> tuple[Hashable, ...]:
    """Lists the categories of a column in all tables."""
    own = columns[0].dtype
    values = [column.astype(object).dropna() for column in columns]
    # A dictionary keeps the order in which categories are first named.
    named: dict[Hashable, None] = {}
    if isinstance(own, pd.CategoricalDtype) and own.ordered:
        named |= dict.fromkeys(own.categories.astype(object))
    elif kind in ("ordinal", "boolean"):
        everything = pd.concat(values).unique()
        named |= dict.fromkeys(sorted(everything, key=_sorting))
    for column in values:
        named |= dict.fromkeys(column.value_counts().index)
    return tuple(named)


def _sorting(value: object) -> tuple[bool, float, str]:
    """Sorts numbers by size, then words by letters."""
    is_number = isinstance(value, (int, float, np.number, np.bool_))
    return not is_number, float(value) if is_number else 0.0, str(value)  # type: ignore[arg-type]


def rows_of(fields: Sequence[Field], frame: pd.DataFrame, name: str) -> _Array:
    """Converts a table's judged columns to numbers.

    Args:
        fields: The columns.
        frame: The table, with n rows.
        name: Name of the table for error messages.

    Returns:
        Shape (n, D), float64: numbers, seconds since 1970, places of categories, NaN for gaps.

    Raises:
        DataError: A column holds a value that is no number or date, or is infinite.
    """
    by_name = {str(column): frame[column] for column in frame.columns}
    rows = np.empty((len(frame), len(fields)))
    for index, field in enumerate(fields):
        column = by_name[field.name]
        try:
            rows[:, index] = _values(field, column)
        except (TypeError, ValueError) as error:
            wanted = "dates" if field.kind == "datetime" else "numbers"
            raise DataError(
                f"column '{field.name}' of the {name} rows does not hold {wanted}; give the column "
                "as the real table has it, or its kind"
            ) from error
        endless = np.isinf(rows[:, index])
        if endless.any():
            raise DataError(
                f"column '{field.name}' of the {name} rows is infinite in row "
                f"{int(endless.argmax()) + 1}; give finite values or gaps"
            )
    return rows


def _values(field: Field, column: pd.Series) -> _Array:
    if field.labels is not None:
        places = pd.Index(field.labels, dtype=object).get_indexer(pd.Index(column, dtype=object))
        return np.where(places < 0, np.nan, places.astype(np.float64))
    if field.kind == "datetime":
        if isinstance(column.dtype, pd.PeriodDtype):
            column = column.dt.to_timestamp()
        dates = pd.to_datetime(column.astype(object), utc=True, format=field.written)
        dates = dates.dt.tz_localize(None)
        micros = dates.to_numpy("datetime64[us]")
        return np.where(np.isnat(micros), np.nan, micros.astype(np.int64) / 1e6)
    if pd.api.types.infer_dtype(column).startswith("timedelta"):
        column = pd.to_timedelta(column)
    if column.dtype.kind == "m":
        column = column.dt.total_seconds()
    return column.to_numpy(np.float64, na_value=np.nan)


@dataclass(frozen=True)
class _Coordinates:
    """The map from a column to coordinates.

    Attributes:
        values: Real values in increasing order, shape (k,); empty for a category.
        scores: Their normal scores, shape (k,).
        categories: Coordinate of each category, shape (c,); empty for a number.
        width: Number of coordinates; the last one is for gaps.
    """

    values: _Array
    scores: _Array
    categories: NDArray[np.int64]
    width: int

    @classmethod
    def fit(cls, field: Field, column: _Array) -> _Coordinates:
        known = column[~np.isnan(column)]
        if field.labels is None:
            values, counts = np.unique(known, return_counts=True)
            scores = ndtri((np.cumsum(counts) - counts / 2) / max(len(known), 1))
            return cls(values, scores, np.empty(0, np.int64), 2)
        counts = np.bincount(known.astype(np.int64), minlength=len(field.labels))
        ranks = rankdata(-counts, method="ordinal") - 1
        categories = np.minimum(ranks, _MOST_COORDINATES - 1)
        width = int(categories.max(initial=0)) + 2
        return cls(np.empty(0), np.empty(0), categories, width)

    def __call__(self, column: _Array) -> _Array:
        points = np.zeros((len(column), self.width))
        gaps = np.isnan(column)
        if len(self.categories):
            known = np.flatnonzero(~gaps)
            points[known, self.categories[column[known].astype(np.int64)]] = 1.0
            points[gaps, -1] = 1.0
        elif len(self.values):
            points[~gaps, 0] = np.interp(column[~gaps], self.values, self.scores)
            points[gaps, -1] = np.sqrt(2.0)
        return points


@dataclass(frozen=True)
class Embedding:
    """The map from rows to points whose distances measure how much two rows differ."""

    columns: tuple[_Coordinates, ...]

    @classmethod
    def fit(cls, fields: Sequence[Field], rows: _Array) -> Embedding:
        """Learns where values lie among real rows.

        Args:
            fields: The D columns.
            rows: Real rows, shape (n, D).
        """
        return cls(tuple(_Coordinates.fit(field, rows[:, i]) for i, field in enumerate(fields)))

    def __call__(self, rows: _Array, without: int | None = None) -> _Array:
        """Maps rows (n, D) to points (n, d), without one column if its index is given."""
        kept = [index for index in range(len(self.columns)) if index != without]
        return np.concatenate([self.column(index, rows) for index in kept], axis=1)

    def column(self, index: int, rows: _Array) -> _Array:
        """Maps a single column of rows (n, D) to its coordinates."""
        return self.columns[index](rows[:, index])
