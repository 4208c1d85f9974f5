"""Figures of a synthetic table: each column and pair, real beside synthetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from kan_diffusion.report.charts.axes import set_ticks
from kan_diffusion.report.style import INK, REAL, SYNTHETIC, report_style, shortened
from kan_diffusion.tables.marginals import Picture
from kan_diffusion.tables.scores import PairScore

__all__ = ["column_figure", "dependence_figure"]

_Array = NDArray[np.float64]

_SIZE = (4.6, 3.0)
_SURE = 1.96
_DAY = 86_400.0  # Matplotlib counts dates in days
_FILLED = 0.5


@report_style()
def column_figure(name: str, picture: Picture) -> Figure:
    """Draws one column: a histogram of its values, or bars of categories.

    The band around real shares, or the line on a real bar, holds 95 % of the shares that chance
    alone gives to as many rows as the synthetic ones.

    Args:
        name: The column.
        picture: Its shares.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    if picture.edges is None:
        _draw_bars(axes, picture)
    else:
        _draw_histogram(axes, picture, picture.edges / (_DAY if picture.date else 1.0))
    figure.suptitle(shortened(name, 40), x=0.02, ha="left", fontsize=10.5, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_histogram(axes: Axes, picture: Picture, edges: _Array) -> None:
    real, synthetic = 100 * picture.real, 100 * picture.synthetic
    spread = 100 * _by_chance(picture.real, picture.numbers)
    axes.stairs(real, edges, fill=True, color=REAL, alpha=_FILLED, label="real")
    lower = np.maximum(real - spread, 0)
    axes.stairs(real + spread, edges, baseline=lower, fill=True, color=REAL, alpha=0.35)
    axes.stairs(synthetic, edges, color=SYNTHETIC, linewidth=1.6, label="synthetic")
    axes.set_ylabel("share of values (%)")
    axes.set_ylim(0, 1.06 * max(1e-9, float(np.max([real + spread, synthetic]))))
    axes.set_xlim(edges[0], edges[-1])
    if picture.date:
        dates = AutoDateLocator(minticks=2, maxticks=7)
        set_ticks(axes, "x", dates, ConciseDateFormatter(dates))
        axes.set_xlabel("date")
    elif picture.log:
        set_ticks(axes, "x", LogLocator(numticks=6), lambda value, _: _short(value), log=True)
        axes.set_xlabel("value (log axis)")
    else:
        round_numbers = MaxNLocator(5, steps=[1, 2, 5, 10])
        set_ticks(axes, "x", round_numbers, lambda value, _: _short(value))
        axes.set_xlabel("value")


def _short(value: float) -> str:
    """Formats a tick in a few letters, such as 2,000, 2e8 or 5e−9; its last digits are noise."""
    digits, exponent, power = f"{value:,.6g}".partition("e")
    return f"{digits}{exponent}{int(power) if power else ''}".replace("-", "−")


def _draw_bars(axes: Axes, picture: Picture) -> None:
    places = np.arange(len(picture.labels))
    real, synthetic = 100 * picture.real, 100 * picture.synthetic
    spread = 100 * _by_chance(picture.real, picture.numbers)
    axes.barh(
        places - 0.2, real, 0.4, xerr=spread, color=REAL, alpha=_FILLED, label="real",
        error_kw={"ecolor": INK, "elinewidth": 1.0},
    )  # fmt: skip
    axes.barh(places + 0.2, synthetic, 0.4, color=SYNTHETIC, label="synthetic")
    axes.set_yticks(places, [shortened(label) for label in picture.labels])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("share of values (%)")
    axes.grid(visible=False, axis="y")


def _by_chance(shares: _Array, numbers: tuple[int, int]) -> _Array:
    """Gives half the width of the 95 % interval of the difference of two samples' shares."""
    each = sum(1 / max(number, 1) for number in numbers)
    return np.sqrt(_SURE**2 * each * shares * (1 - shares))


@report_style()
def dependence_figure(names: Sequence[str], pairs: Sequence[PairScore], what: str) -> Figure:
    """Draws how strongly columns depend on each other, as a heat map.

    Args:
        names: The columns, in order.
        pairs: Scores of pairs.
        what: ``"real"``, ``"synthetic"`` or ``"difference"``.
    """
    place = {name: index for index, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    for pair in pairs:
        if pair.first in place and pair.second in place:
            value = {
                "real": pair.real,
                "synthetic": pair.synthetic,
                "difference": np.nan_to_num(pair.synthetic) - np.nan_to_num(pair.real),
            }[what]
            i, j = place[pair.first], place[pair.second]
            matrix[i, j] = matrix[j, i] = value
    figure = Figure(figsize=(4.6, 4.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    labels = [shortened(name, 14) for name in names]
    size = 8.5 if len(names) <= 16 else 6.5
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.grid(visible=False)
    axes.set_title("synthetic − real" if what == "difference" else what)
    figure.colorbar(image, ax=axes, shrink=0.75, ticks=[-1, -0.5, 0, 0.5, 1])
    return figure
