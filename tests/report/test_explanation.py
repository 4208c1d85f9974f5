import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.quiver import Quiver

from html_page import Page, leave_files_empty, leave_pictures_empty
from kan_diffusion.report import images
from kan_diffusion.report.explanation import (
    contributions_figure,
    curves_figure,
    network_figure,
    samples_figure,
    score_figure,
    write_explanation,
)
from kan_diffusion.report.explanation import page as page_module
from kan_diffusion.report.explanation.data import page_data
from kan_diffusion.report.explanation.diagram import CURVE_BOX, MOST_BOXES, make_layout
from kan_diffusion.report.explanation.looks import KINDS, fading, level_colours
from kan_diffusion.report.images import figure_svg
from made_explanation import LEVELS, make_explanation, make_score, make_view


def boxes(figure):
    return [
        patch
        for patch in figure.axes[0].patches
        if isinstance(patch, Rectangle) and patch.get_gid() == CURVE_BOX
    ]


def words(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


@pytest.fixture(scope="module")
def explanation():
    return make_explanation()


@pytest.fixture(scope="module")
def drawn():
    """The figures that were drawn as SVG for the whole page."""
    return []


@pytest.fixture(scope="module")
def folder(explanation, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explanation")
    with pytest.MonkeyPatch.context() as patch:
        for module in (page_module, images):
            patch.setattr(module, "figure_svg", lambda *a: drawn.append(a[0]) or figure_svg(*a))
        assert write_explanation(explanation, folder) == folder / "explanation.html"
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "explanation.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def write_quickly(made, folder):
    """Writes the page with empty pictures."""
    with pytest.MonkeyPatch.context() as patch:
        leave_pictures_empty(patch)
        return write_explanation(made, folder).read_text(encoding="utf-8")


def data_of(text):
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text)
    return json.loads(found[1])


# The network.


@pytest.mark.parametrize("widths", [(1, 2, 1), (2, 6, 2), (3, 3, 3, 2), (2, 10, 2)])
def test_every_edge_of_a_small_network_has_a_box_of_its_own(widths):
    view = make_view(widths)
    found = boxes(network_figure(view))
    assert len(found) == len(view.edges) <= MOST_BOXES
    sides = [(box.get_x(), box.get_y(), box.get_width()) for box in found]
    for number, (x, y, side) in enumerate(sides):
        for other_x, other_y, other in sides[:number]:
            apart = max(
                x - other_x - other, other_x - x - side, y - other_y - other, other_y - y - side
            )
            assert apart > 0, "boxes overlap"


def test_boxes_have_the_colours_of_their_kinds():
    view = make_view((2, 6, 2))
    found = sorted(to_hex(box.get_edgecolor()) for box in boxes(network_figure(view)))
    keys = ["formula" if edge.kind == "tanh" else edge.kind for edge in view.edges]
    assert found == sorted(KINDS[key].colour for key in keys)


def test_a_large_network_is_drawn_in_lines_only_and_names_only_its_ends():
    view = make_view((3, 32, 2), time_inputs=1)
    figure = network_figure(view)
    assert not boxes(figure)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(lines) == len(view.edges) == 160
    shown = words(figure)
    assert {"x0", "x1", "cos\n1π t", "out0", "out1", "feature of time"} <= set(shown)
    assert "h1.0" not in shown


def test_more_important_edges_are_more_opaque_and_none_vanishes():
    assert 0.1 < fading(0.0) < fading(0.01) < fading(0.5) < fading(1.0) == fading(7.0) == 1.0
    assert fading(-1.0) == fading(0.0) == fading(float("nan"))
    view = make_view((3, 32, 2))
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
    assert opacities[2][-1] == 1.0


def test_columns_are_written_beside_the_inputs_that_they_name():
    shown = words(network_figure(make_view(), columns=("age", "x1")))
    assert shown.count("age") == 2  # x0 and out0
    assert shown.count("x1") == 2  # the input itself, and out1


def test_a_network_without_edges_can_be_drawn(tmp_path):
    view = replace(make_view((1, 1, 1)), edges=())
    assert not boxes(network_figure(view))
    curves_figure(view)
    made = make_explanation(1, network=view, simplified=view, readable=view, edges=())
    assert "could not be drawn" not in write_quickly(made, tmp_path)


# Curves and contributions.


def test_curves_are_those_of_the_most_important_edges_over_their_ranges():
    view = make_view((2, 6, 2))
    figure = curves_figure(view, levels=[0, 2], most=3)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    titles = [axes.get_title(loc="left") for axes in shown]
    assert titles == ["h1.5 to out1", "h1.4 to out1", "h1.3 to out1"]
    assert len(shown[0].lines) == 2
    for line, level in zip(shown[0].lines, (0, 2), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), view.edges[-1].curves[level].y)
        np.testing.assert_array_equal(line.get_xdata(), view.edges[-1].curves[level].x)
        assert to_hex(line.get_color()) == level_colours(view.levels)[level]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["σ = 0.10", "σ = 0.98", "density of the inputs"]


def test_names_with_dollars_are_not_mathematics():
    columns = ("cost $ in \\frac{ $", "$x^$")
    for figure in (
        network_figure(make_view(), columns=columns),
        score_figure(make_score(2), columns),
        samples_figure({"real": np.eye(2)}, columns),
    ):
        figure.savefig(io.BytesIO(), format="svg")


def test_curves_that_are_points_can_be_drawn():
    view = make_view((1, 1, 1))
    point = replace(view.edges[0].curves[0], x=np.ones(1), y=np.zeros(1), density=np.ones(1))
    edges = tuple(replace(edge, curves=(point,) * 3) for edge in view.edges)
    view = replace(view, edges=edges)
    network_figure(view)
    axes = curves_figure(view).axes[0]
    assert all(np.ptp(limits) > 0 for limits in (axes.get_xlim(), axes.get_ylim()))
    page_data(make_explanation(1, network=view))


@pytest.mark.parametrize("inputs", [2, 12])
def test_contributions_add_up_to_one_at_every_level(inputs):
    view = make_view((inputs, 2, 2), time_inputs=inputs - 2)
    axes = contributions_figure(view).axes[0]
    totals = np.zeros(len(LEVELS))
    for container in axes.containers:
        totals += [bar.get_height() for bar in container]
    np.testing.assert_allclose(totals, 1.0)
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["0.10", "0.50", "0.98"]
    first = np.array([bar.get_height() for bar in axes.containers[0]])
    if inputs == 2:
        np.testing.assert_allclose(first, 1 / 3)
    else:
        assert axes.containers[-1].get_label() == "5 others"


def test_contributions_of_nothing_are_nothing():
    view = replace(make_view(), input_by_level=np.zeros((3, 2)))
    assert not contributions_figure(view).axes[0].containers


# Scores and samples.


def test_arrows_point_where_the_score_does_and_longer_ones_are_longer():
    figure = score_figure(make_score(2, names=("network", "formula")), ("a", "b"))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 3 * len(LEVELS)
    for axes in panels:
        (arrows,) = (child for child in axes.get_children() if isinstance(child, Quiver))
        places, directions = arrows.XY, np.stack([arrows.U, arrows.V], 1)
        lengths, distances = np.linalg.norm(directions, axis=1), np.linalg.norm(places, axis=1)
        np.testing.assert_allclose(
            (places * directions).sum(1), -lengths * distances, atol=1e-9
        )  # towards the middle
        assert (np.diff(lengths[np.argsort(distances, kind="stable")]) > -1e-9).all()
        assert lengths.max() <= 1.0  # the grid's spacing
    shown = words(figure)
    assert {"network", "formula", "exact", "a", "σ = 0.10\nb", "σ = 0.98\nb"} <= set(shown)


def test_one_coordinate_is_drawn_as_curves():
    score = make_score(1)
    figure = score_figure(score, ("height",))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "σ = 0.10", "σ = 0.50", "σ = 0.98",
    ]  # fmt: skip
    learned, exact = figure.axes[0].lines
    np.testing.assert_array_equal(learned.get_ydata(), -1.5 * score.points[0][:, 0])
    np.testing.assert_array_equal(exact.get_ydata(), -score.points[0][:, 0])
    assert learned.get_linestyle() == "-"
    assert exact.get_linestyle() == "--"
    assert figure.axes[0].get_xlabel() == "height (standardised)"


@pytest.mark.parametrize(
    ("exact", "names", "rows", "label"),
    [
        (True, ("network", "formula"), 2, "exact score"),
        (False, ("network", "formula"), 1, "score of the network"),
        (False, ("network",), 1, "coordinate (standardised)"),
    ],
)
def test_more_coordinates_are_compared_one_by_one(exact, names, rows, label):
    score = make_score(3, exact, names)
    figure = score_figure(score, ("a", "b", "c"))
    assert len(figure.axes) == 3 * rows
    assert figure.axes[-1].get_xlabel() == label
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["a", "b", "c"]
    offsets = np.asarray(figure.axes[1].collections[0].get_offsets())
    slopes = {
        "exact score": 1.5,
        "score of the network": 2 / 1.5,
        "coordinate (standardised)": -1.5,
    }
    np.testing.assert_allclose(offsets[:, 1], slopes[label] * offsets[:, 0])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_samples_are_side_by_side_on_the_same_axes_real_ones_first(dim):
    rng = np.random.default_rng(0)
    samples = {"network": rng.normal(size=(50, dim)), "real": 3 * rng.normal(size=(50, dim))}
    figure = samples_figure(samples, ("a", "b", "c"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["real", "network"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert "a (standardised)" in words(figure)
    if dim > 1:
        drawn = np.asarray(figure.axes[0].collections[0].get_offsets())
        np.testing.assert_allclose(drawn, samples["real"][:, :2])


# The page.


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_edge_is_in_the_page_with_its_values(dim, tmp_path):
    made = make_explanation(dim)
    data = data_of(write_quickly(made, tmp_path))
    views = (made.network, made.simplified, made.readable)
    assert [view["name"] for view in data["views"]] == ["network", "simplified", "with formulas"]
    for view, drawn in zip(views, data["views"], strict=True):
        assert [level["label"] for level in drawn["levels"]] == ["σ = 0.10", "σ = 0.50", "σ = 0.98"]
        assert [tuple(layer["names"]) for layer in drawn["units"]] == list(view.units)
        for edge, found in zip(view.edges, drawn["edges"], strict=True):
            place = found["layer"], found["input"], found["output"]
            assert place == (edge.layer, edge.input, edge.output)
            assert found["text"] == edge.text
            assert found["importance"] == pytest.approx(edge.importance, rel=1e-3)
            assert found["byLevel"] == pytest.approx(list(edge.importance_by_level), rel=1e-3)
            for curve, sent in zip(edge.curves, found["curves"], strict=True):
                inputs = drawn["inputs"][sent["inputs"]]
                np.testing.assert_allclose(inputs["x"], curve.x, atol=1e-3)
                np.testing.assert_allclose(inputs["density"], curve.density, atol=0.01)
                np.testing.assert_allclose(
                    np.array(sent["y"]) * sent["unit"], curve.y, atol=2e-3 * np.abs(curve.y).max()
                )
    if dim > 2:
        assert data["score"] is None
        return
    for name, values in {**made.score.scores, "exact": made.score.exact}.items():
        (field,) = (field for field in data["score"]["fields"] if field["name"] == name)
        np.testing.assert_allclose(np.array(field["values"][1]).T, values[1], rtol=1e-3)


def test_what_a_search_said_is_joined_by_names_to_the_network_it_searched(text, explanation):
    network, simplified, readable = data_of(text)["views"]
    assert all("r2" not in edge for edge in network["edges"])  # whose units have other numbers
    for view in (simplified, readable):
        found = [edge["r2"] for edge in view["edges"]]
        assert found == pytest.approx([report.r2 for report in explanation.edges])
    assert readable["edges"][0]["reason"] == "the loss rises"


def test_without_a_smaller_network_reports_speak_of_the_trained_one():
    made = make_explanation(network=make_view((2, 2, 2)), simplified=None, readable=None)
    (network,) = page_data(made)["views"]
    assert [edge["complexity"] for edge in network["edges"]] == [k % 4 for k in range(8)]


def test_the_page_needs_no_network(text, page):
    assert page.images
    assert all(source.startswith("data:image/") for source in page.loads)
    assert not re.search(r"(?i)\b(?:https?:|url\(|@import|fetch\(|import\()", text)
    assert len(set(page.ids)) == len(page.ids)


def test_figures_lie_beside_the_page_as_png_and_svg(folder, page):
    names = {path.name for path in (folder / "figures").iterdir()}
    stems = ["network", "simplified", "with-formulas"]
    stems += ["curves", "contributions", "score", "samples"]
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")}
    assert len(page.pictures) == len(stems) + 2  # and two formulas


def test_the_page_says_what_was_found(text, page, explanation):
    assert {*explanation.sentences, explanation.command} <= set(page.text)
    heads, network, formula, real = page.tables["Standings"]
    assert heads[:6] == ["denoiser", "edges", "constants", "held-out loss", "floor", "excess"]
    assert network == [
        "network", "12", "1,300", "0.610", "0.600", "0.0100", "0.0123", "0.543",
    ]  # fmt: skip
    assert formula == ["formula", "–", "9", "0.650", "0.600", "0.0500", "–", "–"]
    assert real[-2:] == ["0.00450", "0.500"]
    edges = page.tables["Edges"]
    assert len(edges) == 1 + len(explanation.edges)
    assert edges[1][0:2] == ["x0", "h1.0"]
    assert edges[1][4] == "0.90000"
    assert "the loss rises" in edges[1][6]
    assert "−0.5 x" in edges[2][2]


def test_formulas_are_pictures_or_text_with_their_source(text, page):
    assert sum(name.startswith("Coordinate") for name in page.pictures) == 2
    sources = [part for part in page.text if part.startswith("s_{")]
    cases = [part for part in sources if "cases" in part]
    assert len(cases) == 4  # as text and as source, two coordinates
    assert len(sources) == 6
    assert "from −2.00 to 2.50" in " ".join(page.text)
    assert "0.0321" in " ".join(page.text)


def test_each_figure_is_drawn_as_svg_once(folder, drawn):
    assert len(drawn) == len(set(map(id, drawn))) >= len(list(folder.glob("figures/*.svg")))


@pytest.mark.parametrize("exact", [True, False])
def test_an_oracle_is_called_exact_only_where_it_is(exact, tmp_path):
    text = write_quickly(make_explanation(score=make_score(exact=exact)), tmp_path)
    assert ("exact oracle" in text, "estimated oracle" in text) == (exact, not exact)


def test_a_large_network_makes_a_page_of_less_than_one_and_a_half_megabytes(tmp_path, monkeypatch):
    leave_files_empty(monkeypatch)
    view = make_view((10, 16, 16, 2), time_inputs=8, points=61)
    rest = {"simplified": None, "readable": None, "edges": (), "samples": {}}
    made = make_explanation(network=view, score=make_score(names=()), **rest)
    page = write_explanation(made, tmp_path)
    assert page.stat().st_size < 1_500_000
    (found,) = data_of(page.read_text(encoding="utf-8"))["views"]
    assert len(found["edges"]) == len(view.edges) == 448


def test_values_that_are_not_finite_do_not_break_the_page():
    view = make_view()
    edge = replace(view.edges[0], importance=float("nan"), importance_by_level=np.full(3, np.inf))
    made = make_explanation(network=replace(view, edges=(edge, *view.edges[1:])))
    data = page_data(made)
    json.dumps(data, allow_nan=False)
    assert data["views"][0]["edges"][0]["importance"] is None


def test_only_what_there_is_is_shown(tmp_path):
    made = make_explanation(
        simplified=None, readable=None, edges=(), standings=(), sentences=(), formula=None,
        level_formulas=(), samples={}, score=make_score(2, exact=False),
    )  # fmt: skip
    text = write_quickly(made, tmp_path)
    page = Page(text)
    assert not page.tables
    assert {"standings", "formulas", "edges"}.isdisjoint(page.ids)
    assert data_of(text)["score"]["density"] is None
    assert not (tmp_path / "figures" / "samples.png").exists()


@pytest.mark.parametrize("widths", [(2, 6, 2), (3, 32, 2), (30, 8, 4)])
def test_units_and_boxes_lie_within_the_diagram(widths):
    view = make_view(widths)
    layout = make_layout(view)
    for number, layer in enumerate(layout.units):
        across = [x for x, _ in layer]
        assert across == sorted(set(across))
        assert across[0] > 0
        assert across[-1] < layout.width
        assert {y for _, y in layer} == {layer[0][1]}
        assert number == 0 or layer[0][1] > layout.units[number - 1][0][1]
    for box, edge in zip(layout.boxes, view.edges, strict=False):
        low, high = layout.units[edge.layer][0][1], layout.units[edge.layer + 1][0][1]
        assert low < box.y - box.side / 2 < box.y + box.side / 2 < high
        assert 0 <= box.x - box.side / 2 < box.x + box.side / 2 <= layout.width
