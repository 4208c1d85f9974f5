"""Figures as pictures: PNG for a file of its own, WebP, which is smaller, for inside a page.

Text, lines and marks are kept as they are drawn, in few colours. Points in their thousands are
noise to such an encoding; in a page they are compressed with loss where that is smaller.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from kan_diffusion.report.style import KNOWN_COLOURS, report_style

__all__ = ["FigureImages", "figure_images", "figure_png"]

_DPI = 192
_CLOUD_QUALITY = 80


@dataclass(frozen=True)
class FigureImages:
    """A drawn figure in two encodings.

    Attributes:
        png: For a file.
        webp: For a page: the same pixels, unless they are a cloud's.
        width: In CSS pixels, of which an inch has 96.
    """

    png: bytes
    webp: bytes
    width: int


def figure_images(
    figure: Figure, dpi: int = _DPI, colours: int = 256, cloud: bool = False
) -> FigureImages:
    """A figure as PNG and as WebP. The same figure gives the same bytes.

    Args:
        figure: The figure.
        dpi: Dots an inch.
        colours: The most colours there are, up to 256.
        cloud: Whether it is of many small points, so that the WebP may be lossy.
    """
    drawn = _drawn(figure, dpi)
    small = _in_palette(drawn, colours)
    # Lossless; the quality is the effort.
    webps = [_encoded(small.convert("RGB"), "WEBP", lossless=True, quality=100)]
    if cloud:
        webps.append(_encoded(drawn, "WEBP", quality=_CLOUD_QUALITY, method=6))
    return FigureImages(
        _encoded(small, "PNG", optimize=True), min(webps, key=len), drawn.width * 96 // dpi
    )


def figure_png(
    figure: Figure, dpi: int = _DPI, colours: int = 256, kept: Sequence[str] = ()
) -> bytes:
    """A figure as PNG, as sharp as twice the resolution of a screen, with a palette.

    The same figure gives the same bytes.

    Args:
        figure: The figure.
        dpi: Dots an inch.
        colours: The most colours there are, up to 256.
        kept: Colours that stay as they are, besides those of the families.
    """
    return _encoded(_in_palette(_drawn(figure, dpi), colours, kept), "PNG", optimize=True)


def _drawn(figure: Figure, dpi: int) -> Image.Image:
    file = io.BytesIO()
    with report_style():
        figure.savefig(
            file, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08,
            pil_kwargs={"compress_level": 1},
        )  # fmt: skip
    return Image.open(file).convert("RGB")


def _encoded(image: Image.Image, kind: str, **options: bool | int) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def _in_palette(image: Image.Image, colours: int, kept: Sequence[str] = ()) -> Image.Image:
    """The image in few colours, those of the families and of its larger areas unchanged.

    A palette by median cut alone would average the colours of a few small markers.
    """
    pixels = np.asarray(image, dtype=np.uint32)
    packed = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    counts = sorted(image.getcolors(image.width * image.height) or [], reverse=True)
    every = np.array([colour for _, colour in counts], dtype=np.int32)
    first: list[int] = []
    for colour in (*KNOWN_COLOURS, *kept):
        # What is translucent may be drawn a step darker.
        near = (abs(every - 255 * np.array(to_rgb(colour))) < 1.5).all(axis=1)
        first += [int(index) for index in np.flatnonzero(near)[:1] if index not in first]
    every = np.concatenate((every[first], np.delete(every, first, axis=0)))
    flat = every[: 3 * colours // 4]
    rest = image.quantize(colours - len(flat), dither=Image.Dither.NONE).getpalette() or []
    palette = np.concatenate((flat, np.array(rest, dtype=np.int32).reshape(-1, 3)))[:colours]
    nearest = np.empty(2**24, dtype=np.uint8)
    for part in np.array_split(every, 1 + len(every) // 4096):
        distances = ((part[:, None] - palette) ** 2).sum(axis=2)
        nearest[part @ np.array([2**16, 2**8, 1])] = distances.argmin(axis=1)
    small = Image.fromarray(nearest[packed])
    small.putpalette(palette.astype(np.uint8).tobytes())
    return small
