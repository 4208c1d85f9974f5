from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from html_page import Page
from made_lab import make_result
from truth_lab.lab import LabResult, LabResults
from truth_lab.page import constants_figure, lab_markdown, write_lab
from truth_lab.truth import Recovered

HOSTILE = "</code><script>alert(1)</script> \\nonsense{ & \"quotes\" 'too'"


def _result(toy: str, seed: int, **changes: object) -> LabResult:
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


def _rows(markdown: str, heading: str) -> list[dict[str, str]]:
    """The tables under a heading, a row a dictionary."""
    section = re.split(r"^#+ ", markdown, flags=re.MULTILINE)
    (own,) = [part for part in section if part.startswith(f"{heading}\n")]
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line in own.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = cells
        elif set(line) - set("| -"):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def test_constants_are_compared_over_seeds() -> None:
    rows = _rows(lab_markdown(RESULTS), "two-modes")
    by_name = {(row["constant"], row["σ"]): row for row in rows if "constant" in row}
    assert len(by_name) == 3
    row = by_name["m", "0.25"]
    assert (row["true"], row["recovered, mean"]) == ("2.0000", "2.0350")
    assert (row["range over seeds"], row["worst error"]) == ("2.0200 to 2.0500", "2.50 %")
    assert by_name["m", "0.75"]["worst error"] == "0.50 %"
    assert by_name["v", "0.25"]["worst error"] == "0.00 %"


def test_each_seed_has_its_worst_constant() -> None:
    markdown = lab_markdown(RESULTS)
    first, second = [row for row in _rows(markdown, "two-modes") if "seed" in row]
    assert (first["seed"], first["worst constant"]) == ("0", "1.00 %")
    assert (second["seed"], second["worst constant"]) == ("1", "2.50 %")
    assert (first["excess, network"], first["excess, formula"]) == ("0.012", "0.0046")
    assert first["energy distance / real"] == "1.50"
    (missing,) = _rows(markdown, "four-modes")
    assert missing["worst constant"] == "form not found"
    assert missing["excess, formula"] == "no formula"
    assert missing["edges (curves)"] == "7 (5)"
    (nothing,) = _rows(markdown, "swiss-roll")
    assert nothing["worst constant"] == "–"
    answers = {row["density"]: row["answer"] for row in _rows(markdown, "Truth lab")}
    assert "in 2 of 2 (worst 2.50%)" in answers["two-modes"]
    assert "in 0 of 1 (form not found in 1)" in answers["four-modes"]
    assert "inf" not in answers["four-modes"]
    assert "nan" not in markdown
    assert "no formula in 1 of 1; edges that stay curves: 5 of 7" in answers["swiss-roll"]


def test_pykan_is_beside_it() -> None:
    markdown = lab_markdown(RESULTS)
    (row,) = _rows(markdown, "Beside pykan's own search")
    assert (row["density"], row["pykan's formulas"], row["formula"]) == (
        "two-modes",
        "0.2144",
        "0.0133",
    )
    assert "pykan" not in lab_markdown(LabResults(RESULTS.results[1:]))


def test_every_constant_is_a_point_of_the_picture() -> None:
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    assert write_lab(RESULTS, folder) == folder / "truth-lab.html"
    return folder


def test_the_page_has_the_tables_and_a_picture_of_each_formula_that_can_be_drawn(
    folder: Path,
) -> None:
    text = (folder / "truth-lab.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith("data:image/") for address in page.loads)
    assert HOSTILE in " ".join(page.text)
    assert ["m", "0.25", "2.0000", "2.0350", "2.0200 to 2.0500", "2.50 %"] in page.tables[
        "Constants at each noise level, two-modes"
    ]
    assert page.tables["four-modes"][1][1] == "form not found"
    assert "0.2144" in page.tables["Beside pykan's own search"][1]
    assert len(page.images) == 1 + 3
    assert text.count('<div class="formula">') == 4


def test_the_numbers_are_written_and_can_be_read_back(folder: Path) -> None:
    written = json.loads((folder / "truth-lab.json").read_text())
    assert len(written) == len(RESULTS.results)
    for content, result in zip(written, RESULTS.results, strict=True):
        worst = content.pop("worst")
        assert worst == (pytest.approx(result.worst) if result.has_form else None)
        if content["best_r2"] is None:
            content["best_r2"] = math.nan
        content["formula"] = tuple(content["formula"])
        content["constants"] = tuple(Recovered(**part) for part in content["constants"])
        assert LabResult(**content) == result
    assert (folder / "truth-lab.md").read_text() == lab_markdown(RESULTS)
    assert (folder / "figures" / "constants.png").read_bytes().startswith(b"\x89PNG")
