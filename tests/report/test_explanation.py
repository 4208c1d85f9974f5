import json
import re

import numpy as np
import pytest

from html_page import Page
from kan_diffusion.denoisers.formula import FormulaDenoiser
from kan_diffusion.processes import get_process
from kan_diffusion.report.explanation import page_data, score_figure, write_explanation
from made_explanation import make_explanation, make_score, make_view


@pytest.fixture(scope="module")
def explanation():
    return make_explanation()


@pytest.fixture(scope="module")
def text(explanation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explanation")
    text = write_explanation(explanation, folder).read_text(encoding="utf-8")
    assert [path.name for path in folder.iterdir()] == ["explanation.html"]
    return text


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_edge_is_in_the_page_with_its_values(dim, tmp_path):
    made = make_explanation(dim, formula=None)
    text = write_explanation(made, tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'data-view="\d">(.*?)<', text) == ["network", "simplified", "with formulas"]
    for view, drawn in zip(made.views.values(), Page(text).data[0]["views"], strict=True):
        assert drawn["levels"] == ["σ = 0.10", "σ = 0.50", "σ = 0.98"]
        np.testing.assert_allclose(drawn["inputs"][0], view.inputs[0], atol=1e-3)
        for edge, found in zip(view.edges, drawn["edges"], strict=True):
            assert [found[key] for key in ("layer", "input", "output")] == list(edge.edge.place)
            for key in ("source", "target", "text"):
                assert found[key] == getattr(edge, key)
            for key in ("importance", "importance_by_level", "curves"):
                np.testing.assert_allclose(found[key], getattr(edge, key), rtol=1e-3, atol=1e-9)
    # The score of each level, of one or two coordinates.
    levels = re.findall(r'<figure data-level="(\d)"( hidden)?>', text)
    assert levels == ([("0", " hidden"), ("1", ""), ("2", " hidden")] if dim < 3 else [])


def test_what_a_search_said_is_joined_by_names_to_the_network_it_searched(page, explanation):
    network, simplified, readable = page.data[0]["views"]
    assert all("r2" not in edge for edge in network["edges"])  # whose units have other numbers
    for view in (simplified, readable):
        found = [edge["r2"] for edge in view["edges"]]
        assert found == pytest.approx([report.r2 for report in explanation.edges])
    assert readable["edges"][0]["reason"] == "the loss rises"


def test_the_page_says_what_was_found(text, page, explanation):
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
    assert edges[0][5] == "the loss rises"
    assert "−0.5 x" in edges[1][2]
    # One network is seen without scripts.
    shown = re.findall(r'<svg [^>]*class="network"[^>]*?( hidden)?>', text)
    assert shown == [" hidden", " hidden", ""]


def test_formulas_are_mathml_of_symbols_alone_with_their_latex_beside(tmp_path):
    process = get_process("cosine").model_dump(mode="json")
    score = [["Add", ["Mul", -1.5, "x0"], ["Mul", "alpha", "x1"]], ["Mul", -1.0, "x1"]]
    formula = FormulaDenoiser(2, score, process, num_constants=0)
    hostile = ("<img src=x onerror=alert(1)>", "b")
    made = make_explanation(
        2,
        columns=hostile,
        formula=("- 1.5 x_{0}", "x"),
        stages={"formula": formula},
    )
    text = write_explanation(made, tmp_path).read_text()
    equations = re.findall(r"<math display=\"block\">(.*?)</math>", text, re.DOTALL)
    assert len(equations) == 2
    assert "<img" not in text
    assert "<msub><mi>x</mi><mi>0</mi></msub>" in equations[0]
    assert "s_{0} = - 1.5 x_{0}" in Page(text).said
    assert "s_{1} = x" in Page(text).said
    assert "x0 is &lt;img src=x onerror=alert(1)&gt;" in text


def test_only_what_there_is_is_shown(tmp_path):
    made = make_explanation(
        views={"network": make_view()}, edges=(), standings=(), sentences=(), formula=None,
        score=make_score(2, exact=False),
    )  # fmt: skip
    page = Page(write_explanation(made, tmp_path).read_text(encoding="utf-8"))
    assert not page.tables
    assert {"standings", "the-formula", "what-became-of-each-edge"}.isdisjoint(page.ids)
    assert "score of the known density" not in page.said


def test_values_that_are_not_finite_and_curves_that_are_points_do_not_break_the_page(tmp_path):
    view = make_view()
    edges = list(view.edges)
    edges[0] = edges[0]._replace(importance=np.nan, importance_by_level=np.full(3, np.inf))
    edges[2] = edges[2]._replace(curves=[np.full(9, np.nan)] * 3)
    for index in (1, 3):  # those that leave the second input
        edges[index] = edges[index]._replace(curves=[np.zeros(1)] * 3)
    inputs = [[view.inputs[0][0], [np.ones((2, 1))] * 3], view.inputs[1]]
    odd = view._replace(edges=edges, inputs=inputs)
    data = page_data({"network": odd}, ())
    json.dumps(data, allow_nan=False)
    assert data["views"][0]["edges"][0]["importance"] is None
    write_explanation(make_explanation(views={"network": odd}), tmp_path)


def test_arrows_point_as_the_score_does():
    network, exact = score_figure(make_score(), 1, ["a", "b"]).axes
    for axes in (network, exact):
        points = axes.lines[0].get_xydata().reshape(-1, 7, 2)
        shafts, middles = points[:, 1] - points[:, 0], (points[:, 1] + points[:, 0]) / 2
        off = np.abs(middles).sum(axis=1) > 1e-9
        along = -(shafts * middles).sum(axis=1)
        lengths = np.linalg.norm(shafts, axis=1) * np.linalg.norm(middles, axis=1)
        assert along[off] == pytest.approx(lengths[off])
    (axes,) = score_figure(make_score(1), 0, ["a"]).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    x = axes.get_lines()[0].get_xdata()
    assert lines["exact"] == pytest.approx(-x)
    assert lines["network"] == pytest.approx(-1.5 * x)
