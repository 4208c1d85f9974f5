"""Where the parts of a network's diagram stand, in inches, the same on paper and on the page.

Layers are rows, inputs at the bottom. A row of boxes between two layers holds an edge each; a box
stands near the unit on the side that has more units, so that what a hidden unit is made of, and
what is made of it, stands together. Large networks have no boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kan_diffusion.symbolic.views import EdgeView, NetworkView

__all__ = ["MOST_BOXES", "Box", "Layout", "make_layout"]

MOST_BOXES = 40
"""A network with more edges is drawn in lines only."""
_MOST_NAMES = 16
"""Hidden layers with more units are drawn as dots."""
_MOST_IN_ROW = 14
_LARGEST_BOX = 0.84
_WIDTHS = (5.6, 12.4)
_MARGIN = 0.3
_ROW_HEIGHT = 1.0
_GAP = 0.75
"""From a unit to the nearest row of boxes."""
_LINES_HEIGHT = 2.1


@dataclass(frozen=True)
class Box:
    """Where an edge's curve is drawn: the middle and the sides of a square."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Layout:
    """A diagram.

    Attributes:
        width: Its width.
        height: Its height, from the inputs' row to the outputs'.
        units: The middle of each unit, layer by layer.
        boxes: A box an edge, in the order of the view's; empty where only lines are drawn.
        named: Whether the units of each layer are written out.
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
        step = 2 * _GAP + rows * _ROW_HEIGHT if boxed else _LINES_HEIGHT
        heights.append(heights[-1] + step)
    units = tuple(
        tuple(
            (_MARGIN + (width - 2 * _MARGIN) * (unit + 0.5) / len(layer), heights[number])
            for unit in range(len(layer))
        )
        for number, layer in enumerate(view.units)
    )
    boxes: list[Box] = [Box(0.0, 0.0, 0.0)] * (len(view.edges) if boxed else 0)
    if boxed:
        for layer, part in enumerate(by_layer):
            placed = _row(view, part, layer, heights[layer], width)
            for index, box in placed:
                boxes[index] = box
    named = tuple(
        number in (0, last) or (boxed and len(layer) <= _MOST_NAMES)
        for number, layer in enumerate(view.units)
    )
    return Layout(width, heights[-1], units, tuple(boxes), named)


def _row(
    view: NetworkView, part: Sequence[int], layer: int, bottom: float, width: float
) -> list[tuple[int, Box]]:
    """The boxes between one layer and the next."""
    if not part:
        return []
    sources, targets = len(view.units[layer]), len(view.units[layer + 1])

    def order(index: int) -> tuple[float, float]:
        edge: EdgeView = view.edges[index]
        below, above = edge.input, edge.output
        return (below, above) if sources > targets else (above, below)

    ordered = sorted(part, key=order)
    rows = 2 if len(part) > _MOST_IN_ROW else 1
    step = (width - 2 * _MARGIN) / len(part)
    side = min(_LARGEST_BOX, 0.88 * step * rows)
    return [
        (
            index,
            Box(
                _MARGIN + step * (place + 0.5),
                bottom + _GAP + _ROW_HEIGHT * (place % rows + 0.5),
                side,
            ),
        )
        for place, index in enumerate(ordered)
    ]
