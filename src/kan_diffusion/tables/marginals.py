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
        labels: The categories; rare ones share the last. Empty for bins.
        edges: Ends of the bins, shape (k + 1,), increasing; of dates in seconds since 1970. None
            for categories.
        log: Whether bins are of equal ratio.
        date: Whether values are dates.
        zeros: Shares of zeros among all real and synthetic cells, if they are left out of the bins.
    """

    real: _Array
    synthetic: _Array
    numbers: tuple[int, int]
    labels: tuple[str, ...] = ()
    edges: _Array | None = None
    log: bool = False
    date: bool = False
    zeros: tuple[float, float] | None = None


def column_picture(feature: Feature, real: _Array, synthetic: _Array) -> Picture:
    """Counts the values of one column.

    Args:
        feature: The column.
        real: Its real cells as numbers, shape (n,), NaN for a gap.
        synthetic: Its synthetic cells, shape (m,).
    """
    sides, zeros = [cells[~np.isnan(cells)] for cells in (real, synthetic)], None
    if feature.labels is not None:
        bars, labels = _bars(feature.labels, sides[0])
        counts = [np.bincount(bars[cells.astype(int)], minlength=len(labels)) for cells in sides]
        return Picture(*_shares(counts, sides), labels=labels)
    if feature.kind == "number" and has_many_zeros(sides[0]):
        zeros = float((real == 0).mean()), float((synthetic == 0).mean())
        sides = [cells[cells != 0] for cells in sides]
    edges, log = outline(sides[0], _BINS)
    shares = _shares([np.histogram(cells, edges)[0] for cells in sides], sides)
    return Picture(*shares, edges=edges, log=log, date=feature.kind == "date", zeros=zeros)


def _shares(
    counts: list[NDArray[np.int64]], sides: list[_Array]
) -> tuple[_Array, _Array, tuple[int, int]]:
    """Returns shares of real and synthetic values, (k,) each, and the numbers of values."""
    real, synthetic = map(len, sides)
    return counts[0] / max(real, 1), counts[1] / max(synthetic, 1), (real, synthetic)


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


def _bars(labels: tuple[str, ...], known: _Array) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Assigns a bar to each category and names the bars; rare categories share the last one."""
    counts = np.bincount(known.astype(np.int64), minlength=len(labels))
    kept = np.arange(len(counts))
    if len(counts) > _BARS:
        kept = np.sort(np.argsort(-counts, kind="stable")[: _BARS - 1])
    bars = np.full(len(counts), len(kept))
    bars[kept] = np.arange(len(kept))
    shown = [labels[index] for index in kept]
    if len(kept) < len(counts):
        shown.append(f"{len(counts) - len(kept):,} others")
    return bars, tuple(shown)
