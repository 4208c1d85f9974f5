"""Figures of an explanation: the network, its curves, contributions, scores and samples."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.quiver import Quiver

from html_page import Page
from kan_diffusion.report.explanation import (
    contributions_figure,
    curves_figure,
    network_figure,
    samples_figure,
    score_figure,
    write_explanation,
)
from kan_diffusion.report.explanation.diagram import CURVE_BOX, MOST_BOXES
from kan_diffusion.report.explanation.looks import KINDS, fading, level_colours
from made_explanation import LEVELS, make_explanation, make_score, make_view


def boxes(figure):
    return [
        patch
        for patch in figure.axes[0].patches
        if isinstance(patch, Rectangle) and patch.get_gid() == CURVE_BOX
    ]


def words(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]


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
    columns = ("cost $ in \\frac{ $", "$x^$")  # no mathematics
    for figure in (
        network_figure(make_view(), columns=columns),
        score_figure(make_score(2), columns),
        samples_figure({"real": np.eye(2)}, columns),
    ):
        figure.savefig(io.BytesIO(), format="svg")


def test_a_network_without_edges_and_curves_that_are_points_can_be_drawn(tmp_path):
    view = make_view((1, 1, 1))
    none = replace(view, edges=())
    made = make_explanation(1, network=none, simplified=none, readable=none, edges=())
    page = Page(write_explanation(made, tmp_path).read_text(encoding="utf-8"))
    assert not any("could not be drawn" in part for part in page.text)
    point = replace(view.edges[0].curves[0], x=np.ones(1), y=np.zeros(1), density=np.ones(1))
    edges = tuple(replace(edge, curves=(point,) * 3) for edge in view.edges)
    axes = curves_figure(replace(view, edges=edges)).axes[0]
    assert all(np.ptp(limits) > 0 for limits in (axes.get_xlim(), axes.get_ylim()))


def test_curves_are_those_of_the_most_important_edges_over_their_ranges():
    view = make_view((2, 6, 2))
    figure = curves_figure(view, levels=[0, 2], most=3)
    assert titles(figure) == ["h1.5 to out1", "h1.4 to out1", "h1.3 to out1"]
    for line, level in zip(figure.axes[0].lines, (0, 2), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), view.edges[-1].curves[level].y)
        np.testing.assert_array_equal(line.get_xdata(), view.edges[-1].curves[level].x)
        assert to_hex(line.get_color()) == level_colours(view.levels)[level]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["σ = 0.10", "σ = 0.98", "density of the inputs"]


@pytest.mark.parametrize("inputs", [2, 12])
def test_contributions_add_up_to_one_at_every_level(inputs):
    view = make_view((inputs, 2, 2), time_inputs=inputs - 2)
    axes = contributions_figure(view).axes[0]
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    np.testing.assert_allclose(np.sum(heights, axis=0), np.ones(len(LEVELS)))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.10", "0.50", "0.98"]
    if inputs == 2:
        np.testing.assert_allclose(heights[0], 1 / 3)
    else:
        assert axes.containers[-1].get_label() == "5 others"
    nothing = replace(view, input_by_level=np.zeros((3, inputs)))
    assert not contributions_figure(nothing).axes[0].containers


def test_arrows_point_where_the_score_does_and_longer_ones_are_longer():
    figure = score_figure(make_score(2, names=("network", "formula")), ("a", "b"))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 3 * len(LEVELS)
    for axes in panels:
        (arrows,) = (child for child in axes.get_children() if isinstance(child, Quiver))
        places, directions = arrows.XY, np.stack([arrows.U, arrows.V], 1)
        lengths, distances = np.linalg.norm(directions, axis=1), np.linalg.norm(places, axis=1)
        towards = (places * directions).sum(1)  # the middle
        np.testing.assert_allclose(towards, -lengths * distances, atol=1e-9)
        assert (np.diff(lengths[np.argsort(distances, kind="stable")]) > -1e-9).all()
        assert lengths.max() <= 1.0  # the grid's spacing
    assert {"network", "formula", "exact", "a", "σ = 0.10\nb"} <= set(words(figure))


def test_one_coordinate_is_drawn_as_curves():
    score = make_score(1)
    figure = score_figure(score, ("height",))
    assert titles(figure) == ["σ = 0.10", "σ = 0.50", "σ = 0.98"]
    learned, exact = figure.axes[0].lines
    np.testing.assert_array_equal(learned.get_ydata(), -1.5 * score.points[0][:, 0])
    np.testing.assert_array_equal(exact.get_ydata(), -score.points[0][:, 0])
    assert (learned.get_linestyle(), exact.get_linestyle()) == ("-", "--")
    assert figure.axes[0].get_xlabel() == "height (standardised)"


@pytest.mark.parametrize(
    ("exact", "names", "rows", "label", "slope"),
    [
        (True, ("network", "formula"), 2, "exact score", 1.5),
        (False, ("network", "formula"), 1, "score of the network", 2 / 1.5),
        (False, ("network",), 1, "coordinate (standardised)", -1.5),
    ],
)
def test_more_coordinates_are_compared_one_by_one(exact, names, rows, label, slope):
    figure = score_figure(make_score(3, exact, names), ("a", "b", "c"))
    assert len(figure.axes) == 3 * rows
    assert figure.axes[-1].get_xlabel() == label
    assert titles(figure)[:3] == ["a", "b", "c"]
    offsets = np.asarray(figure.axes[1].collections[0].get_offsets())
    np.testing.assert_allclose(offsets[:, 1], slope * offsets[:, 0])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_samples_are_side_by_side_on_the_same_axes_real_ones_first(dim):
    rng = np.random.default_rng(0)
    samples = {"network": rng.normal(size=(50, dim)), "real": 3 * rng.normal(size=(50, dim))}
    figure = samples_figure(samples, ("a", "b", "c"))
    assert titles(figure) == ["real", "network"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert "a (standardised)" in words(figure)
    if dim > 1:
        drawn = np.asarray(figure.axes[0].collections[0].get_offsets())
        np.testing.assert_allclose(drawn, samples["real"][:, :2])


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
