"""Figures as files and as addresses inside a page.

A chart of lines and marks is an SVG, which is small and sharp at any size. Thousands of points
are pixels: PNG in a file, WebP inside a page.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from kan_diffusion.report.style import report_style

__all__ = [
    "TELEPHONE",
    "Picture",
    "contact_sheet",
    "embedded",
    "embedded_svg",
    "figure_png",
    "figure_svg",
    "image_address",
    "saved_svg",
]

_LARGEST_SVG = 150_000
"""Bytes from which a figure is embedded as pixels."""
_DPI = 192
_PADDING = 0.08
_WEBP_QUALITY = 80
_CSS_DPI, _POINTS = 96, 72
_LEAST_LETTERS = 9.0
"""CSS pixels that the smallest letters of a figure have on the narrowest screen."""
TELEPHONE = 358
"""CSS pixels that a page has for a figure on a telephone."""
_SIDE, _GAP = 64, 2
"""Pixels of a picture's longer side in a contact sheet at least, and about each."""


@dataclass(frozen=True)
class Picture:
    """A picture inside a page.

    Attributes:
        address: Its ``data:`` address, which holds it whole.
        width: Its width in CSS pixels, of which an inch has 96.
        least: The width below which its smallest letters cannot be read, at most ``width``.
        narrow: The same drawn for a screen that is narrower than that; None where it rolls there.
    """

    address: str
    width: int
    least: int = 0
    narrow: Picture | None = None

    @property
    def rolls(self) -> bool:
        """Whether it has to be rolled sideways on a telephone."""
        return self.narrow is None and self.least > TELEPHONE


def figure_png(figure: Figure, dpi: int = _DPI) -> bytes:
    """Draws a figure as PNG with at most 256 colours.

    Args:
        figure: The figure. The same figure gives the same bytes.
        dpi: Pixels an inch; the default is twice a screen's.
    """
    return _encoded(_pixels(figure, dpi).quantize(256, dither=Image.Dither.NONE), "PNG")


def figure_svg(figure: Figure) -> bytes:
    """Draws a figure as SVG, in which text stays text.

    Args:
        figure: The figure. The same figure gives the same bytes.
    """
    with report_style():
        return saved_svg(figure, "none", _PADDING)


def saved_svg(
    figure: Figure, text: Literal["none", "path"], padding: float, transparent: bool = False
) -> bytes:
    """Writes a figure as SVG: its text as text (``"none"``) or as outlines (``"path"``)."""
    file = io.BytesIO()
    # Ids are counted up by name; the salt makes them the same in every process.
    with rc_context({"svg.hashsalt": "kan-diffusion", "svg.fonttype": text}):
        figure.savefig(
            file, format="svg", dpi=144, bbox_inches="tight", pad_inches=padding,
            transparent=transparent, metadata={"Date": None},
        )  # fmt: skip
    return file.getvalue()


def contact_sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Puts pictures side by side, small ones enlarged so that their pixels show.

    Args:
        rows: Pictures of one size, row by row from the left; at least one.

    Returns:
        One picture, RGB, on grey.
    """
    width, height = rows[0][0].size
    times = -(-_SIDE // max(width, height))
    across, down = times * width + 2 * _GAP, times * height + 2 * _GAP
    sheet = Image.new("RGB", (across * max(map(len, rows)), down * len(rows)), "grey")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            large = picture.convert("RGB").resize(
                (times * width, times * height), Image.Resampling.NEAREST
            )
            sheet.paste(large, (x * across + _GAP, y * down + _GAP))
    return sheet


def embedded(
    figure: Figure,
    largest_svg: int = _LARGEST_SVG,
    dpi: int = 144,
    narrow: Callable[[], Figure] | None = None,
) -> Picture:
    """Embeds a figure: as SVG where that is small, as WebP where it is not.

    Args:
        figure: The figure.
        largest_svg: Bytes from which it is a WebP; 0 makes it one at once.
        dpi: Pixels an inch of a WebP.
        narrow: Draws it for a telephone; called where it cannot be read on one.
    """
    picture = _embedded(figure, largest_svg, dpi)
    if narrow is None or picture.least <= TELEPHONE:
        return picture
    return replace(picture, narrow=_embedded(narrow(), largest_svg, dpi))


def _embedded(figure: Figure, largest_svg: int, dpi: int) -> Picture:
    if largest_svg and len(svg := figure_svg(figure)) < largest_svg:
        picture = embedded_svg(svg)
        return replace(picture, least=_least_width(figure, picture.width))
    drawn = _pixels(figure, dpi)
    few = drawn.quantize(64, dither=Image.Dither.NONE).convert("RGB")
    webps = (
        _encoded(drawn, "WEBP", quality=_WEBP_QUALITY, method=6),
        _encoded(few, "WEBP", lossless=True, method=6),
    )
    width = drawn.width * _CSS_DPI // dpi
    address = _address(min(webps, key=len), "webp")
    return Picture(address, width, _least_width(figure, width))


def _least_width(figure: Figure, width: int) -> int:
    """The least width of a figure that has been drawn, at which its ticks have their texts."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    sizes = [float(text.get_fontsize()) for text in texts if text.get_text() and text.get_visible()]
    smallest = min(sizes, default=math.inf) * _CSS_DPI / _POINTS
    return round(min(1.0, _LEAST_LETTERS / smallest) * width)


def embedded_svg(svg: bytes) -> Picture:
    """Embeds an SVG whose width is given in points."""
    found = re.search(rb'width="([0-9.]+)pt"', svg)
    width = float(found[1]) if found else 0.0
    return Picture(_address(svg, "svg+xml"), round(width * _CSS_DPI / _POINTS))


def image_address(image: Image.Image, largest: int) -> str:
    """Embeds a picture: each pixel as it is where that is small, nearly so where it is not.

    Args:
        image: The picture, RGB.
        largest: Bytes from which its pixels may change a little.
    """
    exact = _encoded(image, "WEBP", lossless=True, method=6)
    near = len(exact) > largest
    return _address(_encoded(image, "WEBP", quality=_WEBP_QUALITY) if near else exact, "webp")


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _pixels(figure: Figure, dpi: int) -> Image.Image:
    file = io.BytesIO()
    with report_style():
        figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", pad_inches=_PADDING)
    return Image.open(file).convert("RGB")


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()
