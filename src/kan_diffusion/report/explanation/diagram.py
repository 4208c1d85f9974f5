"""A network as a diagram: on every edge the curve it has learned, faded by its importance.

Layers are rows, inputs at the bottom. In a small network every edge has a box between its layers.
The boxes follow the order of the units in the larger layer, so that the edges into a hidden unit
stand together, as do the edges out of it. The layout, in inches, is the same on paper and on the
page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from kan_diffusion.formulas.views import EdgeCurve, EdgeView, NetworkView
from kan_diffusion.report.explanation.looks import (
    KINDS,
    fading,
    kind_of,
    level_label,
)
from kan_diffusion.report.style import INK, MUTED, report_style, shortened

__all__ = [
    "CURVE_BOX", "MOST_BOXES", "Box", "Layout", "curve_height", "make_layout", "network_figure",
]  # fmt: skip

CURVE_BOX = "curve box"
"""Group id of the patches that hold a curve."""
MOST_BOXES = 40
"""A network with more edges is drawn without boxes, as lines only."""
_MOST_NAMES = 16
"""Hidden layers with more units are drawn as dots."""
_MOST_IN_ROW = 14
_LARGEST_BOX = 0.84
_WIDTHS = (5.6, 12.4)
_MARGIN = 0.3
_ROW_HEIGHT = 1.0
_GAP = 0.75
"""Inches from a unit to the nearest row of boxes."""
_LINES_HEIGHT = 2.1
_TIME_FILL, _TIME_EDGE = "#f6ecd2", "#9c7a1e"
_MANY_NAMES = 11
_LEAST_SHARE = 0.03
_BOTTOM, _TOP = 1.2, 0.6


@dataclass(frozen=True)
class Box:
    """A square that holds an edge's curve: its centre and its side."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Layout:
    """Places of a diagram's parts, in inches.

    Attributes:
        width: Its width.
        height: Its height, from the inputs' row to the outputs'.
        units: The middle of each unit, layer by layer.
        boxes: A box for each edge, in the view's order; empty if only lines are drawn.
        named: Whether the names of units are written, for each layer.
    """

    width: float
    height: float
    units: tuple[tuple[tuple[float, float], ...], ...]
    boxes: tuple[Box, ...]
    named: tuple[bool, ...]


def make_layout(view: NetworkView) -> Layout:
    """Places the parts of a network.

    Args:
        view: The network.
    """
    last = len(view.units) - 1
    boxed = len(view.edges) <= MOST_BOXES
    by_layer = [
        [index for index, edge in enumerate(view.edges) if edge.layer == layer]
        for layer in range(last)
    ]
    widest = max((len(part) for part in by_layer), default=0) if boxed else 0
    in_row = -(-widest // 2) if widest > _MOST_IN_ROW else widest
    names = max(len(layer) for layer in view.units)
    width = max(in_row * (_LARGEST_BOX + 0.14), min(names, _MOST_NAMES) * 0.72) + 2 * _MARGIN
    width = min(max(width, _WIDTHS[0]), _WIDTHS[1])
    heights = [0.0]
    for part in by_layer:
        rows = 2 if len(part) > _MOST_IN_ROW else 1
        heights.append(heights[-1] + (2 * _GAP + rows * _ROW_HEIGHT if boxed else _LINES_HEIGHT))
    units = tuple(
        tuple(
            (_MARGIN + (width - 2 * _MARGIN) * (unit + 0.5) / len(layer), heights[number])
            for unit in range(len(layer))
        )
        for number, layer in enumerate(view.units)
    )
    boxes: dict[int, Box] = {}
    for layer, part in enumerate(by_layer if boxed else []):
        boxes |= _row(view, part, layer, heights[layer], width)
    named = tuple(
        number in (0, last) or (boxed and len(layer) <= _MOST_NAMES)
        for number, layer in enumerate(view.units)
    )
    return Layout(width, heights[-1], units, tuple(boxes[i] for i in sorted(boxes)), named)


def _row(
    view: NetworkView, part: Sequence[int], layer: int, bottom: float, width: float
) -> dict[int, Box]:
    """Places the boxes between a layer and the next; keys are numbers of edges."""
    upwards = len(view.units[layer]) > len(view.units[layer + 1])

    def order(index: int) -> tuple[int, int]:
        ends = view.edges[index].input, view.edges[index].output
        return ends if upwards else (ends[1], ends[0])

    rows = 2 if len(part) > _MOST_IN_ROW else 1
    step = (width - 2 * _MARGIN) / max(len(part), 1)
    side = min(_LARGEST_BOX, 0.88 * step * rows)
    return {
        index: Box(
            _MARGIN + step * (place + 0.5), bottom + _GAP + _ROW_HEIGHT * (place % rows + 0.5), side
        )
        for place, index in enumerate(sorted(part, key=order))
    }


@report_style()
def network_figure(
    view: NetworkView,
    level: int | None = None,
    title: str = "",
    columns: Sequence[str] | None = None,
) -> Figure:
    """Draws a network from its inputs (below) to its outputs (above).

    Args:
        view: The network.
        level: Number of the noise level whose curves and importances are drawn; None for the curves
            at the middle level and the importances over all levels.
        title: The title.
        columns: Names of the coordinates, written beside inputs and outputs that have other names.
    """
    layout = make_layout(view)
    shown = len(view.levels) // 2 if level is None else level
    top = _TOP + (0.35 if title else 0.0)
    figure = Figure(figsize=(layout.width, layout.height + _BOTTOM + top))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0.0, layout.width), ylim=(-_BOTTOM, layout.height + top))
    axes.set_axis_off()
    importances = [
        edge.importance if level is None else float(edge.importance_by_level[level])
        for edge in view.edges
    ]
    most = max([1.0, *np.nan_to_num(importances, posinf=0.0)])
    heights = curve_height(view)
    # The least important first, so that the others lie above them.
    for index in np.argsort(importances, kind="stable"):
        edge, alpha = view.edges[index], fading(importances[index] / most)
        start = layout.units[edge.layer][edge.input]
        end = layout.units[edge.layer + 1][edge.output]
        box = layout.boxes[index] if layout.boxes else None
        _draw_lines(axes, edge, start, end, box, alpha)
        if box is not None:
            _draw_box(axes, edge, edge.curves[shown], box, alpha, heights[edge.layer])
    _draw_units(axes, view, layout, columns)
    _draw_legend(axes, view, level, shown, bool(layout.boxes))
    if title:
        axes.text(
            0.15, layout.height + top - 0.22, title, fontsize=11.5, fontweight="bold", va="center"
        )
    return figure


def curve_height(view: NetworkView) -> list[float]:
    """Gives each layer's height below which a curve looks flat: 3 % of its highest curve."""
    highest = [0.0] * (len(view.units) - 1)
    for edge in view.edges:
        for curve in edge.curves:
            if np.isfinite(curve.y).all():
                highest[edge.layer] = max(highest[edge.layer], float(np.ptp(curve.y)))
    return [_LEAST_SHARE * height or 1.0 for height in highest]


def _draw_lines(
    axes: Axes,
    edge: EdgeView,
    start: tuple[float, float],
    end: tuple[float, float],
    box: Box | None,
    alpha: float,
) -> None:
    style = KINDS[kind_of(edge.kind)]
    parts = [(start, end)]
    if box is not None:
        half = box.side / 2
        parts = [(start, (box.x, box.y - half)), ((box.x, box.y + half), end)]
    for (x0, y0), (x1, y1) in parts:
        axes.plot(
            (x0, x1), (y0, y1), color=style.colour, alpha=alpha, linestyle=style.line,
            linewidth=0.7 + 1.4 * alpha**2, zorder=1 + alpha, solid_capstyle="round",
        )  # fmt: skip


def _draw_box(
    axes: Axes, edge: EdgeView, curve: EdgeCurve, box: Box, alpha: float, least: float
) -> None:
    style = KINDS[kind_of(edge.kind)]
    left, bottom = box.x - box.side / 2, box.y - box.side / 2
    axes.add_patch(
        Rectangle((left, bottom), box.side, box.side, facecolor="white", linewidth=0, zorder=3)
    )
    axes.add_patch(
        Rectangle(
            (left, bottom), box.side, box.side, facecolor="none", edgecolor=style.colour,
            linewidth=0.9, alpha=0.25 + 0.75 * alpha, zorder=5, gid=CURVE_BOX,
        )
    )  # fmt: skip
    inner, pad = 0.80 * box.side, 0.10 * box.side
    across, up = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    if len(curve.x) > 1 and np.isfinite(curve.y).all():
        across = (curve.x - curve.x[0]) / max(float(np.ptp(curve.x)), 1e-12)
        middle = (float(curve.y.max()) + float(curve.y.min())) / 2
        up = 0.5 + (curve.y - middle) / max(float(np.ptp(curve.y)), least)
        axes.fill_between(
            left + pad + inner * across, bottom, bottom + 0.3 * box.side * curve.density,
            color="#eceef0", linewidth=0, zorder=3.5,
        )  # fmt: skip
    axes.plot(
        left + pad + inner * across, bottom + pad + inner * up, color=style.colour,
        linewidth=1.8 if box.side > 0.5 else 1.2, alpha=max(alpha, 0.35), zorder=4,
        solid_capstyle="round",
    )  # fmt: skip


def _draw_units(
    axes: Axes, view: NetworkView, layout: Layout, columns: Sequence[str] | None
) -> None:
    last = len(view.units) - 1
    for number, (names, places) in enumerate(zip(view.units, layout.units, strict=True)):
        upright = number == 0 and len(names) > _MANY_NAMES
        down, side = (-1, "top") if number == 0 else (1, "bottom")
        for unit, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
            if not layout.named[number]:
                axes.plot(x, y, "o", color=INK, markersize=4.5, zorder=6)
                continue
            if number not in (0, last):
                axes.text(
                    x, y, shortened(name, 10), fontsize=8.5, ha="center", va="center", zorder=6,
                    bbox={"boxstyle": "round,pad=0.35,rounding_size=0.7", "facecolor": "white",
                          "edgecolor": "#9aa1ab", "linewidth": 0.9},
                )  # fmt: skip
                continue
            is_time = number == 0 and unit >= view.num_point_inputs
            text = shortened(name)
            if not upright and len(text) > 6:
                text = text.replace(" ", "\n", 1)
            axes.text(
                x, y + down * 0.04, text, fontsize=8.5 if upright else 9.5, ha="center", va=side,
                zorder=6, rotation=90 if upright else 0,
                bbox={"boxstyle": "round,pad=0.35", "facecolor": _TIME_FILL if is_time else "white",
                      "edgecolor": _TIME_EDGE if is_time else INK, "linewidth": 1.1,
                      "linestyle": "--" if is_time else "-"},
            )  # fmt: skip
            column = "" if upright else _column_of(name, columns)
            axes.text(x, y + down * 0.37, column, fontsize=8.5, color=MUTED, ha="center", va=side)


def _column_of(name: str, columns: Sequence[str] | None) -> str:
    """Names the coordinate of input ``"x3"`` or output ``"out3"``; empty if it is the same."""
    number = name.removeprefix("out").removeprefix("x")
    if columns is None or not number.isdigit() or int(number) >= len(columns):
        return ""
    column = columns[int(number)]
    return "" if column == name else shortened(column, 16)


def _draw_legend(axes: Axes, view: NetworkView, level: int | None, shown: int, boxed: bool) -> None:
    found = {kind_of(edge.kind) for edge in view.edges}
    handles: list[Line2D | Rectangle] = [
        Line2D([], [], color=style.colour, linestyle=style.line, label=style.label)
        for key, style in KINDS.items()
        if key in found
    ]
    if view.num_point_inputs < len(view.units[0]):
        handles.append(
            Rectangle(
                (0, 0), 1, 1, facecolor=_TIME_FILL, edgecolor=_TIME_EDGE, linestyle="--",
                label="feature of time",
            )
        )  # fmt: skip
    axes.legend(
        handles=handles, loc="lower left", ncols=len(handles), borderaxespad=0.2, fontsize=8.5,
        handlelength=2.4, columnspacing=1.4,
        bbox_to_anchor=(0.0, 0.24 / float(np.ptp(axes.get_ylim()))),
    )  # fmt: skip
    at = f"at {level_label(view.levels[shown])}"
    faded = "fainter: less important" + (f" {at}" if level is not None else " over all levels")
    note = f"{faded}; curves {at}" if boxed and level is None else faded
    axes.text(0.12, axes.get_ylim()[0] + 0.17, note, fontsize=8, color=MUTED, va="center")
