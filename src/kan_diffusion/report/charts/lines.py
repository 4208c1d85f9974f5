"""Line charts over noise levels and training steps; many models have a panel for each kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from kan_diffusion.report.charts.axes import value_axis, value_scale
from kan_diffusion.report.contents import MANY_MODELS, ReportContents
from kan_diffusion.report.style import INK, PALE, ModelStyle, report_style
from kan_diffusion.study.results.statistics import mean_interval

__all__ = ["by_level_figure", "level_measure", "loss_figure"]

_KIND_TITLES = {"kan": "KANs", "mlp": "MLPs", "other": "Others"}
_LEVEL_LABELS = {
    "excess": "excess (squared distance to the oracle)",
    "heldout_loss": "held-out loss",
}

_WIDTH = 11.0
_APART = "\N{EM SPACE}" * 3  # in an SVG, where several common spaces become one

_Array = NDArray[np.float64]


def level_measure(levels: pd.DataFrame) -> str:
    """Names the measure known by noise level: the excess; without an oracle, the held-out loss."""
    return "excess" if levels["excess"].notna().any() else "heldout_loss"


@report_style()
def by_level_figure(
    contents: ReportContents, label: str | None = None, width: float = _WIDTH
) -> Figure:
    """Draws the excess (or the held-out loss) against the log signal-to-noise ratio.

    Args:
        contents: The study.
        label: The data set; the first one when None.
        width: Largest width in inches.
    """
    label = label or contents.results.data_sets()[0]
    levels = contents.levels_of(label)
    measure = level_measure(levels)
    figure, panels = _panels(contents, label, width)
    heights: list[float] = []
    for name in contents.model_names(label):
        x, mean, low, high = _by_level(levels[levels["name"] == name], measure)
        heights += [float(value) for value in mean]
        for axes, names in panels:
            style = contents.styles[name] if name in names else None
            _draw_line(axes, x, mean, style, name, (low, high) if len(panels) == 1 else None)
    for axes, _ in panels:
        value_axis(axes, "y", value_scale(heights))
        axes.set_xlabel(f"log SNR, log(α²/σ²)\n← more noise{_APART}less noise →")
    for axes, _ in panels if width < _WIDTH else panels[:1]:
        axes.set_ylabel(_LEVEL_LABELS[measure])
    _legend(figure, panels)
    return figure


@report_style()
def loss_figure(
    contents: ReportContents, label: str | None = None, width: float = _WIDTH
) -> Figure:
    """Draws the training losses of all models of a data set beside their floor, where it is known.

    With a floor, few models have a second panel with the loss minus the floor; many models have
    that panel alone, as their losses nearly coincide. A mean that leaps above twice the losses at
    the start runs off the upper edge of the other panel.

    Args:
        contents: The study.
        label: The data set; the first one when None.
        width: Largest width in inches.
    """
    label = label or contents.results.data_sets()[0]
    curves, floor = contents.curves_of(label), contents.floors.get(label)
    both = floor is not None and len(contents.model_names(label)) <= MANY_MODELS
    figure, panels = _panels(contents, label, width, twice=both)
    last = 1.0
    for index, (axes, names) in enumerate(panels):
        shift = floor if floor is not None and (not both or index == 1) else 0.0
        heights: list[float] = []
        starts: list[float] = []
        for name in contents.model_names(label):
            steps, losses = curves_by_seed(curves[curves["name"] == name])
            if not len(steps):
                continue
            last = max(last, float(steps[-1]))
            mean, ends = np.nanmean(losses, axis=1) - shift, None
            above = mean > 0  # a noisy mean may fall below the floor, which a log axis cannot show
            steps, losses, mean = steps[above], losses[above] - shift, mean[above]
            if (both or len(panels) == 1) and losses.shape[1] > 1:
                # A band that reaches 0 runs off the lower edge.
                low = np.maximum(np.nanmin(losses, axis=1), 1e-3 * mean)
                ends = low, np.nanmax(losses, axis=1)
            heights += [float(value) for value in mean]
            starts += [float(value) for value in mean[:1]]
            style = contents.styles[name] if name in names else None
            _draw_line(axes, steps, mean, style, name, ends, marker=False)
        axes.set_xlabel("training step")
        axes.set_xscale("log" if last > 100 else "linear")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        # A loss that leaps up runs off the upper edge: it must not flatten the others.
        top = math.inf if shift else 2 * max(starts, default=math.inf)
        if shift or max(heights, default=0.0) > top:
            shown = [height for height in heights if height <= top]
            value_axis(axes, "y", value_scale(shown, bool(shift)))
        if index == 0 or both or width < _WIDTH:
            axes.set_ylabel(
                f"loss minus floor ({shift:.4g}), running mean" if shift else "loss, running mean"
            )
        if floor is not None and not shift:
            _draw_floor(axes, floor)
    _legend(figure, panels[:1] if both else panels)
    return figure


def _panels(
    contents: ReportContents, label: str, width: float, twice: bool = False
) -> tuple[Figure, list[tuple[Axes, list[str]]]]:
    """Makes panels, each with its models: all models, or those of one kind if there are many.

    Panels stand side by side, or one below the other if the width is too small.
    """
    names = contents.model_names(label)
    if len(names) <= MANY_MODELS:
        groups = [("", names)] * (2 if twice else 1)
    else:
        kinds = contents.results.models(label)
        groups = [(title, [n for n in names if kinds[n] == k]) for k, title in _KIND_TITLES.items()]
        groups = [group for group in groups if group[1]]
    size = (7.5, 4.3) if len(groups) == 1 else (_WIDTH, 4.9)
    rows = len(groups) if width < size[0] else 1
    if width < size[0]:
        size = width, 3.7 * rows
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, len(groups) // rows, sharey=not twice, squeeze=False).ravel()
    for axes, (title, _) in zip(grid, groups, strict=True):
        axes.set_title(title)
    return figure, [(axes, own) for axes, (_, own) in zip(grid, groups, strict=True)]


def _by_level(levels: pd.DataFrame, measure: str) -> tuple[_Array, _Array, _Array, _Array]:
    """Gives log SNR, mean, lower and upper end of each bin of levels, by increasing log SNR."""
    points = []
    for _, group in levels.dropna(subset=["t_mid", measure]).groupby("t_mid"):
        interval, x = mean_interval(group[measure]), float(group["log_snr"].mean())
        # An unbiased estimate can fall below 0, which a log axis cannot show.
        if interval.mean > 0 and math.isfinite(x):
            low = interval.mean if interval.low is None else interval.low
            high = interval.mean if interval.high is None else interval.high
            # A band that reaches 0 runs off the lower edge.
            points.append((x, interval.mean, max(low, 1e-3 * interval.mean), high))
    columns = np.array(sorted(points), dtype=np.float64).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


def curves_by_seed(curves: pd.DataFrame) -> tuple[_Array, _Array]:
    """Interpolates the smoothed losses of several seeds at common steps.

    Args:
        curves: Columns ``seed``, ``step`` and ``loss``: smoothed curves of one model. The common
            steps are those of the seed that trained longest.

    Returns:
        Steps, shape (b,), and the loss of every seed, shape (b, seeds); NaN beyond a seed's end.
    """
    parts = [
        (part["step"].to_numpy(np.float64), part["loss"].to_numpy(np.float64))
        for _, part in curves.sort_values("step").groupby("seed")
    ]
    if not parts:
        return np.empty(0), np.empty((0, 0))
    steps = max((part[0] for part in parts), key=lambda own: own[-1])
    losses = [
        np.interp(np.log(steps), np.log(own), values, left=np.nan, right=np.nan)
        for own, values in parts
    ]
    return steps, np.stack(losses, axis=1)


def _draw_line(
    axes: Axes,
    x: _Array,
    y: _Array,
    style: ModelStyle | None,
    name: str,
    ends: tuple[_Array, _Array] | None,
    marker: bool = True,
) -> None:
    """Draws a model's line and band; without a style, a grey line behind the others."""
    if style is None:
        axes.plot(x, y, color=PALE, linewidth=1.2, zorder=1)
        return
    axes.plot(
        x, y, color=style.colour, linestyle=style.line, label=name, markersize=4,
        marker=style.marker if marker else None,
    )  # fmt: skip
    if ends is not None:
        axes.fill_between(x, *ends, color=style.colour, alpha=0.15, linewidth=0)


def _draw_floor(axes: Axes, floor: float) -> None:
    axes.axhline(floor, color=INK, linewidth=1.3, linestyle="--")
    axes.annotate(
        f"floor {floor:.4g} (oracle)", (0.98, floor), xycoords=("axes fraction", "data"),
        xytext=(0, -4), textcoords="offset points", ha="right", va="top", fontsize=9,
    )  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, floor - 0.14 * (high - floor)), high)


def _legend(figure: Figure, panels: Sequence[tuple[Axes, list[str]]]) -> None:
    """Puts one legend below the figure, or one below each panel if several are given."""
    for axes, _ in panels:
        handles, labels = axes.get_legend_handles_labels()
        if len(panels) == 1:
            most = 4 if figure.get_figwidth() > 6 else 2
            figure.legend(handles, labels, loc="outside lower center", ncols=min(most, len(labels)))
            continue
        wide = max(map(len, labels), default=0) > 22
        axes.legend(
            handles, labels, ncols=1 if wide else 2, fontsize=9, loc="upper center",
            bbox_to_anchor=(0.5, -0.24), borderaxespad=0.0, handlelength=2.4, columnspacing=1.0,
        )  # fmt: skip
