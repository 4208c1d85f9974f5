import json
import re

import numpy as np
import pytest

from html_page import Page
from made_lab import make_result
from truth_lab.lab import LabResults
from truth_lab.page import constants_figure, lab_markdown, write_lab
from truth_lab.truth import Recovered

HOSTILE = "</code><script>alert(1)</script> \\nonsense{ & \"quotes\" 'too'"


def _result(toy, seed, **changes):
    constants = (
        Recovered("m", 0.25, 2.0, 2.02 + 0.03 * seed),
        Recovered("m", 0.75, 2.0, 1.99),
        Recovered("v", 0.25, -0.8, -0.8),
    )
    return make_result(toy, seed, **{"formula": ("- 0.5 x",), "constants": constants, **changes})


PYKAN = {
    "sigma": 0.5,
    "pykan": ["0.5*x_1"],
    "pykan_seconds": 17.0,
    "errors": {"network": 0.0111, "with formulas": 0.0122, "formula": 0.0133, "pykan": 0.2144},
}
NO_FORMULA = {
    "formula": (),
    "constants": (),
    "has_form": False,
    "curves": 5,
    "best_r2": 0.875,
    "excess": {"network": 0.0123},
    "energy": {"network": 0.002},
}
RESULTS = LabResults(
    (
        _result("two-modes", 0, pykan=PYKAN),
        _result("two-modes", 1, formula=(HOSTILE,)),
        _result("correlated-gaussian", 0, formula=("- y", "- x")),
        _result("four-modes", 0, **NO_FORMULA),
        _result("swiss-roll", 0, **NO_FORMULA),
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    assert write_lab(RESULTS, folder) == folder / "truth-lab.html"
    return folder


def test_the_page_has_a_picture_of_each_formula_that_can_be_drawn(folder):
    text = (folder / "truth-lab.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith("data:image/") for address in page.loads)
    assert HOSTILE in " ".join(page.text)
    assert len(page.images) == 1 + 3
    assert text.count('<div class="formula">') == 4


def test_the_page_compares_constants_seeds_and_answers(folder):
    tables = Page((folder / "truth-lab.html").read_text(encoding="utf-8")).tables
    assert tables["Constants at each noise level, two-modes"] == [
        ["constant", "σ", "true", "recovered, mean", "range over seeds", "worst error"],
        ["m", "0.25", "2.0000", "2.0350", "2.0200 to 2.0500", "2.50 %"],
        ["m", "0.75", "2.0000", "1.9900", "1.9900 to 1.9900", "0.50 %"],
        ["v", "0.25", "-0.8000", "-0.8000", "-0.8000 to -0.8000", "0.00 %"],
    ]
    head, first, second = tables["two-modes"]
    assert head[:5] == ["seed", "worst constant", "excess, network", "excess, formula",
                        "edges (curves)"]  # fmt: skip
    assert first[:5] == ["0", "1.00 %", "0.012", "0.0046", "7 (0)"]
    assert second[:2] == ["1", "2.50 %"]
    assert dict(zip(head, first, strict=True))["energy distance / real"] == "1.50"
    assert tables["four-modes"][1][1:5] == ["form not found", "0.012", "no formula", "7 (5)"]
    assert tables["swiss-roll"][1][1] == "–"
    answers = {density: answer for density, _, answer in tables["Densities"]}
    assert "in 2 of 2 (worst 2.50%)" in answers["two-modes"]
    assert "in 0 of 1 (form not found in 1)" in answers["four-modes"]
    assert "no formula in 1 of 1; edges that stay curves: 5 of 7" in answers["swiss-roll"]
    assert tables["Beside pykan's own search"][1][:5] == ["two-modes", "0.0111", "0.0122",
                                                          "0.0133", "0.2144"]  # fmt: skip


def test_the_same_is_written_as_markdown_and_as_numbers(folder):
    markdown = (folder / "truth-lab.md").read_text()
    assert markdown == lab_markdown(RESULTS)
    assert "| m | 0.25 | 2.0000 | 2.0350 |" in markdown
    assert not re.search("nan|inf", markdown)
    assert "pykan" not in lab_markdown(LabResults(RESULTS.results[1:]))
    written = json.loads((folder / "truth-lab.json").read_text())
    assert [(part["toy"], part["seed"]) for part in written] == [
        (result.toy, result.seed) for result in RESULTS.results
    ]
    assert [part["worst"] for part in written] == pytest.approx([0.01, 0.025, 0.01, None, None])
    assert [Recovered(**part) for part in written[0]["constants"]] == [
        *RESULTS.results[0].constants
    ]
    assert (folder / "figures" / "constants.png").read_bytes().startswith(b"\x89PNG")


def test_every_constant_is_a_point_of_the_picture():
    figure = constants_figure(RESULTS)
    panels = {axis.get_title("left"): axis for axis in figure.axes}
    assert set(panels) == {
        "correlated-gaussian",
        "two-modes",
        "four-modes (1 without the form)",
    }
    lines = panels["two-modes"].get_lines()
    points = [xy for line in lines[:2] for xy in zip(*line.get_data(), strict=True)]
    expected = [
        (constant.sigma, 100 * constant.error)
        for result in RESULTS.of("two-modes")
        for constant in result.constants
    ]
    np.testing.assert_allclose(sorted(points), sorted(expected))
    assert list(lines[2].get_ydata()) == pytest.approx([3.0, 3.0])
