"""Pictures in files, in contact sheets and in figures: what was asked for, and what was drawn."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from kan_diffusion.files import whole_file
from kan_diffusion.report.images import contact_sheet
from kan_diffusion.report.style import report_style

__all__ = ["SHEET", "PictureRows", "asked_figure", "mosaic", "process_figure", "write_pictures"]

PictureRows = NDArray[np.floating]
"""Samples in [-1, 1], a row for all that is asked for, shape (rows, each, C, S, S)."""

SHEET = "sheet.png"
"""Name of a contact sheet."""

_LONGEST_SLUG = 60
_MOST_ACROSS = 16
_INCH = 0.42
"""Side of a picture in a figure."""
_LETTERS, _GAP = 34, 1
"""Letters of a line of what is asked for, and pixels about a picture."""


def write_pictures(folder: Path, drawn: Mapping[str, Sequence[Image.Image]]) -> int:
    """Writes pictures as PNG files named after what was asked for, and all of them in a sheet.

    Args:
        folder: Where to; made where it is missing.
        drawn: Pictures of one size by what was asked for, which may be nothing.

    Returns:
        Number of pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for place, (asked, pictures) in enumerate(drawn.items(), start=1):
        slug = re.sub(r"[^a-z0-9]+", "-", asked.lower()).strip("-")[:_LONGEST_SLUG] or "picture"
        stem = f"{place:02}-{slug}" if len(drawn) > 1 else slug
        for number, picture in enumerate(pictures, start=1):
            _save(folder / f"{stem}-{number:0{len(str(len(pictures)))}}.png", picture)
            count += 1
    rows = [
        pictures[start : start + _MOST_ACROSS]
        for pictures in drawn.values()
        for start in range(0, len(pictures), _MOST_ACROSS)
    ]
    if len(rows) == 1:  # as nearly square as it can be
        across = int(np.ceil(np.sqrt(len(rows[0]))))
        rows = [rows[0][start : start + across] for start in range(0, len(rows[0]), across)]
    _save(folder / SHEET, contact_sheet(rows))
    return count


def _save(path: Path, picture: Image.Image) -> None:
    with whole_file(path) as temporary:
        picture.save(temporary, "PNG")


@report_style()
def asked_figure(asked: Sequence[str], columns: Sequence[tuple[str, PictureRows]]) -> Figure:
    """Draws what was asked for, a row each, and what came of it, a group of pictures a column.

    Args:
        asked: What each row asks for; empty where nothing is asked for.
        columns: Title and pictures of each column.
    """
    return _figure(asked, [(title, mosaic(rows)) for title, rows in columns], {})


@report_style()
def process_figure(asked: Sequence[str], states: PictureRows, times: Sequence[float]) -> Figure:
    """Draws the process of pictures, a row each, from noise to what is asked for.

    Args:
        asked: What each row asks for.
        states: The pictures at each time, shape (rows, times, C, S, S).
        times: The times, as fractions of T.
    """
    ends = {0.0: "t = 0", 1.0: "t = T"}
    names = [ends.get(round(time, 3), f"{time:.2g} T") for time in times]
    return _figure(asked, [("", mosaic(states))], dict(enumerate(names)))


def _figure(
    asked: Sequence[str],
    columns: Sequence[tuple[str, NDArray[np.uint8]]],
    times: Mapping[int, str],
) -> Figure:
    """Draws mosaics side by side, with words to the left and times above."""
    lines = [textwrap.fill(each, _LETTERS) for each in asked]
    left = 0.1 + 0.075 * max((len(line) for each in lines for line in each.split("\n")), default=0)
    cell = columns[0][1].shape[0] / len(asked)
    widths = [_INCH * mosaic.shape[1] / cell for _, mosaic in columns]
    above, gap, below = 0.5, 0.18, 0.05
    height, width = _INCH * len(asked), left + sum(widths) + gap * (len(columns) - 1)
    figure = Figure(figsize=(width, height + above + below))
    start = left
    for (title, mosaic), across in zip(columns, widths, strict=True):
        place = (start / width, below / (height + above + below))
        size = (across / width, height / (height + above + below))
        axes = figure.add_axes((*place, *size))
        axes.imshow(mosaic, interpolation="nearest", aspect="auto")
        axes.grid(False)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title("\n".join(textwrap.wrap(title, max(8, int(across / 0.085)))), fontsize=9.5)
        if start == left:
            _name_rows(axes, lines, cell)
        for index, name in times.items():
            axes.text(
                *((index + 0.5) * cell, -0.15 * cell), name, ha="center", va="bottom", fontsize=8.5
            )
        start += across + gap
    return figure


def _name_rows(axes: Axes, lines: Sequence[str], cell: float) -> None:
    axes.set_yticks([(row + 0.5) * cell - 0.5 for row in range(len(lines))], lines)
    axes.tick_params(axis="y", length=0, labelsize=8.5)


def mosaic(samples: PictureRows) -> NDArray[np.uint8]:
    """Puts pictures (rows, each, C, S, S) into one of 8 bits and colour, white lines between."""
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
