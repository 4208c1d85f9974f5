"""Figures as files and as ``data:`` addresses inside a page.

A chart of lines and marks is an SVG, which is small and sharp at any size. A figure of thousands of
points is stored as pixels: PNG in a file, WebP inside a page.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase
from PIL import Image, ImageOps

from kan_diffusion.report.style import report_style

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "LARGEST_WEBP",
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
"""Figures whose SVG has this many bytes or more are embedded as pixels."""
_POINT, _MOST_POINTS = 40, 100
"""Bytes that a point of a cloud takes at least in an SVG, and the points of a cloud that count."""
_DPI = 192
_PADDING = 0.08
_WEBP_QUALITY = 80
LARGEST_WEBP = 16_383
"""Largest side of a WebP in pixels; larger pictures are shrunk."""
_CSS_DPI, _POINTS = 96, 72
_LEAST_LETTERS = 9.0
"""Size of the smallest letters of a figure that can be read, in CSS pixels."""
TELEPHONE = 358
"""Width of a page on a telephone that is left for a figure, in CSS pixels."""
_SIDE, _GAP = 64, 2
"""Least longer side of a picture in a contact sheet, and the margin around it, in pixels."""


@dataclass(frozen=True)
class Picture:
    """A picture inside a page.

    Attributes:
        address: Its ``data:`` address, which holds the whole picture.
        width: Its width in CSS pixels, 96 per inch.
        least: The width below which its smallest letters cannot be read, at most ``width``.
        narrow: The same drawn for screens narrower than ``least``; None if it is scrolled there.
    """

    address: str
    width: int
    least: int = 0
    narrow: Picture | None = None

    @property
    def rolls(self) -> bool:
        """Whether it has to be scrolled sideways on a telephone."""
        return self.narrow is None and self.least > TELEPHONE


def figure_png(figure: Figure) -> bytes:
    """Draws a figure as PNG with at most 256 colours.

    Args:
        figure: The figure. The same figure gives the same bytes.
    """
    return _encoded(_pixels(figure, _DPI).quantize(256, dither=Image.Dither.NONE), "PNG")


def figure_svg(figure: Figure, file: io.BytesIO | None = None) -> bytes:
    """Draws a figure as SVG, in which text stays text.

    Args:
        figure: The figure. The same figure gives the same bytes.
        file: The file to draw into, which may refuse to grow; a new one when None.
    """
    with report_style():
        return saved_svg(figure, "none", _PADDING, file=file)


class _FullError(Exception):
    """A file has become too large."""


class _SmallFile(io.BytesIO):
    """A file that has to stay smaller than ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def write(self, content: ReadableBuffer) -> int:
        written = super().write(content)
        if self.tell() >= self._size:
            raise _FullError
        return written


def saved_svg(
    figure: Figure,
    text: Literal["none", "path"],
    padding: float,
    transparent: bool = False,
    file: io.BytesIO | None = None,
) -> bytes:
    """Writes a figure as SVG: its text as text (``"none"``) or as outlines (``"path"``)."""
    file = file or io.BytesIO()
    # The salt makes the ids inside the SVG the same in every process.
    with rc_context({"svg.hashsalt": "kan-diffusion", "svg.fonttype": text}):
        figure.dpi = _POINTS
        renderer = RendererSVG(*figure.bbox.size, io.StringIO())
        figure.savefig(
            file, format="svg", dpi=144, bbox_inches=_bounds(figure, renderer, padding),
            pad_inches=padding, transparent=transparent, metadata={"Date": None},
        )  # fmt: skip
    return file.getvalue()


def _bounds(figure: Figure, renderer: RendererBase, padding: float) -> BboxBase | str:
    """Finds the part of a figure that is drawn, in inches.

    Args:
        figure: The figure, with the renderer's dots per inch.
        renderer: Measures texts.
        padding: What is left free around it, in inches.

    Returns:
        The part, or ``"tight"`` where a layout engine has yet to arrange the figure: Matplotlib
        then draws everything twice.
    """
    if figure.get_layout_engine() is not None:
        return "tight"
    return figure.get_tightbbox(renderer).padded(padding)


def contact_sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Puts pictures side by side, small ones enlarged so that their pixels show.

    Args:
        rows: Pictures of one size, row by row from the left; at least one.

    Returns:
        One picture, RGB, on grey, with white behind transparent parts.
    """
    width, height = rows[0][0].size
    times = -(-_SIDE // max(width, height))
    across, down = times * width + 2 * _GAP, times * height + 2 * _GAP
    sheet = Image.new("RGB", (across * max(map(len, rows)), down * len(rows)), "grey")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            opaque = picture.convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
            large = opaque.convert("RGB").resize(
                (times * width, times * height), Image.Resampling.NEAREST
            )
            sheet.paste(large, (x * across + _GAP, y * down + _GAP))
    return sheet


def embedded(
    figure: Figure,
    largest_svg: int = _LARGEST_SVG,
    dpi: int = 144,
    narrow: Callable[[], Figure] | None = None,
    svg: bytes | None = None,
) -> Picture:
    """Embeds a figure as SVG if that is small, else as WebP.

    Args:
        figure: The figure.
        largest_svg: Size of an SVG in bytes from which it becomes a WebP; 0 always gives a WebP.
        dpi: Pixels per inch of a WebP.
        narrow: Draws the figure for a telephone; called if it cannot be read on one.
        svg: The figure as :func:`figure_svg` draws it, where that is known already.
    """
    picture = _embedded(figure, largest_svg, dpi, svg)
    if narrow is None or picture.least <= TELEPHONE:
        return picture
    return replace(picture, narrow=_embedded(narrow(), largest_svg, dpi))


def _embedded(figure: Figure, largest_svg: int, dpi: int, svg: bytes | None = None) -> Picture:
    if svg is None and _least_svg(figure) < largest_svg:
        with suppress(_FullError):  # then the rest need not be drawn
            svg = figure_svg(figure, _SmallFile(largest_svg))
    if svg is not None and len(svg) < largest_svg:
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


def _least_svg(figure: Figure) -> int:
    """Estimates the least size of a figure's SVG, in which every cloud of points is a PNG."""
    clouds = (part for part in figure.findobj(PathCollection) if part.get_rasterized())
    return _POINT * sum(min(len(np.asarray(cloud.get_offsets())), _MOST_POINTS) for cloud in clouds)


def _least_width(figure: Figure, width: int) -> int:
    """Finds the least readable width of a figure that was drawn, so that its ticks have texts."""
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
    """Embeds a picture as WebP: lossless if that is small, else lossy.

    Args:
        image: The picture, RGB.
        largest: Largest size of a lossless picture in bytes.
    """
    exact = _encoded(image, "WEBP", lossless=True, method=6)
    near = len(exact) > largest
    return _address(_encoded(image, "WEBP", quality=_WEBP_QUALITY) if near else exact, "webp")


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _pixels(figure: Figure, dpi: int) -> Image.Image:
    file = io.BytesIO()
    with report_style():
        figure.dpi = dpi
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.savefig(  # as plain bytes, since it is read again at once
            file, format="tiff", dpi=dpi, bbox_inches=_bounds(figure, renderer, _PADDING),
            pad_inches=_PADDING,
        )  # fmt: skip
    return Image.open(file).convert("RGB")


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    if kind == "WEBP" and max(image.size) > LARGEST_WEBP:
        image = ImageOps.contain(image, (LARGEST_WEBP, LARGEST_WEBP))
    image.save(file, format=kind, **options)
    return file.getvalue()
