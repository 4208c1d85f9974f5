"""Real beside synthetic as counts that can be drawn: shares of bins, of categories and of pairs.

A picture holds shares and no row. Bins are of equal width between the real rows' 0.5 % and 99.5 %
quantiles (to their ends, where those are near), of equal ratio where positive values span more than
two decades, and never narrower than the step of the values, so that whole numbers leave no comb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kan_diffusion.evaluation.fields import Field

__all__ = [
    "Bars", "Distances", "Histogram", "Joint", "Picture", "column_picture", "distance_picture",
    "joint_picture", "outline",
]  # fmt: skip

_Array = NDArray[np.float64]

_BINS = 30
_JOINT_BINS = 16
_BARS = 9
_JOINT_BARS = 8
_DECADES = 100.0
_OTHERS = "{} others"
GAP = "gap"
"""Name of the bar of gaps."""


@dataclass(frozen=True)
class Histogram:
    """Shares of bins, real beside synthetic.

    Attributes:
        edges: Ends of the k bins, shape (k + 1,), rising; seconds since 1970 of dates.
        real: Share of each bin among the real values, shape (k,).
        synthetic: The same of the synthetic values.
        beyond: Shares of real and synthetic values that lie outside.
        log: Whether bins are of equal ratio.
        date: Whether values are dates.
        apart: What has a bar of its own, each with its shares among all real and synthetic cells.
        numbers: Real and synthetic values that were counted.
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
        labels: The categories; rare ones are one bar, and gaps another.
        real: Share of each among the real cells, shape (k,).
        synthetic: The same of the synthetic cells.
        numbers: Real and synthetic cells.
    """

    labels: tuple[str, ...]
    real: _Array
    synthetic: _Array
    numbers: tuple[int, int]


Picture = Histogram | Bars


@dataclass(frozen=True)
class Side:
    """The cells of one column of a pair: bins or categories.

    Attributes:
        name: The column.
        edges: Ends of the k bins of a number or date, shape (k + 1,); None of a category.
        labels: The k categories; empty for bins.
        date: Whether values are dates.
        log: Whether bins are of equal ratio.
    """

    name: str
    edges: _Array | None
    labels: tuple[str, ...]
    date: bool
    log: bool


@dataclass(frozen=True)
class Joint:
    """Shares of combinations of two columns, real beside synthetic.

    Attributes:
        first: The column with a row of cells for each of its a bins or categories.
        second: The column with b of them.
        real: Shares among the real rows without a gap in either, shape (a, b).
        synthetic: The same among the synthetic rows.
    """

    first: Side
    second: Side
    real: _Array
    synthetic: _Array


@dataclass(frozen=True)
class Distances:
    """How far synthetic rows are from the closest record.

    Attributes:
        edges: Ends of the k bins, shape (k + 1,).
        train: Shares by distance to the closest training row, shape (k,).
        heldout: Shares by distance to the closest held-out row, shape (k,).
    """

    edges: _Array
    train: _Array
    heldout: _Array


def column_picture(field: Field, real: _Array, synthetic: _Array) -> Picture:
    """Counts one column.

    Args:
        field: The column.
        real: Its real cells as numbers, shape (n,), NaN for a gap.
        synthetic: Its synthetic cells, shape (m,).
    """
    numbers = len(real), len(synthetic)
    gaps = float(np.isnan(real).mean()), float(np.isnan(synthetic).mean())
    if field.labels is not None:
        kept, labels = _named(field, real, _BARS)
        shares = [_category_shares(column, kept, len(labels)) for column in (real, synthetic)]
        if any(gaps):
            labels = (*labels, GAP)
            shares = [np.append(s, gap) for s, gap in zip(shares, gaps, strict=True)]
        return Bars(labels, *shares, numbers)
    apart = []
    sides = [column[~np.isnan(column)] for column in (real, synthetic)]
    if field.kind == "mostly-zero" and (sides[0] != 0).any():
        zeros = [float((column == 0).mean()) for column in (real, synthetic)]
        apart.append(("zero", *zeros))
        sides = [column[column != 0] for column in sides]
    if any(gaps):
        apart.append((GAP, *gaps))
    edges, log = outline(sides[0], _BINS)
    shares, beyond = [], []
    for column in sides:
        counts = np.histogram(column, edges)[0]
        shares.append(counts / max(len(column), 1))
        beyond.append(1 - float(counts.sum()) / len(column) if len(column) else 0.0)
    return Histogram(
        edges, shares[0], shares[1], (beyond[0], beyond[1]), log, field.kind == "datetime",
        tuple(apart), (len(sides[0]), len(sides[1])),
    )  # fmt: skip


def joint_picture(first: Field, second: Field, real: _Array, synthetic: _Array) -> Joint:
    """Counts the combinations of two columns.

    Args:
        first: The one column.
        second: The other one.
        real: Their real cells, shape (n, 2).
        synthetic: Their synthetic cells, shape (m, 2).
    """
    sides, codes = [], ([], [])
    for index, field in enumerate((first, second)):
        column = real[:, index]
        if field.labels is None:
            edges, log = outline(column[~np.isnan(column)], _JOINT_BINS)
            side = Side(field.name, edges, (), field.kind == "datetime", log)
            count = len(edges) - 1
        else:
            kept, labels = _named(field, column, _JOINT_BARS)
            side = Side(field.name, None, labels, False, False)
            count = len(labels)
        sides.append(side)
        for rows, into in zip((real, synthetic), codes, strict=True):
            cells = rows[:, index]
            if field.labels is None:
                # The last bin holds its upper end, as in a histogram.
                places = np.searchsorted(edges, cells, side="right") - 1
                places = np.where(cells == edges[-1], count - 1, places)
                inside = (places >= 0) & (places < count)
            else:
                inside = ~np.isnan(cells)
                places = kept[np.where(inside, cells, 0).astype(np.int64)]
            into.append((np.where(inside, places, 0), inside, count))
    shares = []
    for (rows, inside, a), (columns, also, b) in codes:
        both = inside & also
        counts = np.bincount((rows * b + columns)[both], minlength=a * b).reshape(a, b)
        shares.append(counts / max(1, int(counts.sum())))
    return Joint(*sides, *shares)


def distance_picture(train: _Array, heldout: _Array) -> Distances:
    """Counts distances (n,) to the closest training and to the closest held-out row."""
    top = float(np.quantile(np.concatenate((train, heldout)), 0.995)) or 1.0
    edges = np.linspace(0.0, top, _BINS + 1)
    shares = [np.histogram(side, edges)[0] / len(side) for side in (train, heldout)]
    return Distances(edges, *shares)


def outline(values: _Array, count: int) -> tuple[_Array, bool]:
    """Chooses the ends of at most ``count`` bins.

    Args:
        values: Real values, shape (n,); an empty one gives a single bin.
        count: How many bins there may be.

    Returns:
        Their ends, rising, and whether they are of equal ratio.
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
    if low > 0 and high / low > _DECADES:
        return np.geomspace(low, high, count + 1), True
    inside = distinct[(distinct >= low) & (distinct <= high)]
    step = float(np.diff(inside).min()) if len(inside) > 1 else high - low
    steps = round((high - low) / step) + 1
    if steps > 20 * count:
        return np.linspace(low, high, count + 1), False
    # Each bin holds equally many of the values that there may be.
    each = -(-steps // count)
    edges = low - step / 2 + each * step * np.arange(-(-steps // each) + 1)
    return edges, False


def _named(field: Field, real: _Array, most: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The bar of each category, and the bars' names; rare categories are one bar, the last."""
    assert field.labels is not None
    known = real[~np.isnan(real)].astype(np.int64)
    counts = np.bincount(known, minlength=len(field.labels))
    kept = np.arange(len(counts))
    if len(counts) > most:
        kept = np.sort(np.argsort(-counts, kind="stable")[: most - 1])
    bars = np.full(len(counts), len(kept))
    bars[kept] = np.arange(len(kept))
    labels = [str(field.labels[index]) for index in kept]
    if len(kept) < len(counts):
        labels.append(_OTHERS.format(f"{len(counts) - len(kept):,}"))
    return bars, tuple(labels)


def _category_shares(column: _Array, kept: Sequence[int] | NDArray[np.int64], count: int) -> _Array:
    known = column[~np.isnan(column)].astype(np.int64)
    bars = np.asarray(kept)[known]
    return np.bincount(bars, minlength=count) / len(column)
