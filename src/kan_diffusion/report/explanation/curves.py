"""The curves of the most important edges, and what each input contributes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kan_diffusion.report.explanation.looks import (
    INPUT_COLOURS,
    OTHERS,
    explanation_style,
    level_colours,
    level_label,
    shortened,
)
from kan_diffusion.report.style import MUTED, REAL
from kan_diffusion.symbolic.views import EdgeView, NetworkView

__all__ = ["contributions_figure", "curves_figure", "edge_title"]

_COLUMNS = 4
_DENSITY_SHARE = 0.3
_MOST_INPUTS = len(INPUT_COLOURS)
_LONGEST_LINE = 34
_WIDEST = 3.8
"""Lines get thinner from level to level, so that equal curves show one inside the other."""
_LEAST_SHARE = 0.005


def edge_title(view: NetworkView, edge: EdgeView) -> str:
    """What an edge connects, in words short enough for a title."""
    source = shortened(view.units[edge.layer][edge.input])
    return f"{source} to {shortened(view.units[edge.layer + 1][edge.output])}"


@explanation_style()
def curves_figure(
    view: NetworkView,
    levels: Sequence[int] | None = None,
    most: int = 12,
) -> Figure:
    """The most important edges, a panel each: the curve at several noise levels.

    Args:
        view: The network.
        levels: Numbers of the noise levels; all of the view's when None.
        most: How many edges there are at the most.
    """
    shown = list(range(len(view.levels))) if levels is None else list(levels)
    edges = sorted(view.edges, key=lambda edge: -edge.importance)[:most]
    columns = min(_COLUMNS, max(len(edges), 1))
    rows = max(-(-len(edges) // columns), 1)
    figure = Figure(figsize=(max(2.9 * columns, 5.0), 2.55 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    colours = level_colours(view.levels)
    for axes in panels.flat[len(edges) :]:
        axes.set_visible(False)
    for axes, edge in zip(panels.flat, edges, strict=False):
        beneath = axes.get_xaxis_transform()
        for place, index in enumerate(shown):
            curve = edge.curves[index]
            if len(curve.x) > 1:
                axes.fill_between(
                    curve.x, 0.0, _DENSITY_SHARE * curve.density, transform=beneath, color=REAL,
                    alpha=0.32 / len(shown) + 0.02, linewidth=0, zorder=0.5,
                )  # fmt: skip
            axes.plot(
                curve.x, curve.y, color=colours[index], zorder=2 + index / 100,
                marker="o" if len(curve.x) == 1 else None, markersize=4,
                linewidth=_WIDEST - (_WIDEST - 1.2) * place / max(len(shown) - 1, 1),
            )  # fmt: skip
        text = _broken(shortened(edge.text, 2 * _LONGEST_LINE))
        axes.set_title(
            edge_title(view, edge), pad=20 if text and "\n" not in text else 30 if text else 6
        )
        if text:
            axes.text(
                0.0, 1.02, text, transform=axes.transAxes, fontsize=8, color=MUTED, va="bottom"
            )
        axes.set_xlabel(shortened(view.units[edge.layer][edge.input]), labelpad=2)
        low, high = axes.get_ylim()
        if high - low < 1e-9:
            axes.set_ylim(low - 0.5, high + 0.5)
        axes.margins(x=0.02)
        axes.locator_params(nbins=5)
    for row in panels:
        row[0].set_ylabel("contribution")
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colours[index], label=level_label(view.levels[index]))
        for index in shown
    ]
    handles.append(Patch(color=REAL, alpha=0.35, linewidth=0, label="density of the inputs"))
    fitting = len(handles) if columns > 2 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=fitting, handlelength=1.4,
                  columnspacing=1.2, fontsize=9)  # fmt: skip
    return figure


def _broken(text: str) -> str:
    """A formula on two lines where it is long."""
    if len(text) <= _LONGEST_LINE:
        return text
    place = text.rfind(" + ", 0, _LONGEST_LINE)
    parts = [text[:place], text[place + 1 :]] if place > 0 else [text]
    lines = [line for part in parts for line in textwrap.wrap(part, _LONGEST_LINE)]
    return "\n".join(lines if len(lines) <= 2 else [lines[0], f"{lines[1][:-1]}…"])


@explanation_style()
def contributions_figure(view: NetworkView) -> Figure:
    """What each input contributes to the outputs at each noise level, as shares.

    Args:
        view: The network.
    """
    shares = np.clip(np.nan_to_num(view.input_by_level), 0.0, None)
    totals = shares.sum(axis=1, keepdims=True)
    shares = shares / np.where(totals > 0, totals, 1.0)
    names = list(view.units[0])
    seen = [i for i in range(len(names)) if shares[:, i].max(initial=0.0) >= _LEAST_SHARE]
    order = sorted(seen, key=lambda index: -shares[:, index].sum())
    own = sorted(order[: _MOST_INPUTS if len(seen) <= _MOST_INPUTS else _MOST_INPUTS - 1])
    rest = [index for index in range(len(names)) if index not in own]
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(view.levels))
    base = np.zeros(len(view.levels))
    parts = [
        (
            shortened(names[index]),
            INPUT_COLOURS[place],
            shares[:, index],
            index >= view.num_point_inputs,
        )
        for place, index in enumerate(own)
    ]
    if rest and shares[:, rest].sum() > 0:
        parts.append(
            (
                f"{len(rest)} other{'s' if len(rest) > 1 else ''}",
                OTHERS,
                shares[:, rest].sum(axis=1),
                False,
            )
        )
    for name, colour, part, is_time in parts:
        axes.bar(
            places, part, bottom=base, color=colour, width=0.72, edgecolor="white", linewidth=0.8,
            hatch="///" if is_time else None, label=name,
        )  # fmt: skip
        for place, value, low in zip(range(len(part)), part, base, strict=True):
            if value >= 0.08:
                axes.text(
                    place, low + value / 2, f"{value:.0%}", ha="center", va="center", fontsize=8.5,
                    color="white", fontweight="bold",
                    bbox={"boxstyle": "round,pad=0.15", "facecolor": "#22262bb0", "linewidth": 0},
                )  # fmt: skip
        base = base + part
    axes.set_xticks(places, [f"{level.sigma:.2f}" for level in view.levels])
    axes.set(xlabel="noise level σ", ylabel="share of the attribution", ylim=(0.0, 1.0))
    axes.grid(False)
    handles, labels = axes.get_legend_handles_labels()
    title = "input" + (" (hatched: of time)" if any(part[3] for part in parts) else "")
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", title=title, fontsize=9)
    return figure
