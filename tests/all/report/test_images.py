import re

from matplotlib.figure import Figure

from kan_diffusion.report.html import Page
from kan_diffusion.report.images import TELEPHONE, embedded
from kan_diffusion.report.style import NARROW


def labelled(width):
    figure = Figure(figsize=(width, 2))
    figure.text(0.1, 0.5, "words", fontsize=9)
    figure.add_axes((0, 0, 1, 1)).set_axis_off()
    return figure


def test_a_figure_is_drawn_again_for_telephones():
    wide = embedded(labelled(9), narrow=lambda: labelled(NARROW))
    assert wide.narrow.least <= TELEPHONE < wide.least
    page = Page("Title")
    page.figure(wide, "Caption.", "Words")
    assert (
        re.search(r'max-width: \d+px\)" srcset="([^"]+)"', page.__html__())[1]
        == wide.narrow.address
    )
