import base64
import hashlib
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from html_page import Page as Read
from kan_diffusion.report.figures import inline, png
from kan_diffusion.report.page import Page, badge, swatch
from kan_diffusion.report.style import INK, report_style

HOSTILE = "</script></code></title><img src=x onerror=alert(1)> & \"quotes\" 'too' <!--"


@report_style()
def chart(words="", colour=INK):
    figure = Figure(figsize=(4.3, 3))
    axes = figure.subplots()
    axes.plot(np.arange(20), np.arange(20) ** 2, color=colour)
    axes.scatter(np.arange(9), np.arange(9), color="#0072b2", rasterized=True)
    axes.set_title(words)
    return figure


def failing():
    raise ValueError("no <ink>")


def test_a_page_holds_everything_in_order(tmp_path):
    page = Page("Title", "Why?", linked=True)
    page.say("First.", kind="answer").items(["Mind this."], "warnings", "Before")
    section = page.section("Section").say("A sentence.").figure(chart, "See.", "A chart")
    section.section("Below").table(pd.DataFrame({"a": ["1"]}), "T").figure(chart, "See.", "A chart")
    page.section("Another").facts({"key": "value"}).code("run it")
    page.section("Another").table(pd.DataFrame({"b": ["3"]}), "Folded", fold="More")
    page.section("Nothing").section("Nothing below").say("").facts({}).code("").items([])
    page.section("Formula").formula("s", "<mi>x</mi>", r"\frac{1}{2} x", "Score")
    text = page.write(tmp_path / "page.html").read_text("utf-8")
    read = Read(text)
    order = ["Title", "Why?", "First.", "Mind this.", "A sentence.", "See.", "Below", "value"]
    places = [read.said.rindex(part) for part in order]
    assert sorted(places[:5]) == places[:5]
    assert read.tables == {"T": [["a"], ["1"]], "Folded": [["b"], ["3"]]}
    assert "Nothing" not in read.said
    assert read.links == ["overview", "section", "another", "another-2", "formula"]
    assert text.count("<math display=") == 1
    # No level of headings is skipped.
    headings = re.findall(r"<h([1-6])[^>]*>(Title|Section|Below|Another)<", text)
    assert [level for level, _ in headings] == list("12322")


def test_whatever_is_written_into_a_page_stays_text():
    page = Page(HOSTILE, HOSTILE, script="explorer.js", data={"a": HOSTILE})
    page.say(HOSTILE).items([HOSTILE]).code(HOSTILE).facts({HOSTILE: HOSTILE})
    page.figure(lambda: chart(HOSTILE), HOSTILE, HOSTILE).formula(
        "s", "<mi>x</mi>", HOSTILE, HOSTILE
    )
    cells = [swatch("#000", HOSTILE), badge("kan", HOSTILE), HOSTILE]
    page.section(HOSTILE).table(pd.DataFrame({HOSTILE: cells}, dtype=object), HOSTILE)
    text = page.__html__()
    # Should something slip through all the same, a browser runs only the script that is named.
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)">', text, re.DOTALL)
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}';")
    assert "<img" not in text
    assert text.count("</script>") == 2
    head, *rows = Read(text).tables[HOSTILE]
    assert {*head, *(cell for row in rows for cell in row)} == {HOSTILE}
    assert Read(text).data == [{"a": HOSTILE}]


def test_a_figure_that_fails_costs_itself_and_none_is_drawn_where_none_is_wanted():
    read = Read(Page("t").figure(failing, "", "The chart").figure(chart, "See.", "B").__html__())
    said = "The figure “The chart” could not be drawn (ValueError: no <ink>)."
    assert said in read.said
    assert len(read.figures) == 1
    assert Read(Page("t", drawn=False).figure(failing, "", "The chart").__html__()).figures == []


def test_numbers_are_aligned_as_numbers_and_lines_of_a_cell_are_small():
    frame = pd.DataFrame(
        {"name": ["a", "b", "real"], "value": ["0.1\n± 0.02", "–", "7"], "why": ["x", "", "y"],
         "p": ["< 0.001", "0.3", ""], "sign": ["−1", "+2", ""]}
    )  # fmt: skip
    text = Page("t").table(frame, "T", feet=1).__html__()
    assert Read(text).words["T"] == [True, False, True, False, False]
    assert "<td>0.1<small>± 0.02</small>" in text
    body, feet = re.findall(r"<tbody.*?</tbody>", text, re.DOTALL)
    assert ("real" in body, "real" in feet) == (False, True)


def test_a_figure_has_the_colours_of_the_page_ids_of_its_own_and_the_same_bytes():
    before = dict(mpl.rcParams)
    svg = inline(chart("a & b", colour="#d55e00"), "name", "It")
    assert svg == inline(chart("a & b", colour="#d55e00"), "name", "It")
    assert dict(mpl.rcParams) == before
    assert "var(--ink)" in svg
    assert INK not in svg
    assert "--c0: color-mix(in srgb, #d55e00, #fff var(--lift))" in svg
    assert ">a &amp; b</text>" in svg
    assert "<style" not in svg  # it would hold for the whole page
    assert "data:image/png;base64," in svg  # the cloud
    first, second = (
        set(re.findall(r' id="([^"]+)"', inline(chart(), name, ""))) for name in ("one", "two")
    )
    assert first
    assert not first & second
    assert re.search(r'viewBox="0 0 309\.6 216" width="413"', svg)


def test_a_png_is_the_same_each_time():
    assert png(chart()) == png(chart())
    assert png(chart()).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["$\\unknown{$ x", "质量 😀"])
def test_names_in_any_script_and_of_mathematics_are_drawn_as_they_are_written(name):
    assert f">{name}</text>" in inline(chart(name), "n", "")
