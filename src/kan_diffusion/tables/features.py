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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from kan_diffusion.errors import DataError
from kan_diffusion.tables.columns import Kind, kind_of
from kan_diffusion.tables.dtypes import Storage, place_among

__all__ = ["Feature", "embedding", "features_of"]

_Array = NDArray[np.float64]

_FEWEST_ROWS = 4  # that can be judged
_MOST_COORDINATES = 64  # for the categories of a column


@dataclass(frozen=True)
class Feature:
    """A column that is judged.

    Attributes:
        name: Its name.
        kind: Its kind.
        labels: Its categories: in their own order, text the most frequent one first; None for
            numbers and dates.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] | None

    def by_frequency(self, cells: _Array, among: _Array, most: int, gap: float = np.nan) -> _Array:
        """Codes categories by their frequency, the most frequent one as 0.

        Args:
            cells: Places of categories, shape (n,), NaN for a gap.
            among: The cells that are counted, shape (m,).
            most: Most codes; rarer categories share the last one.
            gap: The code of a gap.
        """
        known = among[~np.isnan(among)].astype(np.int64)
        counts = np.bincount(known, minlength=len(self.labels or ()))
        codes = np.minimum(rankdata(-counts, method="ordinal") - 1, most - 1)
        return np.where(np.isnan(cells), gap, codes[np.nan_to_num(cells).astype(np.int64)])


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
        DataError: A table has too few rows, lacks a column or has one twice, a column of a table
            does not hold what it should, or no column can be judged.
    """
    reference = frames[known_by]
    for which, frame in frames.items():
        if len(frame) < _FEWEST_ROWS:
            raise DataError(
                f"{len(frame)} {which} rows are too few to judge a table by; give at least "
                f"{_FEWEST_ROWS}"
            )
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise DataError(f"the {which} rows have two columns '{twice[0]}'; rename one of them")
        odd = frame.columns.symmetric_difference(reference.columns, sort=False)
        if len(odd):
            raise DataError(
                f"the {which} and the {known_by} rows do not both have column '{odd[0]}'; give "
                "tables with the same columns"
            )
    given = {str(name): kind for name, kind in kinds.items()}
    features, columns = {}, []
    for place in reference:
        name = str(place)
        kind = given.get(name) or kind_of(reference[place], name)
        if kind == "identifier":
            continue
        sides = {which: frame[place] for which, frame in frames.items()}
        cells, labels = _numbers(sides, Storage.of(reference[place], name, kind), kind)
        if len(np.unique(cells)) > 1:
            features[name] = Feature(name, kind, labels)
            columns.append(cells)
    if not features:
        raise DataError(
            "no column can be judged: all are constant or identifiers; give their kinds"
        )
    ends = np.cumsum([len(frame) for frame in frames.values()])[:-1]
    rows = np.split(np.column_stack(columns), ends)
    left_out = tuple(name for name in map(str, reference) if name not in features)
    return list(features.values()), dict(zip(frames, rows, strict=True)), left_out


def _numbers(
    sides: Mapping[str, pd.Series], storage: Storage, kind: Kind
) -> tuple[_Array, tuple[str, ...] | None]:
    """Reads a column of all tables, one after the other; returns its categories, too."""
    parts = []
    for which, column in sides.items():
        try:
            parts.append(storage.read(column, column.name))
        except DataError as error:
            raise DataError(f"of the {which} rows, {error}") from error
    values, missing = (np.concatenate(part) for part in zip(*parts, strict=True))
    labels = None
    if kind in ("category", "constant") or storage.holds in ("text", "truth"):
        known = np.unique(present := values[~missing])
        if storage.holds == "text":
            known = pd.Series(present, dtype=object).value_counts().index.to_numpy(object)
        if storage.ordered and storage.values is not None:
            own = storage.from_scalars(storage.values)
            known = np.append(own, known[place_among(own, known) < 0])
        values, labels = place_among(known, values.astype(known.dtype)), tuple(map(str, known))
    elif values.dtype.kind in "mM":
        values = values.astype(f"{values.dtype.kind}8[us]").astype(np.int64) / 1e6
    return np.where(missing, np.nan, values.astype(np.float64)), labels


def embedding(features: Sequence[Feature], rows: _Array, real: _Array) -> _Array:
    """Turns rows into points whose distances measure how much two rows differ.

    Args:
        features: The D columns.
        rows: Shape (n, D).
        real: The real rows among which values lie, shape (m, D).

    Returns:
        Shape (n, d): coordinates of each column; rare categories beyond 64 of a column share one.
    """
    parts = []
    for feature, cells, known in zip(features, rows.T, real.T, strict=True):
        gaps = np.isnan(cells)
        if feature.labels is None:
            values, counts = np.unique(known[~np.isnan(known)], return_counts=True)
            scores = ndtri((np.cumsum(counts) - counts / 2) / max(counts.sum(), 1))
            # Without a real value, all are in the middle.
            z = np.interp(cells, values, scores) if len(values) else np.zeros(len(cells))
            parts += [np.where(gaps, 0.0, z), np.sqrt(2.0) * gaps]
        else:
            gap = min(len(feature.labels), _MOST_COORDINATES)
            codes = feature.by_frequency(cells, known, _MOST_COORDINATES, gap)
            parts.append(np.eye(gap + 1)[codes.astype(np.int64)])
    return np.column_stack(parts)
