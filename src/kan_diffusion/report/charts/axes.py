"""Axes of charts: limits that show the values, and ticks that can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

__all__ = ["value_axis"]

# Digits of the ticks of a decade, from many to few.
_TICKS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


def value_axis(
    axes: Axes,
    which: Literal["x", "y"],
    values: Sequence[float],
    log: bool = True,
    wishes: Sequence[float] = (),
    most_ticks: int = 6,
    least_factor: float = 4.0,
) -> tuple[float, float]:
    """Scales an axis: logarithmic where wanted and all values are above 0, else linear.

    Args:
        axes: The axes whose axis to scale.
        which: The axis along x or along y.
        values: Values that must be seen.
        log: Whether a log axis is wanted at all.
        wishes: Values that should be seen where that costs no more than a doubling of the range.
        most_ticks: The largest number of ticks.
        least_factor: Upper over lower end of a log axis at the least, so that noise looks small.

    Returns:
        The limits that were set.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        finite = np.array([0.1, 1.0])
    low, high = float(finite.min()), float(finite.max())
    axis = axes.xaxis if which == "x" else axes.yaxis
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim
    inside = [wish for wish in wishes if math.isfinite(wish)]
    if not log or low <= 0:
        span = high - low
        low = min([low, *(max(wish, low - span) for wish in inside)])
        high = max([high, *(min(wish, high + span) for wish in inside)])
        margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        axis.set_major_locator(MaxNLocator(most_ticks - 1))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))
        set_limits(low - margin, high + margin)
        return low - margin, high + margin
    low = min([low, *(max(wish, low / 2) for wish in inside)])
    high = max([high, *(min(wish, high * 2) for wish in inside)])
    widen = max(1.15, math.sqrt(least_factor * low / high))
    low, high = low / widen, high * widen
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(FixedLocator(_log_ticks(low, high, most_ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())
    set_limits(low, high)
    return low, high


def _written(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Chooses round numbers between two positive ones, as many as there is room for."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in _TICKS:
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        found = [tick for tick in ticks if low <= tick <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]
