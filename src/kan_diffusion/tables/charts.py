"""Figures of a synthetic table: each column and pair, real beside synthetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from kan_diffusion.report.charts.axes import set_ticks
from kan_diffusion.report.style import INK, REAL, SYNTHETIC, report_style, shortened
from kan_diffusion.tables.marginals import Bars, Distances, Histogram, Joint, Picture, Side
from kan_diffusion.tables.scores import PairScore

__all__ = ["column_figure", "dependence_figure", "distances_figure", "joint_figure"]

_Array = NDArray[np.float64]

_SIZE = (4.6, 3.0)
_SURE = 1.96
_DAY = 86_400.0
_FILLED = 0.5
_TRAINED = "#d55e00"
_LARGEST = 1e6


@report_style()
def column_figure(name: str, picture: Picture) -> Figure:
    """Draws one column: a histogram, or bars of categories, and bars of gaps.

    The band around real shares, or the line on a real bar, holds 95 % of the shares that chance
    alone gives to as many rows as the synthetic ones.

    Args:
        name: The column.
        picture: Its shares.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    if isinstance(picture, Bars):
        axes = figure.subplots()
        _draw_bars(axes, picture)
    elif picture.apart:
        ratios = (6, 0.8 * len(picture.apart))
        axes, beside = figure.subplots(1, 2, width_ratios=ratios)
        _draw_histogram(axes, picture)
        _draw_apart(beside, picture)
    else:
        axes = figure.subplots()
        _draw_histogram(axes, picture)
    figure.suptitle(shortened(name, 40), x=0.02, ha="left", fontsize=10.5, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _draw_histogram(axes: Axes, picture: Histogram) -> None:
    edges = _drawn(picture.edges, picture.date)
    real, synthetic = 100 * picture.real, 100 * picture.synthetic
    spread = 100 * _by_chance(picture.real, picture.numbers)
    axes.stairs(real, edges, fill=True, color=REAL, alpha=_FILLED, label="real")
    axes.stairs(
        real + spread,
        edges,
        baseline=np.maximum(real - spread, 0),
        fill=True,
        color=REAL,
        alpha=0.35,
    )
    axes.stairs(synthetic, edges, color=SYNTHETIC, linewidth=1.6, label="synthetic")
    axes.set_ylabel("share of values (%)")
    axes.set_ylim(0, 1.06 * max(1e-9, float(np.max([real + spread, synthetic]))))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(_value_axis(axes, "x", picture.date, picture.log, edges))


def _drawn(edges: _Array, date: bool) -> _Array:
    """Converts edges of bins for drawing: dates into days, as Matplotlib counts them."""
    return edges / _DAY if date else edges


def _value_axis(
    axes: Axes, which: Literal["x", "y"], date: bool, log: bool, edges: _Array, ticks: int = 5
) -> str:
    """Sets the scale and ticks of an axis of values, and gives its label."""
    if date:
        dates = AutoDateLocator(minticks=2, maxticks=ticks + 2)
        set_ticks(axes, which, dates, ConciseDateFormatter(dates))
        return "date"
    if log:
        set_ticks(axes, which, LogLocator(numticks=ticks + 1), lambda value, _: _short(value), log)
        return "value (log axis)"
    step = float(np.ptp(edges)) / 5
    round_numbers = MaxNLocator(ticks, steps=[1, 2, 5, 10])
    set_ticks(axes, which, round_numbers, lambda value, _: _written(value, step))
    return "value"


def _written(value: float, step: float) -> str:
    """Formats a tick with the digits that tell it from the next one."""
    if abs(value) >= _LARGEST or (value and abs(value) < 1e-4):
        return _short(value)
    digits = max(0, 1 - math.floor(math.log10(step))) if step > 0 else 0
    text = f"{value:,.{min(digits, 6)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return ("0" if text == "-0" else text).replace("-", "−")


def _short(value: float) -> str:
    """Formats a number in a few letters, such as 2,000, 2e8 or 5e−9."""
    digits, exponent, power = f"{value:,.6g}".partition("e")
    return f"{digits}{exponent}{int(power) if power else ''}".replace("-", "−")


def _draw_apart(axes: Axes, picture: Histogram) -> None:
    """Draws the shares of cells that the histogram leaves out, such as gaps."""
    names = [name for name, _, _ in picture.apart]
    for shift, side, colour in ((-0.2, 1, REAL), (0.2, 2, SYNTHETIC)):
        heights = [100 * float(entry[side]) for entry in picture.apart]
        axes.bar(
            np.arange(len(names)) + shift, heights, 0.4, color=colour,
            alpha=_FILLED if colour == REAL else 1.0,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("share of rows (%)", loc="right")
    axes.grid(visible=False, axis="x")


def _draw_bars(axes: Axes, picture: Bars) -> None:
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
    axes.set_xlabel("share of rows (%)")
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


@report_style()
def joint_figure(joint: Joint) -> Figure:
    """Draws the shares of combinations of two columns, real beside synthetic, on one scale."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    top = 100 * float(np.quantile(np.concatenate((joint.real, joint.synthetic)), 0.995)) or 1.0
    down, across = (_ends(side) for side in (joint.first, joint.second))
    for axes, shares, title in zip(
        panels, (joint.real, joint.synthetic), ("real", "synthetic"), strict=True
    ):
        drawn = axes.pcolormesh(
            across, down, 100 * shares, cmap="Blues", norm=PowerNorm(0.5, 0, top), rasterized=True
        )
        axes.set_title(title)
        axes.grid(visible=False)
        _side_axis(axes, "x", joint.second)
    figure.supxlabel(shortened(joint.second.name, 40), fontsize=10)
    panels[0].set_ylabel(shortened(joint.first.name, 24))
    _side_axis(panels[0], "y", joint.first)
    if joint.first.edges is None:
        panels[0].invert_yaxis()
    figure.colorbar(drawn, ax=list(panels), label="share of rows (%)", extend="max")
    return figure


def _ends(side: Side) -> _Array:
    if side.edges is None:
        return np.arange(len(side.labels) + 1, dtype=np.float64) - 0.5
    return _drawn(side.edges, side.date)


def _side_axis(axes: Axes, which: Literal["x", "y"], side: Side) -> None:
    if side.edges is not None:
        _value_axis(axes, which, side.date, side.log, side.edges, 3 if which == "x" else 5)
        return
    labels = [shortened(label, 9 if which == "x" else 14) for label in side.labels]
    if which == "x":
        axes.set_xticks(range(len(labels)), labels, rotation=90)
    else:
        axes.set_yticks(range(len(labels)), labels)


@report_style()
def distances_figure(distances: Distances) -> Figure:
    """Draws how far synthetic rows are from the closest training and the closest held-out row."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.stairs(
        100 * distances.heldout, distances.edges, fill=True, color=REAL, alpha=_FILLED,
        label="to the closest held-out row",
    )  # fmt: skip
    axes.stairs(
        100 * distances.train, distances.edges, color=_TRAINED, linewidth=1.8,
        label="to the closest training row",
    )  # fmt: skip
    axes.set_xlim(0, distances.edges[-1])
    axes.set_xlabel("distance (normal scores; √2 for another category)")
    axes.set_ylabel("share of synthetic rows (%)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
