import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from html_page import Page
from kan_diffusion.report.explanation import network_figure, write_explanation
from kan_diffusion.report.explanation.diagram import CURVE_BOX, MOST_BOXES
from kan_diffusion.report.explanation.looks import KINDS, fading
from made_explanation import make_explanation, make_score, make_view


def boxes(figure):
    return [
        patch
        for patch in figure.axes[0].patches
        if isinstance(patch, Rectangle) and patch.get_gid() == CURVE_BOX
    ]


def words(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


@pytest.mark.parametrize("widths", [(1, 2, 1), (2, 6, 2), (3, 3, 3, 2), (2, 10, 2)])
def test_every_edge_of_a_small_network_has_a_box_of_its_own_in_its_colour(widths):
    view = make_view(widths)
    found = boxes(network_figure(view))
    assert len(found) == len(view.edges) <= MOST_BOXES
    keys = ["formula" if edge.kind == "tanh" else edge.kind for edge in view.edges]
    colours = sorted(to_hex(box.get_edgecolor()) for box in found)
    assert colours == sorted(KINDS[key].colour for key in keys)
    sides = [(box.get_x(), box.get_y(), box.get_width()) for box in found]
    for number, (x, y, side) in enumerate(sides):
        for other_x, other_y, other in sides[:number]:
            apart = max(
                x - other_x - other, other_x - x - side, y - other_y - other, other_y - y - side
            )
            assert apart > 0, "boxes overlap"


def test_a_large_network_is_drawn_in_lines_that_are_opaque_where_they_matter():
    view = make_view((3, 32, 2), time_inputs=1)
    figure = network_figure(view)
    assert not boxes(figure)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(lines) == len(view.edges) == 160
    shown = words(figure)
    assert {"x0", "x1", "cos\n1π t", "out0", "out1", "feature of time"} <= set(shown)
    assert "h1.0" not in shown  # only the ends have names
    shares = [np.array([0.2, float(number == 7), 0.5 + number]) for number in range(160)]
    edges = [
        replace(edge, importance_by_level=share)
        for edge, share in zip(view.edges, shares, strict=True)
    ]
    view = replace(view, edges=tuple(edges))
    opacities = [
        sorted(line.get_alpha() for line in network_figure(view, level).axes[0].lines[:160])
        for level in (0, 1, 2)
    ]
    assert opacities[0] == pytest.approx([fading(0.2)] * 160)
    assert opacities[1] == pytest.approx([fading(0.0)] * 159 + [1.0])
    assert len(set(opacities[2])) == 160  # importances from 0.5 to 159.5


def test_names_of_columns_are_written_as_they_are():
    shown = words(network_figure(make_view(), columns=("age", "x1")))
    assert shown.count("age") == 2  # x0 and out0
    assert shown.count("x1") == 2  # the input itself, and out1
    network_figure(make_view(), columns=("cost $ in \\frac{ $", "$x^$")).savefig(io.BytesIO())


def test_a_network_without_edges_can_be_drawn(tmp_path):
    view = make_view((1, 1, 1))
    none = replace(view, edges=())
    made = make_explanation(1, network=none, simplified=none, readable=none, edges=())
    page = Page(write_explanation(made, tmp_path).read_text(encoding="utf-8"))
    assert not any("could not be drawn" in part for part in page.text)


def test_a_page_has_every_figure_once_and_that_of_a_large_network_is_small(tmp_path):
    page = Page(write_explanation(make_explanation(), tmp_path).read_text(encoding="utf-8"))
    stems = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"network", "simplified", "with-formulas", "curves", "score", "samples"} <= stems
    assert len(page.pictures) == len(stems) + 2  # and two formulas
    assert all(load.startswith("data:image/") for load in page.loads)
    view = make_view((10, 16, 16, 2), time_inputs=8, points=61)
    rest = {"simplified": None, "readable": None, "edges": (), "samples": {}}
    made = make_explanation(network=view, score=make_score(names=()), **rest)
    assert write_explanation(made, tmp_path).stat().st_size < 1_500_000
