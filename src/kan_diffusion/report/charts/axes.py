"""Axes of charts: limits that show the values, and ticks that can be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, Formatter, Locator, MaxNLocator, NullLocator

__all__ = ["Scale", "set_ticks", "value_axis", "value_scale"]

# Leading digits of the ticks of a decade, from many to few.
_TICKS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class Scale:
    """The ends of an axis and its ticks.

    Attributes:
        low: Lower end.
        high: Upper end.
        log: Whether it is logarithmic.
        ticks: Round numbers between the ends.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at the lower end to 1 at the upper one."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (at - low) / (high - low)


def value_scale(
    values: Sequence[float],
    log: bool = True,
    wishes: Sequence[float] = (),
    most_ticks: int = 6,
    least_factor: float = 4.0,
) -> Scale:
    """Chooses a scale: logarithmic where wanted and all values are above 0, else linear.

    Args:
        values: Values that must be seen.
        log: Whether a log axis is wanted at all.
        wishes: Values to include as far as no end moves by more than the range (log: a factor 2).
        most_ticks: The largest number of ticks.
        least_factor: Least ratio of upper to lower end of a log axis, so that noise looks small.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        finite = np.array([0.1, 1.0])
    low, high = float(finite.min()), float(finite.max())
    inside = [wish for wish in wishes if math.isfinite(wish)]
    if not log or low <= 0:
        span = high - low
        low = min([low, *(max(wish, low - span) for wish in inside)])
        high = max([high, *(min(wish, high + span) for wish in inside)])
        margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
        ticks = MaxNLocator(most_ticks - 1).tick_values(low, high)
        return Scale(low, high, False, tuple(float(t) for t in ticks if low <= t <= high))
    low = min([low, *(max(wish, low / 2) for wish in inside)])
    high = max([high, *(min(wish, high * 2) for wish in inside)])
    widen = max(1.15, math.sqrt(least_factor * low / high))
    low, high = low / widen, high * widen
    return Scale(low, high, True, tuple(_log_ticks(low, high, most_ticks)))


def value_axis(axes: Axes, which: Literal["x", "y"], scale: Scale) -> None:
    """Gives the x or y axis a scale."""
    set_ticks(axes, which, FixedLocator(scale.ticks), _written, scale.log)
    (axes.set_xlim if which == "x" else axes.set_ylim)(scale.low, scale.high)


def set_ticks(
    axes: Axes,
    which: Literal["x", "y"],
    locator: Locator,
    written: Formatter | Callable[[float, float], str],
    log: bool = False,
) -> None:
    """Chooses the places and texts of the ticks of the x or y axis, and whether it is log."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_minor_locator(NullLocator())
    axis.set_major_locator(locator)
    axis.set_major_formatter(written)


def _written(value: float, _: float) -> str:
    return f"{value:g}".replace("-", "−")


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Chooses at most ``most`` round numbers between two positive ones."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in _TICKS:
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        found = [tick for tick in ticks if low <= tick <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]
