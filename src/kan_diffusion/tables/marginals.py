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

from kan_diffusion.tables.features import Feature

__all__ = ["Picture", "column_picture", "outline"]

_Array = NDArray[np.float64]

_BINS = 30
_BARS = 9
_DECADES = 100.0


@dataclass(frozen=True)
class Picture:
    """Shares of the values of a column in k bins or categories, real beside synthetic.

    Attributes:
        real: Share of each bin or category among the real values, shape (k,).
        synthetic: The same of the synthetic values.
        numbers: Numbers of real and synthetic values, without gaps.
        edges: Ends of the bins, shape (k + 1,), increasing; of dates in seconds since 1970; of
            categories 0 to k.
        labels: The categories; rare ones share the last. Empty for bins.
        log: Whether bins are of equal ratio.
        date: Whether values are dates.
    """

    real: _Array
    synthetic: _Array
    numbers: tuple[int, int]
    edges: _Array
    labels: tuple[str, ...] = ()
    log: bool = False
    date: bool = False


def column_picture(feature: Feature, real: _Array, synthetic: _Array) -> Picture:
    """Counts the values of one column.

    Args:
        feature: The column.
        real: Its real cells as numbers, shape (n,), NaN for a gap.
        synthetic: Its synthetic cells, shape (m,).
    """
    known, drawn = (cells[~np.isnan(cells)] for cells in (real, synthetic))
    labels: tuple[str, ...] = ()
    if feature.labels is None:
        edges, log = outline(known, _BINS)
    else:
        bars, labels = _bars(feature.labels, known)
        edges, log = np.arange(len(labels) + 1.0), False
        known, drawn = (bars[cells.astype(np.int64)] + 0.5 for cells in (known, drawn))
    return Picture(
        np.histogram(known, edges)[0] / max(len(known), 1),
        np.histogram(drawn, edges)[0] / max(len(drawn), 1),
        (len(known), len(drawn)),
        edges,
        labels,
        log,
        feature.kind == "date",
    )


def outline(values: _Array, count: int) -> tuple[_Array, bool]:
    """Chooses the ends of at most ``count`` bins.

    Args:
        values: Real values, shape (n,); an empty array gives a single bin.
        count: Largest number of bins.

    Returns:
        The ends, increasing, and whether the bins are of equal ratio.
    """
    distinct = np.unique(values) if len(values) else np.zeros(1)
    low, high = ends = distinct[0], distinct[-1]
    if low == high:
        margin = 0.5 * max(abs(low), 1.0)
        return np.array([low - margin, high + margin]), False
    inner = np.quantile(values, [0.005, 0.995])
    if 0 < 1.5 * (inner[1] - inner[0]) < ends[1] - ends[0]:
        low, high = inner
    if low > 0 and high / low > _DECADES and np.median(values) < high / 10:
        return np.geomspace(low, high, count + 1), True
    inside = distinct[(distinct >= low) & (distinct <= high)]
    step = float(np.diff(inside).min()) if len(inside) > 1 else high - low
    steps = round((high - low) / step) + 1
    if steps > 20 * count:
        return np.linspace(low, high, count + 1), False
    # Each bin holds equally many possible values.
    each = -(-steps // count)
    return low - step / 2 + each * step * np.arange(-(-steps // each) + 1), False


def _bars(labels: tuple[str, ...], known: _Array) -> tuple[_Array, tuple[str, ...]]:
    """Assigns a bar to each category and names the bars; rare categories share the last one."""
    counts = np.bincount(known.astype(np.int64), minlength=len(labels))
    fewest = _BARS - 1 if len(labels) > _BARS else len(labels)
    rare = np.argsort(-counts, kind="stable")[fewest:]
    kept = np.delete(np.arange(len(labels)), rare)
    bars = np.full(len(labels), float(len(kept)))
    bars[kept] = np.arange(len(kept))
    others = (f"{len(rare):,} others",) if len(rare) else ()
    return bars, tuple(labels[place] for place in kept) + others
