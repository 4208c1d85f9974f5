"""Charts of measurements: forest plots, and lines over noise levels or training steps.

A forest plot has a row for each model, or each data set: seeds as pale marks, the mean and its
interval above them. Where there is an MLP, all values are relative to the best one, b: with v_s(a)
the measure of model a and seed s, excesses are ratios v_s(a) / v_s(b) on a log axis, held-out
losses differences v_s(a) - v_s(b). Intervals are 95 % bootstrap intervals of the mean paired
difference; without an MLP, 95 % intervals of the mean (Student's t). An end outside the axis has an
arrowhead at the edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from kan_diffusion.report.style import (
    GRID,
    INK,
    MUTED,
    PALE,
    PALETTES,
    WIDTH,
    ModelStyle,
    report_style,
    shortened,
)
from kan_diffusion.report.tables import format_interval
from kan_diffusion.study.results.rows import Results
from kan_diffusion.study.results.statistics import SIGNIFICANCE, Interval, mean_interval
from kan_diffusion.study.results.verdicts import Comparison, Lead

Array = NDArray[np.float64]

_ROW, _TOP, _BOTTOM, _SIDE = 0.44, 0.08, 0.5, 0.12
"""Inches of a row of a forest plot, and of the margins around them."""
_LETTERS = 30
_NUM_BINS = 30
_MOST_TICKS = 5
# Leading digits of the ticks of a decade, from many to few.
_TICKS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


def _scale(
    axes: Axes, which: Literal["x", "y"], values: Iterable[float], log: bool, wishes: Array
) -> tuple[float, float]:
    """Gives an axis a scale and round ticks: logarithmic where wanted and all values are above 0.

    All values are seen, and wishes as far as no end moves by more than the range (log: a factor 2).
    The ends of the axis are returned.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.1, 1.0]
    low, high = min(finite), max(finite)
    log = log and low > 0
    farthest = (low / 2, high * 2) if log else (2 * low - high, 2 * high - low)
    inside = np.clip(wishes[np.isfinite(wishes)], *farthest).tolist()
    low, high = min([low, *inside]), max([high, *inside])
    if log:
        # A factor of 2 at least, so that noise looks small.
        widen = max(1.15, math.sqrt(2 * low / high))
        low, high = low / widen, high * widen
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digits in _TICKS:
            ticks = [digit * 10.0**decade for decade in decades for digit in digits]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) <= _MOST_TICKS:
                break
        ticks = ticks[:: -(-len(ticks) // _MOST_TICKS) or 1]
    else:
        margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
        steps = MaxNLocator(_MOST_TICKS - 1).tick_values(low, high)
        ticks = [float(tick) for tick in steps if low <= tick <= high]
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log" if log else "linear"})
    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(_plain)
    axes.set(**{f"{which}lim": (low, high)})
    return low, high


def _plain(value: float, _: float = 0.0) -> str:
    return f"{value:g}".replace("-", "−")


# --- forest plots -----------------------------------------------------------------------------


class _Row(NamedTuple):
    """A row of a forest plot: an interval that may be unknown, and seeds with shape (n,)."""

    name: str
    text: str
    interval: Interval | None = None
    seeds: Array = np.empty(0)
    strong: bool = False


def _row(name: str, interval: Interval, seeds: Array, strong: bool = False) -> _Row:
    """Makes the row of an interval; without a mean nothing is known."""
    if not math.isfinite(interval.mean):
        return _Row(name, "–")
    return _Row(name, f"{format_interval(interval)}, n = {interval.n}", interval, seeds, strong)


@report_style()
def _forest(
    rows: Sequence[_Row],
    styles: Mapping[str, ModelStyle],
    label: str,
    log: bool = False,
    reference: str | None = None,
) -> Figure:
    """Draws a forest plot; the others are relative to ``reference``, at 1 on a log axis, else 0."""
    height = _ROW * len(rows) + _TOP + _BOTTOM
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((
        _SIDE / WIDTH, _BOTTOM / height, 1 - 2 * _SIDE / WIDTH, 1 - (_BOTTOM + _TOP) / height
    ))  # fmt: skip
    intervals = [row.interval for row in rows if row.interval]
    centre = [float(log)] if reference is not None else []
    seen = [*centre, *(each.mean for each in intervals), *(x for row in rows for x in row.seeds)]
    ends = [end for each in intervals for end in (each.low, each.high) if end is not None]
    left, right = _scale(axes, "x", map(float, seen), log, np.array(ends))
    if reference is not None:
        axes.axvline(centre[0], color=styles[reference].colour, linewidth=1.2)
    for y, row in enumerate(rows):
        colour, marker, _ = styles[row.name]
        if row.name == reference:
            axes.plot(centre[0], y, marker, color=colour, markersize=7)
        elif (interval := row.interval) is not None:
            below = y + 0.2 + 0.05 * (np.arange(len(row.seeds)) % 3 - 1)
            axes.scatter(
                row.seeds, below, s=9, color=colour, marker=marker, alpha=0.55, linewidths=0
            )
            if interval.low is not None and interval.high is not None:
                inside = max(interval.low, left), min(interval.high, right)
                axes.plot(inside, (y, y), color=colour, linewidth=2.2, solid_capstyle="butt")
                if interval.low < left:
                    axes.plot(left, y, marker=CARETLEFT, color=colour, markersize=7)
                if interval.high > right:
                    axes.plot(right, y, marker=CARETRIGHT, color=colour, markersize=7)
            axes.scatter(
                interval.mean, y, s=45, color=colour, marker=marker, edgecolors="white",
                linewidths=1.0, zorder=3,
            )  # fmt: skip
        at, above = axes.get_yaxis_transform(), y - 0.42
        ground = {"facecolor": "#ffffff", "edgecolor": "none", "pad": 1.0}  # the line ends at it
        axes.text(0.0, above, shortened(row.name, _LETTERS), transform=at, va="center", bbox=ground)
        axes.text(
            1.0, above, row.text, transform=at, ha="right", va="center", fontsize=8, bbox=ground,
            fontweight="bold" if row.strong else "normal",
        )  # fmt: skip
        axes.axhline(y - 0.68, color=GRID, linewidth=0.8, zorder=0)
    axes.set(ylim=(len(rows) - 0.6, -0.75), yticks=[], xlabel=label)
    axes.spines.left.set_visible(False)
    axes.grid(axis="y", visible=False)
    return figure


def model_forest(
    results: Results,
    data: str,
    styles: Mapping[str, ModelStyle],
    comparisons: Mapping[str, Comparison],
) -> Figure:
    """Draws the judged measure of the models of a data set.

    Args:
        results: The study.
        data: The data set.
        styles: Colour and marker of each model.
        comparisons: Comparisons with the best MLP by model; none where there is no MLP.
    """
    measure = results.judged(data)
    values, word = results.values(data, measure), results.name_of(measure)
    is_excess, names = measure == "excess", list(map(str, values))
    if not comparisons:
        seeds = {name: values[name].dropna().to_numpy(np.float64) for name in names}
        alone = [_row(name, mean_interval(each), each) for name, each in seeds.items()]
        return _forest(alone, styles, word, is_excess and not (values <= 0).any(axis=None))
    baseline = next(iter(comparisons.values())).baseline
    rows = [
        _compared(name, comparisons[name], values)
        if name in comparisons
        else _Row(name, "best MLP" if name == baseline else "–")
        for name in names
    ]
    label = f"{word} / that of the best MLP" if is_excess else f"{word} minus the best MLP’s"
    return _forest(rows, styles, label, is_excess, baseline)


def lead_forest(results: Results, lead: Lead, styles: Mapping[str, ModelStyle]) -> Figure:
    """Draws a lead: the ratio to the best MLP on each data set, and the median of the ratios.

    Args:
        results: The study.
        lead: One of the study's leads.
        styles: Colour and marker of each model.
    """
    rows = [_compared(c.data, c, results.values(c.data, c.measure)) for c in lead.comparisons]
    rows.append(_row("median", lead.ratio, np.empty(0)))
    of_data = {c.data: styles[c.model] for c in lead.comparisons}
    of_data["median"] = ModelStyle(INK, "D", "-")
    of_data["best MLP"] = ModelStyle(PALETTES["mlp"][0], "s", "-")
    label = f"excess of {lead.model or 'the best KAN'} / that of the best MLP"
    return _forest(rows, of_data, label, True, "best MLP")


def _compared(name: str, comparison: Comparison, values: pd.DataFrame) -> _Row:
    """Makes the row of a comparison: ratios of excesses, differences of anything else."""
    pairs = values[[comparison.model, comparison.baseline]].dropna().to_numpy(np.float64)
    strong = comparison.p_holm < SIGNIFICANCE
    if comparison.measure != "excess":
        return _row(name, comparison.interval, pairs[:, 0] - pairs[:, 1], strong)
    above = pairs[(pairs > 0).all(axis=1)]
    low, high = comparison.ratio_interval or (None, None)
    interval = Interval(comparison.ratio, low, high, comparison.interval.n)
    return _row(name, interval, above[:, 0] / above[:, 1], strong)


# --- lines ------------------------------------------------------------------------------------


@report_style()
def lines(
    rows: pd.DataFrame,
    styles: Mapping[str, ModelStyle],
    labels: tuple[str, str],
    *,
    steps: bool = False,
    behind: pd.DataFrame | None = None,
    error: float | None = None,
) -> Figure:
    """Draws a line for each model.

    Args:
        rows: Points of the lines with columns ``name``, ``x``, ``y`` and the ends ``low`` and
            ``high`` of a band around them.
        styles: Colour, marker and line of each model.
        labels: What the axes show.
        steps: Whether x counts steps of training.
        behind: Lines that are pale and have no names.
        error: The error of a floor that lies at y = 0. The axis is linear within it and logarithmic
            beyond, so that what falls below the floor is seen, too.
    """
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.subplots()
    for _, line in () if behind is None else behind.groupby("name", sort=False):
        axes.plot(line["x"], line["y"], color=PALE, linewidth=1.0, zorder=1)
    for name, line in rows.groupby("name", sort=False):
        style = styles[str(name)]
        axes.plot(
            line["x"], line["y"], color=style.colour, linestyle=style.line, label=str(name),
            marker=None if steps else style.marker, markersize=3.5,
        )  # fmt: skip
        axes.fill_between(
            line["x"], line["low"], line["high"], color=style.colour, alpha=0.15, linewidth=0
        )
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if error is not None:
        axes.axhspan(-error, error, color=MUTED, alpha=0.18, linewidth=0, label="its error")
        axes.axhline(0.0, color=INK, linewidth=1.2, linestyle="--", label="floor")
        axes.set_yscale("symlog", linthresh=error, linscale=0.7)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(_plain)
    else:
        _scale(axes, "y", pd.concat([rows, behind])["y"], True, np.empty(0))
    if steps:
        if rows["x"].max() > 100:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    handles, names = axes.get_legend_handles_labels()
    names = [shortened(name, 28) for name in names]
    columns = 2 if max(map(len, names), default=0) > 14 else 3
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=2.2)
    return figure


def by_level(levels: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Averages a measure over seeds, by model and range of noise levels.

    Args:
        levels: Columns ``name``, ``t_low``, ``log_snr`` and the measure, a row for each seed.
        measure: The measure, whose estimates may fall below 0.

    Returns:
        Points for :func:`lines`, where the mean is above 0, which a log axis shows; x is the
        logarithm of the signal-to-noise ratio.
    """
    points = []
    for (name, _), group in levels.dropna(subset=measure).groupby(["name", "t_low"], sort=False):
        interval, x = mean_interval(group[measure]), float(group["log_snr"].mean())
        if interval.mean > 0 and math.isfinite(x):
            low, high = (interval.mean if e is None else e for e in (interval.low, interval.high))
            # A band that reaches 0 runs off the lower edge.
            points.append((name, x, interval.mean, max(low, 1e-3 * interval.mean), high))
    line = pd.DataFrame(points, columns=["name", "x", "y", "low", "high"])
    return line.sort_values("x", kind="stable")


def losses(curves: Mapping[str, Sequence[tuple[Array, Array]]], floor: float = 0.0) -> pd.DataFrame:
    """Averages training losses over seeds, less a floor.

    Args:
        curves: Steps and losses of each seed by model, smoothed. Those of a model are interpolated
            at the steps of the seed that trained longest.
        floor: What is subtracted.

    Returns:
        Points for :func:`lines`; the band is the range of the seeds.
    """
    parts = []
    for name, seeds in curves.items():
        x = max((steps for steps, _ in seeds), key=lambda steps: steps[-1])
        y = [np.interp(np.log(x), np.log(s), loss - floor, np.nan, np.nan) for s, loss in seeds]
        ends = {"low": np.nanmin(y, axis=0), "high": np.nanmax(y, axis=0)}
        parts.append(pd.DataFrame({"name": name, "x": x, "y": np.nanmean(y, axis=0), **ends}))
    return pd.concat(parts, ignore_index=True)


def smoothed_curve(steps: NDArray[np.number], losses: NDArray[np.floating]) -> tuple[Array, Array]:
    """Averages one trial's losses over windows of steps that grow by a constant factor.

    Late windows are long, so that a loss near its floor is averaged over many batches.

    Args:
        steps: Positive steps, shape (n,), n > 0.
        losses: The loss of each, shape (n,).

    Returns:
        The mean step and the mean loss of each window that is not empty, both of shape (b,).
    """
    steps = np.asarray(steps, dtype=np.float64)
    edges = np.geomspace(max(steps.min(), 1.0), max(steps.max(), 1.0) + 1.0, _NUM_BINS + 1)
    window = np.searchsorted(edges, steps, side="right")
    counts = np.bincount(window)
    some = counts > 0
    sums = (np.bincount(window, values) for values in (steps, np.asarray(losses, np.float64)))
    means, smooth = (total[some] / counts[some] for total in sums)
    return means, smooth
