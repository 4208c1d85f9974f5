"""Training losses of the models of a setting, and how far they stay above the floor."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kan_diffusion.report.charts.axes import (
    kind_panels,
    legend_below,
    setting_label,
    step_axis,
    value_axis,
)
from kan_diffusion.report.contents import ReportContents
from kan_diffusion.report.style import INK, PALE, ModelStyle, model_styles, report_style

__all__ = ["curves_by_seed", "loss_figure"]

_Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@report_style()
def loss_figure(contents: ReportContents, label: str | None = None) -> Figure:
    """Training losses of all models of one setting, and their distance to the floor if known.

    Args:
        contents: The study.
        label: The setting; the first one when None. Many models have a panel a kind, with the
            models of other kinds in grey behind, and only their distance to the floor is drawn
            where it is known: the losses themselves nearly coincide.
    """
    label = setting_label(contents, label)
    curves = contents.curves_of(label)
    floor = contents.floors.get(label)
    found = {
        name: curves_by_seed(curves[curves["name"] == name]) for name in contents.model_names(label)
    }
    groups = kind_panels(contents, label)
    several = len(groups) > 1
    shifts = [0.0] if floor is None else [floor] if several else [0.0, floor]
    size = (11.4, 4.8) if several else (10.0, 4.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(
        figure.subplots(1, max(len(groups), len(shifts)), sharey=several, squeeze=False)[0]
    )
    pairs = [(shift, *group) for shift in shifts for group in groups]
    styles = model_styles(contents.results.rows)
    heights: list[float] = []
    for axes, (shift, title, names) in zip(panels, pairs, strict=True):
        heights = [] if not several else heights
        for name, (steps, losses) in found.items():
            shown = np.where(losses > shift, losses - shift, np.nan) if shift else losses
            mine = styles[name] if name in names else None
            heights += _line_and_range(axes, steps, shown, mine, name, band=not several)
        axes.set_title(title or ("Loss minus floor" if shift else "Training loss"))
        axes.set_ylabel("loss − floor (running mean)" if shift else "loss (running mean)")
        step_axis(axes, max((float(s[-1]) for s, _ in found.values() if len(s)), default=1.0))
        if shift and heights:
            value_axis(axes, "y", heights)
    for axes in panels[1:] if several else []:
        axes.set_ylabel("")
    if floor is not None and not several:
        _draw_floor(panels[0], floor)
    legend_below(figure, panels if several else panels[:1], each=several)
    return figure


def curves_by_seed(curves: pd.DataFrame) -> _Curve:
    """The smoothed losses of some seeds at common steps.

    Args:
        curves: Columns ``seed``, ``step`` and ``loss``: smoothed curves of one model. Seeds that
            trained for different numbers of steps are read off between their own steps.

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


def _draw_floor(axes: Axes, floor: float) -> None:
    axes.axhline(floor, color=INK, linewidth=1.3, linestyle="--", label="floor (oracle)")
    axes.annotate(
        f"floor {floor:.4g}", (0.98, floor), xycoords=("axes fraction", "data"),
        xytext=(0, -4), textcoords="offset points", ha="right", va="top", fontsize=9,
    )  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, floor - 0.12 * (high - floor)), high)


def _line_and_range(
    axes: Axes,
    steps: NDArray[np.float64],
    losses: NDArray[np.float64],
    style: ModelStyle | None,
    name: str,
    band: bool,
) -> list[float]:
    """The mean over seeds as a line and their range as a band; in grey without a style.

    Returns:
        The finite values that were drawn.
    """
    some = np.isfinite(losses).any(axis=1)
    steps, losses = steps[some], losses[some]
    if not len(steps):
        return []
    means = np.nanmean(losses, axis=1)
    if style is None:
        axes.plot(steps, means, color=PALE, linewidth=1.2, zorder=1)
        return [float(value) for value in means]
    axes.plot(steps, means, color=style.colour, linestyle=style.line, label=name)
    if band and losses.shape[1] > 1:
        low, high = np.nanmin(losses, axis=1), np.nanmax(losses, axis=1)
        axes.fill_between(steps, low, high, color=style.colour, alpha=0.15, linewidth=0)
    shown = losses if band else means
    return [float(value) for value in shown[np.isfinite(shown)]]
