"""Figures of measurements: excess, losses, sample metrics and time, model by model.

Every dot is a seed. A mean comes with Student's 95 % interval over the seeds; an end of an
interval that lies outside the axis ends in an arrowhead at its edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from kan_diffusion.evaluation.metrics import SAMPLE_METRICS
from kan_diffusion.report.contents import ReportContents, complete_rows
from kan_diffusion.report.style import INK, MUTED, REAL, ModelStyle, model_styles, report_style
from kan_diffusion.study.statistics import mean_interval

__all__ = [
    "excess_by_level_figure",
    "excess_figure",
    "loss_figure",
    "metrics_figure",
    "smoothed_curve",
    "time_figure",
]

EXCESS_LABEL = "excess (squared distance to the oracle, as predicted noise)"

_MARGIN = 1.3
_NUM_BINS = 30


@report_style()
def excess_figure(contents: ReportContents) -> Figure:
    """Excess of every seed with the mean and its 95 % interval, a panel a data set."""
    rows = complete_rows(contents.rows)
    names, styles = contents.model_names(), model_styles(contents.rows)
    datas = [data for data in contents.data_names() if _measured(rows, data, "excess")]
    figure, panels = _data_panels(datas, max_columns=3, height=0.9 + 0.42 * len(names), share=True)
    for axes, data in zip(panels, datas, strict=False):
        of_data = rows[rows["data"] == data]
        values = {n: of_data.loc[of_data["name"] == n, "excess"].to_numpy() for n in names}
        _dot_rows(axes, values, styles)
        if len(datas) > 1:
            axes.set_title(data)
    figure.supxlabel(EXCESS_LABEL, fontsize=10)
    return figure


@report_style()
def excess_by_level_figure(contents: ReportContents) -> Figure:
    """Excess against the noise level: mean over seeds and 95 % interval, a panel a data set."""
    levels, styles = contents.excess_by_level, model_styles(contents.rows)
    datas = [data for data in contents.data_names() if (levels["data"] == data).any()]
    figure, panels = _data_panels(datas, max_columns=2, height=3.6, share=False)
    for axes, data in zip(panels, datas, strict=False):
        of_data = levels[levels["data"] == data]
        heights: list[float] = []
        for name in contents.model_names(data):
            of_model = of_data[of_data["name"] == name].dropna(subset=["t_mid", "excess"])
            intervals = {
                time: mean_interval(of_model.loc[of_model["t_mid"] == time, "excess"])
                for time in np.unique(of_model["t_mid"].to_numpy(np.float64))
            }
            # An estimate free of bias can fall below 0, where a log axis has no place for it.
            intervals = {time: i for time, i in intervals.items() if i.mean > 0}
            if not intervals:
                continue
            style, times = styles[name], list(intervals)
            means = [interval.mean for interval in intervals.values()]
            heights += means
            axes.plot(
                *(times, means),
                color=style.colour, linestyle=style.line, marker=style.marker, markersize=4,
                label=name,
            )  # fmt: skip
            ends = [(i.low, i.high) for i in intervals.values()]
            # A band that reaches 0 runs off the lower edge.
            low = [
                m if e[0] is None else max(e[0], 1e-3 * m) for e, m in zip(ends, means, strict=True)
            ]
            high = [m if e[1] is None else e[1] for e, m in zip(ends, means, strict=True)]
            axes.fill_between(times, low, high, color=style.colour, alpha=0.15, linewidth=0)
        _value_axis(axes, "y", heights)
        axes.set_xlim(0, 1)
        axes.set_xlabel("t / T")
        axes.set_title(data if len(datas) > 1 else "")
        _log_snr_axis(axes, of_data)
    figure.supylabel("excess (squared distance to the oracle)", fontsize=10)
    _legend(figure, panels)
    return figure


@report_style()
def loss_figure(contents: ReportContents, data: str) -> Figure:
    """Training losses of all models of one data set, and how far they stay above the floor."""
    curves = contents.curves[contents.curves["data"] == data]
    floor = contents.floors.get(data)
    styles = model_styles(contents.rows)
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    panels = [figure.subplots()] if floor is None else list(figure.subplots(1, 2))
    end = 1.0
    above: list[float] = []
    for name in contents.model_names(data):
        steps, losses = smoothed_curve(curves[curves["name"] == name])
        if not len(steps):
            continue
        end = max(end, float(steps[-1]))
        for axes, shift in zip(panels, (0.0, floor or 0.0), strict=False):
            shifted = losses - shift
            if shift:
                shifted = np.where(shifted > 0, shifted, np.nan)
                above += shifted[np.isfinite(shifted)].tolist()
            _line_and_range(axes, steps, shifted, styles[name], name)
    panels[0].set(title="Training loss", ylabel="loss (running mean)")
    if floor is not None:
        panels[0].axhline(floor, color=INK, linewidth=1.3, linestyle="--", label="floor (oracle)")
        panels[0].annotate(
            f"floor {floor:.4g}", (0.98, floor), xycoords=("axes fraction", "data"),
            xytext=(0, -4), textcoords="offset points", ha="right", va="top", fontsize=9,
        )  # fmt: skip
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(min(low, floor - 0.12 * (high - floor)), high)
        panels[1].set(title="Loss minus floor", ylabel="loss − floor (running mean)")
        if above:
            _value_axis(panels[1], "y", above)
    for axes in panels:
        axes.set_xlabel("training step")
        axes.set_xscale("log" if end > 100 else "linear")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    _legend(figure, panels[:1])
    return figure


@report_style()
def metrics_figure(contents: ReportContents, data: str) -> Figure:
    """Each sample metric of every seed with mean and interval, beside real against real."""
    rows = complete_rows(contents.rows)
    rows = rows[rows["data"] == data]
    names, styles = contents.model_names(data), model_styles(contents.rows)
    keys = [key for key in SAMPLE_METRICS if rows[key].notna().any()]
    columns = min(3, max(1, len(keys)))
    lines = max(1, -(-len(keys) // columns))
    layout = ConstrainedLayoutEngine(wspace=0.03, hspace=0.09)
    figure = Figure(figsize=(10.0, lines * (1.25 + 0.36 * len(names)) + 0.4), layout=layout)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, key in zip(panels.flat, keys, strict=False):
        metric = SAMPLE_METRICS[key]
        values = {n: rows.loc[rows["name"] == n, key].to_numpy() for n in names}
        real = rows[f"{key}_real"].dropna().to_numpy()
        _dot_rows(
            axes,
            values,
            styles,
            also=[*real, *([metric.ideal] if metric.ideal else [])],
            log=not metric.ideal,
        )
        if len(real):
            axes.axvspan(real.min(), real.max(), color=REAL, alpha=0.2, linewidth=0)
            axes.axvline(real.mean(), color=REAL, linestyle="--", linewidth=1.5)
        axes.set_title(metric.title[0].upper() + metric.title[1:])
        axes.set_xlabel(f"{metric.symbol} ({metric.unit})")
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    dashed = Line2D([], [], color=REAL, linestyle="--", linewidth=1.5, label="real against real")
    figure.legend(handles=[dashed], loc="outside lower center")
    return figure


@report_style()
def time_figure(contents: ReportContents) -> Figure:
    """Excess against training time, a dot a seed and a large marker a model's mean."""
    rows = complete_rows(contents.rows)
    styles = model_styles(contents.rows)
    datas = [
        data
        for data in contents.data_names()
        if _measured(rows[rows["train_seconds"] > 0], data, "excess")
    ]
    figure, panels = _data_panels(datas, max_columns=2, height=3.6, share=False)
    for axes, data in zip(panels, datas, strict=False):
        good = rows[(rows["data"] == data) & rows["excess"].notna() & (rows["train_seconds"] > 0)]
        for name, group in good.groupby("name", sort=False):
            style = styles[str(name)]
            axes.scatter(
                *(group["train_seconds"], group["excess"]),
                s=22, color=style.colour, marker=style.marker, alpha=0.55, linewidths=0,
            )  # fmt: skip
            axes.scatter(
                *(group["train_seconds"].mean(), group["excess"].mean()),
                s=85, color=style.colour, marker=style.marker, edgecolors="white",
                label=_sized(str(name), rows), zorder=3,
            )  # fmt: skip
        _value_axis(axes, "x", good["train_seconds"].tolist())
        _value_axis(axes, "y", good["excess"].tolist())
        axes.set_xlabel("training time (s)")
        axes.set_title(data if len(datas) > 1 else "")
    figure.supylabel("excess (squared distance to the oracle)", fontsize=10)
    _legend(figure, panels)
    return figure


def smoothed_curve(
    curves: pd.DataFrame, num_bins: int = _NUM_BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Running means of the losses of some seeds, over steps that grow by one factor.

    Late windows are long, so that a loss near its floor is averaged over many batches.

    Args:
        curves: Columns ``seed``, ``step`` and ``loss``.
        num_bins: The most windows there are.

    Returns:
        The mean step of each window, shape (b,), and the mean loss in it of every seed, shape
        (b, seeds); NaN where a seed has no step in a window.
    """
    steps = curves["step"].to_numpy(np.float64)
    if not len(steps):
        return np.empty(0), np.empty((0, 0))
    edges = np.geomspace(max(steps.min(), 1.0), max(steps.max(), 1.0) + 1.0, num_bins + 1)
    window = np.searchsorted(edges, steps, side="right")
    grouped = pd.DataFrame({"window": window, "seed": curves["seed"].to_numpy(), "step": steps})
    grouped["loss"] = curves["loss"].to_numpy(np.float64)
    losses = grouped.pivot_table(index="window", columns="seed", values="loss", aggfunc="mean")
    middles = grouped.groupby("window")["step"].mean().loc[losses.index]
    return middles.to_numpy(np.float64), losses.to_numpy(np.float64)


def _line_and_range(
    axes: Axes,
    steps: NDArray[np.float64],
    losses: NDArray[np.float64],
    style: ModelStyle,
    name: str,
) -> None:
    """The mean over seeds as a line and their range as a band."""
    some = np.isfinite(losses).any(axis=1)
    steps, losses = steps[some], losses[some]
    if not len(steps):
        return
    axes.plot(
        steps, np.nanmean(losses, axis=1), color=style.colour, linestyle=style.line, label=name
    )
    if losses.shape[1] > 1:
        low, high = np.nanmin(losses, axis=1), np.nanmax(losses, axis=1)
        axes.fill_between(steps, low, high, color=style.colour, alpha=0.15, linewidth=0)


def _dot_rows(
    axes: Axes,
    values: dict[str, NDArray[np.float64]],
    styles: dict[str, ModelStyle],
    also: Iterable[float] = (),
    log: bool = True,
) -> None:
    """One row a model: a pale dot a seed, the mean and its interval."""
    kept = {name: v[np.isfinite(v)] for name, v in values.items()}
    intervals = {name: mean_interval(v) for name, v in kept.items()}
    flat = [*(float(v) for group in kept.values() for v in group), *also]
    ends = [end for i in intervals.values() for end in (i.low, i.high) if end is not None]
    low_edge, high_edge = _value_axis(axes, "x", flat, log, ends)
    for row, (name, seeds) in enumerate(kept.items()):
        style, interval = styles[name], intervals[name]
        if not len(seeds):
            axes.text(
                *(0.02, row, "no result"), color=MUTED, fontsize=9, va="center",
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
            continue
        # Just below the interval, so that no seed hides behind it.
        axes.scatter(
            *(seeds, row + 0.24 + 0.05 * (np.arange(len(seeds)) % 3 - 1)),
            s=20, color=style.colour, marker=style.marker, alpha=0.55, linewidths=0,
        )  # fmt: skip
        if interval.low is not None and interval.high is not None:
            shown = max(interval.low, low_edge), min(interval.high, high_edge)
            axes.plot(shown, (row, row), color=style.colour, linewidth=2.2, solid_capstyle="butt")
            for edge, marker, cut in (
                (low_edge, CARETLEFT, interval.low < low_edge),
                (high_edge, CARETRIGHT, interval.high > high_edge),
            ):
                if cut:
                    axes.plot(edge, row, marker=marker, color=style.colour, markersize=7)
        axes.scatter(
            *(interval.mean, row),
            s=70, color=style.colour, marker=style.marker, edgecolors="white", zorder=3,
        )  # fmt: skip
    axes.set_yticks(range(len(kept)), list(kept))
    axes.set_ylim(len(kept) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.grid(axis="y", visible=False)


def _value_axis(
    axes: Axes,
    which: Literal["x", "y"],
    values: Sequence[float],
    log: bool = True,
    wishes: Sequence[float] = (),
) -> tuple[float, float]:
    """Scales an axis to positive values on a log axis, to others on a linear one.

    Args:
        axes: Whose axis to scale.
        which: The axis along x or along y.
        values: What must be seen.
        log: Whether a log axis is wanted at all.
        wishes: What should be seen where it costs no more than a doubling of the range.

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
        axis.set_major_locator(MaxNLocator(5))
        set_limits(low - margin, high + margin)
        return low - margin, high + margin
    low = min([low, *(max(wish, low / 2) for wish in inside)])
    high = max([high, *(min(wish, high * 2) for wish in inside)])
    # At least a factor of 4 in all, so that the axis always has two labels and noise looks small.
    widen = max(_MARGIN, math.sqrt(4 / (high / low)))
    low, high = low / widen, high * widen
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = math.log10(high / low)
    subs = (1, 2, 3, 5, 7) if decades < 1.0 else (1, 2, 5) if decades < 1.4 else (1, 3)
    axis.set_major_locator(LogLocator(subs=subs if decades < 2.5 else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())
    set_limits(low, high)
    return low, high


def _log_snr_axis(axes: Axes, levels: pd.DataFrame) -> None:
    """A second scale above the panel: log-SNR at some of the levels."""
    by_time = levels.groupby("t_mid")["log_snr"].mean().dropna()
    by_time = by_time[np.isfinite(by_time)]
    if by_time.empty:
        return
    chosen = by_time.iloc[np.unique(np.linspace(0, len(by_time) - 1, 5).round().astype(int))]
    above = axes.secondary_xaxis("top")
    above.set_xticks(chosen.index.to_numpy(float), [f"{v:.1f}".replace("-", "−") for v in chosen])
    above.set_xlabel("log SNR = log(α² / σ²)", fontsize=9.5)
    above.spines["top"].set_visible(False)


def _data_panels(
    datas: Sequence[str], max_columns: int, height: float, share: bool
) -> tuple[Figure, list[Axes]]:
    columns = min(max_columns, max(1, len(datas)))
    lines = max(1, -(-len(datas) // columns))
    width = 10.0 if columns > 1 else 7.5
    layout = ConstrainedLayoutEngine(wspace=0.06, hspace=0.06)
    figure = Figure(figsize=(width, lines * height + 0.6), layout=layout)
    panels = figure.subplots(lines, columns, sharey=share, squeeze=False)
    for axes in panels.flat[len(datas) :]:
        axes.set_visible(False)
    return figure, list(panels.flat)[: max(1, len(datas))]


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, below them."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            list(handles.values()), list(handles),
            loc="outside lower center", ncols=min(4, len(handles)), markerscale=0.8,
        )  # fmt: skip


def _measured(rows: pd.DataFrame, data: str, column: str) -> bool:
    return bool(rows.loc[rows["data"] == data, column].notna().any())


def _sized(name: str, rows: pd.DataFrame) -> str:
    parameters = rows.loc[rows["name"] == name, "parameters"].dropna()
    if parameters.empty:
        return name
    low, high = parameters.min(), parameters.max()
    text = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    return f"{name} ({text} parameters)"
