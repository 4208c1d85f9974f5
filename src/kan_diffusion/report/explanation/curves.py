"""The curves of the most important edges, and the share of each input."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kan_diffusion.formulas.views import NetworkView
from kan_diffusion.report.explanation.looks import (
    INPUT_COLOURS,
    edge_title,
    level_colours,
    level_label,
)
from kan_diffusion.report.points import panel_figure, row_counts
from kan_diffusion.report.style import MUTED, REAL, report_style, shortened

__all__ = ["contributions_figure", "curves_figure"]

_COLUMNS = 4
_DENSITY_SHARE = 0.3
_WIDTH = 11.8
_LETTER = 0.0755
"""Width of a letter of the formula above a panel, in inches."""
_WIDEST, _THINNEST = 3.8, 1.2
"""Lines get thinner from level to level, so that equal curves show one inside the other."""
_LEAST_SHARE = 0.005


@report_style()
def curves_figure(view: NetworkView, most: int = 12, width: float = _WIDTH) -> Figure:
    """Draws the most important edges, a panel each: the curve at several noise levels.

    Args:
        view: The network.
        most: The largest number of edges.
        width: Largest width in inches.
    """
    shown = len(view.levels)
    edges = sorted(view.edges, key=lambda edge: -edge.importance)[:most]
    narrow = width < _WIDTH
    columns = 2 if narrow else _COLUMNS
    counts = row_counts(max(len(edges), 1), columns)
    below = 1.0 + 0.2 * (narrow and shown // 2)
    gaps = (0.45 if narrow else 0.6, 1.05)
    figure, panels = panel_figure(counts, width, 0.62, gaps, (0.7, below, 0.6))
    colours = level_colours(view.levels)
    longest = int(panels[0][0].get_position().width * figure.get_figwidth() / _LETTER)
    for axes, edge in zip([axes for row in panels for axes in row], edges, strict=False):
        beneath = axes.get_xaxis_transform()
        for index, curve in enumerate(edge.curves):
            if len(curve.x) > 1:
                axes.fill_between(
                    curve.x, 0.0, _DENSITY_SHARE * curve.density, transform=beneath, color=REAL,
                    alpha=0.32 / shown + 0.02, linewidth=0, zorder=0.5,
                )  # fmt: skip
            axes.plot(
                curve.x, curve.y, color=colours[index], zorder=2 + index / 100,
                marker="o" if len(curve.x) == 1 else None, markersize=4,
                linewidth=_WIDEST - (_WIDEST - _THINNEST) * index / max(shown - 1, 1),
            )  # fmt: skip
        text = _broken(edge.text, longest)
        axes.set_title(edge_title(view, edge), pad=6 + 13 * len(text.splitlines()))
        axes.text(0.0, 1.02, text, transform=axes.transAxes, fontsize=8.5, color=MUTED, va="bottom")
        axes.set_xlabel(shortened(view.units[edge.layer][edge.input]), labelpad=2)
        low, high = axes.get_ylim()
        if high - low < 1e-9:
            axes.set_ylim(low - 0.5, high + 0.5)
        axes.margins(x=0.02)
        axes.locator_params(nbins=5)
    for row in panels:
        row[0].set_ylabel("contribution")
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, label=level_label(level))
        for colour, level in zip(colours, view.levels, strict=True)
    ]
    handles.append(Patch(color=REAL, alpha=0.35, linewidth=0, label="density of the inputs"))
    figure.legend(
        handles=handles, loc="lower center",
        ncols=2 if narrow else len(handles) if len(counts) > 1 else 3,
        handlelength=1.4, columnspacing=1.2, fontsize=9,
    )  # fmt: skip
    return figure


def _broken(text: str, longest: int) -> str:
    """Puts a long formula on two lines."""
    if len(text) <= longest:
        return text
    place = max(text.rfind(sign, 0, longest) for sign in (" + ", " − "))
    parts = [text[:place], text[place + 1 :]] if place > 0 else [text]
    lines = [line for part in parts for line in textwrap.wrap(part, longest)]
    return "\n".join(lines if len(lines) <= 2 else [lines[0], f"{lines[1][:-1]}…"])


@report_style()
def contributions_figure(view: NetworkView, width: float = 7.2) -> Figure:
    """Draws the share of each input in the outputs at each noise level.

    Args:
        view: The network.
        width: Width in inches; if it is small, the legend stands below.
    """
    shares = np.clip(np.nan_to_num(view.input_by_level), 0.0, None)
    totals = shares.sum(axis=1, keepdims=True)
    shares = shares / np.where(totals > 0, totals, 1.0)
    names = [shortened(name) for name in view.units[0]]
    seen = [i for i in range(len(names)) if shares[:, i].max(initial=0.0) >= _LEAST_SHARE]
    order = sorted(seen, key=lambda index: -shares[:, index].sum())
    most = len(INPUT_COLOURS)
    own = sorted(order if len(seen) <= most else order[: most - 1])
    rest = [index for index in range(len(names)) if index not in own]
    parts = [
        (names[index], colour, shares[:, index], index >= view.num_point_inputs)
        for index, colour in zip(own, INPUT_COLOURS, strict=False)
    ]
    if rest and shares[:, rest].sum() > 0:
        name = f"{len(rest)} other{'s' if len(rest) > 1 else ''}"
        parts.append((name, REAL, shares[:, rest].sum(axis=1), False))
    beside = width > 6
    figure = Figure(figsize=(width, 3.6 if beside else 4.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(view.levels))
    base = np.zeros(len(view.levels))
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
    figure.legend(
        handles[::-1], labels[::-1], loc=f"outside {'right upper' if beside else 'lower center'}",
        ncols=1 if beside else 3, title=title, fontsize=9,
    )  # fmt: skip
    return figure
