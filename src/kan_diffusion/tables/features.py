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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from kan_diffusion.errors import DataError
from kan_diffusion.tables.columns import Kind, kind_of
from kan_diffusion.tables.dtypes import Storage, Values, place_among

__all__ = ["Embedding", "Feature", "features_of"]

_Array = NDArray[np.float64]

_LISTED = frozenset({"category", "constant"})
"""Kinds whose values are categories."""
_MOST_COORDINATES = 64
"""Most coordinates for the categories of a column; rarer categories share the last one."""


@dataclass(frozen=True)
class Feature:
    """A column that is judged.

    Attributes:
        name: Its name.
        kind: Its kind.
        labels: Its categories, in their own order or the most frequent one first; None for numbers
            and dates.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] | None


def features_of(
    frames: Mapping[str, pd.DataFrame], known_by: str, kinds: Mapping[str, Kind]
) -> tuple[list[Feature], dict[str, _Array], tuple[str, ...]]:
    """Decides how each column is judged, and reads the cells of those that are.

    Args:
        frames: Tables by name, with the same columns.
        known_by: Name of the table that kinds and dtypes are inferred from.
        kinds: Kinds that differ from what is inferred.

    Returns:
        The D columns that are judged; the rows of each table, with shape (n, D), float64: numbers,
        seconds since 1970, places of categories, NaN for gaps; and the names of the other columns:
        identifiers, and columns with the same value in all rows of all tables.

    Raises:
        DataError: A table lacks a column or has one twice, a column of a table does not hold what
            it should, or no column can be judged.
    """
    _require_alike(frames, known_by)
    given = {str(name): kind for name, kind in kinds.items()}
    features: list[Feature] = []
    columns: list[dict[str, _Array]] = []
    left_out = []
    for place, reference in frames[known_by].items():
        name = str(place)
        kind = given.get(name) or kind_of(reference, name)
        if kind == "identifier":
            left_out.append(name)
            continue
        storage = Storage.of(reference, name, kind)
        labels: tuple[str, ...] | None = None
        cells = {which: _read(storage, frame[place], which) for which, frame in frames.items()}
        if kind in _LISTED or storage.holds in ("text", "truth"):
            known = _categories(storage, list(cells.values()))
            labels = tuple(map(str, known))
            numbers = {which: _codes(known, *read) for which, read in cells.items()}
        else:
            numbers = {which: _numbers(*read) for which, read in cells.items()}
        gaps = any(np.isnan(side).any() for side in numbers.values())
        if labels is not None and len(labels) < 2 and not gaps:
            left_out.append(name)
        else:
            features.append(Feature(name, kind, labels))
            columns.append(numbers)
    if not features:
        raise DataError(
            "no column can be judged: all are constant or identifiers; give their kinds"
        )
    rows = {which: np.column_stack([column[which] for column in columns]) for which in frames}
    return features, rows, tuple(left_out)


def _require_alike(frames: Mapping[str, pd.DataFrame], known_by: str) -> None:
    for name, frame in frames.items():
        for lacking, having in ((name, known_by), (known_by, name)):
            fewer = frames[lacking].columns
            missing = [str(column) for column in frames[having].columns if column not in fewer]
            if missing:
                raise DataError(
                    f"the {lacking} rows have no column '{missing[0]}', which the {having} rows "
                    "have; give tables with the same columns"
                )
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise DataError(f"the {name} rows have two columns '{twice[0]}'; rename one of them")


def _read(storage: Storage, column: pd.Series, which: str) -> Values:
    try:
        return storage.read(column, column.name)
    except DataError as error:
        raise DataError(f"of the {which} rows, {error}") from error


def _numbers(values: np.ndarray, missing: np.ndarray) -> _Array:
    """Returns numbers, and moments and spans in seconds; NaN for gaps."""
    if values.dtype.kind in "mM":
        values = values.astype(f"{values.dtype.kind}8[us]").astype(np.int64) / 1e6
    return np.where(missing, np.nan, values.astype(np.float64))


def _categories(storage: Storage, cells: Sequence[Values]) -> np.ndarray:
    """Lists the categories of a column in all tables."""
    found = [values[~missing] for values, missing in cells]
    counts = [pd.Series(values).value_counts() for values in found]
    listed = [each.index.to_numpy(values.dtype) for each, values in zip(counts, found, strict=True)]
    if storage.ordered and storage.values is not None:
        listed.insert(0, storage.from_scalars(storage.values))
    known = np.asarray(pd.unique(np.concatenate(listed)))
    return known if storage.ordered or storage.holds == "text" else np.sort(known)


def _codes(known: np.ndarray, values: np.ndarray, missing: np.ndarray) -> _Array:
    """Returns the places of cells among categories, NaN for gaps."""
    places = place_among(known, values.astype(known.dtype)).astype(np.float64)
    return np.where(missing, np.nan, places)


@dataclass(frozen=True)
class Embedding:
    """The map from rows to points whose distances measure how much two rows differ.

    Attributes:
        maps: For each column the map from its cells, shape (n,), to coordinates, the last of which
            is for gaps.
    """

    maps: tuple[Callable[[_Array], _Array], ...]

    @classmethod
    def fit(cls, features: Sequence[Feature], rows: _Array) -> Embedding:
        """Learns where values lie among real rows.

        Args:
            features: The D columns.
            rows: Real rows, shape (n, D).
        """
        return cls(
            tuple(
                _of_numbers(column) if one.labels is None else _of_categories(column, one.labels)
                for one, column in zip(features, rows.T, strict=True)
            )
        )

    def __call__(self, rows: _Array, without: int | None = None) -> _Array:
        """Maps rows (n, D) to points (n, d), without one column if its index is given."""
        kept = [index for index in range(len(self.maps)) if index != without]
        return np.concatenate([self.column(index, rows) for index in kept], axis=1)

    def column(self, index: int, rows: _Array) -> _Array:
        """Maps a single column of rows (n, D) to its coordinates."""
        return self.maps[index](rows[:, index])


def _of_numbers(real: _Array) -> Callable[[_Array], _Array]:
    values, counts = np.unique(real[~np.isnan(real)], return_counts=True)
    scores = ndtri((np.cumsum(counts) - counts / 2) / max(int(counts.sum()), 1))

    def points(cells: _Array) -> _Array:
        gaps = np.isnan(cells)
        score = np.interp(cells, values, scores) if len(values) else np.zeros(len(cells))
        return np.column_stack((np.where(gaps, 0.0, score), np.sqrt(2.0) * gaps))

    return points


def _of_categories(real: _Array, labels: Sequence[str]) -> Callable[[_Array], _Array]:
    counts = np.bincount(real[~np.isnan(real)].astype(np.int64), minlength=max(len(labels), 1))
    ranks = rankdata(-counts, method="ordinal").astype(np.int64) - 1
    place = np.minimum(ranks, _MOST_COORDINATES - 1)
    gap = int(place.max()) + 1

    def points(cells: _Array) -> _Array:
        known = place[np.nan_to_num(cells).astype(np.int64)]
        return np.eye(gap + 1)[np.where(np.isnan(cells), gap, known)]

    return points
