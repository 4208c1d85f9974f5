import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from helpers import refused, seeded
from kan_diffusion import KAN, draw_network
from kan_diffusion.denoisers.readable import readable
from kan_diffusion.report.network import KINDS, MOST_BOXES, fading, make_layout, network_svg
from made_explanation import make_view
from make import denoiser

SVG = "{http://www.w3.org/2000/svg}"


def parts(svg, name, kind="g"):
    """Elements of a class."""
    tree = ElementTree.fromstring(svg)
    return [e for e in tree.iter(SVG + kind) if name in e.get("class", "").split()]


@pytest.mark.parametrize("widths", [(1, 2, 1), (2, 6, 2), (3, 3, 3, 2), (2, 10, 2)])
def test_every_edge_of_a_small_network_has_a_box_of_its_own_in_its_colour(widths):
    view = make_view(widths)
    svg = network_svg(view, 1)
    assert len(parts(svg, "box", "rect")) == len(view.edges) <= MOST_BOXES
    kinds = ["formula" if each.edge.kind == "tanh" else each.edge.kind for each in view.edges]
    drawn = {int(g.get("data-edge")): g.get("class").split()[1] for g in parts(svg, "edge")}
    assert [drawn[index] for index in range(len(kinds))] == kinds
    assert all(f"--own: {KINDS[kind][1]}" in svg for kind in kinds)
    sides = [
        tuple(float(box.get(key)) for key in ("x", "y", "width"))
        for box in parts(svg, "box", "rect")
    ]
    for number, (x, y, side) in enumerate(sides):
        for other_x, other_y, other in sides[:number]:
            apart = max(
                x - other_x - other, other_x - x - side, y - other_y - other, other_y - y - side
            )
            assert apart > 0, "boxes overlap"


def test_a_large_network_is_drawn_in_lines_that_are_opaque_where_they_matter():
    view = make_view((3, 32, 2), time_inputs=1)
    svg = network_svg(view, 1)
    assert not parts(svg, "box", "rect")
    lines = parts(svg, "line", "line")
    assert len(lines) == len(view.edges) == 160
    shares = sorted(edge.importance_by_level[1] for edge in view.edges)
    opacities = [float(line.get("opacity")) for line in lines]  # the least important first
    expected = [fading(share / max(1.0, shares[-1])) for share in shares]
    assert opacities == pytest.approx(expected, abs=1e-3)
    for name in ("x0", "x1", "cos 1π t", "out0", "out1", "feature of time"):
        assert f">{name}</text>" in svg
    assert ">h1.0</text>" not in svg  # only the ends have names


def test_names_of_columns_are_said_and_escaped_and_a_network_without_edges_is_drawn():
    svg = network_svg(make_view(), 1, columns=("<age> & co", "x1"))
    titles = [title.text for title in ElementTree.fromstring(svg).iter(SVG + "title")]
    assert titles.count("x0: <age> & co") == 1
    assert titles.count("out0: <age> & co") == 1
    assert "x1" in titles
    bare = make_view((1, 1, 1))
    ElementTree.fromstring(network_svg(bare._replace(edges=()), 1))


@pytest.mark.parametrize("widths", [(2, 6, 2), (3, 32, 2), (30, 8, 4)])
def test_units_and_boxes_lie_within_the_diagram(widths):
    view = make_view(widths)
    layout = make_layout(view)
    for number, layer in enumerate(layout.units):
        across = [x for x, _ in layer]
        assert across == sorted(set(across))
        assert 0 < across[0] <= across[-1] < layout.width
        assert {y for _, y in layer} == {layer[0][1]}
        assert number == 0 or layer[0][1] < layout.units[number - 1][0][1]  # inputs below
    for box, (edge, *_) in zip(layout.boxes, view.edges, strict=False):
        low, high = layout.units[edge.layer][0][1], layout.units[edge.layer + 1][0][1]
        assert high < box.y - box.side / 2 < box.y + box.side / 2 < low
        assert 0 <= box.x - box.side / 2 < box.x + box.side / 2 <= layout.width


def test_more_important_edges_are_more_opaque_and_none_vanishes():
    assert 0.1 < fading(0.0) < fading(0.01) < fading(0.5) < fading(1.0) == fading(7.0) == 1.0
    assert fading(-1.0) == fading(0.0) == fading(float("nan"))


def test_a_kan_is_drawn_with_the_curves_of_its_edges(tmp_path):
    torch.manual_seed(0)
    network, x = KAN([2, 3, 1]), torch.randn(500, 2)
    diagram = draw_network(network, x)
    edges = {int(g.get("data-edge")): g for g in parts(diagram, "edge")}
    assert len(edges) == 9
    labels = [edges[k].get("aria-label").partition(":")[0] for k in range(9)]
    assert labels[0] == "x0 to h1.0"
    assert labels[-1] == "h1.2 to out0"
    # The first edge's curve, up to where its box lies.
    path = edges[0].find(f"{SVG}path[@class='curve-of']").get("d")
    points = np.array([pair.split() for pair in re.split("[ML]", path)[1:]], float)
    values = x[:, 0].double().numpy()
    inside = np.linspace(*np.quantile(np.unique(values), [0.002, 0.998]), len(points))
    curve = network.layers[0].edge_curve(0, 0, torch.from_numpy(inside).float()).numpy()
    shape = (points[:, 1] - points[:, 1].mean()) / np.ptp(points[:, 1])
    assert -shape == pytest.approx((curve - curve.mean()) / np.ptp(curve), abs=0.02)
    diagram.write(tmp_path / "kan.svg")
    assert diagram._repr_svg_() == (tmp_path / "kan.svg").read_text() == draw_network(network, x)


def test_a_denoiser_that_can_be_read_is_drawn_and_what_cannot_be_drawn_is_refused():
    network = readable(denoiser("readable-kan", 1, params=None, hidden=(3,)))
    x = torch.randn(100, 1, generator=seeded(0))
    assert len(parts(draw_network(network, x, timestep=30), "edge")) == len(network.edges)
    with refused("Tanh"):
        draw_network(torch.nn.Sequential(KAN([1, 1]), torch.nn.Tanh()), x)
    for drawn, rows in (
        (network, x[:0]),
        (KAN([1, 1]), x[:0]),
        (KAN([1, 1]), x[:1]),
        (network, x[0]),
    ):
        with refused("rows of inputs .* at least two, .* not over shape"):
            draw_network(drawn, rows)
    with refused("finite inputs; leave out rows with NaN"):
        draw_network(KAN([1, 1]), torch.cat([x, x[:1] * torch.nan]))
