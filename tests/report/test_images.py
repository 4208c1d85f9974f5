"""Contact sheets: every pixel of every picture, where it belongs; and figures that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kan_diffusion.report import images
from kan_diffusion.report.html import Page
from kan_diffusion.report.images import TELEPHONE, contact_sheet, embedded, figure_svg
from kan_diffusion.report.pictures import write_pictures
from kan_diffusion.report.style import NARROW


def test_every_pixel_of_a_picture_is_a_square_in_its_cell() -> None:
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


def test_transparent_parts_are_white_on_a_sheet() -> None:
    half = Image.new("RGBA", (64, 64), (255, 0, 0, 51))
    sheet = contact_sheet([[Image.new("RGBA", (64, 64), (255, 0, 0, 0)), half]])
    assert [sheet.getpixel((x, 30)) for x in (30, 100)] == [(255, 255, 255), (255, 204, 204)]


def test_a_sheet_of_a_stranger_lists_no_files_of_others(tmp_path: Path) -> None:
    told = PngInfo()
    names = "../a-1.png", "a-1.png/../b-1.png", "b-1.png", "notes.txt", "a-1.png", "a-2.png"
    told.add_text("pictures", "\n".join(names))
    (tmp_path / "of").mkdir()
    for name in ("a-1.png", "of/b-1.png", "of/notes.txt", "of/a-1.png"):
        (tmp_path / name).write_bytes(b"")
    Image.new("L", (8, 8)).save(tmp_path / "of" / "sheet.png", pnginfo=told)
    assert write_pictures(tmp_path / "of", [("A", [Image.new("L", (8, 8))])]) == 1
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert left == {"a-1.png", "of/notes.txt", "of/a-1.png", "of/sheet.png"}
    for content in (b"", b"no picture", (tmp_path / "of" / "sheet.png").read_bytes()[:60]):
        (tmp_path / "of" / "sheet.png").write_bytes(content)
        assert write_pictures(tmp_path / "of", [("", [Image.new("L", (8, 8))])]) == 1
        assert (tmp_path / "of" / "a-1.png").is_file()


@pytest.mark.parametrize("largest_svg", [150_000, 0], ids=["as an SVG", "as pixels"])
def test_a_picture_is_as_wide_as_its_smallest_letters_need(largest_svg: int) -> None:
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


def test_an_svg_that_many_clouds_make_too_large_is_not_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = Figure(figsize=(4, 1))
    for axes in figure.subplots(1, 4):
        axes.scatter(*np.random.default_rng(0).normal(size=(2, 100)), s=4, rasterized=True)
    size = len(figure_svg(figure))
    assert size > 16_000
    assert embedded(figure, size + 1).address.startswith("data:image/svg")
    pixels = embedded(figure, largest_svg=0)
    monkeypatch.setattr(images, "figure_svg", lambda *_: pytest.fail("it was drawn in vain"))
    assert embedded(figure, largest_svg=16_000) == pixels


def test_an_svg_that_lines_make_too_large_is_given_up_and_leaves_the_figure_as_it_was() -> None:
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


def test_a_figure_is_drawn_again_for_telephones_where_it_cannot_be_read_there() -> None:
    def labelled(width: float) -> Figure:
        figure = Figure(figsize=(width, 2))
        figure.text(0.1, 0.5, "words", fontsize=9)
        figure.add_axes((0, 0, 1, 1)).set_axis_off()
        return figure

    wide = embedded(labelled(9), narrow=lambda: labelled(NARROW))
    assert wide.narrow is not None
    assert wide.narrow.width < wide.width
    assert wide.narrow.least <= TELEPHONE < wide.least
    assert embedded(labelled(4), narrow=lambda: pytest.fail("it can be read")).narrow is None
    page = Page("Title")
    page.figure(wide, "Caption.", "Words")
    read = re.search(r'max-width: (\d+)px\)" srcset="([^"]+)" width="(\d+)"', page.__html__())
    assert read is not None
    assert int(read[1]) == wide.least + 63  # the page keeps 32 pixels on either side
    assert read.groups()[1:] == (wide.narrow.address, str(wide.narrow.width))
