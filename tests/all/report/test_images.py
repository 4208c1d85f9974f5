"""Figures that can be read on any screen, and are as small as they can be."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from kan_diffusion.report.html import Page
from kan_diffusion.report.images import TELEPHONE, embedded, figure_svg
from kan_diffusion.report.style import NARROW


@pytest.mark.parametrize("largest_svg", [150_000, 0], ids=["as an SVG", "as pixels"])
def test_a_picture_is_as_wide_as_its_smallest_letters_need(largest_svg):
    figure = Figure(figsize=(6, 2))
    figure.text(0.1, 0.5, "large", fontsize=18)
    figure.add_axes((0.3, 0.6, 0.4, 0.3)).tick_params(labelsize=12)  # texts of ticks come late
    figure.text(0.9, 0.5, "", fontsize=1)
    alone = embedded(figure, largest_svg)
    figure.text(0.5, 0.5, "small", fontsize=9)
    both = embedded(figure, largest_svg)
    # Letters of 12 and 9 points are 16 and 12 pixels, and shall have 9.
    assert alone.least == pytest.approx(alone.width * 9 / 16, abs=1)
    assert both.least == pytest.approx(both.width * 9 / 12, abs=1)
    figure.text(0.5, 0.1, "tiny", fontsize=4)
    assert embedded(figure, largest_svg).least == both.width  # never larger than it is drawn
    assert embedded(Figure(figsize=(6, 2)), largest_svg).least == 0


def test_an_svg_that_is_too_large_becomes_pixels_and_leaves_the_figure_as_it_was():
    figure = Figure(figsize=(4, 2))
    for axes in figure.subplots(1, 2):
        axes.plot(np.random.default_rng(0).normal(size=100))
        axes.scatter(*np.ones((2, 9)), rasterized=True)  # with a sharpness of its own
    svg = figure_svg(figure)
    pixels = embedded(figure, largest_svg=0)
    for size in np.linspace(500, len(svg), 6).astype(int):
        assert embedded(figure, size) == pixels
    assert embedded(figure, len(svg) + 1).address.startswith("data:image/svg")
    assert figure_svg(figure) == svg


def test_a_figure_is_drawn_again_for_telephones_where_it_cannot_be_read_there():
    def labelled(width):
        figure = Figure(figsize=(width, 2))
        figure.text(0.1, 0.5, "words", fontsize=9)
        figure.add_axes((0, 0, 1, 1)).set_axis_off()
        return figure

    wide = embedded(labelled(9), narrow=lambda: labelled(NARROW))
    assert wide.narrow.width < wide.width
    assert wide.narrow.least <= TELEPHONE < wide.least
    assert embedded(labelled(4), narrow=lambda: pytest.fail("it can be read")).narrow is None
    page = Page("Title")
    page.figure(wide, "Caption.", "Words")
    read = re.search(r'max-width: (\d+)px\)" srcset="([^"]+)" width="(\d+)"', page.__html__())
    assert int(read[1]) == wide.least + 63  # the page keeps 32 pixels on either side
    assert read.groups()[1:] == (wide.narrow.address, str(wide.narrow.width))
