"""The curves of the most important edges."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kan_diffusion.formulas.views import NetworkView
from kan_diffusion.report.explanation.looks import (
    edge_title,
    level_colours,
    level_label,
)
from kan_diffusion.report.points import panel_figure, row_counts
from kan_diffusion.report.style import MUTED, REAL, report_style, shortened

__all__ = ["curves_figure"]

_COLUMNS = 4
_DENSITY_SHARE = 0.3
_WIDTH = 11.8
_LETTER = 0.0755
"""Width of a letter of the formula above a panel, in inches."""
_WIDEST, _THINNEST = 3.8, 1.2
"""Lines get thinner from level to level, so that equal curves show one inside the other."""


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
