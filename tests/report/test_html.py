import base64
import hashlib
import io
import json
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from html_page import Page as Read
from kan_diffusion.report.html import Page
from kan_diffusion.report.images import contact_sheet, embedded, figure_png, figure_svg
from kan_diffusion.report.mathematics import formula_svg
from kan_diffusion.report.tables import Cell, Head, Line, Table

HOSTILE = "</script></code><img src=x onerror=alert(1)> & \"quotes\" 'too' <!--"


def chart():
    figure = Figure(figsize=(4, 3))
    figure.subplots().plot(np.arange(20), np.arange(20) ** 2)
    return figure


def cloud():
    figure = Figure(figsize=(4, 3))
    points = np.random.default_rng(0).normal(size=(2, 4_000))
    figure.subplots().scatter(*points, s=2, rasterized=True)
    return figure


def table(caption, heads, rows):
    lines = [Line([Cell(text) for text in row]) for row in rows]
    return Table([Head(head, words=True) for head in heads], lines, caption=caption)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_page_holds_everything_in_order_and_loads_nothing(tmp_path, leaves):
    page = Page("Title", "Why?", leaves)
    page.text("First.", kind="answer").items(["Mind this."], "warnings", "Before")
    section = page.section("Section").text("A sentence.").figure(embedded(chart()), "See.", "Chart")
    section.section("Below", "section", "below").table(table("T", ("a",), [["1"], ["2"]]))
    page.section("Another").facts({"key": "value"}).code("run it").folded(
        "More", table("Folded", ("b",), [["3"]])
    )
    page.section("Nothing").section("Nothing below").text("").facts({}).code("").items([])
    page.section("Formula").formula("s", r"\frac{1}{2} x", "Score")
    page.section("Data").section("", "setting").text("Said.").section("Time").text("Used.")
    text = page.write(tmp_path / "page.html").read_text("utf-8")
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
    # The bar's links, where sections are shown one at a time.
    bar = ["overview", "section", "another", "formula", "data"]
    assert read.links == (bar if leaves else [])
    # No level of headings is skipped.
    headings = re.findall(r"<h([1-6])[^>]*>(Title|Section|Below|Data|Time)<", text)
    assert [level for level, _ in headings] == list("12323")


def test_whatever_is_written_into_a_page_stays_text(tmp_path):
    page = Page(HOSTILE, HOSTILE, script="explanation.js", data={"a": HOSTILE})
    page.text(HOSTILE).items([HOSTILE]).code(HOSTILE).facts({HOSTILE: HOSTILE})
    page.figure(embedded(chart()), HOSTILE, HOSTILE).formula("s", HOSTILE, HOSTILE)
    page.section(HOSTILE).table(table(HOSTILE, [HOSTILE], [[HOSTILE]]))
    text = page.write(tmp_path / "page.html").read_text()
    # Should something slip through all the same, a browser runs only the script that is named.
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', text)
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert Read(text).tables[HOSTILE] == [[HOSTILE], [HOSTILE]]
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text)
    assert json.loads(found[1]) == {"a": HOSTILE}


def test_charts_are_embedded_as_svg_and_clouds_as_small_pixels():
    before = dict(mpl.rcParams)
    picture = embedded(chart())
    svg = base64.b64decode(picture.address.removeprefix("data:image/svg+xml;base64,"))
    assert svg == figure_svg(chart())
    assert b"<text" in svg
    shown = embedded(cloud(), 20_000, dpi=192)
    assert shown.address.startswith("data:image/webp;base64,")
    assert dict(mpl.rcParams) == before


def test_a_png_is_the_same_each_time_twice_as_sharp_as_a_screen_and_true_to_colours():
    png = figure_png(chart())
    assert png == figure_png(chart())
    image = Image.open(io.BytesIO(png))
    assert image.width == pytest.approx(4 * 192, rel=0.1)
    assert (31, 119, 180) in {colour for _, colour in image.convert("RGB").getcolors(100_000)}


def test_every_pixel_of_a_picture_is_a_square_in_its_cell_of_a_sheet():
    values = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    pictures = [Image.fromarray(value) for value in values]
    sheet = np.array(contact_sheet([pictures[:3], pictures[3:]]))
    assert sheet.shape == (2 * 68, 3 * 68, 3)
    grey = np.array(Image.new("RGB", (1, 1), "grey"))[0, 0]
    for index, value in enumerate(values):
        y, x = divmod(index, 3)
        cell = sheet[68 * y : 68 * (y + 1), 68 * x : 68 * (x + 1)]
        expected = value.repeat(8, 0).repeat(8, 1)[..., None]
        assert (cell[2:-2, 2:-2] == expected).all()
        assert (cell[:2] == grey).all()
    assert (sheet[68:, 2 * 68 :] == grey).all()
    # Transparent parts are white.
    half = Image.new("RGBA", (64, 64), (255, 0, 0, 51))
    sheet = contact_sheet([[Image.new("RGBA", (64, 64), (255, 0, 0, 0)), half]])
    assert [sheet.getpixel((x, 30)) for x in (30, 100)] == [(255, 255, 255), (255, 204, 204)]


def test_formulas_as_sympy_writes_them_are_set_and_longer_ones_are_higher():
    def height(latex):
        made = formula_svg("s_{0}", latex)
        assert made == formula_svg("s_{0}", latex)
        return float(re.search(rb'height="([0-9.]+)pt"', made)[1])

    short = r"- 1.5 x_{0} + 2.5 \tanh{\left(1.05 x_{0} + 0.01 \right)}"
    assert height(20 * short) > height(6 * short) > height(short)
    height(r"\frac{\alpha x_{1}}{\alpha^{2} + 0.25 \sigma^{2}} e^{- x_{0}^{2}} + \sqrt{x_{1}}")
    height(r"\left|{x_{0}}\right| + \operatorname{Max}{\left(x_{0}, 10^{-6} \right)}")
    # What cannot be set is not.
    assert formula_svg("s_{0}", r"\begin{cases} 1 & x \end{cases}") is None
    assert formula_svg("s_{0}", r"\frac{1") is None
    assert formula_svg("s_{0}", "x + " * 5_000 + "x") is None
