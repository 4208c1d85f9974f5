"""The judged measure of every model of a setting, in all and by noise level."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kan_diffusion.report.charts.axes import (
    MEASURE_LABELS,
    dot_rows,
    kind_panels,
    legend_below,
    measure_of,
    setting_label,
    value_axis,
)
from kan_diffusion.report.contents import MANY_MODELS, ReportContents
from kan_diffusion.report.style import PALE, ModelStyle, model_styles, report_style
from kan_diffusion.study.results.statistics import Interval, mean_interval

__all__ = ["excess_by_level_figure", "excess_figure", "level_measure"]

_LEVEL_LABELS = {
    "excess": "excess (squared distance to the oracle)",
    "heldout_loss": "held-out loss",
}


@report_style()
def excess_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """The judged measure of every seed with the mean and its 95 % interval.

    Args:
        contents: The study.
        label: The setting; the first one when None.
    """
    label = setting_label(contents, label)
    rows, measure = contents.results.of_setting(label), measure_of(contents, label)
    names = contents.model_names(label)
    figure = Figure(
        figsize=(8.5, 1.1 + (0.32 if len(names) > MANY_MODELS else 0.42) * len(names)),
        layout="constrained",
    )
    axes = figure.subplots()
    values = {name: rows.loc[rows["name"] == name, measure].to_numpy() for name in names}
    dot_rows(axes, values, model_styles(contents.results.rows))
    axes.set_xlabel(MEASURE_LABELS[measure])
    return figure


def level_measure(levels: pd.DataFrame) -> str:
    """What is known by noise level: the excess, or the held-out loss where there is no oracle."""
    return "excess" if levels["excess"].notna().any() else "heldout_loss"


@report_style()
def excess_by_level_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """Excess (or held-out loss) against the noise level: mean over seeds and 95 % interval.

    Args:
        contents: The study.
        label: The setting; the first one when None. Many models have a panel a kind, with the
            models of other kinds in grey behind.
    """
    label = setting_label(contents, label)
    levels, styles = contents.levels_of(label), model_styles(contents.results.rows)
    measure = level_measure(levels)
    panels = kind_panels(contents, label)
    several = len(panels) > 1
    size = (11.4, 4.9) if several else (7.5, 4.2)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    found = {name: _intervals(levels, name, measure) for name in contents.model_names(label)}
    heights = [i.mean for intervals in found.values() for i in intervals.values()]
    for axes, (title, names) in zip(grid, panels, strict=True):
        for name, intervals in found.items():
            if name in names:
                _draw_level_line(axes, name, intervals, styles[name], band=not several)
            elif intervals:
                means = [interval.mean for interval in intervals.values()]
                axes.plot(list(intervals), means, color=PALE, linewidth=1.2, zorder=1)
        value_axis(axes, "y", heights)
        axes.set_xlim(0, 1)
        axes.set_xlabel("t / T")
        axes.set_title(title)
        _log_snr_axis(axes, levels)
    figure.supylabel(_LEVEL_LABELS[measure], fontsize=10)
    legend_below(figure, list(grid), each=several)
    return figure


def _intervals(levels: pd.DataFrame, name: str, measure: str) -> dict[float, Interval]:
    """Mean and interval of a model in each bin, by the middle of the bin."""
    of_model = levels[levels["name"] == name].dropna(subset=["t_mid", measure])
    intervals = {
        float(time): mean_interval(of_model.loc[of_model["t_mid"] == time, measure])
        for time in np.unique(of_model["t_mid"].to_numpy(np.float64))
    }
    # An estimate free of bias can fall below 0, where a log axis has no place for it.
    return {time: interval for time, interval in intervals.items() if interval.mean > 0}


def _draw_level_line(
    axes: Axes, name: str, intervals: dict[float, Interval], style: ModelStyle, band: bool
) -> None:
    if not intervals:
        return
    times, means = list(intervals), [interval.mean for interval in intervals.values()]
    axes.plot(
        *(times, means),
        color=style.colour, linestyle=style.line, marker=style.marker, markersize=4, label=name,
    )  # fmt: skip
    if not band:
        return
    ends = [(i.low, i.high) for i in intervals.values()]
    # A band that reaches 0 runs off the lower edge.
    low = [m if e[0] is None else max(e[0], 1e-3 * m) for e, m in zip(ends, means, strict=True)]
    high = [m if e[1] is None else e[1] for e, m in zip(ends, means, strict=True)]
    axes.fill_between(times, low, high, color=style.colour, alpha=0.15, linewidth=0)


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
