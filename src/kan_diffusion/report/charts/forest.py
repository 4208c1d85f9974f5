"""Forest plots: models in rows, their seeds as pale marks, the mean and its interval on top.

Where a setting has an MLP, everything is relative to the best one. With v_s(a) the measure of model
a and seed s, the excess and the training time are drawn as ratios v_s(a) / v_s(b) on a log axis,
all other measures as differences v_s(a) - v_s(b). Intervals are those of the mean paired difference
(95 %, bootstrap); without an MLP those of the mean (95 %, Student's t). An end that lies outside
the axis has an arrowhead at the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from numpy.typing import NDArray

from kan_diffusion.report.charts.axes import value_axis
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.points import panel_figure, row_counts
from kan_diffusion.report.style import (
    INK,
    MUTED,
    REAL,
    SEED_ALPHA,
    ModelStyle,
    model_styles,
    report_style,
)
from kan_diffusion.report.tables import format_number
from kan_diffusion.study.results.rows import MEASURES, Results, Setting
from kan_diffusion.study.results.statistics import SIGNIFICANCE, Interval, mean_interval
from kan_diffusion.study.results.verdicts import Comparison, compare

__all__ = ["differences_figure", "forest_figure", "metrics_figure"]

_TIME = "train_cpu_seconds"
_RATIOS = ("excess", _TIME)
_LINE = 0.3
_LETTER = 0.075
_WIDTH = 11.4


@dataclass(frozen=True)
class _Row:
    """One model in one panel: its mean and interval, its seeds, and how many there are."""

    mean: float
    ends: tuple[float, float] | None
    seeds: NDArray[np.float64]
    number: int
    strong: bool = False


@dataclass(frozen=True)
class _Panel:
    """One axis of a forest plot, and ``real``: the score of two fresh real samples on it."""

    title: str
    label: str
    rows: dict[str, _Row]
    log: bool
    baseline: str | None = None
    real: float = math.nan

    @property
    def reference(self) -> float:
        """The baseline's place on the axis."""
        return 1.0 if self.log else 0.0


@report_style()
def forest_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """Draws the judged measure of all models of a setting, and their training time.

    Args:
        contents: The study.
        label: The setting; the first one when None. Times are left out where they were held equal.
    """
    setting = _setting(contents, label)
    results = contents.results
    measures: list[str] = [results.judged(setting.label)]
    if setting.match != "time" and (results.of_setting(setting.label)[_TIME] > 0).any():
        measures.append(_TIME)
    panels = [_panel(contents, setting, measure) for measure in measures]
    return _drawn(contents, contents.model_names(setting.label), panels, 2)


@report_style()
def metrics_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """Draws the sample metrics of all models of a setting, a panel for each metric.

    Args:
        contents: The study.
        label: The setting; the first one when None.
    """
    setting = _setting(contents, label)
    rows = contents.results.of_setting(setting.label)
    measured = [key for key in contents.results.metrics if rows[key].notna().any()]
    panels = [_panel(contents, setting, key) for key in measured]
    return _drawn(contents, contents.model_names(setting.label), panels, 3)


@report_style()
def differences_figure(contents: ReportContents, settings: Sequence[Setting]) -> Figure:
    """Draws the models of several settings against the best MLP of each, a panel for each setting.

    Args:
        contents: The study.
        settings: The settings.
    """
    panels = []
    for setting in settings:
        panel = _panel(contents, setting, contents.results.judged(setting.label))
        number = max((row.number for row in panel.rows.values()), default=0)
        panels.append(replace(panel, title=f"{setting.data}, n = {number}"))
    compared = {name for panel in panels for name in (*panel.rows, panel.baseline)}
    names = [name for name in contents.model_names() if name in compared]
    return _drawn(contents, names, panels, 4)


def _setting(contents: ReportContents, label: str | None) -> Setting:
    settings = contents.results.settings()
    return next((setting for setting in settings if setting.label == label), settings[0])


def _panel(contents: ReportContents, setting: Setting, measure: str) -> _Panel:
    """Compares the models of a setting in one measure, or shows it where there is no baseline."""
    results = contents.results
    word, unit = _words(results, measure)
    title, real = word, math.nan
    metric = results.metrics.get(measure)
    if metric is not None:
        title = metric.title if metric.better == "lower" else f"{metric.title} (higher is better)"
        real = float(results.of_setting(setting.label)[f"{measure}_real"].mean())
    title = title[:1].upper() + title[1:]
    values = results.values(setting.label, measure)
    comparisons = compare(results, setting, measure)
    if measure == results.judged(setting.label):
        comparisons = list(contents.decision.of_setting(setting.label).values())
    if not comparisons:
        rows = {str(name): _alone(values[name]) for name in values}
        log = measure in _RATIOS and not (values <= 0).any(axis=None)
        return _Panel(title, f"{word} ({unit})" if unit else word, rows, log, real=real)
    baseline = comparisons[0].baseline
    rows = {comparison.model: _compared(comparison, values) for comparison in comparisons}
    if measure in _RATIOS:
        return _Panel(title, f"{word} / that of the best MLP", rows, True, baseline)
    real -= float(values[baseline].mean())
    rows, real, power = _scaled(rows, real)
    scale = " ".join(part for part in (power, unit) if part)
    label = f"{word} minus the best MLP’s" + (f"\n({scale})" if scale else "")
    return _Panel(title, label, rows, False, baseline, real)


def _scaled(rows: dict[str, _Row], real: float) -> tuple[dict[str, _Row], float, str]:
    """Multiplies small numbers by a power of ten, so that they can be read; gives its inverse."""
    sizes = [np.abs((row.mean, *(row.ends or ()))).max() for row in rows.values()]
    usual = float(np.median([size for size in sizes if size > 0] or [1.0]))
    power = math.floor(math.log10(usual))
    if power >= -1:
        return rows, real, ""
    factor = 10.0**-power
    scaled = {
        name: replace(
            row,
            mean=factor * row.mean,
            ends=row.ends and (factor * row.ends[0], factor * row.ends[1]),
            seeds=factor * row.seeds,
        )
        for name, row in rows.items()
    }
    digits = str(-power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return scaled, factor * real, f"10⁻{digits}"


def _words(results: Results, measure: str) -> tuple[str, str]:
    """Names a measure and its unit."""
    if measure == _TIME:
        return "training time", "CPU s"
    if measure in MEASURES:
        return results.name_of(measure), ""
    return results.metrics[measure].label, results.metrics[measure].unit


def _ends(interval: Interval) -> tuple[float, float] | None:
    low, high = interval.low, interval.high
    return None if low is None or high is None else (low, high)


def _alone(values: pd.Series[float]) -> _Row:
    interval = mean_interval(values)
    seeds = np.array(values.dropna(), dtype=np.float64)
    return _Row(interval.mean, _ends(interval), seeds, interval.n)


def _compared(comparison: Comparison, values: pd.DataFrame) -> _Row:
    pairs = values[[comparison.model, comparison.baseline]].dropna().to_numpy(np.float64)
    number, strong = comparison.interval.n, comparison.p_holm < SIGNIFICANCE
    if comparison.measure in _RATIOS:
        above = pairs[(pairs > 0).all(axis=1)]
        seeds = above[:, 0] / above[:, 1]
        return _Row(comparison.ratio, comparison.ratio_interval, seeds, number, strong)
    seeds = pairs[:, 0] - pairs[:, 1]
    return _Row(comparison.interval.mean, _ends(comparison.interval), seeds, number, strong)


def _drawn(
    contents: ReportContents, names: Sequence[str], panels: Sequence[_Panel], most: int
) -> Figure:
    """Draws panels in rows of at most ``most``; the models' names stand left of each row."""
    styles = model_styles(contents.results.rows)
    counts = row_counts(len(panels), most)
    columns = max(counts)
    above = 0.5 if any(math.isfinite(panel.real) for panel in panels) else 0.0
    beside = (1.95, 1.95, 1.6, 0.5)[columns - 1]
    left = 0.45 + _LETTER * max(len(name) for name in names)
    side = min((_WIDTH - left) / columns - beside, 4.2)
    ratio = _LINE * (len(names) + 0.2 + above) / side
    figure, grid = panel_figure(counts, _WIDTH, ratio, (beside, 1.1), (left, 0.75, 0.35), side)
    flat = [axes for row in grid for axes in row]
    for axes, panel in zip(flat, panels, strict=True):
        _draw(axes, names, panel, styles, columns)
        axes.set_ylim(len(names) - 0.4, -0.6 - above)
        axes.tick_params(axis="y", labelleft=any(axes is row[0] for row in grid))
    return figure


def _draw(
    axes: Axes, names: Sequence[str], panel: _Panel, styles: dict[str, ModelStyle], columns: int
) -> None:
    shown = [row for row in panel.rows.values() if math.isfinite(row.mean)]
    ends = [end for row in shown for end in row.ends or ()]
    values = [float(value) for row in shown for value in (row.mean, *row.seeds)]
    reference = [] if panel.baseline is None else [panel.reference]
    limits = value_axis(
        axes, "x", [*values, *reference], panel.log, [*ends, panel.real],
        6 if columns <= 2 else 4, 2.0,
    )  # fmt: skip
    if panel.baseline is not None:
        axes.axvline(panel.reference, color=styles[panel.baseline].colour, linewidth=1.2)
    if math.isfinite(panel.real):
        _draw_real(axes, panel.real, limits)
    for place, name in enumerate(names):
        row, style = panel.rows.get(name), styles[name]
        text, bold = "–", False
        if name == panel.baseline:
            axes.plot(panel.reference, place, style.marker, color=style.colour, markersize=8)
            text = "best MLP" if columns <= 3 else ""
        elif row is not None and math.isfinite(row.mean):
            _draw_row(axes, place, row, style, limits)
            text, bold = _text(row, panel, columns), row.strong
        axes.text(
            1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9,
            color=INK if row else MUTED, fontweight="bold" if bold else "normal",
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.grid(axis="y", visible=False)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.label if columns <= 3 else panel.label.replace("that of the ", ""))


def _draw_row(
    axes: Axes, place: float, row: _Row, style: ModelStyle, limits: tuple[float, float]
) -> None:
    """Draws the seeds of a model and, above them, its mean with the interval."""
    spread = place + 0.22 + 0.05 * (np.arange(len(row.seeds)) % 3 - 1)
    axes.scatter(
        *(row.seeds, spread), s=12, color=style.colour, marker=style.marker, alpha=SEED_ALPHA,
        linewidths=0,
    )  # fmt: skip
    if row.ends is not None:
        low, high = row.ends
        axes.plot(
            *((max(low, limits[0]), min(high, limits[1])), (place, place)),
            color=style.colour, linewidth=2.2, solid_capstyle="butt",
        )  # fmt: skip
        for edge, marker, cut in (
            (limits[0], CARETLEFT, low < limits[0]),
            (limits[1], CARETRIGHT, high > limits[1]),
        ):
            if cut:
                axes.plot(edge, place, marker=marker, color=style.colour, markersize=7)
    axes.scatter(
        *(row.mean, place), s=60, color=style.colour, marker=style.marker, edgecolors="white",
        linewidths=1.0, zorder=3,
    )  # fmt: skip


def _draw_real(axes: Axes, real: float, limits: tuple[float, float]) -> None:
    """Marks the score of two fresh real samples, or says where it is outside the axis."""
    inside = limits[0] < real < limits[1]
    text = "real" if inside else f"real against real: {format_number(real, 2)}"
    if inside:
        axes.axvline(real, color=REAL, linestyle="--", linewidth=1.5)
    place = real if inside else limits[0] if real <= limits[0] else limits[1]
    axes.annotate(
        text, (place, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -1),
        textcoords="offset points", fontsize=9, color=MUTED, va="top",
        ha="left" if inside or real <= limits[0] else "right",
    )  # fmt: skip


def _text(row: _Row, panel: _Panel, columns: int) -> str:
    """Writes a row's numbers, as many as there is room for: mean, interval, number of seeds."""
    largest = max(abs(value) for value in (row.mean, *(row.ends or ())))
    digits = 2 if panel.log and columns <= 2 else 1
    decimals = max(0, digits - math.floor(math.log10(largest))) if largest > 0 else 0
    # Adding 0 takes the sign off a zero.
    values = (round(value, decimals) + 0.0 for value in (row.mean, *(row.ends or ())))
    mean, *ends = (f"{value:,.{decimals}f}".replace("-", "−") for value in values)
    if columns > 3:
        return mean
    interval = f" [{', '.join(ends)}]" if ends else ""
    return f"{mean}{interval}" + (f", n = {row.number}" if columns <= 2 else "")
