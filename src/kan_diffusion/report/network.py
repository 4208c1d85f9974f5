"""A network as one SVG: on every edge the curve it has learned, faded by its importance.

Layers are rows, inputs at the bottom. In a small network every edge has a box between its layers.
The boxes follow the order of the units in the larger layer, so that the edges into a hidden unit
stand together, as do the edges out of it. The same SVG stands in pages, notebooks and files; a
page's script only moves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kan_diffusion.denoisers.edges import CURVE, Edge
from kan_diffusion.denoisers.library import LINEAR
from kan_diffusion.denoisers.readable import ReadableDenoiser
from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.files import write_text
from kan_diffusion.formulas.context import Importance
from kan_diffusion.formulas.views import NetworkView
from kan_diffusion.kan.linear import EdgeLayer, layers_of
from kan_diffusion.report.page import template
from kan_diffusion.report.style import PALETTES, shortened

Array = NDArray[np.float64]

KINDS = {
    "curve": ("learned curve", PALETTES["kan"][0], ""),
    "linear": ("straight line", PALETTES["mlp"][0], "8 3"),
    "formula": ("formula", PALETTES["other"][0], "12 3 3 3"),
}
"""Label, colour and dashes of the three kinds of edges."""
FAINTEST = 0.14
"""The opacity of an edge without importance."""
MOST_BOXES = 40
"""A network with more edges is drawn without boxes, as lines only."""
_MOST_NAMES, _CROWDED = 16, 8
"""Hidden layers with more units are drawn as dots; the names of more ends are turned."""
_LARGEST_BOX, _SPACE = 80.0, 94.0
_WIDTHS, _MARGIN = (540.0, 1190.0), 28.0
_ROW_HEIGHT, _GAP, _LINES_HEIGHT = 96.0, 72.0, 200.0
"""Height of the boxes, from a unit to the nearest one, and between layers without boxes."""
_ABOVE, _BELOW, _TURNED = 44.0, 44.0, 130.0
_LEAST_SHARE = 0.03
_LETTER = 7.4


class Box(NamedTuple):
    """A square that holds an edge's curve: its centre and its side, in pixels, y downward."""

    x: float
    y: float
    side: float


class Layout(NamedTuple):
    """The size of a diagram, the middle of each unit by layer, and a box for each edge, if any."""

    width: float
    height: float
    units: list[list[tuple[float, float]]]
    boxes: list[Box]


class Diagram(str):
    """An SVG, which a notebook shows as it is."""

    def _repr_svg_(self) -> str:
        return str(self)

    def write(self, path: str | Path) -> None:
        """Writes the SVG as a file."""
        write_text(path, self)


def kind_of(kind: str) -> str:
    """Gives the key in ``KINDS`` of an edge's kind: a function is a ``"formula"``."""
    return {CURVE: "curve", LINEAR: "linear"}.get(kind, "formula")


def fading(importance: float) -> float:
    """Gives the opacity of an edge: from faint but visible at importance 0 to 1 at importance 1.

    The square root keeps the many small shares of a wide network apart. Where importances exceed
    1, callers divide all of them by the largest.
    """
    share = float(np.clip(np.nan_to_num(importance), 0.0, 1.0))
    return FAINTEST + (1.0 - FAINTEST) * share**0.5


def make_layout(view: NetworkView) -> Layout:
    """Places the parts of a network."""
    last = len(view.units) - 1
    boxed = len(view.edges) <= MOST_BOXES
    by_layer = [
        [number for number, each in enumerate(view.edges) if each.edge.layer == layer]
        for layer in range(last)
    ]
    widest = max(map(len, by_layer), default=0)
    names = min(max(len(layer) for layer in view.units), _MOST_NAMES)
    wished = max(widest * _SPACE * boxed, names * _SPACE * 0.75) + 2 * _MARGIN
    width = min(max(wished, _WIDTHS[0]), _WIDTHS[1])
    turned = max(len(view.units[0]), len(view.units[last])) > _CROWDED
    above, below = (_ABOVE, _TURNED) if turned else (_ABOVE, _BELOW)
    step = 2 * _GAP + _ROW_HEIGHT if boxed else _LINES_HEIGHT
    height = above + last * step + below
    heights = [height - below - number * step for number in range(last + 1)]
    inner = width - 2 * _MARGIN
    units = [
        [(_MARGIN + inner * (unit + 0.5) / len(layer), y) for unit in range(len(layer))]
        for layer, y in zip(view.units, heights, strict=True)
    ]
    boxes: dict[int, Box] = {}
    for layer, part in enumerate(by_layer if boxed else []):
        upwards = len(view.units[layer]) > len(view.units[layer + 1])
        ends = [view.edges[number].edge.place[1:] for number in part]
        ranked = sorted(zip([end if upwards else end[::-1] for end in ends], part, strict=True))
        room = inner / max(len(part), 1)
        for place, (_, index) in enumerate(ranked):
            y, side = heights[layer] - _GAP - _ROW_HEIGHT / 2, min(_LARGEST_BOX, 0.88 * room)
            boxes[index] = Box(_MARGIN + room * (place + 0.5), y, side)
    return Layout(width, height, units, [boxes[index] for index in sorted(boxes)])


def curve_heights(view: NetworkView) -> list[float]:
    """Gives each layer's height below which a curve looks flat: 3 % of its highest curve."""
    highest = [0.0] * (len(view.units) - 1)
    for each in view.edges:
        heights = [float(np.ptp(curve)) for curve in each.curves if np.isfinite(curve).all()]
        highest[each.edge.layer] = max([highest[each.edge.layer], *heights])
    return [_LEAST_SHARE * height or 1.0 for height in highest]


def _path(x: Array, y: Array) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


def _curve_paths(inputs: Array, values: Array, box: Box, least: float) -> tuple[str, str]:
    """Draws a curve, and the density of its inputs, into a box."""
    (places, density), y = inputs, values
    if len(places) < 2 or not np.isfinite(y).all():
        places, density, y = np.arange(2.0), np.zeros(2), np.zeros(2)
    x = box.x + 0.8 * box.side * ((places - places[0]) / max(float(np.ptp(places)), 1e-12) - 0.5)
    middle, bottom = (float(y.max()) + float(y.min())) / 2, box.y + box.side / 2
    curve = _path(x, box.y - 0.8 * box.side * (y - middle) / max(float(np.ptp(y)), least))
    area = _path(x, bottom - 0.3 * box.side * density)
    return curve, f"{area}L{x[-1]:.1f} {bottom:.1f}L{x[0]:.1f} {bottom:.1f}Z"


def network_svg(
    view: NetworkView, level: int, columns: Sequence[str] = (), hidden: bool = False
) -> Diagram:
    """Draws a network from its inputs (below) to its outputs (above).

    Args:
        view: The network.
        level: Number of the noise level whose curves and importances are drawn.
        columns: Names of the coordinates, said of inputs and outputs that have other names.
        hidden: Whether a page hides it until its script shows it.
    """
    layout, heights = make_layout(view), curve_heights(view)
    shares = [float(each.importance_by_level[level]) for each in view.edges]
    most = max([1.0, *np.nan_to_num(shares, posinf=0.0)])
    edges = []
    # The least important first, so that the others lie above them.
    for index in np.argsort(shares, kind="stable").tolist():
        each, kind = view.edges[index], kind_of(view.edges[index].edge.kind)
        layer, unit, output = each.edge.place
        start, end = layout.units[layer][unit], layout.units[layer + 1][output]
        box, lines, curve, density = None, [(*start, *end)], "", ""
        if layout.boxes:
            box = layout.boxes[index]
            lines = [(*start, box.x, box.y + box.side / 2), (box.x, box.y - box.side / 2, *end)]
            inputs = view.inputs[layer][unit][level]
            curve, density = _curve_paths(inputs, each.curves[level], box, heights[layer])
        words = f"{each.source} to {each.target}: {each.text or KINDS[kind][0]}, importance "
        edges.append({
            "index": index, "kind": kind, "lines": lines, "box": box, "curve": curve,
            "density": density, "alpha": fading(shares[index] / most),
            "words": f"{words}{shares[index]:.2g}",
        })  # fmt: skip
    last, units = len(view.units) - 1, []
    for number, names in enumerate(view.units):
        end = number in (0, last)
        for unit, name in enumerate(map(shortened, names)):
            x, y = layout.units[number][unit]
            units.append({
                "name": name, "title": _title(names[unit], columns), "x": x, "end": end,
                "y": y + (14 if number == 0 else -14 if end else 0),
                "named": end or (bool(layout.boxes) and len(names) <= _MOST_NAMES),
                "turned": end and len(names) > _CROWDED,
                "time": number == 0 and unit >= view.num_point_inputs,
                "width": max(28.0, len(name) * _LETTER + 12),
            })  # fmt: skip
    kinds = {kind_of(each.edge.kind) for each in view.edges}
    return Diagram(template(
        "network.svg.j2", width=layout.width, height=layout.height, edges=edges, units=units,
        kinds=[(key, *look) for key, look in KINDS.items() if key in kinds], hidden=hidden,
        all_kinds=KINDS, timed=view.num_point_inputs < len(view.units[0]),
    ))  # fmt: skip


def _title(name: str, columns: Sequence[str]) -> str:
    """Names a unit, with the column of input ``"x3"`` or output ``"out3"``."""
    number = name.removeprefix("out").removeprefix("x")
    known = number.isdigit() and int(number) < len(columns) and columns[int(number)] != name
    return f"{name}: {columns[int(number)]}" if known else name


@torch.no_grad()
def draw_network(network: nn.Module, x: Tensor, timestep: int = 0) -> Diagram:
    """Draws a network with the curves of its edges over the inputs that they have.

    Args:
        network: A ``KAN``, a layer, an ``nn.Sequential`` of layers, or a denoiser that can be read.
        x: Inputs with shape (n, in_features): a few hundred to a few thousand.
        timestep: The timestep of a denoiser, whose inputs are noised points.

    Returns:
        The SVG; a notebook shows it.

    Raises:
        KanDiffusionError: The network has other parts, there are fewer than two rows of inputs, or
            one of them is not finite.

    Example:
        >>> from kan_diffusion.kan import KAN
        >>> from kan_diffusion.report.network import draw_network
        >>> diagram = draw_network(KAN([2, 3, 1]), torch.randn(200, 2))
    """
    if x.ndim != 2 or len(x) < 2:
        raise KanDiffusionError(
            "a network is drawn over rows of inputs (n, in_features), at least two, better "
            f"hundreds, not over shape {tuple(x.shape)}"
        )
    if not x.isfinite().all():
        raise KanDiffusionError("a network is drawn over finite inputs; leave out rows with NaN")
    if isinstance(network, ReadableDenoiser):
        walk = list(network.walk(x.to(network.dtype), torch.tensor([timestep])))
        edges, names = network.edges, network.unit_names()
        num_points = sum(f.coordinate is not None for f in network.input_features())
    else:
        walk, num_points = [], x.shape[1]
        for layer in layers_of(network, EdgeLayer):
            walk.append((layer, x, torch.ones(()), layer(x)))
            x = walk[-1][-1]
        marks = ["x", *(f"h{number}." for number in range(1, len(walk))), "out"]
        widths = [num_points, *(unit.shape[1] for *_, unit in walk)]
        names = [[f"{m}{i}" for i in range(w)] for m, w in zip(marks, widths, strict=True)]
        edges = [
            Edge(number, source, target)
            for number, (left, entered) in enumerate(pairwise(widths))
            for target, source in np.ndindex(entered, left)
        ]
    texts, measured = dict.fromkeys(edges, ""), Importance.of(walk)
    return network_svg(NetworkView.of(names, num_points, texts, measured, {0.0: measured}), 0)
