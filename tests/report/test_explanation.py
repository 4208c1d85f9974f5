import json
import re
from dataclasses import replace

import numpy as np
import pytest

from html_page import Page
from kan_diffusion.report.explanation import write_explanation
from kan_diffusion.report.explanation.data import page_data
from kan_diffusion.report.explanation.diagram import make_layout
from kan_diffusion.report.explanation.looks import fading
from made_explanation import make_explanation, make_score, make_view


@pytest.fixture(scope="module")
def explanation():
    return make_explanation()


@pytest.fixture(scope="module")
def text(explanation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explanation")
    text = write_explanation(explanation, folder, figures=False).read_text(encoding="utf-8")
    assert [path.name for path in folder.iterdir()] == ["explanation.html"]
    return text


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def data_of(text):
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text)
    return json.loads(found[1])


def test_figures_lie_beside_the_page_as_png_and_svg(tmp_path):
    few = {"simplified": None, "readable": None, "edges": (), "formula": None}
    made = make_explanation(1, score=make_score(1), **few)
    page = Page(write_explanation(made, tmp_path).read_text(encoding="utf-8"))
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    stems = ["network", "curves", "score"]
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")}
    assert len(page.pictures) == len(stems)
    assert not any("could not be drawn" in part for part in page.text)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_edge_is_in_the_page_with_its_values(dim, tmp_path):
    made = make_explanation(dim, formula=None)
    text = write_explanation(made, tmp_path, figures=False).read_text(encoding="utf-8")
    assert not Page(text).images
    data = data_of(text)
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
    # Without a smaller network reports speak of the trained one.
    made = make_explanation(network=make_view((2, 2, 2)), simplified=None, readable=None)
    (network,) = page_data(made)["views"]
    assert [edge["complexity"] for edge in network["edges"]] == [k % 4 for k in range(8)]


def test_the_page_needs_no_network(text, page):
    assert all(source.startswith("data:image/") for source in page.loads)
    assert not re.search(r"(?i)\b(?:https?:|url\(|@import|fetch\(|import\()", text)
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_says_what_was_found(page, explanation):
    assert {*explanation.sentences, explanation.command} <= set(page.text)
    heads, network, formula, real = page.tables["Standings"]
    assert heads[:6] == ["denoiser", "edges", "constants", "held-out loss", "floor", "excess"]
    assert network == [
        "network", "12", "1,300", "0.610", "0.600", "0.0100", "0.0123", "0.543",
    ]  # fmt: skip
    assert formula == ["formula", "–", "9", "0.650", "0.600", "0.0500", "–", "–"]
    assert real[-2:] == ["0.00450", "0.500"]
    _, *edges = page.tables["Edges"]
    assert [line[:2] for line in edges] == [[e.source, e.target] for e in explanation.edges]
    assert [line[4] for line in edges] == [f"{e.r2:.5f}" for e in explanation.edges]
    assert "the loss rises" in edges[0][6]
    assert "−0.5 x" in edges[1][2]


def test_formulas_are_pictures_with_their_source(page):
    assert sum(name.startswith("Coordinate") for name in page.pictures) == len(page.pictures) == 2
    assert sum(part.startswith("s_{") for part in page.text) == 2


def test_only_what_there_is_is_shown_and_an_oracle_is_exact_only_where_it_is(tmp_path, text):
    made = make_explanation(
        simplified=None, readable=None, edges=(), standings=(), sentences=(), formula=None,
        score=make_score(2, exact=False),
    )  # fmt: skip
    less = write_explanation(made, tmp_path, figures=False).read_text(encoding="utf-8")
    page = Page(less)
    assert not page.tables
    assert {"standings", "formulas", "edges"}.isdisjoint(page.ids)
    assert data_of(less)["score"]["density"] is None
    assert ("exact oracle" in text, "exact oracle" in less) == (True, False)


def test_values_that_are_not_finite_and_curves_that_are_points_do_not_break_the_page():
    view = make_view()
    edge = replace(view.edges[0], importance=float("nan"), importance_by_level=np.full(3, np.inf))
    point = replace(view.edges[1].curves[0], x=np.ones(1), y=np.zeros(1), density=np.ones(1))
    edges = (edge, replace(view.edges[1], curves=(point,) * 3), *view.edges[2:])
    data = page_data(make_explanation(network=replace(view, edges=edges)))
    json.dumps(data, allow_nan=False)
    assert data["views"][0]["edges"][0]["importance"] is None


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


def test_more_important_edges_are_more_opaque_and_none_vanishes():
    assert 0.1 < fading(0.0) < fading(0.01) < fading(0.5) < fading(1.0) == fading(7.0) == 1.0
    assert fading(-1.0) == fading(0.0) == fading(float("nan"))
