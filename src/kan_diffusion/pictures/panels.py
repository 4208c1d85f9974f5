"""Pictures in files, in contact sheets and in figures: what was asked for, and what was drawn."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from kan_diffusion.files import whole_file
from kan_diffusion.report.images import contact_sheet
from kan_diffusion.report.points import spread, time_name
from kan_diffusion.report.style import report_style

__all__ = ["SHEET", "PictureRows", "asked_figure", "mosaic", "process_figure", "write_pictures"]

PictureRows = NDArray[np.floating]
"""Samples in [-1, 1], a row for each prompt or class, shape (rows, each, C, S, S)."""

SHEET = "sheet.png"
"""Name of a contact sheet."""

_LISTED = "pictures"
"""Text of a contact sheet that lists the files of its pictures."""
_NAME = re.compile(r"[a-z0-9-]+-[0-9]+\.png")
"""Names of pictures; a sheet, which may be anybody's, lists nothing else."""
_LONGEST_SLUG = 60
_MOST_ACROSS = 16
_INCH = 0.42
"""Side of a picture in a figure."""
_LETTERS, _FEW_LETTERS, _GAP = 34, 17, 1
"""Letters on a line of a prompt, fewer on a telephone, and pixels around a picture."""


def write_pictures(folder: Path, drawn: Sequence[tuple[str, Sequence[Image.Image]]]) -> int:
    """Writes pictures as PNG files named after what was asked for, and a contact sheet of all.

    Pictures that an earlier contact sheet in the folder lists are deleted.

    Args:
        folder: The folder to write to; created if it is missing.
        drawn: What was asked for, empty if nothing was, and pictures of it, all of one size.

    Returns:
        Number of pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, None] = {}
    for place, (asked, pictures) in enumerate(drawn, start=1):
        slug = re.sub(r"[^a-z0-9]+", "-", asked.lower()).strip("-")[:_LONGEST_SLUG] or "picture"
        stem = f"{place:02}-{slug}" if len(drawn) > 1 else slug
        for number, picture in enumerate(pictures, start=1):
            name = f"{stem}-{number:0{len(str(len(pictures)))}}.png"
            _save(folder / name, picture)
            written[name] = None
    rows = [
        pictures[start : start + _MOST_ACROSS]
        for _, pictures in drawn
        for start in range(0, len(pictures), _MOST_ACROSS)
    ]
    if len(rows) == 1:  # as square as possible
        across = int(np.ceil(np.sqrt(len(rows[0]))))
        rows = [rows[0][start : start + across] for start in range(0, len(rows[0]), across)]
    for name in _listed(folder / SHEET) - written.keys():
        if (folder / name).is_file():
            (folder / name).unlink()
    _save(folder / SHEET, contact_sheet(rows), "\n".join(written))
    return len(written)


def _listed(sheet: Path) -> set[str]:
    """Reads the names of the pictures that a contact sheet lists; empty if it is none."""
    try:
        with PngImageFile(sheet) as picture:  # of any size, since no pixel is read
            text = str(picture.info.get(_LISTED, ""))
    except (OSError, SyntaxError, ValueError):
        return set()
    return set(filter(_NAME.fullmatch, text.split("\n")))


def _save(path: Path, picture: Image.Image, listed: str = "") -> None:
    texts = PngInfo()
    if listed:
        texts.add_text(_LISTED, listed)
    with whole_file(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=texts)


@report_style()
def asked_figure(
    asked: Sequence[str],
    columns: Sequence[tuple[str, PictureRows]],
    width: float = math.inf,
    names: Sequence[str] = (),
) -> Figure:
    """Draws a row for each prompt or class, with groups of pictures side by side as columns.

    Args:
        asked: What each row asks for; an empty text if nothing is asked for.
        columns: Title and pictures of each column.
        width: Largest width in inches; columns that do not fit go below the others.
        names: Names above the pictures of the first row of each column; empty for none.
    """
    letters = _LETTERS if width == math.inf else _FEW_LETTERS
    lines = [textwrap.fill(each, letters, max_lines=3, placeholder=" …") for each in asked]
    left = _words_width(max((len(line) for each in lines for line in each.split("\n")), default=0))
    mosaics = [mosaic(rows) for _, rows in columns]
    cell = len(mosaics[0]) / len(asked)
    widths = [_INCH * each.shape[1] / cell for each in mosaics]
    above, gap, below = 0.5, 0.18, 0.05
    places = [(left, 0)]  # left edge and line of each mosaic
    for across, following in pairwise(widths):
        start, line = places[-1]
        fits = start + across + gap + following <= width
        places.append((start + across + gap, line) if fits else (left, line + 1))
    height = _INCH * len(asked)
    whole = max(start + across for (start, _), across in zip(places, widths, strict=True))
    tall = (places[-1][1] + 1) * (above + height) + below
    figure = Figure(figsize=(whole, tall))
    for (title, _), drawn, across, (start, line) in zip(
        columns, mosaics, widths, places, strict=True
    ):
        bottom = tall - (line + 1) * (above + height)
        axes = figure.add_axes((start / whole, bottom / tall, across / whole, height / tall))
        axes.imshow(drawn, interpolation="nearest", aspect="auto")
        axes.grid(False)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title("\n".join(textwrap.wrap(title, max(8, int(across / 0.085)))), fontsize=9.5)
        if start == left:
            axes.set_yticks([(row + 0.5) * cell - 0.5 for row in range(len(lines))], lines)
            axes.tick_params(axis="y", length=0, labelsize=8.5)
        for index, name in enumerate(names):
            at = (index + 0.5) * cell, -0.15 * cell
            axes.text(*at, name, ha="center", va="bottom", fontsize=8.5)
    return figure


def process_figure(
    asked: Sequence[str], states: PictureRows, times: Sequence[float], width: float = math.inf
) -> Figure:
    """Draws the reverse process of pictures, a row each, from noise to what is asked for.

    Args:
        asked: What each row asks for.
        states: The pictures at each time, shape (rows, times, C, S, S).
        times: The times, as fractions of T.
        width: Largest width in inches; if it is too small for all times, some are left out.
    """
    most = (width - _words_width(_FEW_LETTERS)) / _INCH
    count = len(times) if most >= len(times) else max(2, int(most))
    picks = spread(len(times), count)
    names = [time_name(times[pick]) for pick in picks]
    return asked_figure(asked, [("", states[:, picks])], width, names)


def _words_width(letters: int) -> float:
    """Width in inches of so many letters beside a row."""
    return 0.1 + 0.075 * letters


def mosaic(samples: PictureRows) -> NDArray[np.uint8]:
    """Tiles pictures (rows, each, C, S, S) into one 8-bit RGB picture, with white lines between."""
    values = ((np.clip(samples, -1, 1) + 1) * 127.5).round()
    if values.shape[2] == 4:  # on white
        opacity = values[:, :, 3:] / 255
        values = opacity * values[:, :, :3] + (1 - opacity) * 255
    if values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    framed = np.pad(values, ((0, 0),) * 3 + ((_GAP, _GAP),) * 2, constant_values=255)
    rows, each, channels, side, _ = framed.shape
    joined = framed.transpose(0, 3, 1, 4, 2).reshape(rows * side, each * side, channels)
    return joined.round().astype(np.uint8)
