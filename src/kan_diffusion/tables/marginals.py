"""Shares of bins and categories in real and synthetic rows, ready to be drawn.

A picture holds shares and no row. Bins have equal width between the 0.5 % and 99.5 % quantiles of
the real values, or between their extremes where these are near. They are of equal ratio if positive
values span more than two decades and most lie in the lowest tenth. Where values have a fixed step,
each bin holds equally many steps, so that whole numbers leave no comb.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kan_diffusion.tables.columns import has_many_zeros
from kan_diffusion.tables.dtypes import place_among
from kan_diffusion.tables.features import Feature

__all__ = [
    "Bars",
    "Distances",
    "Histogram",
    "Picture",
    "column_picture",
    "distance_picture",
    "outline",
]

_Array = NDArray[np.float64]

_BINS = 30
_BARS = 9
_FEW = 8
"""Largest number of different values of a numeric column that are drawn as bars."""
_DECADES = 100.0
GAP = "gap"
"""Name of the bar of gaps."""


@dataclass(frozen=True)
class Histogram:
    """Shares of bins, real beside synthetic.

    Attributes:
        edges: Ends of the k bins, shape (k + 1,), increasing; of dates in seconds since 1970.
        real: Share of each bin among the real values, shape (k,).
        synthetic: The same of the synthetic values.
        beyond: Shares of real and synthetic values outside the bins.
        log: Whether bins are of equal ratio.
        date: Whether values are dates.
        apart: Zeros and gaps with bars of their own: name, share of all real and synthetic cells.
        numbers: Numbers of real and synthetic values that were counted.
    """

    edges: _Array
    real: _Array
    synthetic: _Array
    beyond: tuple[float, float]
    log: bool
    date: bool
    apart: tuple[tuple[str, float, float], ...]
    numbers: tuple[int, int]


@dataclass(frozen=True)
class Bars:
    """Shares of categories, real beside synthetic.

    Attributes:
        labels: The categories; rare ones share one bar, and gaps have another.
        real: Share of each among the real cells, shape (k,).
        synthetic: The same of the synthetic cells.
        numbers: Numbers of real and synthetic cells.
    """

    labels: tuple[str, ...]
    real: _Array
    synthetic: _Array
    numbers: tuple[int, int]


Picture = Histogram | Bars


@dataclass(frozen=True)
class Distances:
    """Distances of synthetic rows to the closest record, as shares.

    Attributes:
        edges: Ends of the k bins, shape (k + 1,).
        train: Shares by distance to the closest training row, shape (k,).
        heldout: Shares by distance to the closest held-out row, shape (k,).
    """

    edges: _Array
    train: _Array
    heldout: _Array


def column_picture(feature: Feature, real: _Array, synthetic: _Array) -> Picture:
    """Counts the values of one column.

    Args:
        feature: The column.
        real: Its real cells as numbers, shape (n,), NaN for a gap.
        synthetic: Its synthetic cells, shape (m,).
    """
    feature, real, synthetic = _listed(feature, real, synthetic)
    sides = [column[~np.isnan(column)] for column in (real, synthetic)]
    gaps = float(np.isnan(real).mean()), float(np.isnan(synthetic).mean())
    if feature.labels is not None:
        bars, labels = _bars(feature, real)
        counts = [np.bincount(bars[cells.astype(int)], minlength=len(labels)) for cells in sides]
        shares = [
            np.append(count / len(column), gap)
            for count, column, gap in zip(counts, (real, synthetic), gaps, strict=True)
        ]
        end = len(labels) + any(gaps)
        return Bars(
            (*labels, GAP)[:end], shares[0][:end], shares[1][:end], (len(real), len(synthetic))
        )
    apart: list[tuple[str, float, float]] = []
    if feature.kind == "number" and has_many_zeros(sides[0]):
        apart.append(("zero", float((real == 0).mean()), float((synthetic == 0).mean())))
        sides = [cells[cells != 0] for cells in sides]
    if any(gaps):
        apart.append((GAP, *gaps))
    edges, log = outline(sides[0], _BINS)
    first, second = (np.histogram(cells, edges)[0] / max(len(cells), 1) for cells in sides)
    beyond = [
        max(0.0, 1.0 - float(share.sum())) if len(cells) else 0.0
        for cells, share in zip(sides, (first, second), strict=True)
    ]
    return Histogram(
        edges, first, second, (beyond[0], beyond[1]), log, feature.kind == "date",
        tuple(apart), (len(sides[0]), len(sides[1])),
    )  # fmt: skip


def distance_picture(train: _Array, heldout: _Array) -> Distances:
    """Counts distances (n,) to the closest training and to the closest held-out row."""
    top = float(np.quantile(np.concatenate((train, heldout)), 0.995)) or 1.0
    edges = np.linspace(0.0, top, _BINS + 1)
    shares = [np.histogram(side, edges)[0] / len(side) for side in (train, heldout)]
    return Distances(edges, *shares)


def outline(values: _Array, count: int) -> tuple[_Array, bool]:
    """Chooses the ends of at most ``count`` bins.

    Args:
        values: Real values, shape (n,); an empty array gives a single bin.
        count: Largest number of bins.

    Returns:
        The ends, increasing, and whether the bins are of equal ratio.
    """
    if not len(values):
        return np.array([-0.5, 0.5]), False
    distinct = np.unique(values)
    low, high = np.quantile(values, [0.005, 0.995])
    ends = float(distinct[0]), float(distinct[-1])
    if ends[1] - ends[0] <= 1.5 * (high - low):
        low, high = ends
    if low == high:
        low, high = ends
    if low == high:
        margin = 0.5 * max(abs(low), 1.0)
        return np.array([low - margin, high + margin]), False
    if low > 0 and high / low > _DECADES and np.median(values) < high / 10:
        return np.geomspace(low, high, count + 1), True
    inside = distinct[(distinct >= low) & (distinct <= high)]
    step = float(np.diff(inside).min()) if len(inside) > 1 else high - low
    steps = round((high - low) / step) + 1
    if steps > 20 * count:
        return np.linspace(low, high, count + 1), False
    # Each bin holds equally many possible values.
    each = -(-steps // count)
    edges = low - step / 2 + each * step * np.arange(-(-steps // each) + 1)
    return edges, False


def _listed(feature: Feature, real: _Array, synthetic: _Array) -> tuple[Feature, _Array, _Array]:
    """Makes categories of a number with few different values; leaves other columns as they are."""
    values = np.unique(real[~np.isnan(real)])
    if feature.labels is not None or feature.kind == "date" or not 0 < len(values) <= _FEW:
        return feature, real, synthetic
    places = []
    for column in (real, synthetic):
        found = place_among(values, column).astype(np.float64)
        found[found < 0] = len(values)
        places.append(np.where(np.isnan(column), np.nan, found))
    labels = [f"{value:.6g}" for value in values]
    if any((place == len(values)).any() for place in places):
        labels.append("other values")
    return Feature(feature.name, feature.kind, tuple(labels)), places[0], places[1]


def _bars(feature: Feature, real: _Array) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Assigns a bar to each category and names the bars; rare categories share the last one."""
    assert feature.labels is not None
    known = real[~np.isnan(real)].astype(np.int64)
    counts = np.bincount(known, minlength=len(feature.labels))
    kept = np.arange(len(counts))
    if len(counts) > _BARS:
        kept = np.sort(np.argsort(-counts, kind="stable")[: _BARS - 1])
    bars = np.full(len(counts), len(kept))
    bars[kept] = np.arange(len(kept))
    labels = [feature.labels[index] for index in kept]
    if len(kept) < len(counts):
        labels.append(f"{len(counts) - len(kept):,} others")
    return bars, tuple(labels)
