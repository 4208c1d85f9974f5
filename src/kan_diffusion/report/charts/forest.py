"""Forest plots: models in rows, their seeds as pale marks, the mean and its interval on top.

Where only one panel fits, such as on a telephone, names stand above their rows.

The plot of a lead has a row for each data set and their median below. On a terminal the same rows
are drawn in plain characters.

Where a data set has an MLP, everything is relative to the best one, b. With v_s(a) the measure of
model a and seed s, the excess and the training time are drawn as ratios v_s(a) / v_s(b) on a log
axis, all other measures as differences v_s(a) - v_s(b). The intervals are 95 % bootstrap intervals
of the mean paired difference; without an MLP, 95 % intervals of the mean (Student's t). An end that
lies outside the axis has an arrowhead at the edge.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT
from numpy.typing import NDArray

from kan_diffusion.report.charts.axes import value_axis, value_scale
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.points import panel_figure, row_counts
from kan_diffusion.report.style import (
    GRID,
    INK,
    MUTED,
    PALETTES,
    REAL,
    SEED_ALPHA,
    ModelStyle,
    report_style,
)
from kan_diffusion.report.tables import format_number
from kan_diffusion.study.results.rows import MEASURES, Results
from kan_diffusion.study.results.statistics import SIGNIFICANCE, Interval, mean_interval
from kan_diffusion.study.results.verdicts import Comparison, Lead, compare
from kan_diffusion.study.results.wording import capitalised

__all__ = [
    "differences_figure", "forest_figure", "forest_lines", "lead_figure", "lead_lines",
    "metrics_figure",
]  # fmt: skip

_TIME = "train_cpu_seconds"
_RATIOS = ("excess", _TIME)
_LINE = 0.3
_HEAD = 0.43
"""Distance from a row up to its name in a narrow figure, whose rows are 1.6 times as high."""
_LETTER, _BOLD_LETTER, _TITLE_LINE = 0.075, 0.1, 0.18
_WIDTH = 11.4
_BEST_MLP = "best MLP"
_MEDIAN = "median"
_LEAST_PLOT = 16


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
def forest_figure(
    contents: ReportContents, label: str | None = None, width: float = _WIDTH
) -> Figure:
    """Draws the judged measure of the models of a data set, and training time unless held equal.

    Args:
        contents: The study.
        label: The data set; the first one when None.
        width: Largest width in inches.
    """
    data = label or contents.results.data_sets()[0]
    results = contents.results
    measures: list[str] = [results.judged(data)]
    if results.match != "time" and (results.of_data(data)[_TIME] > 0).any():
        measures.append(_TIME)
    panels = [_panel(contents, data, measure) for measure in measures]
    return _drawn(contents.styles, contents.model_names(data), panels, 2, width)


@report_style()
def metrics_figure(
    contents: ReportContents, label: str | None = None, width: float = _WIDTH
) -> Figure:
    """Draws the sample metrics of all models of a data set, a panel for each metric.

    Args:
        contents: The study.
        label: The data set; the first one when None.
        width: Largest width in inches.
    """
    data = label or contents.results.data_sets()[0]
    rows = contents.results.of_data(data)
    measured = [key for key in contents.results.metrics if rows[key].notna().any()]
    panels = [_panel(contents, data, key) for key in measured]
    return _drawn(contents.styles, contents.model_names(data), panels, 3, width)


@report_style()
def differences_figure(
    contents: ReportContents, data_sets: Sequence[str], width: float = _WIDTH
) -> Figure:
    """Draws the models of data sets against the best MLP of each, a panel for each data set.

    Args:
        contents: The study.
        data_sets: The data sets.
        width: Largest width in inches.
    """
    panels = []
    for data in data_sets:
        panel = _panel(contents, data, contents.results.judged(data))
        number = max((row.number for row in panel.rows.values()), default=0)
        panels.append(replace(panel, title=f"{data}, n = {number}"))
    compared = {name for panel in panels for name in (*panel.rows, panel.baseline)}
    names = [name for name in contents.model_names() if name in compared]
    return _drawn(contents.styles, names, panels, 4, width)


@report_style()
def lead_figure(contents: ReportContents, lead: Lead, width: float = _WIDTH) -> Figure:
    """Draws the ratios of a lead on all data sets, and their median.

    Args:
        contents: The study.
        lead: One of the study's leads.
        width: Largest width in inches.
    """
    styles = {_BEST_MLP: ModelStyle(PALETTES["mlp"][0], "s", "-")}
    styles |= {c.data: contents.styles[c.model] for c in lead.comparisons}
    styles[_MEDIAN] = ModelStyle(INK, "D", "-")
    panel = _lead_panel(contents, lead)
    return _drawn(styles, list(panel.rows), [panel], 2, width)


def forest_lines(contents: ReportContents, label: str | None = None, width: int = 80) -> list[str]:
    """Draws the judged measure in ASCII, as `forest_figure` does.

    Args:
        contents: The study.
        label: The data set; the first one when None.
        width: Number of columns.

    Returns:
        Lines without colour: a title, a line for each model, and the axis. A mean is ``o``, its
        interval ``---`` with ``<`` or ``>`` where it goes on beyond the axis, and the best MLP
        ``|``.
    """
    data = label or contents.results.data_sets()[0]
    panel = _panel(contents, data, contents.results.judged(data))
    several = len(contents.results.data_sets()) > 1
    return _lines(data, contents.model_names(data), panel, width, several)


def lead_lines(contents: ReportContents, lead: Lead, width: int = 80) -> list[str]:
    """Draws a lead in ASCII like `forest_lines`, with a line for each data set."""
    panel = _lead_panel(contents, lead)
    amount = lead.amount
    side = panel.title + (f" at {amount}" if amount else "")
    return _lines(side, list(panel.rows), panel, width)


def _panel(contents: ReportContents, data: str, measure: str) -> _Panel:
    """Compares the models of a data set in one measure; without a baseline, shows their means."""
    results = contents.results
    word, unit = _words(results, measure)
    title, real = word, math.nan
    metric = results.metrics.get(measure)
    if metric is not None:
        title = metric.title if metric.better == "lower" else f"{metric.title} (higher is better)"
        real = float(results.of_data(data)[f"{measure}_real"].mean())
    title = capitalised(title)
    values = results.values(data, measure)
    if measure == results.judged(data):
        comparisons = list(contents.decision.of_data(data).values())
    else:
        comparisons = compare(results, data, measure)
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


def _lead_panel(contents: ReportContents, lead: Lead) -> _Panel:
    """The ratios of a lead, a row for each data set, and their median."""
    values = contents.results.values
    rows = {c.data: _compared(c, values(c.data, c.measure)) for c in lead.comparisons}
    rows[_MEDIAN] = _Row(lead.ratio.mean, _ends(lead.ratio), np.empty(0), lead.ratio.n)
    side = lead.model or "best KAN"
    title = f"{capitalised(side)} against the best MLP"
    return _Panel(title, "excess / that of the best MLP", rows, True, _BEST_MLP)


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
    styles: dict[str, ModelStyle],
    names: Sequence[str],
    panels: Sequence[_Panel],
    most: int,
    width: float,
) -> Figure:
    """Draws panels in rows of at most ``most``; the models' names stand left of each row.

    If the width is too small, each row has one panel, with the names inside it.
    """
    narrow = width < _WIDTH
    counts = row_counts(len(panels), 1 if narrow else most)
    columns = max(counts)
    above = 0.5 if any(math.isfinite(panel.real) for panel in panels) else 0.0
    head = _HEAD if narrow else 0.0
    beside = 0.15 if narrow else (1.95, 2.25, 1.6, 0.5)[columns - 1]
    left = 0.15 if narrow else 0.45 + _LETTER * max(len(name) for name in names)
    side = min((width - left) / columns - beside, 4.2)
    ratio = _LINE * (1.6 if narrow else 1) * (len(names) + 0.2 + above + head / 2) / side
    letters = int((side + beside) / _BOLD_LETTER)
    titles = [textwrap.wrap(panel.title, letters) for panel in panels]
    more = _TITLE_LINE * (max(map(len, titles)) - 1)
    gaps, margins = (beside, 1.1 + more), (left, 0.75, 0.35 + more)
    figure, grid = panel_figure(counts, width, ratio, gaps, margins, side)
    flat = [axes for row in grid for axes in row]
    for axes, panel, title in zip(flat, panels, titles, strict=True):
        _draw(axes, names, panel, styles, columns, head)
        axes.set_title("\n".join(title))
        axes.set_ylim(len(names) - 0.4, -0.6 - above - head / 2)
        axes.spines.left.set_visible(not narrow)
        axes.tick_params(axis="y", labelleft=not narrow and any(axes is row[0] for row in grid))
    return figure


def _draw(
    axes: Axes,
    names: Sequence[str],
    panel: _Panel,
    styles: dict[str, ModelStyle],
    columns: int,
    head: float,
) -> None:
    shown = [row for row in panel.rows.values() if math.isfinite(row.mean)]
    ends = [end for row in shown for end in row.ends or ()]
    values = [float(value) for row in shown for value in (row.mean, *row.seeds)]
    reference = [] if panel.baseline is None else [panel.reference]
    most_ticks = 6 if columns <= 2 else 4
    scale = value_scale([*values, *reference], panel.log, [*ends, panel.real], most_ticks, 2.0)
    value_axis(axes, "x", scale)
    limits = scale.low, scale.high
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
        at, beside = axes.get_yaxis_transform(), 1.02
        behind = {"facecolor": "white", "linewidth": 0, "pad": 1.0} if head else None
        if head:
            beside = 1.0
            axes.text(0.0, place - head, name, transform=at, va="center", fontsize=9.5, bbox=behind)
            axes.axhline(place - head - 0.3, color=GRID, linewidth=0.8, zorder=0)
        axes.text(
            beside, place - head, text, transform=at, ha="right" if head else "left", va="center",
            fontsize=9, color=INK if row else MUTED, fontweight="bold" if bold else "normal",
            bbox=behind,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.grid(axis="y", visible=False)
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
        bbox={"facecolor": "white", "linewidth": 0, "pad": 1.0},
    )  # fmt: skip


def _text(row: _Row, panel: _Panel, columns: int) -> str:
    """Writes a row's numbers, as many as there is room for: mean, interval, number of seeds."""
    digits = 2 if panel.log and columns <= 2 else 1
    others = [
        _decimals(each, digits) for each in panel.rows.values() if 0 < abs(each.mean) < math.inf
    ]
    # A row near 0 among large ones has only one more than these (a ratio, which is bold or not by
    # its distance from 1, two more): there is no room for more.
    more = 2 if panel.log else 1
    decimals = min([_decimals(row, digits), *(least + more for least in others)])
    mean, interval = _numbers(row, decimals)
    if columns > 3:
        return mean
    return f"{mean}{interval}" + (f", n = {row.number}" if columns <= 2 else "")


def _decimals(row: _Row, digits: int) -> int:
    """Counts the decimals that show ``digits`` digits after the first of the largest number."""
    largest = max(abs(value) for value in (row.mean, *(row.ends or ())))
    return max(0, digits - math.floor(math.log10(largest))) if largest > 0 else 0


def _numbers(row: _Row, decimals: int) -> tuple[str, str]:
    """Writes a mean, and its interval in brackets."""
    # Adding 0 turns -0 into 0.
    values = (round(value, decimals) + 0.0 for value in (row.mean, *(row.ends or ())))
    mean, *ends = (f"{value:,.{decimals}f}".replace("-", "−") for value in values)
    return mean, f" [{', '.join(ends)}]" if ends else ""


def _lines(
    title: str, names: Sequence[str], panel: _Panel, width: int, several: bool = True
) -> list[str]:
    """Draws a panel in plain characters, at most ``width`` of them in a line."""
    shown = {name: panel.rows[name] for name in names if name in panel.rows}
    shown = {name: row for name, row in shown.items() if math.isfinite(row.mean)}
    # The same decimals in all rows, so that numbers can be compared down the column.
    decimals = 2 if panel.log else min((_decimals(row, 2) for row in shown.values()), default=0)
    texts = {name: "".join(_numbers(row, decimals)) for name, row in shown.items()}
    texts = {name: text + " *" * shown[name].strong for name, text in texts.items()}
    if panel.baseline is not None and panel.baseline in names:
        texts[panel.baseline] = _BEST_MLP
    left = min(max(map(len, names)), 24)
    right = max((len(text) for text in texts.values()), default=1)
    room = max(width - left - right - 4, _LEAST_PLOT)
    reference = [] if panel.baseline is None else [panel.reference]
    ends = [end for row in shown.values() for end in row.ends or ()]
    scale = value_scale(
        [*(row.mean for row in shown.values()), *reference], panel.log, ends, room // 9, 2.0
    )

    def column(value: float) -> int:
        return round(scale.place(value) * (room - 1))

    label = " ".join(panel.label.split()).replace("10⁻", "10^-")
    lines = [title, f"{label}; further left is better" if reference else label]
    for name in names:
        marks = [" "] * room
        for value in reference:
            marks[column(value)] = "|"
        if (row := shown.get(name)) is not None:
            low, high = row.ends or (row.mean, row.mean)
            inside = max(low, scale.low), min(high, scale.high)
            for place in range(column(inside[0]), column(inside[1]) + 1):
                marks[place] = "-"
            if low < scale.low:
                marks[0] = "<"
            if high > scale.high:
                marks[-1] = ">"
            marks[column(row.mean)] = "o"
        text = texts.get(name, "-")
        head = name if len(name) <= left else f"{name[: left - 2]}.."
        lines.append(f"{head:<{left}}  {''.join(marks)}  {text}".rstrip())
    ruler, numbers = ["-"] * room, [" "] * room
    for tick in scale.ticks:
        ruler[column(tick)] = "+"
        number = f"{tick:g}"
        start = min(max(column(tick) - len(number) // 2, 0), room - len(number))
        if all(mark == " " for mark in numbers[max(start - 1, 0) : start + len(number) + 1]):
            numbers[start : start + len(number)] = number
    margin = " " * (left + 2)
    lines += [margin + "".join(ruler), (margin + "".join(numbers)).rstrip()]
    if any(row.strong for row in shown.values()):
        corrected = " after Holm's correction over data sets" if several else ""
        lines.append(f"* p below 0.05{corrected}")
    plain = str.maketrans("−’⁰¹²³⁴⁵⁶⁷⁸⁹", "-'0123456789")
    return [line.translate(plain) for line in lines]
