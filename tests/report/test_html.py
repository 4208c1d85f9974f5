"""The machine that makes all pages, and the way figures get into them."""

import base64
import io
import json
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from html_page import Page as Read
from kan_diffusion.report.html import Page, plain_table
from kan_diffusion.report.images import embedded, figure_png, figure_svg
from kan_diffusion.report.mathematics import broken_sum, formula_svg

HOSTILE = "</script></code><img src=x onerror=alert(1)> & \"quotes\" 'too' <!--"


def chart(count=20):
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot(np.arange(count), np.arange(count) ** 2)
    return figure


def cloud():
    figure = Figure(figsize=(4, 3))
    points = np.random.default_rng(0).normal(size=(2, 4_000))
    figure.subplots().scatter(*points, s=2, rasterized=True)
    return figure


def whole_page(leaves=False):
    page = Page("Title", "Why?", leaves)
    page.text("First.", kind="answer").items(["Mind this."], "warnings", "Before")
    section = page.section("Section").text("A sentence.").figure(embedded(chart()), "See.", "Chart")
    section.section("Below", "section", "below").table(plain_table("T", ("a",), [["1"], ["2"]]))
    page.section("Another").facts({"key": "value"}).code("run it").folded(
        "More", plain_table("Folded", ("b",), [["3"]])
    )
    page.section("Nothing").section("Nothing below").text("").facts({}).code("").items([])
    page.section("Formula").formula("s", r"\frac{1}{2} x", "Score")
    return page


@pytest.mark.parametrize("leaves", [False, True])
def test_a_page_holds_everything_in_order_and_loads_nothing(tmp_path, leaves):
    path = whole_page(leaves).write(tmp_path / "page.html")
    text = path.read_text()
    read = Read(text)
    said = " ".join(read.text)
    order = ["Title", "Why?", "First.", "Mind this.", "A sentence.", "See.", "Below", "value"]
    places = [said.rindex(part) for part in order]
    assert places == sorted(places)
    assert read.tables == {"T": [["a"], ["1"], ["2"]], "Folded": [["b"], ["3"]]}
    assert all(load.startswith("data:image/svg+xml;base64,") for load in read.loads)
    assert not re.search(r"https?://|@import|url\(|<link", text)
    assert len(set(read.ids)) == len(read.ids)
    assert {"section", "section-below", "another"} <= set(read.ids)
    assert "Nothing" not in said
    assert read.empty == []
    assert set(read.links) <= set(read.ids)
    # The bar's links, where sections are shown one at a time.
    assert read.links == (["overview", "section", "another", "formula"] if leaves else [])


def test_no_level_of_headings_is_skipped(tmp_path):
    page = Page("Title")
    page.section("Data").section("", "setting").text("Said.").section("Time").text("Used.")
    text = page.write(tmp_path / "page.html").read_text("utf-8")
    assert re.findall(r"<h([1-6])[^>]*>([^<]*)<", text) == [
        ("1", "Title"), ("2", "Data"), ("3", "Time")
    ]  # fmt: skip


def test_whatever_is_written_into_a_page_stays_text(tmp_path):
    page = Page(HOSTILE, HOSTILE, script="explanation.js", data={"a": HOSTILE})
    page.text(HOSTILE).items([HOSTILE]).code(HOSTILE).facts({HOSTILE: HOSTILE})
    page.figure(embedded(chart()), HOSTILE, HOSTILE).formula("s", HOSTILE, HOSTILE)
    page.section(HOSTILE).table(plain_table(HOSTILE, [HOSTILE], [[HOSTILE]]))
    text = page.write(tmp_path / "page.html").read_text()
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert Read(text).tables[HOSTILE] == [[HOSTILE], [HOSTILE]]
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text)
    assert json.loads(found[1]) == {"a": HOSTILE}


# --- figures ----------------------------------------------------------------------------------


def test_charts_are_embedded_as_svg_and_clouds_as_small_pixels():
    picture = embedded(chart())
    svg = base64.b64decode(picture.address.removeprefix("data:image/svg+xml;base64,"))
    assert svg == figure_svg(chart())
    assert b"<text" in svg
    shown = embedded(cloud(), 20_000, dpi=192)
    webp = base64.b64decode(shown.address.removeprefix("data:image/webp;base64,"))
    pixels = Image.open(io.BytesIO(webp)).convert("RGB")
    exact = Image.open(io.BytesIO(figure_png(cloud(), 192))).convert("RGB")
    assert pixels.size == exact.size
    assert shown.width == pixels.width // 2
    assert abs(np.asarray(pixels, int) - np.asarray(exact, int)).mean() < 2
    assert len(webp) < len(figure_png(cloud(), 192)) < len(figure_svg(cloud()))


def test_a_png_is_the_same_each_time_twice_as_sharp_as_a_screen_and_true_to_colours():
    png = figure_png(chart())
    assert png == figure_png(chart())
    image = Image.open(io.BytesIO(png))
    assert image.width == pytest.approx(4 * 192, rel=0.1)
    assert (31, 119, 180) in {colour for _, colour in image.convert("RGB").getcolors(100_000)}


def test_drawing_leaves_the_global_settings_alone():
    before = dict(mpl.rcParams)
    embedded(cloud())
    assert dict(mpl.rcParams) == before


# --- formulas ---------------------------------------------------------------------------------


def test_long_sums_are_broken_between_summands_only():
    latex = r"- 1.5 x_{0} + e^{- x_{0}^{2} + 1} - \left(x_{0} - 2\right)^{2} + \frac{a + b}{c - d}"
    lines = broken_sum(latex, most=10)
    assert "".join(lines) == latex
    assert [line.strip()[0] for line in lines] == ["-", "+", "-", "+"]
    assert broken_sum(latex, most=1_000) == [latex]


@pytest.mark.parametrize(
    "latex",
    [
        r"- 1.5 x_{0} + 2.5 \tanh{\left(1.05 x_{0} + 0.01 \right)}",
        r"\frac{\alpha x_{1}}{\alpha^{2} + 0.25 \sigma^{2}} e^{- x_{0}^{2}}",
        r"\left|{x_{0}}\right| + \sqrt{x_{1}} + \log{\left(x_{0} \right)}",
        r"\operatorname{Max}{\left(x_{0}, 10^{-6} \right)} + \dfrac{1}{2}",
    ],
)
def test_formulas_as_sympy_writes_them_are_set(latex):
    made = formula_svg("s_{0}", latex)
    assert made.startswith(b"<?xml")
    assert made == formula_svg("s_{0}", latex)


def test_longer_formulas_make_higher_pictures():
    summand = r"+ 1.2345 \tanh{\left(1.05 x_{0} + 0.01 \right)}"

    def height(count):
        found = re.search(rb'height="([0-9.]+)pt"', formula_svg("s_{0}", summand * count))
        return float(found[1])

    assert height(20) > height(8) > height(1)


def test_what_cannot_be_set_is_not():
    assert formula_svg("s_{0}", r"\begin{cases} 1 & x \end{cases}") is None
    assert formula_svg("s_{0}", r"\frac{1") is None
    assert formula_svg("s_{0}", "x + " * 5_000 + "x") is None
